"""The book's drawn figures, in one style: made at build time from dvc.yaml, params.yaml and the formulas themselves.

Every figure is an SVG that carries its alternative text in <desc>; the site and the PDF read it from there.
"""

import io
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import results
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

WIDTH = 6.3  # inches: the PDF's text width
INK, FAINT, LINE = "#1c2733", "#55636f", "#aab6c0"
BLUE, ORANGE, GREEN = "#0b5f8f", "#a9560b", "#2f6f4a"
CYCLE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # Okabe and Ito: safe for colour-blindness
LAYER_FILL = {
    "raw": "#e9eef2",
    "interim": "#dfeaf2",
    "processed": "#d5e7ee",
    "features": "#dcefe2",
    "models": "#fbeedd",
    "predictions": "#f6e3d3",
    "metrics": "#f3e2e4",
}

plt.rcParams.update(
    {
        "svg.hashsalt": "nimbus-book",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "axes.edgecolor": LINE,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=CYCLE),
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "legend.frameon": False,
        "lines.linewidth": 1.4,
        "figure.constrained_layout.use": True,
    }
)


def svg(figure: Figure, alt: str) -> str:
    """The figure as SVG with `alt` as its description; the same drawing gives the same bytes."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return described(buffer.getvalue(), alt)


def described(drawing: str, alt: str) -> str:
    """The SVG with `alt` as its <desc>, from where the site and the PDF take their alternative text."""
    if not alt.strip():
        raise ValueError("a figure needs alternative text")
    return re.sub(r"(<svg\b[^>]*>)", lambda opening: f"{opening[1]}\n <desc>{escape(alt)}</desc>", drawing, count=1)


def show(drawing: Figure | Path, alt: str) -> Any:
    """A figure, or the SVG that a stage drew, as the output of a cell."""
    from IPython.display import SVG

    return SVG(svg(drawing, alt) if isinstance(drawing, Figure) else described(drawing.read_text(), alt))


def draw_all(folder: Path) -> None:
    """Draw the figures of the chapters that are not executed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("dag", dag), ("clock", clock), ("contradiction", contradiction), ("fusionnet", fusionnet)):
        figure, alt = draw()
        (folder / f"{name}.svg").write_text(svg(figure, alt))


