"""Everything that was tried on a data source, as MLflow recorded it: what a good result has to be held against.

A trial is a training that came to its end, or its evaluation under other settings, or a trial of a search. It counts
once, however often it was repeated: the same configuration with the same checkpoint, or in a search the same
configuration on the same tables. Pruned trials count, and so do runs that were deleted in MLflow: they were tried all
the same. Failed runs, searches as such, and what other experiments hold (recovery, dropout parity) are no trials.

Trials of a search have no Sharpe and no equity here: a search never sees test.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pandas as pd

from fusion_alpha import tracking
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

REPORTS = "reports"  # experiment of evaluate_strategy.py; a report chooses nothing and is no trial
EQUITY = "equity.csv"  # artifact of an evaluation

_EQUITY_FILE = "columns session (a day, each once) and model (a finite number)"
_WITHOUT = "move it away: the trial counts without its equity too"
_SHARPE = "test/strategies.model.sharpe"
_PAGE = 1000


@dataclass
class Trials:
    """What was tried on one data source."""

    count: int = 0
    sharpe: list[float] = field(default_factory=list)  # annualised, of the trials whose test was looked at
    equity: dict[str, pd.Series] = field(default_factory=dict)  # run id -> the model's value by session, where kept
    views: int = 0  # different reports (dates, tickers, costs) of evaluate_strategy.py so far
    known: bool = False  # the checkpoint at hand is among the trials


def tried(cfg: Config, model_id: str) -> Trials:
    """The trials of cfg.data.source. The checkpoint at hand is one of them, recorded on this machine or not."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=tracking.prepare())
    found: dict[tuple[str, ...], Run] = {}
    for run in _runs(client, cfg.data.source):
        key = _key(run)
        if key is not None and (key not in found or _SHARPE not in found[key].data.metrics):
            found[key] = run
    known = any(run.data.tags.get("model_id") == model_id for run in found.values())
    sharpe = [run.data.metrics[_SHARPE] for run in found.values() if _SHARPE in run.data.metrics]
    views = {run.data.tags["view"] for run in _runs(client, REPORTS) if run.data.tags.get("source") == cfg.data.source}
    equity = {str(run.info.run_id): curve for run in found.values() for curve in _equity(run)}
    return Trials(len(found) + (not known), sharpe, equity, len(views), known)


def returns(trials: Trials, sessions: pd.Index) -> pd.DataFrame:
    """Net returns [session, trial] of the trials whose equity covers all of the sessions."""
    table = {}
    for name, value in trials.equity.items():
        moves = value / value.shift(fill_value=1.0) - 1
        if sessions.isin(moves.index).all():
            table[name] = moves.loc[sessions]
    return pd.DataFrame(table, index=sessions)


def _runs(client: "MlflowClient", experiment: str) -> "Iterator[Run]":
    from mlflow.entities import ViewType

    found = client.get_experiment_by_name(experiment)
    token: Any = None
    while found is not None:
        page = client.search_runs(
            [found.experiment_id], run_view_type=ViewType.ALL, max_results=_PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _key(run: "Run") -> tuple[str, ...] | None:
    """What makes a trial another one; None for a run that is no trial."""
    tags = run.data.tags
    if run.info.status != "FINISHED" or tags.get("state") == "refused":
        return None
    if "trial" in tags:
        tables = sorted(f"{name}={value}" for name, value in tags.items() if name.startswith("data."))
        return (tags.get("config", run.info.run_id), *tables)
    return (tags.get("config", run.info.run_id), tags["model_id"]) if "model_id" in tags else None


def _equity(run: "Run") -> list[pd.Series]:
    """The model's equity by session that an evaluation left; none where it left nothing or the file is gone."""
    path = Path(url2pathname(urlparse(run.info.artifact_uri).path)) / EQUITY
    if not path.exists():
        return []
    try:
        table = pd.read_csv(path)
        if "model" not in table:
            return []
        days = pd.DatetimeIndex(pd.to_datetime(table["session"], format="ISO8601"), name="session")
        curve = pd.Series(table["model"].to_numpy("float64"), days, name="model")
    except (KeyError, ValueError, TypeError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"not readable ({said})", file=path, rule=_EQUITY_FILE, remedy=_WITHOUT) from None
    if days.hasnans or not days.is_unique or not np.isfinite(curve).all():
        raise InputError("a session twice, or a value that is none", file=path, rule=_EQUITY_FILE, remedy=_WITHOUT)
    return [curve]
