"""The tables and figures of the chapter on BICEP: computed from its formulas when the book is built, or measured."""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import results
from exhibits import NOTHING, Paragraph, Table, decimal
from figures import CYCLE, FAINT, LINE, WIDTH, canvas
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import ndtr

sys.path.append(str(results.ROOT))
from kernels import boxmuller, dither, exact
from kernels.bridge import bridge_reference
from kernels.sticky import sticky_mask_reference

STEPS = (32, 256, 1024)
LEVELS = {
    "L0": "equal masks",
    "L1": "no masks",
    "L2": "masks of the same law",
    "L3": "processor and graphics card",
}
COSTS = {
    "epoch_time_ratio": "time of an epoch, over PyTorch's dropout",
    "mc_speedup_s32": "inference with 32 samples in one pass, times faster than 32 passes",
    "tflops": "FusionNet in training, TFLOPS",
    "matmul_tflops": "a large matrix product on this device, TFLOPS",
    "tflops_share": "share of it",
}
NOT_MEASURED = Paragraph("Not measured yet.", "The stage train_bicep writes metrics/bicep.json.")


def end_errors() -> Table:
    """Errors of the end of the bit walk."""
    found = {n: dither.bit_walk_error(n) for n in STEPS}
    rows = [(n, f"{e.ks:.4f}", f"{e.ks_dithered:.1e}", f"{e.excess_kurtosis:.4f}") for n, e in found.items()]
    return Table(rows, ["steps", "lattice", "dithered", "excess kurtosis"], right=range(4))


def path_errors() -> Table:
    """Errors of barriers and drawdowns of the bit walk."""
    found = {n: dither.bit_walk_error(n) for n in STEPS}
    head = ["steps", "barrier, bits", "barrier, normal steps", "drawdown, bits %", "with one step added %"]
    rows = [
        (
            n,
            decimal(e.barrier_bits, 3, 100),
            decimal(e.barrier_normal, 2, 100),
            decimal(e.drawdown, 1, 100),
            decimal(e.drawdown_corrected, 2, 100),
        )
        for n, e in found.items()
    ]
    return Table(rows, head, right=range(5))


def box_muller() -> Table:
    """Largest errors of logarithm, sine, cosine and normals over 2^20 pairs of words."""
    rng = np.random.default_rng(1)
    radius, angle = (rng.integers(0, 1 << 32, 1 << 20, dtype=np.uint32) for _ in range(2))
    u = radius.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    log, turn = np.log(u.astype(np.float64)), angle * (2 * np.pi * 2.0**-32)
    r = np.sqrt(-2 * log)
    sine, cosine = boxmuller.sincos32(angle)
    first, second = boxmuller.normals32(radius, angle)
    below = log < 0  # where u rounds to 1 both are 0
    parts = {
        "logarithm, relative": np.abs(boxmuller.log32(u)[below] / log[below] - 1),
        "sine": np.abs(sine - np.sin(turn)),
        "cosine": np.abs(cosine - np.cos(turn)),
        "normal": np.maximum(np.abs(first - r * np.cos(turn)), np.abs(second - r * np.sin(turn))),
        "uniform": np.abs(u - (radius + 0.5) * 2.0**-32),
    }
    return Table([(name, f"{error.max():.1e}") for name, error in parts.items()], ["quantity", "largest error"], [1])


def parity() -> Table | Paragraph:
    """The levels of metrics/bicep.json; says so where nobody has measured them."""
    if not (results.METRICS / "bicep.json").exists():
        return NOT_MEASURED
    found: dict[str, Any] = results.metrics("bicep")["parity"]
    rows = [(f"{name}: {what}", *_level(found.get(name, {}))) for name, what in LEVELS.items()]
    return Table(rows, ["level", "what is measured", "value", "at most", "holds"], right=[2, 3])


def _level(level: dict[str, Any]) -> tuple[str, Any, Any, str]:
    passed = level.get("passed")
    verdict = level.get("reason", "not measured") if passed is None else "yes" if passed else "no"
    return level.get("unit", NOTHING), level.get("value"), level.get("criterion"), verdict


def costs() -> Table | Paragraph:
    """What BICEP's dropout costs inside FusionNet."""
    if not (results.METRICS / "bicep.json").exists():
        return NOT_MEASURED
    found = results.metrics("bicep")
    rows = [(name, found.get(key)) for key, name in COSTS.items()]
    return Table(rows, ["quantity", found.get("device", NOTHING)], right=[1])


def differences() -> tuple[Figure | Path, str]:
    """The stage's figure of losses and times; an empty one where nobody has measured them."""
    path = results.METRICS / "bicep.svg"
    if not path.exists():
        figure, axes = canvas(WIDTH, 0.5, (0, 1), (0, 1))
        axes.text(0.5, 0.5, "not measured yet", ha="center", va="center", color=FAINT)
        return figure, "Empty: nobody has measured this yet."
    level = results.metrics("bicep")["parity"]["L2"]
    low, high = level["interval_90"]
    return path, (
        f"Development loss with BICEP minus with PyTorch for each of {level['seeds']} seeds, in nats: mean "
        f"{level['mean_difference']:.5f}, 90% interval from {low:.5f} to {high:.5f}, margin {level['criterion']}. "
        "Beside them, seconds of an epoch with either."
    )


