"""The drawings of a tearsheet, each on axes of its own: one by one for the page, all together for the sheet.

Every session counts the same on a time axis. The model is blue, the baseline black, others are thin.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import figures
from fusion_alpha.figures import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION
from fusion_alpha.report import MODEL, NO_CHOICE, Report, monthly
from fusion_alpha.tearsheet import words
from fusion_alpha.tearsheet.words import label

SIZE = (4.7, 3.1)  # inches: still readable on a phone
SHEET = (10.4, 15.6)
ROLLING = 63  # sessions, a quarter of a year
_DIVERGING = ["#B2182B", "#F4A582", "#FFFFFF", "#92C5DE", "#2166AC"]
_COLORS = (SKY, ORANGE, GREEN, PURPLE, VERMILION, FAINT)
_LINES = ("--", "-.", ":", "--", "-.", ":", "-.", ":", "--", "-.", ":", "--")  # a colour's second line is another one
_OTHERS = list(zip(_COLORS * 2, _LINES, strict=True))

Panel = Callable[[Any, Report], None]  # draws on matplotlib axes


def rolling_window(n_sessions: int) -> int:
    """A quarter of a year, or half of what there is."""
    return min(ROLLING, n_sessions // 2)


def rolling_sharpe(returns: pd.Series, per_year: float) -> pd.Series:
    """Annualised Sharpe of the sessions up to each one; null until the window is full and where nothing moves."""
    windows = returns.rolling(rolling_window(len(returns)))
    deviation = windows.std()
    return windows.mean() / deviation.where(deviation > 1e-12) * np.sqrt(per_year)


def drawdown(returns: pd.Series) -> pd.Series:
    """Value below its highest so far, the start included; at most 0."""
    value = (1 + returns).cumprod()
    return value / value.cummax().clip(lower=1.0) - 1


def equity(axes: Any, report: Report) -> None:
    others = iter(_OTHERS * len(report.returns.columns))
    for name in report.returns:
        look = _look(str(name), report)
        if look is None:
            color, line = next(others)
            look = {"color": color, "linestyle": line, "linewidth": 0.9, "alpha": 0.9}
        axes.plot(report.returns.index, (1 + report.returns[name]).cumprod(), label=label(str(name)), **look)
    axes.axhline(1, color=FAINT, linewidth=0.6)
    axes.set(title="Equity, net of costs", ylabel="growth of 1")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, fontsize=7, columnspacing=1.0)
    figures.dates(axes, report.returns.index)


def drawdowns(axes: Any, report: Report) -> None:
    for name in _two(report):
        look = _look(name, report) or {}
        below = drawdown(report.returns[name]) * 100
        axes.plot(below.index, below, label=label(name), **look | {"linewidth": 1.2})
        if name == MODEL:
            axes.fill_between(below.index, below, 0, color=BLUE, alpha=0.2, linewidth=0)
    axes.set(title="Drawdown", ylabel="% below the highest value")
    _below(axes)
    figures.dates(axes, report.returns.index)


def rolling(axes: Any, report: Report) -> None:
    window = rolling_window(len(report.returns))
    for name in _two(report):
        look = _look(name, report) or {}
        ratio = rolling_sharpe(report.returns[name], report.numbers["view"]["sessions_per_year"])
        axes.plot(ratio.index, ratio, label=label(name), **look | {"linewidth": 1.4})
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set(title=f"Sharpe ratio of the last {window} sessions", ylabel="annualised")
    first, last = report.returns.index[[0, -1]]
    axes.set_xlim(first - (last - first) / 20, last + (last - first) / 20)  # as on the other time axes
    _below(axes)
    figures.dates(axes, report.returns.index)


def months(axes: Any, report: Report) -> None:
    """Monthly returns of the model, a row a year."""
    from matplotlib.colors import LinearSegmentedColormap

    value = monthly(report.returns[MODEL]) * 100
    years, month = value.index.str[:4].astype(int), value.index.str[5:].astype(int)
    grid = pd.DataFrame({"year": years, "month": month, "value": value.to_numpy()})
    table = grid.pivot(index="year", columns="month", values="value").reindex(columns=range(1, 13))
    values = table.to_numpy(np.float64)
    reach = max(float(np.nanmax(np.abs(values))), 1e-9)
    colors = LinearSegmentedColormap.from_list("diverging", _DIVERGING)
    axes.imshow(values, cmap=colors, vmin=-reach, vmax=reach, aspect="auto")
    size = 7.5 if len(table) <= 8 else 5.5
    for row, column in np.ndindex(values.shape):
        number = values[row, column]
        if np.isfinite(number):
            ink = "white" if abs(number) > 0.75 * reach else INK
            axes.text(column, row, f"{number:.1f}", ha="center", va="center", fontsize=size, color=ink)
    axes.grid(visible=False)
    axes.set_xticks(range(12), list("JFMAMJJASOND"))
    axes.set_yticks(range(len(table)), [str(year) for year in table.index])
    axes.tick_params(length=0)
    axes.set_title("Monthly returns of the model, %")


def exposure(axes: Any, report: Report) -> None:
    gross, net = (report.exposure[name] * 100 for name in ("exposure", "net_exposure"))
    axes.fill_between(gross.index, gross, 0, color=SKY, alpha=0.45, linewidth=0, label="gross")
    axes.plot(net.index, net, color=BLUE, linewidth=1.1, label="net")
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set(title="Exposure of the model", ylabel="% of equity")
    _below(axes)
    figures.dates(axes, gross.index)


def contradictions(axes: Any, report: Report) -> None:
    bars = report.example
    at = np.arange(len(bars))
    axes.plot(at, bars["close"], color=FAINT, linewidth=1.1)
    marks = (("overhype", "v", VERMILION, "news up, price down"), ("underhype", "^", BLUE, "news down, price up"))
    for kind, marker, color, meaning in marks:
        here = (bars["kind"] == kind).to_numpy()
        look: Any = {"marker": marker, "color": color, "s": 26, "zorder": 3}
        axes.scatter(at[here], bars["close"][here], label=f"{kind}: {meaning}", **look)
    ticks = np.unique(np.linspace(0.1, 0.9, 3) * (len(bars) - 1)).astype(int)
    axes.set_xticks(ticks, [f"{day:%Y-%m-%d}" for day in bars["session"].iloc[ticks]])
    axes.set(title=f"{bars['ticker'].iloc[0]}: contradictions of news and price", ylabel="adjusted close")
    _below(axes)


def aftermath(axes: Any, report: Report) -> None:
    """Mean return of the target window after each kind, with its interval."""
    found = report.numbers["contradictions"]
    colors = {"overhype": VERMILION, "underhype": BLUE, "none": FAINT}
    names = [kind for kind in colors if found[kind]["mean_bps"] is not None]
    for place, kind in enumerate(names):
        _interval(axes, place, found[kind], "mean_bps", colors[kind])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), [f"{kind}\n{found[kind]['bars']:,} bars" for kind in names])
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set(title="Mean return after a contradiction", xlabel="bps over the target window")


def sharpes(axes: Any, report: Report) -> None:
    measured = report.numbers["strategies"]
    names = [name for name in measured if measured[name]["sharpe"] is not None]
    for place, name in enumerate(names):
        color = {MODEL: BLUE, report.numbers["view"]["baseline"]: INK}.get(name, FAINT)
        _interval(axes, place, measured[name], "sharpe", color)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.set(title=f"Sharpe ratio, {report.numbers['view']['confidence']:.0%} interval", xlabel="annualised, net")


def leads(axes: Any, report: Report) -> None:
    """What the model earns more than each other strategy, with its interval."""
    found = report.numbers["model_against"]
    for place, name in enumerate(found):
        shown = {key: value * 100 for key, value in found[name].items() if value is not None}
        color = INK if name == report.numbers["view"]["baseline"] else FAINT
        _interval(axes, place, shown, "excess_annual", color)
    axes.axvline(0, color=BLUE, linewidth=1.2)
    axes.set_yticks(range(len(found)), [label(name) for name in found])
    axes.set_ylim(max(len(found), 1) - 0.5, -0.5)
    axes.set(title="Model less each other strategy", xlabel="% a year, same sessions")


def calibration(axes: Any, report: Report) -> None:
    figures.draw_calibration(axes, report.reliability, report.numbers["forecast"]["ece"])


PANELS: dict[str, tuple[Panel, str]] = {
    "equity": (equity, "Growth of 1 for the model and every other strategy, net of costs"),
    "drawdown": (drawdowns, "Drawdown of the model and the baseline"),
    "rolling_sharpe": (rolling, "Rolling Sharpe ratio of the model and the baseline"),
    "months": (months, "Heat map of the model's monthly returns"),
    "exposure": (exposure, "Gross and net exposure of the model"),
    "sharpe": (sharpes, "Sharpe ratio of every strategy with its interval"),
    "leads": (leads, "Yearly lead of the model over every other strategy with its interval"),
    "contradictions": (contradictions, "Price of one ticker with its contradictions marked"),
    "aftermath": (aftermath, "Mean return after each kind of contradiction, with intervals"),
    "calibration": (calibration, "Share of ups against the predicted probability"),
}


def svg(name: str, report: Report, simulated: bool) -> bytes:
    """One panel by itself."""
    with figures.drawing(*SIZE, simulated) as (figure, render):
        PANELS[name][0](figure.subplots(), report)
        return render()


def sheet(report: Report, about: dict[str, Any]) -> bytes:
    """Title, main figures, all panels and origin on one sheet: a PNG."""
    numbers = report.numbers
    with figures.drawing(*SHEET, about["simulated"], "png") as (figure, render):
        parts: Any = figure.subfigures(3, 1, height_ratios=(1.9, 13.0, 0.6))
        top, middle, bottom = parts
        top.text(0.02, 0.94, words.title(about, numbers["view"]), fontsize=15, fontweight="bold", va="top")
        top.text(0.02, 0.76, words.period(numbers["view"]), fontsize=9, color=FAINT, va="top")
        for place, fact in enumerate(words.facts(numbers)):
            left, height = 0.02 + 0.196 * (place % 5), 0.6 - 0.32 * (place // 5)
            top.text(left, height, fact.name, fontsize=7.5, color=FAINT, va="top")
            top.text(left, height - 0.07, fact.value, fontsize=12, fontweight="bold", va="top")
            top.text(left, height - 0.19, fact.note, fontsize=6, color=FAINT, va="top")
        for axes, (draw, _) in zip(middle.subplots(5, 2).ravel(), PANELS.values(), strict=True):
            draw(axes, report)
        bottom.text(0.02, 0.1, words.origin(about), fontsize=7, color=FAINT, va="bottom", linespacing=1.5)
        return render()


def _two(report: Report) -> list[str]:
    """The baseline below, the model above it."""
    return list(dict.fromkeys((str(report.numbers["view"]["baseline"]), MODEL)))


def _look(name: str, report: Report) -> dict[str, Any] | None:
    if name == MODEL:
        return {"color": BLUE, "linewidth": 2.0, "zorder": 4}
    if name == report.numbers["view"]["baseline"]:
        return {"color": INK, "linewidth": 1.4, "zorder": 3}
    if name in NO_CHOICE:
        return {"color": INK, "linewidth": 0.9, "linestyle": (0, (1, 2))}
    return None


def _interval(axes: Any, place: int, measured: dict[str, Any], name: str, color: str) -> None:
    low, high = measured[f"{name}_lo"], measured[f"{name}_hi"]
    if low is not None and high is not None:
        axes.plot([low, high], [place, place], color=color, linewidth=1.8, solid_capstyle="butt")
    axes.plot(measured[name], place, "o", color=color, markersize=5)


def _below(axes: Any) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, fontsize=7)
