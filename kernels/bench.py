"""Speed of the kernels beside what a user would otherwise call; correctness first, then time.

    python -m kernels.bench              tables on the terminal, rows appended to metrics/bench.csv
    python -m kernels.bench --quick      small sizes, a few seconds

All providers of an operation do the same job in the same run on one thread, in alternating rounds, so that a busy
machine slows them alike. Rates are path-steps (for philox_words: words) a second at the median. The ceiling is the
time that the same machine needs to fill the output with a constant (memset): a full path cannot be written faster.
"""

import argparse
import csv
import datetime
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from kernels.paths import Increments, paths
from kernels.philox import philox4x32

OUTPUT = Path("metrics/bench.csv")
COLUMNS = [
    *("commit", "date", "device", "driver", "versions", "operation", "provider", "dtype", "n_paths", "n_steps"),
    *("threads", "p20_ms", "p50_ms", "p80_ms", "steps_per_s", "ceiling_share"),
]
VOL = 0.01


@dataclass(frozen=True)
class Case:
    """One provider's way to do one operation; `run` returns the [n_paths, ...] result."""

    operation: str
    provider: str
    n_paths: int
    n_steps: int
    dtype: str
    run: Callable[[], NDArray[np.generic]]
    check: Callable[[NDArray[np.generic]], None]


