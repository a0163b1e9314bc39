"""A small market for the canaries' tests: three tickers, a year and a half, everything cheap."""

from fusion_alpha import config
from fusion_alpha.config import Config

SMALL = [
    *("text=stub", "contradiction.null_model=gaussian", "train.epochs=2", "predict.mc_samples=2"),
    *("canaries.n_tickers=3", "canaries.last_session='2016-06-30'", "canaries.learn_sessions=210"),
    *("canaries.fold_sessions=42", "canaries.random_cuts=1", "canaries.cuts_of_a_kind=2", "canaries.forecast_cuts=1"),
    *("canaries.start_sessions=1", "canaries.shuffles=2", "canaries.trials=6", "canaries.configurations=4"),
    *("canaries.blocks=4", "recovery.n_tickers=3", "recovery.learn_sessions=100", "recovery.dev_sessions=15"),
    *(f"recovery.{kind}.seeds=2" for kind in ("planted", "reversed", "null_market")),
    *(f"recovery.{kind}.test_sessions=45" for kind in ("planted", "reversed", "null_market")),
    *("evaluate.bootstrap_samples=50", "executor.workers=1"),
]


def small(*more: str) -> Config:
    return config.load([*SMALL, *more])