def dag() -> tuple[Figure, str]:
    """The stages of dvc.yaml, top to bottom in the order in which data passes them, with the data they write."""
    stages = yaml.safe_load((results.ROOT / "dvc.yaml").read_text())["stages"]
    outs = {name: paths(stage.get("outs", [])) for name, stage in stages.items()}
    edges = {
        name: [
            other
            for other in stages
            if any(inside(dep, out) for dep in paths(stage.get("deps", [])) for out in outs[other])
        ]
        for name, stage in stages.items()
    }
    depth: dict[str, int] = {}
    while len(depth) < len(stages):
        ready = [name for name in stages if name not in depth and all(other in depth for other in edges[name])]
        if not ready:
            raise results.ResultsError("the stages of dvc.yaml form a cycle")
        depth |= {name: 1 + max((depth[other] for other in edges[name]), default=-1) for name in ready}
    rows = [[name for name in stages if depth[name] == level] for level in range(max(depth.values()) + 1)]
    figure, axes = canvas(WIDTH, 0.78 * len(rows) + 0.1, (0, 10), (-len(rows) + 0.45, 0.55))
    place = {
        name: (5 + 3.3 * (column - (len(row) - 1) / 2), -float(level))
        for level, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    for name, others in edges.items():
        for other in reduced(name, others, edges):
            arrow(axes, (place[other][0], place[other][1] - 0.27), (place[name][0], place[name][1] + 0.27))
    for name, (x, y) in place.items():
        layer = outs[name][0].split("/")[1] if outs[name] and outs[name][0].startswith("data/") else None
        layer = layer or ("models" if outs[name] else "metrics")
        width = 3.1 if len(rows[depth[name]]) > 1 else 4.4
        box(axes, (x, y), width, 0.54, LAYER_FILL.get(layer, "#eeeeee"), name, written(outs[name]))
    links = "; ".join(f"{name} reads {', '.join(others) or 'the source'}" for name, others in edges.items())
    return figure, f"Graph of the pipeline's stages. {links}."


def paths(items: Iterable[Any]) -> list[str]:
    """DVC writes an entry as a path or as {path: options}."""
    return [item if isinstance(item, str) else next(iter(item)) for item in items]


def inside(path: str, out: str) -> bool:
    return path == out or path.startswith(f"{out}/")


def reduced(name: str, others: list[str], edges: dict[str, list[str]]) -> list[str]:
    """Without the edges that a longer way already implies, so that the drawing stays readable."""

    def ancestors(start: str) -> set[str]:
        return {start} | {deeper for other in edges[start] for deeper in ancestors(other)}

    return [other for other in others if not any(other in ancestors(third) for third in others if third != other)]


def written(outs: list[str]) -> str:
    """What a stage writes, in few words: `interim: news, prices`."""
    layers: dict[str, list[str]] = {}
    for out in outs:
        layer, _, name = out.removeprefix("data/").removesuffix(".parquet").partition("/")
        layers.setdefault(layer, []).append(name)
    parts = [f"{layer}: {', '.join(names)}" if names != [""] else layer for layer, names in layers.items()]
    return "; ".join(parts) or "metrics"


def clock() -> tuple[Figure, str]:
    """When a daily row's news, decision, fill and label happen."""
    figure, axes = canvas(WIDTH, 2.25, (0, 20), (-2.4, 2.9))
    axes.plot([0, 20], [0, 0], color=LINE, linewidth=1, zorder=0)
    sessions = {"t - 1": (0, 2.2), "t": (4.7, 8.7), "t + 1": (11.2, 15.2), "t + 2": (17.7, 20)}
    for name, (start, end) in sessions.items():
        axes.fill_between([start, end], -0.32, 0.32, color="#dfeaf2", edgecolor="none")
        axes.text((start + end) / 2, 0, f"session {name}" if end - start > 3 else name, ha="center", va="center")
    span(axes, 2.2, 8.7, 1.05, BLUE, "news of row t: from one cutoff to the next")
    span(axes, 11.2, 17.7, 1.05, ORANGE, "target_ret: open to open")
    marks = ((2.2, "cutoff\n(t - 1)", BLUE), (8.7, "cutoff (t)\n= close", BLUE), (9.7, "", GREEN))
    for x, name, colour in (*marks, (11.2, "fill\n= open", ORANGE), (17.7, "label_end\n= open", ORANGE)):
        axes.plot([x, x], [-0.55, 0.75], color=colour, linewidth=1.2)
        axes.text(x, -0.7, name, ha="center", va="top", color=colour)
    axes.text(9.75, -1.75, "decided = close + delay", ha="center", va="top", color=GREEN)
    axes.plot([9.7, 9.7], [-1.65, -0.55], color=GREEN, linewidth=0.8, linestyle=":")
    return figure, (
        "Time line of one daily row t. Its news runs from the cutoff of session t - 1 to the cutoff at the close of "
        "session t. The decision falls shortly after that close, the order fills at the open of session t + 1, and "
        "the target return runs from there to the open of session t + 2."
    )


def contradiction() -> tuple[Figure, str]:
    """The score over the plane of standardised sentiment and standardised return."""
    over, under = results.parameter("contradiction.tau_over"), results.parameter("contradiction.tau_under")
    z_s, z_r = np.meshgrid(np.linspace(-3, 3, 301), np.linspace(-3, 3, 301))
    score = np.where(z_s * z_r < 0, np.sign(z_s) * np.sqrt(np.abs(z_s * z_r)), 0.0)
    figure, axes = plt.subplots(figsize=(WIDTH * 0.68, 3.5))
    axes.contourf(z_s, z_r, score, levels=[over, 9], colors=["#f3c9a5"])
    axes.contourf(z_s, z_r, score, levels=[-9, -under], colors=["#b9d6e8"])
    levels = (0.5, 1.0, 1.5, 2.0, 2.5)
    for sign, threshold, fill in ((1, over, "#f3c9a5"), (-1, under, "#b9d6e8")):
        axes.contour(z_s, z_r, sign * score, levels=levels, colors=FAINT, linewidths=0.6)
        for level in levels:  # on the diagonal, where the score is the coordinate
            frame = {"facecolor": fill if level >= threshold else "white", "edgecolor": "none", "pad": 1}
            place = (sign * level, -sign * level)
            axes.text(*place, f"{sign * level:+.1f}", fontsize=7, color=FAINT, ha="center", va="center", bbox=frame)
    axes.axhline(0, color=LINE, linewidth=0.8)
    axes.axvline(0, color=LINE, linewidth=0.8)
    for x, y, name in ((1.5, 1.5, "agreement: 0"), (-1.5, -1.5, "agreement: 0")):
        axes.text(x, y, name, color=FAINT, ha="center", va="center")
    for x, y, name, colour, fill in (
        (0.95, -2.75, "overhype", "#8a4a08", "#f3c9a5"),
        (-0.95, 2.75, "underhype", "#17506f", "#b9d6e8"),
    ):
        frame = {"facecolor": fill, "edgecolor": "none", "pad": 1.5}
        axes.text(x, y, name, color=colour, ha="center", va="center", weight="bold", bbox=frame)
    axes.set(xlim=(-3, 3), ylim=(-3, 3))
    axes.set_xlabel("standardised sentiment $z_s$")
    axes.set_ylabel("standardised return $z_r$")
    return figure, (
        "Contradiction score over the plane of standardised sentiment and standardised return. It is zero where both "
        "have the same sign. Overhype is the region of positive sentiment and negative return where the score is at "
        f"least {over}; underhype is the region of negative sentiment and positive return where it is at most -{under}."
    )


def fusionnet() -> tuple[Figure, str]:
    """The network's parts and how they feed each other."""
    figure, axes = canvas(WIDTH, 3.5, (0, 10), (-0.4, 6.3))
    news, bars, fused = "#dcefe2", "#dfeaf2", "#fbeedd"
    box(axes, (2.4, 5.7), 3.9, 0.9, news, "news tokens", "embedding, sentiment, age, repost")
    box(axes, (7.6, 5.7), 3.9, 0.9, bars, "session tokens", "scaled indicators, contradiction")
    box(axes, (2.4, 4.0), 3.9, 0.8, news, "attention to sessions")
    box(axes, (7.6, 4.0), 3.9, 0.8, bars, "attention to news")
    box(axes, (5.0, 2.6), 5.6, 0.8, fused, "pooled and fused state", "dropout: addressed bits")
    box(axes, (1.9, 1.1), 2.6, 0.8, "#f3e2e4", "severity gate", "in [0, 1]")
    box(axes, (6.3, 1.1), 4.2, 0.8, fused, "gated state", "dropout: addressed bits")
    for x, name in ((4.6, "p_up"), (6.3, "mean"), (8.0, "sd")):
        axes.text(x, -0.2, name, ha="center", va="center", weight="bold")
        arrow(axes, (x, 0.68), (x, 0.02))
    for start, end in (
        ((2.4, 5.22), (2.4, 4.43)),
        ((7.6, 5.22), (7.6, 4.43)),
        ((3.4, 5.22), (6.6, 4.43)),
        ((6.6, 5.22), (3.4, 4.43)),
        ((2.8, 3.57), (3.8, 3.03)),
        ((7.2, 3.57), (6.2, 3.03)),
        ((3.2, 2.17), (2.3, 1.53)),
        ((5.8, 2.17), (6.2, 1.53)),
        ((3.24, 1.1), (4.16, 1.1)),
    ):
        arrow(axes, start, end)
    return figure, (
        "FusionNet. News tokens attend to session tokens and session tokens to news tokens; both sides are pooled "
        "and fused into one state, which passes dropout. A severity gate between 0 and 1 scales the state; after a "
        "second dropout three heads give the probability of a rise, the mean and the standard deviation of the return."
    )


def curves(table: pd.DataFrame, best: int) -> tuple[Figure, str]:
    """Training and development losses by epoch; `best` is the epoch whose weights were kept."""
    parts = (("loss", "loss"), ("bce", "cross-entropy"), ("nll", "Gaussian NLL"))
    figure, panels = plt.subplots(1, len(parts), figsize=(WIDTH, 2.3))
    for axes, (name, title) in zip(panels, parts, strict=True):
        axes.plot(table["epoch"], table[f"train_{name}"], label="train")
        axes.plot(table["epoch"], table[f"dev_{name}"], label="dev", linestyle="--")
        axes.axvline(best, color=FAINT, linewidth=0.8, linestyle=":")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("nats")
    panels[0].legend()
    first, last = table.iloc[0], table[table["epoch"] == best].iloc[0]
    return figure, (
        f"Losses by epoch. From the first epoch to epoch {best}, whose weights were kept, the training loss went from "
        f"{first['train_loss']:.4f} to {last['train_loss']:.4f} and the development loss from {first['dev_loss']:.4f} "
        f"to {last['dev_loss']:.4f}."
    )


def canvas(width: float, height: float, x: tuple[float, float], y: tuple[float, float]) -> tuple[Figure, Axes]:
    """Axes without a frame, in the drawing's own units."""
    figure, axes = plt.subplots(figsize=(width, height))
    axes.set(xlim=x, ylim=y)
    axes.axis("off")
    return figure, axes


def box(
    axes: Axes, centre: tuple[float, float], width: float, height: float, fill: str, name: str, detail: str = ""
) -> None:
    x, y = centre
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, facecolor=fill, edgecolor=LINE, linewidth=0.8))
    shift = height * 0.19 if detail else 0.0
    axes.text(x, y + shift, name, ha="center", va="center", weight="bold")
    if detail:
        axes.text(x, y - height * 0.25, detail, ha="center", va="center", fontsize=7, color=FAINT)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, color=FAINT, linewidth=0.8, zorder=0)
    )


def span(axes: Axes, start: float, end: float, y: float, colour: str, name: str) -> None:
    axes.annotate("", (start, y), (end, y), arrowprops={"arrowstyle": "<->", "color": colour, "linewidth": 1.2})
    axes.text((start + end) / 2, y + 0.25, name, ha="center", va="bottom", color=colour)
