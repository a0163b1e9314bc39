"""Fuzz the readers, led by what of the code an input reaches (atheris on libFuzzer): `make fuzz SECONDS=600`.

Each target runs by itself for so many seconds. Inputs that reach something new stay in .cache/fuzz/TARGET, so that the
next run goes on from them; one that breaks the contract goes to .cache/fuzz/broken, and `--input FILE` repeats it.
The row in metrics/fuzz.csv of a target that found nothing is replaced: seconds of the wall's clock and of the
processor, inputs tried, edges of the code that they reached.
"""

import argparse
import importlib.util
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

CORPUS = Path(".cache/fuzz")
FOUND = Path("metrics/fuzz.csv")
_WRITING = threading.Lock()
_SLOW_S, _MOST_MIB, _LONGEST = 30, 4096, 1 << 16  # an input is a hang after, memory at most, bytes of an input


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of targets; all without")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--lanes", type=int, default=1, help="targets at a time")
    parser.add_argument("--input", type=Path, help="read this file once, by the one target named")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if arguments.alone:
        fuzz(arguments.targets[0], arguments.seconds)
    from fuzz.targets import TARGETS, check

    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if arguments.input is not None:
        with tempfile.TemporaryDirectory() as folder:
            check(arguments.targets[0], arguments.input.read_bytes(), Path(folder) / "input")
        return 0
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: make extra NAME=fuzz")
    with ThreadPoolExecutor(arguments.lanes) as pool:
        whole = list(pool.map(lambda name: run(name, arguments.seconds), arguments.targets or TARGETS))
    return int(not all(whole))


def run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own, write its row and say how it went."""
    command = [sys.executable, "-m", "fuzz", "--alone", "--seconds", str(seconds), name]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
        output.seek(0)
        said = output.read()
    runs = re.findall(r"^(?:Done |#)(\d+)", said, re.MULTILINE)
    reached = re.findall(r"cov: (\d+)", said)
    row = {
        "target": name,
        "seconds": round(wall_s),
        "cpu_seconds": round(used.ru_utime + used.ru_stime),
        "runs": int(runs[-1]) if runs else 0,
        "edges": int(reached[-1]) if reached else 0,
        "ok": status == 0,
    }
    with _WRITING:
        if status == 0:
            _replace(row)
        sys.stdout.write("  ".join(f"{key} {value}" for key, value in row.items()) + "\n")
        if status != 0:
            sys.stdout.write("\n".join(said.splitlines()[-40:]) + "\n")
        sys.stdout.flush()
    return status == 0


def _replace(row: dict[str, object]) -> None:
    from fusion_alpha.files import write_text  # not above: what is imported before `fuzz` is not followed by atheris

    rows = pd.DataFrame([row])
    if FOUND.exists():
        before = pd.read_csv(FOUND)
        rows = pd.concat([before[before["target"] != row["target"]], rows]).sort_values("target")
    write_text(FOUND, rows.to_csv(index=False))


def fuzz(name: str, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["fusion_alpha"], enable_loader_override=False):
        from fuzz.targets import TARGETS, TOKENS, check
    corpus, broken = CORPUS / name, CORPUS / "broken"
    for folder in (corpus, broken):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    words = CORPUS / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS if 0 < len(token) <= 64))
    options = {"max_total_time": seconds, "timeout": _SLOW_S, "rss_limit_mb": _MOST_MIB, "max_len": _LONGEST}
    options |= {"dict": words, "artifact_prefix": f"{broken}/{name}-", "print_final_stats": 1}
    folder = Path(tempfile.mkdtemp(prefix="fuzz-")) / "input"
    arguments = [sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)]
    atheris.Setup(arguments, lambda content: check(name, content, folder))
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    sys.exit(main())
