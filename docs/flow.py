"""Figures of the data on their way through the last run: how many rows, at what times, which scores, what came out.

Counts are read from metrics/. The other figures are drawn from the tables in data/, which a fresh clone does not have
before `dvc repro` or `dvc pull`; without them a figure says so, and the build goes on.
"""

import functools
from collections.abc import Callable
from typing import Any

import matplotlib.dates as dates
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import results
from figures import CYCLE, FAINT, GREEN, INK, LAYER_FILL, LINE, ORANGE, WIDTH, arrow, box, canvas, show
from matplotlib.figure import Figure

KINDS = {"none": FAINT, "overhype": "#D55E00", "underhype": "#0072B2"}
LOOKED_AT = ("train", "dev")  # a figure of methods spends no look at test
ABSENT = "No tables on this machine: dvc repro makes them."
SHARE_OF_BARS = 20  # bins of the response hold a twentieth of the scores each


def needs(*tables: str) -> Callable[[Callable[..., tuple[Figure, str]]], Callable[..., Any]]:
    """Hand the tables (LAYER/NAME) to a drawing; where one is absent, the figure is a sentence."""

    def decorate(draw: Callable[..., tuple[Figure, str]]) -> Callable[..., Any]:
        @functools.wraps(draw)
        def shown() -> Any:
            paths = [results.ROOT / "data" / f"{table}.parquet" for table in tables]
            if all(path.exists() for path in paths):
                return show(*draw(*map(pd.read_parquet, paths)))
            figure, axes = canvas(WIDTH, 0.5, (0, 1), (0, 1))
            axes.text(0.5, 0.5, ABSENT, ha="center", va="center", color=FAINT)
            return show(figure, f"Empty. {ABSENT}")

        return shown

    return decorate


def stamp() -> str:
    return "SIMULATED. " if results.simulated() else ""


def layers() -> Any:
    """Rows of the last run in each layer, from its metrics."""
    clean, process, text, technical, score, said = map(
        results.metrics, ("clean", "process", "text", "technical", "contradiction", "predict")
    )
    kinds = ", ".join(f"{score['kind'][kind]:,} {kind}" for kind in ("overhype", "underhype"))
    bars = {role: part["bars"] for role, part in process["split"].items()}
    roles = ", ".join(f"{bars[role]:,} {role}" for role in ("train", "dev", "test") if role in bars)
    places = {  # name -> centre, width, layer, title, detail
        "raw_prices": (2.4, 6.0, 3.6, "raw", "prices", f"{clean['prices']['rows']:,} rows"),
        "raw_news": (7.6, 6.0, 3.6, "raw", "news", f"{clean['news']['rows']:,} items"),
        "prices": (2.4, 4.7, 3.6, "interim", "prices", _kept(clean["prices"])),
        "news": (7.6, 4.7, 3.6, "interim", "news", _kept(clean["news"])),
        "panel": (2.4, 3.4, 4.6, "processed", "panel", f"{process['bars']:,} bars: {roles}"),
        "news_bars": (7.6, 3.4, 3.6, "processed", "news by bar", f"{process['news_with_bar']:,} items before a cutoff"),
        "technical": (1.7, 2.1, 2.9, "features", "technical", f"{technical['features']} indicators a bar"),
        "contradiction": (5.0, 2.1, 3.1, "features", "contradiction", kinds),
        "text": (8.3, 2.1, 2.9, "features", "text", f"{text['distinct_texts']:,} vectors of {text['dim']}"),
        "predictions": (5.0, 0.8, 4.4, "predictions", "predictions", f"{said['rows']:,} rows with a model's view"),
    }
    figure, axes = canvas(WIDTH, 4.4, (-0.5, 10.1), (0.3, 6.5))
    ways = "raw_prices>prices raw_news>news prices>panel news>news_bars panel>technical panel>contradiction "
    ways += "news_bars>contradiction news_bars>text technical>predictions contradiction>predictions text>predictions"
    for way in ways.split():
        start, end = way.split(">")
        arrow(axes, (places[start][0], places[start][1] - 0.34), (places[end][0], places[end][1] + 0.34))
    for x, y, width, layer, title, detail in places.values():
        box(axes, (x, y), width, 0.68, LAYER_FILL[layer], title, detail)
    for layer, y in {"raw": 6.0, "interim": 4.7, "processed": 3.4, "features": 2.1, "predictions": 0.8}.items():
        axes.text(-0.4, y, layer, rotation=90, ha="center", va="center", color=FAINT, fontsize=7)
    listed = "; ".join(f"{layer} {title}: {detail}" for *_, layer, title, detail in places.values())
    return show(figure, f"{stamp()}Rows of the last run, layer by layer. {listed}.")


