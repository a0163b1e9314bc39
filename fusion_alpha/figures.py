"""The figures of an evaluation and of a search, in one style: SVG, or PNG, whose bytes depend on the numbers alone.

Colours are those of Okabe and Ito, which readers with colour-blindness tell apart; line styles and markers repeat the
distinction for print. Simulated data carries its watermark in every figure. matplotlib writes a font cache when it is
imported, so it is imported inside functions.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fusion_alpha.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT = "#222222", "#777777"
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
_FEW = 4  # values that are worth a tick each
_LINES = [(SKY, "--"), (ORANGE, "-."), (GREEN, ":"), (PURPLE, "--"), (VERMILION, "-."), (FAINT, ":")]
_FORMATS: dict[str, Any] = {
    "svg": {"metadata": {"Date": None, "Creator": None}},
    "png": {"metadata": {"Software": None}, "dpi": 144},
}
_STYLE: Any = {
    "svg.hashsalt": "fusion-alpha",  # identifiers from content, not from a random salt
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same outlines everywhere
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
}


def equity(values: pd.DataFrame, main: str, benchmark: str, labels: dict[str, str], simulated: bool) -> bytes:
    """Growth of 1 by session, one column per strategy; `main` and `benchmark` stand out. SVG."""
    with drawing(7.2, 3.8, simulated) as (figure, render):
        axes = figure.subplots()
        others = iter(_LINES * len(values.columns))
        for name in map(str, values):
            if name == main:
                look: dict[str, Any] = {"color": BLUE, "linewidth": 2.0, "zorder": 4}
            elif name == benchmark:
                look = {"color": INK, "linewidth": 1.5, "zorder": 3}
            else:
                color, line = next(others)
                look = {"color": color, "linestyle": line, "linewidth": 1.2}
            axes.plot(values.index, values[name], label=labels.get(name, name), **look)
        axes.set(title="Equity net of costs", ylabel="growth of 1")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        dates(axes, values.index)
        return render()


def calibration(table: pd.DataFrame, ece: float | None, simulated: bool) -> bytes:
    """Reliability of p_up: share of ups against mean probability, with binomial standard errors. SVG."""
    with drawing(4.4, 4.0, simulated) as (figure, render):
        draw_calibration(figure.subplots(), table, ece)
        return render()


def draw_calibration(axes: Any, table: pd.DataFrame, ece: float | None) -> None:
    """`calibration` on axes of a larger figure."""
    error = np.sqrt(table["share_up"] * (1 - table["share_up"]) / table["n"])
    around = pd.concat([table["p_mean"], table["share_up"] - error, table["share_up"] + error])
    low, high = (around.min() - 0.02, around.max() + 0.02) if len(around) else (0.0, 1.0)
    axes.plot([low, high], [low, high], color=FAINT, linewidth=1, linestyle="--", label="perfect")
    axes.errorbar(table["p_mean"], table["share_up"], error, fmt="o-", color=BLUE, capsize=2, label="model")
    axes.set(xlim=(low, high), ylim=(low, high), xlabel="predicted probability of up", ylabel="share of ups")
    axes.set_title("Calibration" if ece is None else f"Calibration (expected error {ece:.3f})")
    axes.legend(loc="upper left")


def contradictions(bars: pd.DataFrame, thresholds: Sequence[float], simulated: bool) -> bytes:
    """Price of one ticker with its contradictions marked, below it their score and their severity. SVG.

    bars: one ticker's ticker, session, bar_close_utc, close, cs, kind, severity in order, and kind_true where it was
    planted (rings); thresholds: (tau_over, tau_under).
    """
    with drawing(7.2, 5.6, simulated) as (figure, render):
        price, score, severity = figure.subplots(3, 1, sharex=True, height_ratios=(2.4, 1, 0.8))
        at = np.arange(len(bars))  # bars, not hours: nights and weekends take no room
        close, cs, rank = (bars[name].to_numpy() for name in ("close", "cs", "severity"))
        price.plot(at, close, color=FAINT, linewidth=1.2)
        marks = (("overhype", "v", VERMILION, "news up, price down"), ("underhype", "^", BLUE, "news down, price up"))
        for kind, marker, color, meaning in marks:
            here = (bars["kind"] == kind).to_numpy()
            price.scatter(at[here], close[here], marker=marker, color=color, s=34, zorder=3, label=f"{kind}: {meaning}")
            score.bar(at[here], cs[here], color=color, width=0.9)
            severity.bar(at[here], rank[here], color=color, width=0.9)
        if "kind_true" in bars:
            planted = (bars["kind_true"] != "none").to_numpy()
            ring: Any = {"facecolors": "none", "edgecolors": INK, "linewidths": 0.8, "s": 90}
            price.scatter(at[planted], close[planted], label="planted", **ring)
        quiet = (bars["kind"] == "none").to_numpy()
        for axes, values in ((score, cs), (severity, rank)):
            axes.bar(at[quiet], values[quiet], color="#bbbbbb", width=0.9)
        for level in (thresholds[0], -thresholds[1]):
            score.axhline(level, color=FAINT, linewidth=0.8, linestyle="--")
        score.axhline(0, color=FAINT, linewidth=0.8)
        price.set(title=f"{bars['ticker'].iloc[0]}: contradictions of sentiment and price", ylabel="adjusted close")
        price.legend(loc="best", fontsize=8)
        ticks = np.unique(np.linspace(0, len(bars) - 1, min(6, len(bars))).astype(int))
        severity.set_xticks(ticks, [f"{day:%Y-%m-%d}" for day in bars["session"].iloc[ticks]])
        score.set(ylabel="score (sd)")
        severity.set(ylabel="severity", ylim=(0, 1))
        return render()


def parity(seeds: pd.DataFrame, level: dict[str, Any], times: pd.DataFrame, simulated: bool) -> bytes:
    """BICEP's dropout against torch's: difference of dev BCE by seed with interval and margin, and epoch times. SVG.

    seeds: columns seed, difference (nats); level: `parity.equivalent_losses`; times: epoch_bicep_s, epoch_torch_s.
    """
    with drawing(7.2, 3.4, simulated) as (figure, render):
        loss, epoch = figure.subplots(1, 2, width_ratios=(2.4, 1))
        low, high = level["interval_90"]
        loss.axhspan(low, high, color=SKY, alpha=0.35, linewidth=0, label="90% interval of the mean")
        loss.axhline(level["mean_difference"], color=BLUE, linewidth=1.5, label="mean")
        for sign, label in ((1, "margin"), (-1, None)):
            loss.axhline(sign * level["criterion"], color=VERMILION, linewidth=1, linestyle="--", label=label)
        loss.plot(seeds["seed"], seeds["difference"], "o", color=INK, markersize=4, label="pair of trainings")
        loss.set(title="Dev BCE, BICEP minus torch", xlabel="seed", ylabel="nats")
        loss.xaxis.get_major_locator().set_params(integer=True)
        loss.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8)
        for place, (name, color) in enumerate((("bicep", BLUE), ("torch", ORANGE))):
            seconds = times[f"epoch_{name}_s"]
            epoch.bar(place, seconds.median(), color=color, width=0.6)
            epoch.plot(np.full(len(seconds), place), seconds, "_", color=INK, markersize=12)
        epoch.set_xticks([0, 1], ["BICEP", "torch"])
        epoch.set(title="Training epoch", ylabel="seconds", ylim=(0, None))
        return render()


def recovery(seeds: pd.DataFrame, whole: pd.DataFrame) -> bytes:
    """Information coefficients of simulated markets, a panel for each kind: by seed, and of all of them together. SVG.

    seeds: columns market, seed, system, ic; whole: market, system, ic, ic_lo, ic_hi.
    """
    looks = {"oracle": ("_", INK), "fused": ("o", BLUE), "price_only": ("^", ORANGE), "text_only": ("s", GREEN)}
    kinds = list(dict.fromkeys(seeds["market"]))
    with drawing(2.6 * len(kinds) + 0.4, 3.6, simulated=True) as (figure, render):
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            own, together = (table[table["market"] == kind] for table in (seeds, whole))
            last = own["seed"].max() + 2  # apart from the seeds
            for number, (system, rows) in enumerate(own.groupby("system", sort=False)):
                marker, color = looks.get(str(system), ("d", PURPLE))
                name = str(system).replace("_", " ")
                size = 12 if marker == "_" else 5
                axes.plot(rows["seed"], rows["ic"], marker, color=color, markersize=size, label=name)
                ic, low, high = together.loc[together["system"] == system, ["ic", "ic_lo", "ic_hi"]].iloc[0]
                reach = [[ic - low], [high - ic]]
                axes.errorbar(last + 0.7 * number, ic, reach, fmt=marker, color=color, markersize=size, capsize=2)
            axes.axhline(0, color=FAINT, linewidth=0.8)
            ends = [own["seed"].min(), own["seed"].max()]
            axes.set_xticks([*ends, last + 0.35 * (own["system"].nunique() - 1)], [*map(str, ends), "all"])
            axes.set(title=kind, xlabel="seed")
        panels[0].set_ylabel("information coefficient")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
        return render()


def attention(found: dict[str, Any]) -> bytes:
    """Where a forecast looked: headlines by sessions where the model has both, else shares alone. SVG.

    found: what `fusion_alpha.explain.explain` returns.
    """
    news, sessions = found["news"], found["sessions"]
    titles = ["(no news)", *(_shortened(item["text"], 60) for item in news)]
    rows = [0, *range(-len(news), 0)]  # the learned token, then the items; masked places are before them
    with drawing(7.2, 1.8 + 0.28 * max(len(titles), 6), found["simulated"]) as (figure, render):
        axes = figure.subplots()
        axes.grid(visible=False)
        if "news_to_sessions" in found["attention"]:
            weights = np.array(found["attention"]["news_to_sessions"])[rows][:, -len(sessions) :]
            image = axes.imshow(weights, cmap="cividis", aspect="auto", vmin=0)
            figure.colorbar(image, ax=axes, label="attention, mean of the heads", shrink=0.8)
            axes.set_xticks(range(len(sessions)), [item["session"] for item in sessions], rotation=90, fontsize=7)
            axes.set_yticks(range(len(titles)), titles, fontsize=7)
        else:
            bars = [(item["session"], item["share"]) for item in sessions]
            bars += [(_shortened(item["text"], 60), item["share"]) for item in news]
            axes.barh(range(len(bars)), [share for _, share in bars], color=BLUE)
            axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
            axes.set(xlabel="share of the pooled summary")
            axes.invert_yaxis()
        axes.set_title(f"{found['ticker']}, {found['session']}: p_up {found['forecast']['p_up']:.2f}", fontsize=9)
        return render()


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"


def search_history(trials: pd.DataFrame, simulated: bool, kind: str = "svg") -> bytes:
    """Loss of each trial in the order of their numbers, and the best so far.

    trials: columns trial, state (complete, pruned or refused), loss and present; pruned ones have fewer blocks in loss.
    """
    with drawing(7.2, 3.4, simulated, kind) as (figure, render):
        axes: Any = figure.subplots()
        whole = trials[trials["state"] == "complete"]
        pruned = trials[trials["state"] == "pruned"]
        axes.plot(pruned["trial"], pruned["loss"], "x", color=FAINT, markersize=5, label="pruned, first blocks only")
        axes.plot(whole["trial"], whole["loss"], "o", color=BLUE, markersize=4, label="all blocks")
        best = whole["loss"].cummin()
        axes.step(whole["trial"], best, where="post", color=INK, linewidth=1.2, label="best so far")
        _mark_present(axes, whole, "trial")
        axes.set(title="Trials of the search", xlabel="trial", ylabel="mean loss (nats)")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=8)
        return render()


def search_slices(
    trials: pd.DataFrame, settings: Sequence[str], log_scaled: Sequence[str], simulated: bool, kind: str = "svg"
) -> bytes:
    """Loss against each setting, over trials on all blocks; the best one and the present settings stand out.

    trials: as for `search_history`, with a column for each of the settings.
    """
    whole = trials[trials["state"] == "complete"].sort_values(["loss", "trial"])
    columns = min(3, len(settings))
    rows = -(-len(settings) // columns)
    with drawing(2.5 * columns, 2.2 * rows + 0.3, simulated, kind) as (figure, render):
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, name in zip(panels, settings, strict=False):
            number = pd.api.types.is_numeric_dtype(whole[name]) and not pd.api.types.is_bool_dtype(whole[name])
            x = whole[name] if number else whole[name].astype(str)
            axes.plot(x, whole["loss"], "o", color=BLUE, markersize=4, alpha=0.8)
            _mark_present(axes, whole.assign(**{name: x}), name)
            axes.plot(x[:1], whole["loss"][:1], "*", color=VERMILION, markersize=11, label="best", zorder=4)
            if name in log_scaled:
                _few_log_ticks(axes, whole[name])
            elif number and whole[name].nunique() <= _FEW:
                axes.set_xticks(sorted(whole[name].unique()))
            axes.set_xlabel(name)
        for axes in panels[len(settings) :]:
            axes.set_visible(False)
        figure.supylabel("mean loss (nats)", fontsize=9)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2, fontsize=8)
        return render()


def search_importance(shares: dict[str, float], simulated: bool, kind: str = "svg") -> bytes:
    """Share of each setting in what separates the best trials, the largest on top."""
    ordered = sorted(shares.items(), key=lambda item: (item[1], item[0]))
    with drawing(5.4, 0.32 * len(ordered) + 1.0, simulated, kind) as (figure, render):
        axes = figure.subplots()
        axes.barh([name for name, _ in ordered], [share for _, share in ordered], color=BLUE, height=0.65)
        axes.set(title="What separates the best trials (PED-ANOVA)", xlabel="share")
        axes.grid(axis="y", visible=False)
        return render()


def _few_log_ticks(axes: Any, values: pd.Series) -> None:
    axes.set_xscale("log")
    ticks = sorted({float(f"{tick:.1g}") for tick in np.geomspace(values.min(), values.max(), 3)})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _mark_present(axes: Any, whole: pd.DataFrame, x: str) -> None:
    own = whole[whole["present"]]
    axes.plot(own[x], own["loss"], "D", color=ORANGE, markersize=6, label="settings of conf/", zorder=3)


def save(path: Path, svg: bytes) -> Path:
    write_bytes(path, svg)
    return path


def intervals(panels: dict[str, pd.DataFrame], label: str, colors: dict[str, str], simulated: bool) -> bytes:
    """One line a row with its interval, a panel beside the other, zero marked. SVG.

    panels: by title, tables of the same rows in the same order: value, low, high, kind; colors: by kind.
    """
    n_rows = len(next(iter(panels.values())))
    with drawing(7.2, 0.6 + 0.22 * n_rows, simulated) as (figure, render):
        for axes, (title, table) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            at = np.arange(n_rows)
            axes.axvline(0, color=INK, linewidth=0.8)
            for kind, color in colors.items():
                here = (table["kind"] == kind).to_numpy()
                axes.hlines(at[here], table["low"][here], table["high"][here], color=color, linewidth=1.5)
                axes.plot(table["value"][here], at[here], "o", color=color, markersize=4, label=kind)
            axes.set(title=title, xlabel=label)
            axes.set_yticks(at, list(table.index))
            axes.invert_yaxis()
        axes.legend(loc="lower right", fontsize=7)
        return render()


@contextmanager
def drawing(
    width: float, height: float, simulated: bool, kind: str = "svg"
) -> "Iterator[tuple[Figure, Callable[[], bytes]]]":
    """A figure in this module's style, whatever the user's own, and the function that makes it an SVG or a PNG."""
    import matplotlib
    from matplotlib.figure import Figure

    def render() -> bytes:
        if simulated:
            mark: Any = {
                "fontsize": 44,
                "color": "#000000",
                "alpha": 0.08,
                "rotation": 24,
                "ha": "center",
                "va": "center",
            }
            figure.text(0.5, 0.5, "SIMULATED", **mark)
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **_FORMATS[kind])
        return buffer.getvalue()

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, render


def dates(axes: Any, days: pd.Index) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if len(days) < 3:  # too short a span for a locator
        axes.set_xticks(days, [f"{day:%Y-%m-%d}" for day in days])
        return
    locator = AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def canaries(found: pd.DataFrame, caught: dict[str, list[str]]) -> bytes:
    """How much of what is allowed each canary used, and which of them caught each planted leak. SVG.

    found: columns canary, value, criterion, passed, used (share of what is allowed); caught: by mutant, names as
    CANARY/ATTACK/CUT.
    """
    columns = list(
        dict.fromkeys(
            "/".join(name.split("/")[: 1 + ("machine" in name)]) for names in caught.values() for name in names
        )
    )
    height = 1.2 + 0.24 * max(len(found), len(caught) + 5)
    with drawing(10.2, height, simulated=True) as (figure, render):
        left, right = figure.subplots(1, 2, width_ratios=[1, 1])
        for row, one in enumerate(found.to_dict("records")):
            color, marker = (BLUE, "o") if one["passed"] else (VERMILION, "X")
            left.plot([0, one["used"]], [row, row], color=color, linewidth=1.5)
            left.plot(one["used"], row, marker, color=color, markersize=5)
            left.text(1.55, row, f"{one['value']:g}  ({one['criterion']})", va="center", fontsize=7)
        left.axvline(1, color=INK, linewidth=0.8)
        left.set_yticks(range(len(found)), [name.replace("_", " ") for name in found["canary"]], fontsize=7)
        left.set(xlim=(-0.05, 2.9), xticks=[0, 0.5, 1], title="share of what is allowed", ylim=(len(found) - 0.5, -0.5))
        for row, names in enumerate(caught.values()):
            for column, canary in enumerate(columns):
                hit = any(name.startswith(canary) for name in names)
                right.plot(column, row, "o" if hit else ".", color=BLUE if hit else FAINT, markersize=7 if hit else 2)
        right.set_yticks(range(len(caught)), [name.replace("_", " ") for name in caught], fontsize=7)
        heads = [canary.replace("_", " ").replace("/", "\n") for canary in columns]
        right.set_xticks(range(len(columns)), heads, fontsize=7, rotation=30, ha="right")
        right.set(title="planted leaks and what caught them", ylim=(len(caught) - 0.5, -0.5))
        return render()
