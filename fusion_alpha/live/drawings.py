"""The drawings of a router's day, each on axes of its own: one by one for the page, all together for the sheet.

Bars stand one beside the other: nights and weekends take no room.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import figures
from fusion_alpha.figures import BLUE, FAINT, GREEN, INK, ORANGE, PURPLE, SKY, VERMILION
from fusion_alpha.live.account import STEPS, Account, latencies

SHOWN = 6  # tickers that are drawn
WIDTH = 10.4  # inches
_ACTIONS = {"buy": ("^", GREEN), "sell": ("v", VERMILION), "hold": ("o", "#bbbbbb")}
_KINDS = {"overhype": VERMILION, "underhype": BLUE, "none": "#bbbbbb"}
_COLORS = dict(zip(STEPS, (FAINT, PURPLE, BLUE, SKY, GREEN, ORANGE, INK), strict=True))
_ROWS = {  # of the drawing of events, from above
    "no signal": ("no_signal",),
    "stale": ("stale",),
    "bar refused": ("reject",),
    "late, revised": ("late", "revised", "late_news"),
    "feed, clock": ("feed", "clock"),
    "kill switch": ("latch", "release"),
    "start, stop": ("start", "stop"),
}

Panel = Callable[[Any, Account, str], None]  # draws on matplotlib axes; the text is a ticker, or empty


def prices(axes: Any, account: Account, ticker: str) -> None:
    """Price of a ticker with its signals, and where none was given."""
    rows = _of(account, ticker)
    at, price = _places(account, rows["close_utc"]), rows["price"].to_numpy()
    axes.plot(at, price, color=FAINT, linewidth=1.1)
    for action, (marker, color) in _ACTIONS.items():
        here = (rows["action"] == action).to_numpy()
        size = 9 if action == "hold" else 30
        axes.scatter(at[here], price[here], marker=marker, color=color, s=size, zorder=3, label=action, linewidths=0)
    silent = (rows["kind"] != "signal").to_numpy()
    if silent.any():
        low = np.nanmin(price) if np.isfinite(price).any() else 0.0
        axes.plot(at[silent], np.full(silent.sum(), low), "|", color=INK, markersize=8, label="no signal")
    axes.set(title=f"{ticker}: price and signals", ylabel="quoted price")
    _bars_below(axes, account)
    _legend(axes)


def contradictions(axes: Any, account: Account, ticker: str) -> None:
    """Contradiction score of a ticker, and the severity that the model gives it."""
    rows = _of(account, ticker)
    at = _places(account, rows["close_utc"])
    for kind, color in _KINDS.items():
        here = (rows["contradiction"] == kind).to_numpy()
        if here.any():
            axes.bar(at[here], rows["cs"].to_numpy()[here], width=0.9, color=color, label=kind)
    axes.axhline(0, color=FAINT, linewidth=0.8)
    axes.set(title=f"{ticker}: contradiction of news and price", ylabel="score (sd)")
    right = axes.twinx()
    right.plot(at, rows["severity"].to_numpy(), color=PURPLE, linewidth=0.9)
    right.plot([], [], color=PURPLE, label="severity (right)")
    right.set_ylim(0, 1)
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    _bars_below(axes, account)
    _legend(axes, right)


def latency(axes: Any, account: Account, ticker: str = "") -> None:
    """Milliseconds from a bar's arrival to its decision, by step."""
    bars = account.bars
    at = np.arange(len(bars))
    base = np.zeros(len(bars))
    for step in STEPS[:-1]:  # the journal's belongs to the write before
        height = bars[step].fillna(0).to_numpy() * 1e3
        if height.any():
            axes.bar(at, height, bottom=base, width=1.0, color=_COLORS[step], label=step, linewidth=0)
            base = base + height
    axes.plot(at, bars["latency_s"].to_numpy() * 1e3, color=INK, linewidth=0.9, label="all")
    found = latencies(bars["latency_s"])
    axes.set(title=f"Latency of a bar: median {found['p50']:.0f} ms, 99% {found['p99']:.0f} ms", ylabel="milliseconds")
    axes.set_ylim(bottom=0)
    _bars_below(axes, account)
    _legend(axes)


def book(axes: Any, account: Account, ticker: str = "") -> None:
    """Value of the book on paper."""
    value = account.bars["equity"].to_numpy()
    axes.plot(np.arange(len(value)), value, color=BLUE, linewidth=1.8)
    axes.axhline(1, color=FAINT, linewidth=0.7)
    axes.set(title="Book on paper", ylabel="value, 1 at the start")
    _bars_below(axes, account)


