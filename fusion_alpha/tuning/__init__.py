"""A search for settings of FusionNet: trials on walk-forward folds of train and dev, kept in an Optuna study."""
