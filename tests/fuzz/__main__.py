"""Fuzz the readers, led by what of the code an input reaches (atheris on libFuzzer): `make fuzz SECONDS=600`.

Each target runs by itself for so many seconds. Inputs that reach something new stay in .cache/fuzz/TARGET, so that the
next run goes on from them; one that breaks the contract goes to .cache/fuzz/broken, and `--input FILE` repeats it.
"""

import argparse
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

CORPUS = Path(".cache/fuzz")
_SLOW_S, _MOST_MIB, _LONGEST = 30, 4096, 1 << 16  # an input is a hang after, memory at most, bytes of an input


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help="names of targets; all without")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
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
    broken = [name for name in arguments.targets or TARGETS if not run(name, arguments.seconds)]
    return int(bool(broken))


def run(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own and say how it went."""
    command = [sys.executable, "-m", "fuzz", "--alone", "--seconds", str(seconds), name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    runs = re.findall(r"^(?:Done |#)(\d+)", done.stdout, re.MULTILINE)
    reached = re.findall(r"cov: (\d+)", done.stdout)
    whole = done.returncode == 0
    shown = f"{name:<24}{runs[-1] if runs else 0:>10} runs {reached[-1] if reached else 0:>6} edges"
    sys.stdout.write(f"{shown}  {'ok' if whole else f'BROKEN (status {done.returncode})'}\n")
    if not whole:
        sys.stdout.write("\n".join(done.stdout.splitlines()[-40:]) + "\n")
    sys.stdout.flush()
    return whole


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