def events(axes: Any, account: Account, ticker: str = "") -> None:
    """Gaps, refusals, halts and the kill switch: one row a kind."""
    silent = account.decisions[account.decisions["kind"] != "signal"]
    found = pd.concat(
        [account.events[["time", "kind"]], silent.rename(columns={"close_utc": "time"})[["time", "kind"]]]
    )
    for begin, end in latched(account):
        axes.axvspan(begin, end, color=VERMILION, alpha=0.12, linewidth=0)
    for height, (name, kinds) in enumerate(_ROWS.items()):
        times = found.loc[found["kind"].isin(kinds), "time"]
        color = VERMILION if name == "kill switch" else INK
        axes.plot(_places(account, times), np.full(len(times), height), "|", color=color, markersize=9)
    axes.set_yticks(range(len(_ROWS)), list(_ROWS))
    axes.set_ylim(len(_ROWS) - 0.5, -0.5)
    axes.set_title("What happened besides; shaded while the kill switch is latched")
    _bars_below(axes, account)


def latched(account: Account) -> list[tuple[float, float]]:
    """Places from each pull of the kill switch to its release, or to the end."""
    changes = account.events[account.events["kind"].isin(["latch", "release"])]
    spans: list[tuple[float, float]] = []
    begun: float | None = None
    for place, kind in zip(_places(account, changes["time"]).tolist(), changes["kind"], strict=True):
        if kind == "latch":
            begun = place if begun is None else begun
        elif begun is not None:
            spans.append((begun, place))
            begun = None
    return spans if begun is None else [*spans, (begun, len(account.bars) - 0.5)]


def panels(account: Account) -> list[tuple[str, Panel, str]]:
    """(text alternative, drawing, ticker) of each panel, in order."""
    found: list[tuple[str, Panel, str]] = []
    for ticker in account.tickers[:SHOWN]:
        found.append((f"Price of {ticker} with the signals that were given", prices, ticker))
        found.append((f"Contradiction score of {ticker} and its severity", contradictions, ticker))
    found.append(("Latency of each bar by step", latency, ""))
    found.append(("Value of the book on paper", book, ""))
    return [*found, ("Gaps, refusals, halts and the kill switch over time", events, "")]


def svg(account: Account, draw: Panel, ticker: str) -> bytes:
    """One panel by itself."""
    with figures.drawing(5.6, 3.0, account.simulated) as (figure, render):
        draw(figure.subplots(), account, ticker)
        return render()


def sheet(account: Account, title: str, facts: list[tuple[str, str]]) -> bytes:
    """Title, main figures and all panels on one sheet: a PNG."""
    found = panels(account)
    rows = len(found) // 2 + 1
    with figures.drawing(WIDTH, 1.4 + 2.5 * rows, account.simulated, "png") as (figure, render):
        parts: Any = figure.subfigures(2, 1, height_ratios=(1.0, 2.5 * rows))
        top, middle = parts
        top.text(0.02, 0.92, title, fontsize=14, fontweight="bold", va="top")
        for place, (name, value) in enumerate(facts):
            top.text(0.02 + 0.163 * place, 0.5, name, fontsize=7.5, color=FAINT, va="top")
            top.text(0.02 + 0.163 * place, 0.28, value, fontsize=11, fontweight="bold", va="top")
        grid = middle.add_gridspec(rows, 2)
        for place, (_, draw, ticker) in enumerate(found[:-1]):
            draw(middle.add_subplot(grid[place // 2, place % 2]), account, ticker)
        events(middle.add_subplot(grid[rows - 1, :]), account)
        return render()


def _of(account: Account, ticker: str) -> pd.DataFrame:
    return account.decisions[account.decisions["ticker"] == ticker].sort_values("close_utc")


def _places(account: Account, times: pd.Series) -> np.ndarray:
    """Where times stand among the bars: on one, or between two."""
    closes = account.bars["close_utc"].to_numpy()
    after = np.searchsorted(closes, times.to_numpy(), side="right") - 1.0
    return after + 0.5 * ~np.isin(times.to_numpy(), closes)


def _bars_below(axes: Any, account: Account) -> None:
    closes = account.bars["close_utc"]
    ticks = np.unique(np.linspace(0, len(closes) - 1, min(5, len(closes))).astype(int))
    form = "%Y-%m-%d" if account.daily else "%m-%d %H:%M"
    axes.set_xticks(ticks, [closes.iloc[tick].strftime(form) for tick in ticks], fontsize=7)
    axes.set_xlim(-1, len(closes))


def _legend(axes: Any, *others: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    for other in others:
        more = other.get_legend_handles_labels()
        handles, labels = handles + more[0], labels + more[1]
    axes.legend(
        handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=7, fontsize=7, columnspacing=1.0
    )
