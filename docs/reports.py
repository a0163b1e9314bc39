"""What the book says of the search for settings, the strategy report and the backtest beside vectorbt."""

import math
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import results
from exhibits import Paragraph, Table, decimal, share, text, words
from figures import CYCLE, FAINT, INK, WIDTH, described, show
from IPython.display import SVG
from optional import COMMANDS, drawing, has, needs

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


OVER_TIME = {"equity": "growth of 1", "drawdown": "drawdown", "rolling_sharpe": "Sharpe ratio of a quarter of a year"}
OVER_TIME |= {"months": "returns by month"}
BESIDE = {"sharpe": "Sharpe ratios", "leads": "the model's lead over each other strategy"}
BESIDE |= {"aftermath": "mean return after each kind of contradiction", "calibration": "calibration"}


def over_time() -> Any:
    return _sheet(OVER_TIME)


def beside_others() -> Any:
    return _sheet(BESIDE)


def _sheet(names: dict[str, str]) -> Any:
    """Drawings of the tearsheet, made again from the report's figures and from the equity of the same run."""
    if not has(STRATEGY):
        return drawing("none.svg", str, of=STRATEGY)
    words_of = _words()
    from fusion_alpha import figures as style
    from fusion_alpha.report import Report
    from fusion_alpha.tearsheet import panels

    numbers = results.metrics("strategy")
    grown = results.frame("equity").set_index("session")
    grown.index = pd.to_datetime(grown.index)
    nothing = pd.DataFrame()
    returns = grown / grown.shift(fill_value=1.0) - 1
    report = Report(numbers, returns, nothing, results.frame("calibration"), nothing, cfg=None)
    with style.drawing(7.4, 6.4, numbers["about"]["simulated"]) as (figure, render):
        for axes, name in zip(figure.subplots(2, 2).ravel(), names, strict=True):
            panels.PANELS[name][0](axes, report)
        picture = render().decode()
    facts = "; ".join(f"{fact.name} {fact.value} ({fact.note})" for fact in words_of.facts(numbers))
    alt = f"Four drawings: {', '.join(names.values())}. {facts}."
    return SVG(described(picture, alt))


COSTS = ("commission_bps", "half_spread_bps", "slippage_bps")


def rates() -> Table:
    """What trading costs in the configuration, part by part."""
    own = results.parameter("strategy")
    each = "of traded value, each time"
    size = "times the root of traded value over trailing dollar volume, of traded value"
    rows = [(words(name.removesuffix("_bps")), own[name], each) for name in COSTS]
    rows += [("one side in all", sum(own[name] for name in COSTS), each)]
    rows += [("impact", own["impact_bps"], size), ("borrow", own["borrow_bps"], "a year, of short value")]
    return Table(rows, ["cost", "bps", "of what"], right=[1])


@needs(STRATEGY)
def costs_of_model() -> Paragraph:
    """Where the model's costs go, and how far they are from eating what it earns."""
    numbers = results.metrics("strategy")
    own, view, held = numbers["strategies"]["model"], numbers["view"], numbers["about"]["settings"]
    side = own["turnover"] * view["sessions_per_year"] * view["side_cost_bps"] / 1e4
    borrow = (own["exposure"] - own["net_exposure"]) / 2 * held["borrow_bps"] / 1e4
    left = max(own["cost_annual"] - side - borrow, 0.0)
    return Paragraph(
        "The model pays",
        f"{own['cost_annual']:.1%} of its equity a year: about {side:.1%} to commission, spread and slippage at "
        f"{view['side_cost_bps']:g} bps a side, about {borrow:.1%} to borrow, and the rest, about {left:.1%}, to its "
        f"impact with a book of {held['capital']:,.0f}. Before costs its Sharpe ratio is {own['sharpe_gross']:.2f}, "
        f"after them {own['sharpe']:.2f}. Once borrow and impact are paid, a side could cost "
        f"{own['break_even_bps']:.1f} bps before nothing is left.",
    )


def costs_picture() -> Any:
    """One side's cost by the size of a trade, and the cost at which each strategy has nothing left."""
    if not has(STRATEGY):
        return drawing("none.svg", str, of=STRATEGY)
    numbers, own = results.metrics("strategy"), results.parameter("strategy")
    view, found = numbers["view"], numbers["strategies"]
    picture, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    share_of_day = np.linspace(0, 0.05, 201)
    height = np.zeros_like(share_of_day)
    parts = {words(name.removesuffix("_bps")): np.full_like(share_of_day, own[name]) for name in COSTS}
    parts["impact"] = own["impact_bps"] * np.sqrt(share_of_day)
    for (name, part), colour in zip(parts.items(), ("#c9d6df", "#9db8c9", "#6f97b1", "#f3c9a5"), strict=True):
        left.fill_between(share_of_day * 100, height, height + part, color=colour, linewidth=0, label=name)
        height = height + part
    left.set(xlabel="trade, % of a day's volume", ylabel="cost of one side (bps)", xlim=(0, 5), ylim=(0, None))
    left.legend(loc="upper left")
    known = {name: row["break_even_bps"] for name, row in found.items() if row["break_even_bps"] is not None}
    names = sorted(known, key=known.__getitem__)
    colours = [CYCLE[0] if name == "model" else FAINT for name in names]
    right.hlines(range(len(names)), 0, [known[name] for name in names], color=colours, linewidth=1)
    right.scatter([known[name] for name in names], range(len(names)), color=colours, s=18, zorder=3)
    right.axvline(0, color=INK, linewidth=0.8)
    right.axvline(view["side_cost_bps"], color=CYCLE[1], linestyle="--", linewidth=1, label="assumed")
    right.set_yticks(range(len(names)), [words(name) for name in names])
    right.set(xlabel="break-even cost of one side (bps)")
    right.legend(loc="lower right")
    even = ", ".join(f"{words(name)} {text(row['break_even_bps'])}" for name, row in found.items())
    return show(
        picture,
        f"Left: cost of one side in bps against the size of a trade; commission, half spread and slippage do not "
        f"change, impact grows with the root. Right: the cost of a side at which each strategy has nothing left, "
        f"beside the assumed {view['side_cost_bps']:g} bps: {even}.",
    )


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
