"""What the book shows of metrics/bench.csv: rates beside the ceiling, ratios beside the targets, and the cards.

The file is a log of measurements on many machines. `latest` keeps, for each device, operation and size, the rows of
the last run that measured BICEP there. What nobody measured is shown as not measured, never estimated.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import results
import yaml
from exhibits import NOTHING, Table, words
from figures import CYCLE, FAINT, WIDTH, canvas
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

OURS, PEER = "bicep", "torch"
NOT_MEASURED = "not measured"
STYLES = {  # provider -> colour, marker, line: told apart in print as well
    "bicep": (CYCLE[0], "o", "-"),
    "torch": (CYCLE[1], "s", "-"),
    "torch_bits": (CYCLE[4], "D", ":"),
    "numpy": (CYCLE[2], "^", "-"),
    "torchsde": (CYCLE[3], "v", "-"),
    "cupy": (CYCLE[2], "^", "-"),
    "curand": (CYCLE[3], "v", "-"),
    "bicep_numpy": (FAINT, "x", "-"),
}
_GROUP = ["device", "operation", "dtype", "n_paths", "n_steps"]


def latest(kind: str) -> pd.DataFrame:
    """Rows of the devices of a kind (cpu, cuda): of each operation and size those of its last run with BICEP."""
    path = results.METRICS / "bench.csv"
    if path.exists():  # a hash of digits is no number, and an empty one is not missing
        found = pd.read_csv(path, dtype={"commit": str}, keep_default_na=False)
    else:
        found = pd.DataFrame(columns=[*_GROUP, "provider", "commit", "date"], dtype=str)
    found = found[found["device"].str.startswith(kind)]
    kept = []
    for _, rows in found.groupby(_GROUP, sort=False):
        ours = rows[rows["provider"] == OURS].sort_values("date", kind="stable")
        if len(ours):
            run = (rows["commit"] == ours["commit"].iloc[-1]) & (rows["date"] == ours["date"].iloc[-1])
            kept.append(rows[run].drop_duplicates("provider", keep="last"))
    return pd.concat(kept) if kept else found.iloc[:0]


def targets() -> Table:
    """On each CPU: rate of BICEP and of torch on one thread, their ratio and its target, the share of the ceiling."""
    goal = _file()["targets"]
    found = latest("cpu")
    found = found[(found["n_paths"] == goal["n_paths"]) & (found["n_steps"] == goal["n_steps"])]
    head = ["operation", "BICEP M/s", "torch M/s", "ratio", "target", "reached", "of ceiling"]
    devices = list(dict.fromkeys(found["device"])) or [NOT_MEASURED]
    rows: list[Sequence[Any]] = []
    for device in devices:
        name = [device.removeprefix("cpu ")] if len(devices) > 1 else []
        for operation, ratio in goal["ratio"].items():
            here = found[(found["device"] == device) & (found["operation"] == operation)].set_index("provider")
            rows.append([*name, f"`{operation}`", *_compared(here, ratio)])
    head = ["device", *head] if len(devices) > 1 else head
    return Table(rows, head, right=range(len(head) - 6, len(head)))


def gpu() -> Table:
    """On each CUDA device, at the largest size: rates of BICEP and its peers, and the share of the ceiling."""
    found = latest("cuda")
    head = ["device", "operation", "paths", "BICEP G/s", "x torch", "x cuRAND", "of ceiling"]
    rows: list[Sequence[Any]] = []
    for (device, operation), here in found.groupby(["device", "operation"], sort=False):
        here = here[here["n_paths"] == here["n_paths"].max()].set_index("provider")
        rate = here["steps_per_s"]
        over = [f"{rate[OURS] / rate[peer]:.3g}" if peer in rate else NOTHING for peer in (PEER, "curand")]
        share = f"{here.loc[OURS, 'ceiling_share']:.0%}"
        size = int(here["n_paths"].iloc[0])
        rows.append([device.removeprefix("cuda "), f"`{operation}`", size, f"{rate[OURS] / 1e9:,.4g}", *over, share])
    return Table(rows or [[NOT_MEASURED, *[NOTHING] * (len(head) - 1)]], head, right=range(2, len(head)))


def cards() -> Table:
    """What the vendor's sheets promise of some cards, and what was measured on them."""
    found = latest("cuda")
    head = ["card", "memory GB/s", "FP32 TFLOPS", "INT32 TOPS", "paths fp32, at most G/s"]
    measured = {"paths_bits": "paths, bits G/s", "fused_barrier_normal": "normals G/s", "terminal_bits": "bits G/s"}
    rows = []
    for card in _file()["cards"]:
        here = found[found["device"] == f"cuda {card['device']}"]
        rates = [_best(here[here["operation"] == operation]) for operation in measured]
        sheet = (card["memory_gb_per_s"], card["fp32_tflops"], card["int32_tops"])
        rows.append([card["name"], *sheet, card["memory_gb_per_s"] / 4, *rates])
    head += list(measured.values())
    return Table(rows, head, right=range(1, len(head)))


def texts() -> Table:
    """Texts a second of plain transformers and of the text encoders: of each machine and kind the last run."""
    path = results.METRICS / "text_bench.csv"
    head = ["texts", "threads", "encoder", "texts/s", "x plain", "labels as plain", "least cosine"]
    if not path.exists():
        return Table([[NOT_MEASURED, *[NOTHING] * (len(head) - 1)]], head, right=range(1, len(head)))
    found = pd.read_csv(path, dtype={"commit": str})
    found = found.drop_duplicates(["device", "texts", "threads", "provider", "precision"], keep="last")
    rows = [
        [
            f"{row.texts} ({row.tokens_mean:g} tokens)",
            row.threads,
            f"`{row.provider}` {row.precision}",
            f"{row.p50_texts_per_s:,.4g}",
            f"{row.x_plain:.3g}",
            NOTHING if pd.isna(row.agreement) else f"{row.agreement:.1%}",
            f"{row.cosine_least:.4f}",
        ]
        for row in found.itertuples()
    ]
    return Table(rows, head, right=range(3, len(head)))


