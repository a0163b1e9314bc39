"""Canaries: what must notice a leak, run on the real stages and the real FusionNet, and proved able to fail.

    time_machine    deleting or poisoning raw data after an instant changes nothing before it
    forecasts       nor do the forecasts of walk-forward models, and of a model that is kept
    start_shift     the live window gives the features and the forecasts that the whole history gives
    simulated       nothing is found where nothing was planted, what was planted is found (fusion_alpha/recovery.py)
    selection       the best of many books without skill is seen through
    label_shuffle   a model that learned from permuted labels foretells nothing
    timestamps      news reaches the session that may first use it, by cases known by hand and by a second calendar
    mutants         leaks planted in the pipeline's own functions, each of which the above must catch

Markets are SIMULATED. Work is cut into tasks whose answers are kept (tasks.py), so that a run goes on after a kill.
"""