def convergence(n: int = 32) -> tuple[Figure, str]:
    """Error of the distribution function of the end, raw and dithered."""
    law, s = exact.lattice_terminal(n), np.sqrt(n + 1 / 3)
    after = np.cumsum(law.probability)
    figure, (raw, smooth) = plt.subplots(1, 2, figsize=(WIDTH, 2.5))
    y = np.repeat(law.value / np.sqrt(n), 2)
    steps = np.stack([after - law.probability, after], axis=1).ravel()
    raw.plot(y, steps - ndtr(y), color=CYCLE[0], linewidth=0.9)
    edges = np.append(law.value - 1.0, n + 1.0)
    fine = np.linspace(-3.5 * s, 3.5 * s, 4001)
    lines = np.interp(fine, edges, np.append(0.0, after))
    at = fine / s
    smooth.plot(at, lines - ndtr(at), color=CYCLE[0], linewidth=0.9)
    density = np.exp(-(at**2) / 2) / np.sqrt(2 * np.pi)
    for cubic, style in ((1, "--"), (-5, ":")):
        smooth.plot(at, (at**3 + cubic * at) * density / (12 * n), color=CYCLE[1], linestyle=style, linewidth=1.1)
    raw.set(title="lattice", xlabel="end in standard deviations", ylabel="$F - \\Phi$", ylim=(-0.075, 0.075))
    smooth.set(title="dithered", xlabel="end in standard deviations", ylim=(-0.003, 0.003))
    for axes in (raw, smooth):
        axes.set_xlim(-3.5, 3.5)
        axes.axhline(0, color=LINE, linewidth=0.6, zorder=0)
    return figure, (
        f"Error of the distribution function of the end of a walk of {n} steps. The lattice's error jumps up and down "
        f"by up to {np.abs(steps - ndtr(y)).max():.3f}. The dithered end's error is continuous, stays between two "
        f"smooth curves and below {np.abs(lines - ndtr(at)).max():.4f}."
    )


def drawdown() -> tuple[Figure, str]:
    """Expected maximum drawdown by drift, with its limits."""
    drift = np.linspace(-4, 4, 321)
    value = exact.expected_max_drawdown(drift, 1.0)
    figure, axes = plt.subplots(figsize=(WIDTH * 0.68, 2.7))
    axes.plot(drift, value, color=CYCLE[0])
    down, up = drift[drift < -0.7], drift[drift > 1.2]
    axes.plot(down, -down - 1 / down, color=CYCLE[1], linestyle="--", linewidth=1)
    axes.plot(up, 2 / up * (0.25 * np.log(up**2 / 2) + 0.49088), color=CYCLE[1], linestyle="--", linewidth=1)
    zero = float(exact.expected_max_drawdown(0.0, 1.0))
    axes.plot(0, zero, "o", color=CYCLE[0], markersize=4)
    axes.annotate(r"$\sqrt{\pi / 2}$", (0, zero), (6, 5), textcoords="offset points", color=FAINT)
    axes.set(xlabel=r"drift $\mu \sqrt{T} / \sigma$", ylabel=r"E max drawdown / $\sigma \sqrt{T}$", ylim=(0, None))
    return figure, (
        f"Expected maximum drawdown against drift, both in standard deviations of the end: {value[0]:.2f} at a drift "
        f"of -4, {zero:.2f} without drift, {value[-1]:.2f} at 4. The limits for strong drift join the curve."
    )


def noise() -> tuple[Figure, str]:
    """Bridges, and the autocorrelation of sticky masks."""
    n, lags = 64, np.arange(9)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.5))
    window, sigma = np.zeros((8, n + 1), np.float32), np.full(8, 0.01, np.float32)
    left.plot(bridge_reference(window, sigma, seed=5, step=0).T, linewidth=0.8)
    s = np.arange(n + 1)
    for sign in (-1, 1):
        left.plot(s, sign * 0.01 * np.sqrt(s * (n - s) / n), color=FAINT, linestyle="--", linewidth=1)
    left.set(title="bridges, step 0.01", xlabel="session", ylabel="added to the log price")
    rhos = (0.5, 0.8, 0.95)
    for rho, colour in zip(rhos, CYCLE, strict=False):
        keep = sticky_mask_reference(64, 65, 64, 0.5, rho, seed=1, step=0, layer=0).astype(np.float64) - 0.5
        right.plot(lags, rho**lags, color=colour, linewidth=1)
        right.text(lags[-1] + 0.4, rho ** lags[-1], rf"$\rho$ = {rho}", va="center", color=colour)
        right.plot(lags, [_correlation(keep, lag) for lag in lags], "o", color=colour, markersize=3.5)
    right.set(
        title="sticky masks", xlabel="distance in time", ylabel="autocorrelation", xlim=(-0.3, 10.8), ylim=(-0.04, 1.05)
    )
    right.set_xticks(lags[::2])
    return figure, (
        f"Left: eight bridges over {n} sessions start and end at 0 and spread most in the middle, where their standard "
        f"deviation is {0.01 * np.sqrt(n) / 2:.3f}. Right: measured autocorrelations of sticky masks lie on the curves "
        f"of rho to the power of the distance, for rho of {', '.join(map(str, rhos))}."
    )


def _correlation(keep: NDArray[np.float64], lag: int) -> float:
    """Mean product at a distance over the variance 1/4; keep: [batch, time, features], centred."""
    return float((keep[:, lag:] * keep[:, : keep.shape[1] - lag]).mean() / 0.25)