def _kept(part: dict[str, Any]) -> str:
    return f"{part['kept']:,} kept, {part['rejected']:,} rejected"


@needs("processed/panel", "processed/news_bars")
def week(panel: pd.DataFrame, news: pd.DataFrame) -> tuple[Figure, str]:
    """Rows of one ticker around the shortest session of train and dev, with their news and their clock."""
    seen = panel[panel["split"].isin(LOOKED_AT)]
    length = seen["session_close_utc"] - seen["session_open_utc"]
    short = seen.loc[length[length == length.min()].index].merge(news, on=["ticker", "bar_close_utc"])
    most = short.groupby(["ticker", "bar_close_utc"]).size().idxmax() if len(short) else None
    ticker, close = most or (seen["ticker"].iloc[0], seen["bar_close_utc"].iloc[2])
    rows = panel[panel["ticker"] == ticker].sort_values("bar_close_utc").reset_index(drop=True)
    middle = int(rows.index[rows["bar_close_utc"] == close][0])
    rows = rows.iloc[max(middle - 2, 1) - 1 : middle + 3]
    figure, axes = plt.subplots(figsize=(WIDTH, 2.9))
    published = 0
    for place, (before, row) in enumerate(zip(rows.iloc[:-1].itertuples(), rows.iloc[1:].itertuples(), strict=True)):
        mine = news[(news["ticker"] == ticker) & (news["bar_close_utc"] == row.bar_close_utc)]["published_utc"]
        published += len(mine)
        look: Any = {"linewidth": 7, "solid_capstyle": "butt", "zorder": 1}
        axes.plot([before.cutoff_utc, row.cutoff_utc], [place, place], color="#dfeaf2", **look)
        axes.plot([row.session_open_utc, row.session_close_utc], [place, place], color="#a9c8dd", **look)
        axes.plot([row.fill_utc, row.label_end_utc], [place, place], color="#f3c9a5", **look)
        axes.scatter(mine, [place] * len(mine), marker="|", s=70, color=INK, linewidths=0.9, zorder=3)
        axes.scatter([row.decided_utc], [place], marker="D", s=16, color=GREEN, zorder=4)
        axes.scatter([row.fill_utc], [place], marker=">", s=26, color=ORANGE, zorder=4)
    axes.set_yticks(range(len(rows) - 1), [f"{row.session:%a %d %b}" for row in rows.iloc[1:].itertuples()])
    axes.set_ylim(len(rows) - 1.4, -0.6)
    axes.xaxis.set_major_locator(dates.DayLocator())
    axes.xaxis.set_major_formatter(dates.DateFormatter("%d %b"))
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="x", color="#eceff2", linewidth=0.6)
    axes.set_title(f"{ticker}, {rows['session'].iloc[-1]:%Y}, in UTC", loc="left")
    first, last = (f"{rows['session'].iloc[end]:%Y-%m-%d}" for end in (1, -1))
    return figure, (
        f"{stamp()}{ticker} from {first} to {last}, one line a row. The window of its news runs from one cutoff to the "
        f"next, over nights, the weekend and a half day, and holds {published} items in these rows; the decision "
        "follows the close, the order fills at the next open, and the target runs from there to the open after it."
    )


