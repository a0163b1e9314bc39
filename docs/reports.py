"""What the book says of the search for settings, the strategy report and the backtest beside vectorbt."""

import math
import sys
from typing import Any

import pandas as pd
import results
from exhibits import Paragraph, Table, decimal, share, text, words
from optional import COMMANDS, drawing, needs

STRATEGY, TUNING = "strategy.json", "tuning.json"
BACKTEST = "backtest_bench.csv"
_NARROW = ("volatility", "turnover", "gross", "net", "p")  # columns that a page of print does without


def _words() -> Any:
    sys.path.append(str(results.ROOT))
    from fusion_alpha.tearsheet import words as said

    return said


@needs(STRATEGY)
def looked_at() -> Paragraph:
    """What the last strategy report says, in its own sentences; its period and origin."""
    numbers, said = results.metrics("strategy"), _words()
    about = numbers["about"]
    stamp = "SIMULATED." if about["simulated"] else f"Source {about['source']}."
    rest = [f"Model {about['model']} against {words(numbers['view']['baseline'])}: {said.period(numbers['view'])}."]
    if numbers["view"]["whole_test"] and not _of_last_run(numbers):
        rest.append(f"It is NOT about the last run's forecasts: `{COMMANDS[STRATEGY]}` makes it anew.")
    return Paragraph(stamp, " ".join([*rest, *said.reading(numbers, about)]))


def _of_last_run(numbers: dict[str, Any]) -> bool:
    """Whether the model's Sharpe ratio is that of the last evaluation, which trades the same rows at the same costs."""
    own, last = (found["strategies"]["model"]["sharpe"] for found in (numbers, results.metrics("evaluate")))
    return own == last or (None not in (own, last) and math.isclose(own, last, rel_tol=1e-4))


@needs(STRATEGY)
def main_figures() -> Table:
    rows = [(fact.name, fact.value, fact.note) for fact in _words().facts(results.metrics("strategy"))]
    return Table(rows, ["figure", "value", "beside it"], right=[1])


@needs(STRATEGY)
def of_strategies(name: str) -> Table:
    """A table of the report by its name in fusion_alpha/tearsheet/words.py: performance, differences, rivals."""
    table = getattr(_words(), name)(results.metrics("strategy"))
    kept = [number for number, head in enumerate(table.heads) if head not in _NARROW]
    head = [table.heads[number] for number in kept]
    return Table([[row[number] for number in kept] for row in table.rows], head, right=range(1, len(head)))


@needs(TUNING)
def searched() -> Paragraph:
    """What the search found, in words."""
    found = results.metrics("tuning")
    n, best, own = found["trials"], found["best"], found["present"]
    stamp = "SIMULATED." if found["simulated"] else f"Source {found['source']}."
    said = (
        f"Study {found['study']}: {n['complete']} whole trials, {n['pruned']} pruned, {n['refused']} refused, by "
        f"{found['sampler']}, on {len(found['blocks'])} walk-forward blocks of train and dev. "
    )
    if own is None:
        return Paragraph(stamp, f"{said}Best loss: {best['loss']:.4f} nats.")
    if own["gain"] <= 0:
        return Paragraph(stamp, f"{said}No trial is better than the present settings ({own['loss']:.4f} nats).")
    spread = "" if own["gain_se"] is None else f", standard error over blocks {own['gain_se']:.4f}"
    apart = "" if own["gain_apart"] is None else f"; on blocks apart from those that chose {own['gain_apart']:+.4f}"
    return Paragraph(
        stamp,
        f"{said}The best lowers the loss of the present settings by {own['gain']:.4f} nats{spread}{apart}. The best of "
        "many looks better than it is; only a run on test says what it is worth.",
    )


@needs(TUNING)
def settings() -> Table:
    """The best settings beside the present ones, with each parameter's share in what separates good from bad."""
    found = results.metrics("tuning")
    rows = [
        (f"`{key}`", text(value), text(results.parameter(key, None)), share(found["importance"].get(key)))
        for key, value in found["best"]["settings"].items()
    ]
    return Table(rows, ["parameter", "best trial", "now", "importance"], right=[1, 2, 3])


@needs(TUNING)
def blocks() -> Table:
    """The loss on each block with the best and with the present settings."""
    found = results.metrics("tuning")
    own = (found["present"] or {}).get("loss_by_block") or [None] * len(found["blocks"])
    rows = [
        (
            f"{block['train']['first']} to {block['train']['last']}",
            f"{block['score']['first']} to {block['score']['last']}",
            block["score"]["rows"],
            decimal(best, 4),
            decimal(now, 4),
        )
        for block, best, now in zip(found["blocks"], found["best"]["loss_by_block"], own, strict=True)
    ]
    return Table(rows, ["learned from", "scored on", "rows", "best trial", "now"], right=[2, 3, 4])


def search_picture() -> Any:
    return drawing("tuning/history.svg", lambda: f"Loss of every trial in order. {searched().rest}", of=TUNING)


@needs(BACKTEST)
def backtest() -> Table:
    """Times of the backtest and of vectorbt, of the last measurement on each device."""
    rows = [
        (
            row.device,
            f"{row.n_tickers:,} x {row.n_sessions:,} x {row.n_strategies}",
            decimal(row.backtest_cpu_s),
            decimal(row.vectorbt_cpu_s),
            f"{row.vectorbt_over_backtest:.3g}",
            f"{row.largest_difference:.0e}",
            f"{row.date}, {row.commit}",
        )
        for row in _last(BACKTEST, ["device", "n_tickers", "n_sessions", "n_strategies"]).itertuples()
    ]
    head = [
        "device",
        "tickers x sessions x strategies",
        "here, CPU s",
        "vectorbt, CPU s",
        "ratio",
        "differ by",
        "measured",
    ]
    return Table(rows, head, right=range(2, 6))


def _last(file: str, keys: list[str]) -> pd.DataFrame:
    """The last row for each key of a log of measurements."""
    found = pd.read_csv(results.METRICS / file, dtype={"commit": str})
    return found.drop_duplicates(keys, keep="last")
