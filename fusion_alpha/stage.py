"""How a stage starts and ends: quiet libraries, configuration, log, clear errors, time and memory."""

import logging
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from fusion_alpha.config import Config, load
from fusion_alpha.errors import InputError

# Of processes that train together, rank 0 speaks.
_RANK = int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ else 0
_PATIENCE_S = 20.0  # after which another one says what rank 0 did not

# Not a terminal (a log file, CI): rich would cut tables and wrap lines at 80 columns.
console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)


def root() -> Path:
    """The main checkout, also from DVC's temporary folders: home of the tracking database and the caches."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def set_up(name: str) -> logging.Logger:
    """Send the log to the terminal's error stream; returns the logger `name`."""
    handler = RichHandler(console=console, show_path=False, show_level=True, omit_repeated_times=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", datefmt="%H:%M:%S", handlers=[handler])
    for ours in ("fusion_alpha", "stages", "__main__"):  # a stage's module is __main__ when it runs
        logging.getLogger(ours).setLevel(logging.WARNING if _RANK else logging.INFO)
    return logging.getLogger(f"stages.{name}")


def run(main: Callable[[Config], None], own_data: bool = False) -> None:
    """Run a stage's `main(cfg)` with params.yaml and the command line's key=value overrides.

    A stage with `own_data` reads none of the pipeline's: what params.yaml says of them is not said of its results.
    Exits with status 2 after an InputError, its message on the error stream without a traceback. With -h or --help
    it prints the stage's docstring and exits.
    """
    name = Path(sys.argv[0]).stem
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(f"{sys.modules['__main__'].__doc__}\nparameters: any key=value of params.yaml\n")
        sys.exit(0)
    log = set_up(name)
    started = time.monotonic()
    try:
        cfg = load(sys.argv[1:])
        if cfg.data.simulated and not own_data:
            log.info("%s: SIMULATED data (%s)", name, cfg.data.source)
        main(cfg)
    except InputError as error:
        if _RANK:  # rank 0 finds the same mistake, says so and ends this process; or this one alone found it
            time.sleep(_PATIENCE_S)
        console.print(f"[bold red]{name} stopped[/]", highlight=False)
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    log.info("%s: %.1f s, peak memory %d MiB", name, time.monotonic() - started, max(own, workers) // 1024)