def cases(n_paths: int, n_steps: int) -> list[Case]:
    """Every operation and provider at one size."""
    import torch

    torch.set_num_threads(1)
    found = [
        Case(
            "philox_words", "bicep_numpy", n_paths, n_steps // 32, "uint32", _words_bicep(n_paths, n_steps), _no_check
        ),
        Case("philox_words", "numpy", n_paths, n_steps // 32, "uint32", _words_numpy(n_paths, n_steps), _no_check),
    ]
    generator = np.random.Generator(np.random.Philox(1))
    torch_generator = torch.Generator().manual_seed(1)

    def with_numpy() -> NDArray[np.generic]:
        out = np.zeros((n_paths, n_steps + 1), np.float32)
        steps = generator.standard_normal((n_paths, n_steps), np.float32)
        steps *= np.float32(VOL)
        np.cumsum(steps, axis=1, out=out[:, 1:])
        return out

    def with_torch() -> NDArray[np.generic]:
        out = torch.zeros((n_paths, n_steps + 1))
        steps = torch.randn((n_paths, n_steps), generator=torch_generator).mul_(VOL)
        torch.cumsum(steps, dim=1, out=out[:, 1:])
        return out.numpy()

    for increments in ("bits", "normal"):
        name = f"paths_{increments}"
        providers = {
            "bicep_numpy": _paths_bicep(n_paths, n_steps, increments),
            "numpy": with_numpy,
            "torch": with_torch,
        }
        found += [Case(name, key, n_paths, n_steps, "float32", run, _check_walks) for key, run in providers.items()]
    return found


def check_known_answers() -> None:
    """Raise AssertionError unless Philox and a small walk give what they must."""
    words = philox4x32((0, 0, 0, 0), 0)
    assert [int(word) for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], words
    walk = paths(64, 300, vol=1.0, seed=3)
    assert (np.abs(np.diff(walk, axis=1)) == 1).all(), "a bit walk with vol 1 moves by one"


def measure(found: list[Case], repeats: int) -> list[dict[str, object]]:
    """Check every case once, then time them in alternating rounds."""
    check_known_answers()
    ceilings: dict[tuple[str, int], int] = {}
    for case in found:
        result = case.run()  # warms up as well
        case.check(result)
        key = (case.operation, case.n_paths)
        ceilings[key] = max(ceilings.get(key, 0), result.nbytes)
    filled = {key: np.empty(size, np.uint8) for key, size in ceilings.items()}
    taken: dict[int, list[float]] = {index: [] for index in range(len(found))}
    memset: dict[tuple[str, int], list[float]] = {key: [] for key in filled}
    for _ in track(range(repeats), "rounds", console=Console(stderr=True), transient=True):
        for key, block in filled.items():
            memset[key].append(_seconds(partial(block.fill, 1)))
        for index, case in enumerate(found):
            taken[index].append(_seconds(case.run))
    common = {**_machine(), "threads": 1}
    return [
        _row(common, case, taken[index], float(np.median(memset[case.operation, case.n_paths])))
        for index, case in enumerate(found)
    ]


def append(rows: list[dict[str, object]], path: Path) -> None:
    """Append rows to the CSV; ValueError when it has other columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="") as handle:
            header = next(csv.reader(handle))
        if header != COLUMNS:
            raise ValueError(f"{path} has columns {header}, not {COLUMNS}")
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)


def show(rows: list[dict[str, object]]) -> Table:
    """Rows with the ratio to torch of the same operation and size."""
    table = Table(title=f"{rows[0]['device']}, one thread, {rows[0]['versions']}")
    for column in (
        "operation",
        "provider",
        "n_paths",
        "n_steps",
        "p20 ms",
        "p50 ms",
        "p80 ms",
        "M/s",
        "x torch",
        "memset",
    ):
        table.add_column(column, justify="left" if column in ("operation", "provider") else "right")
    base = {(row["operation"], row["n_paths"]): row["p50_ms"] for row in rows if row["provider"] == "torch"}
    for row in rows:
        torch_ms = base.get((row["operation"], row["n_paths"]))
        p20, p50, p80 = (float(str(row[name])) for name in ("p20_ms", "p50_ms", "p80_ms"))
        table.add_row(
            *(str(row[name]) for name in ("operation", "provider", "n_paths", "n_steps")),
            *(f"{value:.2f}" for value in (p20, p50, p80)),
            f"{float(str(row['steps_per_s'])) / 1e6:.1f}",
            f"{float(str(torch_ms)) / p50:.2f}" if torch_ms is not None else "",
            f"{float(str(row['ceiling_share'])):.1%}",
        )
    return table


def _words_bicep(n_paths: int, n_steps: int) -> Callable[[], NDArray[np.generic]]:
    counter = (np.arange(n_steps // 128), np.arange(n_paths)[:, None], 0, 1 << 24)
    return lambda: np.stack(philox4x32(counter, 1), axis=-1)


def _words_numpy(n_paths: int, n_steps: int) -> Callable[[], NDArray[np.generic]]:
    generator = np.random.Generator(np.random.Philox(1))
    return lambda: generator.integers(0, 1 << 32, (n_paths, n_steps // 128, 4), np.uint32)


def _paths_bicep(n_paths: int, n_steps: int, increments: Increments) -> Callable[[], NDArray[np.generic]]:
    return lambda: paths(n_paths, n_steps, vol=VOL, seed=1, increments=increments)


def _no_check(result: NDArray[np.generic]) -> None:
    assert result.dtype == np.uint32, result.dtype


def _check_walks(result: NDArray[np.generic]) -> None:
    """Mean and variance of the last column within four standard errors."""
    z = np.asarray(result[:, -1], np.float64) / (VOL * np.sqrt(result.shape[1] - 1))
    assert abs(z.mean()) * np.sqrt(z.size) < 4, z.mean()
    assert abs((z**2).mean() - 1) * np.sqrt(z.size / 2) < 4, (z**2).mean()


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _row(common: dict[str, object], case: Case, seconds: list[float], memset_s: float) -> dict[str, object]:
    p20, p50, p80 = (float(value) for value in np.percentile(seconds, [20, 50, 80]))
    return {
        **common,
        "operation": case.operation,
        "provider": case.provider,
        "dtype": case.dtype,
        "n_paths": case.n_paths,
        "n_steps": case.n_steps,
        "p20_ms": round(p20 * 1e3, 4),
        "p50_ms": round(p50 * 1e3, 4),
        "p80_ms": round(p80 * 1e3, 4),
        "steps_per_s": round(case.n_paths * case.n_steps / p50),
        "ceiling_share": round(memset_s / p50, 4),
    }


def _machine() -> dict[str, object]:
    from importlib.metadata import version

    names = ("numpy", "torch")
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": f"cpu {_cpu_name()}",
        "driver": "",
        "versions": "; ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Short hash of HEAD, with + when files of the repository differ from it; empty outside a repository."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    if git.returncode != 0:
        return ""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "kernels"], check=False).returncode != 0
    return git.stdout.strip() + ("+" if changed else "")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description="Measure the kernels.")
    parser.add_argument("--quick", action="store_true", help="small sizes, a few seconds")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="CSV that the rows are appended to")
    arguments = parser.parse_args()
    sizes, repeats = ([4_096], 5) if arguments.quick else ([4_096, 100_000], 15)
    found = [case for n_paths in sizes for case in cases(n_paths, 256)]
    rows = measure(found, repeats)
    append(rows, arguments.output)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(show(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
