"""The log of measurements, metrics/bench.csv, and the table that a run prints."""

import csv
import datetime
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from kernels.bench.clock import Timing

OUTPUT = Path("metrics/bench.csv")
COLUMNS = [
    *("commit", "date", "device", "driver", "versions", "operation", "provider", "dtype", "n_paths", "n_steps"),
    *("threads", "p20_ms", "p50_ms", "p80_ms", "steps_per_s", "ceiling_share"),
]
Row = dict[str, Any]
_LIBRARIES = ("numpy", "numba", "torch")


def rows(timings: Sequence[Timing], machine: Row) -> list[Row]:
    """One row for each timing, in the order of COLUMNS."""
    return [{**machine, **_row(timing)} for timing in timings]


class OtherColumns(ValueError):
    """A log cannot be added to."""


def append(found: Sequence[Row], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Append rows to a log of measurements, a CSV; OtherColumns when it has other columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists() or path.stat().st_size == 0
    if not new:
        with path.open(newline="") as handle:
            header = next(csv.reader(handle))
        if header != list(columns):
            raise OtherColumns(f"{path} has columns {header}, not {list(columns)}; choose another --output")
    with path.open("a", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(found)


def table(found: Sequence[Row]) -> str:
    """Rows as text, each with the ratio of its rate to that of torch at the same job."""
    base = {_job(row): row["p50_ms"] for row in found if row["provider"] == "torch"}
    head = ("operation", "paths", "steps", "provider", "p20 ms", "p50 ms", "p80 ms", "M/s", "x torch", "ceiling")
    lines = [head]
    for row in found:
        ratio = f"{base[_job(row)] / row['p50_ms']:.2f}" if _job(row) in base else ""
        times = (f"{row[name]:.4g}" for name in ("p20_ms", "p50_ms", "p80_ms"))
        rate = f"{row['steps_per_s'] / 1e6:,.0f}"
        numbers = (str(row["n_paths"]), str(row["n_steps"]), row["provider"])
        lines.append((row["operation"], *numbers, *times, rate, ratio, f"{row['ceiling_share']:.1%}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = (0, 3)
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def cpu_machine(commit: str | None = None) -> Row:
    """What all rows of a run on this CPU share. commit: where the files are from, HEAD unless given."""
    return _machine(commit, f"cpu {_cpu_name()}", "", (*_LIBRARIES, "torchsde"))


def cuda_machine(commit: str | None = None) -> Row:
    """What all rows of a run on the current CUDA device share."""
    from cupy.cuda import runtime

    properties = runtime.getDeviceProperties(runtime.getDevice())
    packages = [name for name in ("cupy-cuda13x", "cupy-cuda12x", "cupy") if _version(name)][:1]
    return _machine(commit, f"cuda {properties['name'].decode()}", _driver(), (*_LIBRARIES, *packages))


def _row(timing: Timing) -> Row:
    p20, p50, p80 = (float(value) for value in np.percentile(timing.seconds, [20, 50, 80]))
    return {
        "operation": timing.job.operation,
        "provider": timing.provider,
        "dtype": "float32",  # of the arrays that go in and come out; what a provider computes in is its affair
        "n_paths": timing.job.n_paths,
        "n_steps": timing.job.n_steps,
        "threads": 1,
        "p20_ms": _rounded(p20 * 1e3),
        "p50_ms": _rounded(p50 * 1e3),
        "p80_ms": _rounded(p80 * 1e3),
        "steps_per_s": round(timing.job.n_paths * timing.job.n_steps / p50),
        "ceiling_share": _rounded(timing.ceiling_share),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _job(row: Row) -> tuple[str, int, int]:
    return row["operation"], row["n_paths"], row["n_steps"]


def _machine(commit: str | None, device: str, driver: str, packages: Sequence[str]) -> Row:
    versions = [f"python {platform.python_version()}"]
    versions += [f"{name} {_version(name)}" for name in packages if _version(name)]
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {
        "commit": _commit() if commit is None else commit,
        "date": today,
        "device": device,
        "driver": driver,
        "versions": "; ".join(versions),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _driver() -> str:
    """Version of NVIDIA's driver; that of CUDA which it serves, where nvidia-smi is not at hand."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError):
        from cupy.cuda import runtime

        served = runtime.driverGetVersion()
        return f"CUDA {served // 1000}.{served % 1000 // 10}"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Short hash of HEAD, with + when kernels/ differs from it; empty outside a repository."""
    try:
        git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "kernels"], check=False).returncode != 0
    return git.stdout.strip() + ("+" if changed else "")
