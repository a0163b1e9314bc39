"""The database of experiments, and two of its runs side by side: what was changed, and what came of it.

Runs are read from the tracking database of this machine. $BOOK_COMPARE names two of them (id, its beginning, or name,
apart by a comma; `python docs/build.py --compare ONE OTHER` sets it); else the latest run stands beside the latest one
before it that had another configuration.
"""

import os
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import matplotlib.pyplot as plt
import pandas as pd
import results
from exhibits import NOTHING, Paragraph, Table, decimal, text
from figures import CYCLE, FAINT, LINE, WIDTH, canvas, show
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

MEASURES = {  # metric -> name, places; with its interval where the run has one
    "dev/loss": ("loss on dev (nats)", 4),
    "test/mcc": ("Matthews correlation", 3),
    "test/balanced_accuracy": ("balanced accuracy", 4),
    "test/auc": ("area under the ROC curve", 4),
    "test/brier": ("Brier score", 4),
    "test/ic_rank": ("rank IC", 3),
    "test/strategies.model.sharpe": ("Sharpe ratio", 2),
    "test/strategies.model.total_return": ("return over the test period", 3),
    "test/strategies.model.max_drawdown": ("largest drawdown", 3),
    "test/strategies.model.turnover": ("turnover a session", 3),
}
INTERVALS = {"test/mcc": "Matthews correlation", "test/strategies.model.sharpe": "Sharpe ratio"}
COLUMNS = 4  # panels in a row
NONE = "No tracking database."
MERGE = "merge"  # the verdict that makes a run a candidate