@needs("features/contradiction", "processed/panel")
def plane(score: pd.DataFrame, panel: pd.DataFrame) -> tuple[Figure, str]:
    """Every bar of train and dev with news, on the plane of sentiment and return, and the scores that it has."""
    rows = score.merge(panel[["ticker", "bar_close_utc", "split"]], on=["ticker", "bar_close_utc"])
    rows = rows[rows["split"].isin(LOOKED_AT) & rows["z_s"].notna() & rows["z_r"].notna()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(1.15, 1))
    for kind, colour in KINDS.items():
        some = rows[rows["kind"] == kind]
        some = some.iloc[:: max(1, len(some) // 600)]  # a print cannot show more
        left.scatter(some["z_s"], some["z_r"], s=3, color=colour, alpha=0.6, linewidths=0, label=kind)
    left.axhline(0, color=LINE, linewidth=0.8)
    left.axvline(0, color=LINE, linewidth=0.8)
    left.set(xlim=(-4, 4), ylim=(-4, 4), xlabel="standardised sentiment $z_s$", ylabel="standardised return $z_r$")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=3, markerscale=3, handletextpad=0.1)
    scores = rows["cs"][rows["cs"] != 0]
    right.hist(scores, bins=np.arange(-3.5, 3.51, 0.1), color="#b8c4cd")
    taus = (results.parameter("contradiction.tau_over"), -results.parameter("contradiction.tau_under"))
    for tau, colour in zip(taus, (KINDS["overhype"], KINDS["underhype"]), strict=True):
        right.axvline(tau, color=colour, linestyle="--", linewidth=1.2)
    right.set(xlabel="score $C$, where it is not 0", ylabel="bars")
    share = (rows["kind"] != "none").mean()
    return figure, (
        f"{stamp()}{len(rows):,} bars of train and dev with news. Left: standardised sentiment against standardised "
        "return; marked are the bars beyond a threshold, in the quarters where both disagree. Right: histogram of "
        f"the {len(scores):,} scores that are not 0, with both thresholds; {share:.1%} of the bars lie beyond one."
    )


@needs("features/contradiction", "predictions/predictions", "processed/panel")
def response(score: pd.DataFrame, said: pd.DataFrame, panel: pd.DataFrame) -> tuple[Figure, str]:
    """What FusionNet says after a score on dev, beside what came, and its severity gate by kind."""
    key = ["ticker", "bar_close_utc"]
    rows = said[said["split"] == "dev"].merge(score[[*key, "cs"]], on=key).merge(panel[[*key, "target_ret"]], on=key)
    rows = rows[rows["target_ret"].notna()]
    some = rows[rows["cs"] != 0].sort_values("cs")
    bins = np.array_split(np.arange(len(some)), max(1, min(10, len(some) // SHARE_OF_BARS)))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.7), width_ratios=(1.5, 1))
    at = [some["cs"].iloc[part].mean() for part in bins]
    came = [some["target_ret"].iloc[part] * 1e4 for part in bins]
    error = [one.std() / np.sqrt(len(one)) for one in came]
    left.errorbar(at, [one.mean() for one in came], error, fmt="o", color=FAINT, markersize=4, label="came (1 s.e.)")
    left.plot(at, [some["mean_ret"].iloc[part].mean() * 1e4 for part in bins], "s-", color=CYCLE[0], label="forecast")
    left.axhline(0, color=LINE, linewidth=0.8)
    left.set(xlabel="score $C$ of the bar", ylabel="return of the target (bps)")
    left.legend()
    kinds = [kind for kind in KINDS if (rows["kind"] == kind).any()]
    gates = [rows["severity"][rows["kind"] == kind] for kind in kinds]
    drawn = right.boxplot(gates, tick_labels=kinds, showfliers=False, patch_artist=True, widths=0.5)
    for patch, kind in zip(drawn["boxes"], kinds, strict=True):
        patch.set(facecolor="white", edgecolor=KINDS[kind])
    for line in drawn["medians"]:
        line.set(color=INK)
    right.set(ylabel="severity gate", ylim=(0, None))
    middles = ", ".join(f"{kind} {gate.median():.3f}" for kind, gate in zip(kinds, gates, strict=True))
    return figure, (
        f"{stamp()}Dev rows through the trained network. Left: mean forecast and mean return that came, by score, in "
        f"{len(bins)} groups of {len(some):,} rows with a score. Right: the severity gate by kind, medians: {middles}."
    )