def text_machine() -> str:
    """Where and under which load the last rows of `texts` were measured, in words."""
    path = results.METRICS / "text_bench.csv"
    if not path.exists():
        return NOT_MEASURED
    row = pd.read_csv(path, dtype={"commit": str}).iloc[-1]
    name = row["device"].removeprefix("cpu ")
    return f"{name} ({row['versions']}; {row['date']}, commit {row['commit']}, load {row['load']:g} when it began)"


def machines(kind: str) -> str:
    """The devices of a kind with the versions and the date of their last rows, in words."""
    found = latest(kind)
    parts = [
        f"{row.device.removeprefix(kind + ' ')} ({row.versions}; {row.date}, commit {row.commit or 'unknown'})"
        for row in found.drop_duplicates("device", keep="last").itertuples()
    ]
    return "; ".join(parts) or NOT_MEASURED


def rates(kind: str, n_steps: int = 256) -> tuple[Figure, str]:
    """Rate against the number of paths, a panel an operation, with the ceiling; of the device measured last."""
    found = latest(kind)
    found = found[found["n_steps"] == n_steps]
    if found.empty:
        figure, axes = canvas(WIDTH, 0.5, (0, 1), (0, 1))
        axes.text(0.5, 0.5, NOT_MEASURED, ha="center", va="center", color=FAINT)
        return figure, "Empty: nobody has measured this yet."
    found = found[found["device"] == found.sort_values("date", kind="stable")["device"].iloc[-1]]
    operations = list(dict.fromkeys(found["operation"]))
    lines = -(-len(operations) // 3)
    figure, panels = plt.subplots(lines, 3, figsize=(WIDTH, 1.6 * lines + 0.5), sharex=True, squeeze=False)
    drawn: dict[str, Any] = {}
    for axes, operation in zip(panels.flat, operations, strict=False):
        drawn |= _panel(axes, operation, found[found["operation"] == operation])
    for axes in panels.flat[len(operations) :]:
        axes.axis("off")
    figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=len(drawn), fontsize=7.5)
    figure.supxlabel("paths (for dropout, rows)", fontsize=8.5)
    figure.supylabel("steps a second", fontsize=8.5)
    said = [_said(operation, found[found["operation"] == operation]) for operation in operations]
    return figure, f"Steps a second against the number of paths, one panel an operation. {' '.join(said)}"


def _panel(axes: Axes, operation: str, here: pd.DataFrame) -> dict[str, Any]:
    """Lines of the providers and the ceiling; the drawn lines by name."""
    drawn = {}
    ceiling = (here["steps_per_s"] / here["ceiling_share"]).groupby(here["n_paths"]).median()
    (drawn["ceiling"],) = axes.plot(ceiling.index, ceiling, color=FAINT, linestyle=(0, (4, 2)), linewidth=1.2)
    for provider, (colour, marker, line) in STYLES.items():
        rows = here[here["provider"] == provider].sort_values("n_paths")
        if len(rows):
            style = {"color": colour, "marker": marker, "linestyle": line, "markersize": 3.5}
            (drawn[provider],) = axes.plot(rows["n_paths"], rows["steps_per_s"], **style)
    low, high = min(here["steps_per_s"].min(), ceiling.min()), max(here["steps_per_s"].max(), ceiling.max())
    decades = [10.0 ** np.floor(np.log10(low)), 10.0 ** np.ceil(np.log10(high))]
    axes.set(xscale="log", yscale="log", ylim=decades, title=words(operation))
    axes.yaxis.set_major_locator(LogLocator(numticks=9))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelbottom=True, labelsize=7)
    return drawn


def _said(operation: str, here: pd.DataFrame) -> str:
    """The panel's largest size in words."""
    rows = here[here["n_paths"] == here["n_paths"].max()].set_index("provider")
    rate = rows["steps_per_s"]
    against = f", {rate[OURS] / rate[PEER]:.3g} times torch" if PEER in rate else ""
    share = f"{rows.loc[OURS, 'ceiling_share']:.0%}"
    return f"{words(operation)}: BICEP {rate[OURS]:.3g} a second{against}, {share} of the ceiling."


def _compared(here: pd.DataFrame, target: float) -> list[str]:
    """Cells of `targets` for the rows of one device and operation, by provider."""
    if not {OURS, PEER} <= set(here.index):
        return [NOT_MEASURED, NOTHING, NOTHING, f"{target:g}", NOTHING, NOTHING]
    ours, theirs = here.loc[OURS, "steps_per_s"] / 1e6, here.loc[PEER, "steps_per_s"] / 1e6
    reached = "yes" if ours / theirs >= target else "no"
    share = f"{here.loc[OURS, 'ceiling_share']:.0%}"
    return [f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.3g}", f"{target:g}", reached, share]


def _best(here: pd.DataFrame) -> str:
    ours = here[here["provider"] == OURS]
    return f"{ours['steps_per_s'].max() / 1e9:,.4g}" if len(ours) else NOT_MEASURED


def _file() -> dict[str, Any]:
    return yaml.safe_load((results.ROOT / "docs" / "speed.yaml").read_text())