def runs() -> list[Any]:
    """Finished runs on the present source, the latest first."""
    if not results.DATABASE.exists():
        return []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm in a kernel without widgets
        from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{results.DATABASE}")
    experiment = client.get_experiment_by_name(results.parameter("data.source"))
    if experiment is None:
        return []
    order = ["attributes.start_time DESC"]
    return list(client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", order_by=order))


def experiments(limit: int = 20) -> Table | Paragraph:
    """Hypothesis, variant, metrics, picture, verdict and whether a run is a candidate to be merged."""
    found = runs()
    if not found:
        return _nothing()
    rows = [
        (
            run.data.tags.get("hypothesis") or "none stated",
            f"`{run.data.tags.get('config', NOTHING)[:8]}` ({run.info.run_name})",
            f"MCC {measure(run, 'test/mcc')}; Sharpe {measure(run, 'test/strategies.model.sharpe')}",
            f"panel {number}",
            run.data.tags.get("verdict", NOTHING),
            run.data.tags.get("verdict") == MERGE,
        )
        for number, run in enumerate(found[:limit], start=1)
    ]
    return Table(rows, ["hypothesis", "variant id", "metrics", "result image", "verdict", "merge candidate"], right=[])


def pictures(limit: int = 20) -> Any:
    """The model's growth of one unit in each run of the database: its result image."""
    found = runs()[:limit]
    if not found:
        return _blank(NONE)
    n_rows = -(-len(found) // COLUMNS)
    figure, grid = plt.subplots(n_rows, COLUMNS, figsize=(WIDTH, 1.5 * n_rows), sharey=True, squeeze=False)
    said = []
    for number, axes in enumerate(grid.ravel(), start=1):
        if number > len(found):
            axes.axis("off")
            continue
        run = found[number - 1]
        axes.set_title(f"{number}: {run.data.tags.get('config', run.info.run_id)[:8]}", fontsize=7.5, loc="left")
        axes.axhline(1, color=LINE, linewidth=0.8)
        axes.set_xticks([])
        grown = _grown(run)
        if grown is None:
            axes.text(0.5, 0.5, "no equity.csv", transform=axes.transAxes, ha="center", color=FAINT, fontsize=7)
            said.append(f"{number} has none")
            continue
        axes.plot(range(len(grown)), grown["model"], color=CYCLE[0])
        if "buy_and_hold" in grown:
            axes.plot(range(len(grown)), grown["buy_and_hold"], color=FAINT, linewidth=0.8)
        said.append(f"{number} ends at {grown['model'].iloc[-1]:.3f}")
    return show(
        figure, f"Growth of one unit over the test period, a panel a run, beside buy and hold: {'; '.join(said)}."
    )


def picture() -> Any:
    """The two runs side by side: growth of one unit, and the measures that have intervals."""
    two = pair()
    if two is None:
        return _blank(told().start)
    figure, (growth, *others) = plt.subplots(1, 1 + len(INTERVALS), figsize=(WIDTH, 2.4), width_ratios=(2.2, 1, 1))
    heads, said = _heads(two), []
    for run, name, colour, line in zip(two, heads, CYCLE, ("-", "--"), strict=False):
        grown = _grown(run)
        if grown is not None:
            growth.plot(pd.to_datetime(grown["session"]), grown["model"], color=colour, linestyle=line, label=name)
            said.append(f"{name} grows to {grown['model'].iloc[-1]:.3f}")
    growth.axhline(1, color=LINE, linewidth=0.8)
    growth.set_ylabel("growth of 1")
    place_of_dates = AutoDateLocator(maxticks=5)
    growth.xaxis.set_major_locator(place_of_dates)
    growth.xaxis.set_major_formatter(ConciseDateFormatter(place_of_dates))
    if said:
        growth.legend(fontsize=7)
    for axes, (key, measured) in zip(others, INTERVALS.items(), strict=True):
        for place, (run, name, colour) in enumerate(zip(two, heads, CYCLE, strict=False)):
            value, (low, high) = run.data.metrics.get(key), _interval(run, key)
            if value is None:
                continue
            if low is not None and high is not None:
                axes.plot([place, place], [low, high], color=colour, linewidth=2)
            axes.plot(place, value, "o", color=colour)
            said.append(f"{name} has a {measured} of {measure(run, key)}")
        axes.axhline(0, color=LINE, linewidth=0.8)
        axes.set(title=measured, xlim=(-0.6, 1.6))
        axes.set_xticks([0, 1], ["first", "second"])
    return show(figure, f"Two experiments. {'; '.join(said) or 'Neither has figures'}.")


def _grown(run: Any) -> pd.DataFrame | None:
    """equity.csv of a run, from where the database says it lies or from beside the database."""
    stored = Path(unquote(urlparse(run.info.artifact_uri).path)) / "equity.csv"
    beside = Path(*results.DATABASE.parent.parts, *stored.parts[-5:])  # mlartifacts/EXPERIMENT/RUN/artifacts/equity.csv
    return next((pd.read_csv(path) for path in (stored, beside) if path.exists()), None)


def _blank(reason: str) -> Any:
    figure, axes = canvas(WIDTH, 0.5, (0, 1), (0, 1))
    axes.text(0.5, 0.5, reason, ha="center", va="center", color=FAINT)
    return show(figure, f"Empty. {reason}")


def pair() -> tuple[Any, Any] | None:
    """The two runs to compare, the one to be judged first; None where there are no two."""
    found = runs()
    asked = [name.strip() for name in os.environ.get("BOOK_COMPARE", "").split(",") if name.strip()]
    if asked:
        if len(asked) != 2:
            raise results.ResultsError("$BOOK_COMPARE names two runs, apart by a comma")
        return _named(found, asked[0]), _named(found, asked[1])
    own = found[:1]
    others = [run for run in found if run.data.tags.get("config") != own[0].data.tags.get("config")]
    return (own[0], others[0]) if others else None


def told() -> Paragraph:
    """Which two runs, and whether they can be compared at all."""
    two = pair()
    if two is None:
        return _nothing() if not runs() else Paragraph(_ALONE, _HOW)
    one, other = two
    changed = [key for key in _parameters(one, other) if key != "hypothesis"]
    data = [
        key.removeprefix("data.")
        for key in {**one.data.tags, **other.data.tags}
        if key.startswith("data.") and one.data.tags.get(key) != other.data.tags.get(key)
    ]
    same = f"They read other bytes of {', '.join(data)}." if data else "They read the same bytes."
    low, high = _interval(one, "test/mcc")
    overlap = ""
    if low is not None and _interval(other, "test/mcc")[0] is not None:
        their_low, their_high = _interval(other, "test/mcc")
        apart = low > their_high or high < their_low
        overlap = " The intervals of their Matthews correlations are apart." if apart else _OVERLAP
    return Paragraph(
        f"{one.info.run_name} beside {other.info.run_name}.",
        f"{len(changed)} parameter{'s' * (len(changed) != 1)} differ{'s' * (len(changed) == 1)}. {same}{overlap}",
    )


_ALONE = "One configuration only."
_HOW = "`dvc exp run -S train.lr=0.001` makes another; then there is something to compare."
_OVERLAP = (
    " The intervals of their Matthews correlations overlap: two runs of one seed each do not tell them apart here."
)


def about() -> Table | Paragraph:
    """When, from what, and why each of the two was run."""
    two = pair()
    if two is None:
        return told()
    tags = {"git.commit": "commit", "config": "configuration", "hypothesis": "hypothesis", "verdict": "verdict"}
    started = [pd.Timestamp(run.info.start_time, unit="ms").strftime("%Y-%m-%d %H:%M") for run in two]
    rows = [("run", *(f"`{run.info.run_id[:8]}`" for run in two)), ("started (UTC)", *started)]
    rows += [(name, *((run.data.tags.get(tag) or NOTHING)[:60] for run in two)) for tag, name in tags.items()]
    return Table(rows, ["", *_heads(two)], right=[])


def differences() -> Table | Paragraph:
    """Parameters that differ."""
    two = pair()
    if two is None:
        return told()
    rows = [(f"`{key}`", *values) for key, values in _parameters(*two).items()]
    return Table(rows or [("none", NOTHING, NOTHING)], ["parameter", *_heads(two)], right=[])


def measures() -> Table | Paragraph:
    """Metrics of both with their intervals, and the first less the second."""
    two = pair()
    if two is None:
        return told()
    rows = []
    for key, (name, places) in MEASURES.items():
        values = [run.data.metrics.get(key) for run in two]
        if None not in values:
            cells = [measure(run, key, places) for run in two]
            rows.append((name, *cells, f"{values[0] - values[1]:+.{places}f}"))
    return Table(rows, ["measure", *_heads(two), "difference"], right=[1, 2, 3])


def measure(run: Any, key: str, places: int = 3) -> str:
    """A metric of a run with its interval."""
    low, high = _interval(run, key)
    spread = "" if low is None or high is None else f" ({decimal(low, places)}\u00a0to\u00a0{decimal(high, places)})"
    return decimal(run.data.metrics.get(key), places) + spread


def _interval(run: Any, key: str) -> tuple[float | None, float | None]:
    return run.data.metrics.get(f"{key}_lo"), run.data.metrics.get(f"{key}_hi")


def _parameters(one: Any, other: Any) -> dict[str, tuple[str, str]]:
    keys = sorted({**one.data.params, **other.data.params})
    values = {key: tuple(text(run.data.params.get(key)) for run in (one, other)) for key in keys}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def _heads(two: tuple[Any, Any]) -> list[str]:
    names = [run.info.run_name for run in two]
    return (
        names
        if names[0] != names[1]
        else [f"{name} {run.info.run_id[:4]}" for name, run in zip(names, two, strict=True)]
    )


def _named(found: list[Any], name: str) -> Any:
    fitting = [run for run in found if run.info.run_id.startswith(name) or run.info.run_name == name]
    if not fitting:
        raise results.ResultsError(f"no finished run on this source is called {name}: `make ui` lists them")
    return fitting[0]


def _nothing() -> Paragraph:
    return Paragraph(NONE, "mlflow.db is not part of the repository; `make repro` makes it.")
