#!/usr/bin/env python
"""Run the pipeline, or the part of it that you ask for: a thin front to `dvc exp run`.

    python run_pipeline.py --ticker TSLA --start 2015-01-01 --mode train
    python run_pipeline.py --data stocknet --mode all
    python run_pipeline.py --interval 1m --mode train
    python run_pipeline.py --mode all --set model=price_only train.lr=0.001 --name price-only

The default data is the embedded laboratory, a SIMULATED market. Every run is an experiment: `dvc exp show` lists
it, MLflow records its training, and `dvc exp apply NAME` brings an earlier one back. A run that stops early removes
the metrics of the stages that it leaves out, so that nobody takes them for its own.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent

# what --mode asks for -> the last stages to run; DVC adds what they depend on
MODES = {
    "ingest": ["ingest"],
    "features": ["technical", "contradiction"],
    "train": ["export"],  # the router and ONNX Runtime take no model without the export of the same one
    "predict": ["predict"],
    "evaluate": ["evaluate"],
    "all": [],
}


def dag() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def stages() -> list[str]:
    return list(dag())


def written(stage: dict[str, Any]) -> list[str]:
    """Paths of all that a stage writes; one with options is a mapping of one key."""
    outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in outs]


def left_out(targets: list[str]) -> list[str]:
    """Stages that a run up to `targets` does not reach; none without targets."""
    known = dag()
    writer = {path: name for name, stage in known.items() for path in written(stage)}
    todo = list(targets or known)
    reached = set()
    while todo:
        name = todo.pop()
        reached.add(name)
        todo += [writer[path] for path in known[name]["deps"] if path in writer and writer[path] not in reached]
    return [name for name in known if name not in reached]


def remove_results(names: list[str]) -> None:
    """Remove what these stages left in metrics/: an experiment takes all of metrics/ for its own results."""
    known = dag()
    for name in names:
        for path in (ROOT / path for path in written(known[name]) if path.startswith("metrics/")):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def parser() -> argparse.ArgumentParser:
    new = argparse.ArgumentParser(
        prog="run_pipeline.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    new.add_argument("--ticker", nargs="+", metavar="SYMBOL", help="tickers to use (default: all of the source)")
    new.add_argument("--start", metavar="YYYY-MM-DD", help="first session, inclusive")
    new.add_argument("--end", metavar="YYYY-MM-DD", help="last session, inclusive")
    new.add_argument("--interval", metavar="BAR", help="bar length: 1d (default) or minutes as 1m, 5m")
    new.add_argument("--data", choices=sorted(path.stem for path in (ROOT / "conf/data").glob("*.yaml")), help="source")
    what = new.add_mutually_exclusive_group()
    what.add_argument("--mode", choices=list(MODES), default="all", help="how far to run (default: all)")
    what.add_argument("--stage", choices=stages(), help="run up to this stage")
    new.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other setting, as for dvc exp run -S"
    )
    new.add_argument("--name", help="name of the experiment (default: DVC makes one up)")
    new.add_argument("--dry-run", action="store_true", help="print the command and do nothing")
    new.add_argument(
        "--summary",
        action="store_true",
        help="only record the last run's figures in MLflow where DVC's cache spared the stage, and say where they are",
    )
    return new


def overrides(arguments: argparse.Namespace) -> list[str]:
    """The -S settings of a command line; bars of minutes of the lab are a data set of their own."""
    data, interval = arguments.data, arguments.interval
    if interval and interval != "1d" and data in (None, "lab"):
        data = "lab_1m"
    chosen = [f"data={data}"] if data else []
    if interval and (data, interval) != ("lab_1m", "1m"):
        chosen.append(f"interval={interval}")
    if arguments.ticker:
        chosen.append(f"tickers=[{','.join(ticker.upper() for ticker in arguments.ticker)}]")
    chosen += [f"{name}='{getattr(arguments, name)}'" for name in ("start", "end") if getattr(arguments, name)]
    return chosen + arguments.set


def command(arguments: argparse.Namespace) -> list[str]:
    run = [sys.executable, "-m", "dvc", "exp", "run"]
    for setting in overrides(arguments):
        run += ["--set-param", setting]
    if arguments.name:
        run += ["--name", arguments.name]
    return run + targets(arguments)


def targets(arguments: argparse.Namespace) -> list[str]:
    return [arguments.stage] if arguments.stage else MODES[arguments.mode]


def record_last_run() -> None:
    """See that MLflow has the test figures of the run in this folder: a stage that DVC skips records nothing."""
    from fusion_alpha import config, files, tables, tracking

    metrics = Path("metrics")
    model_id = str(tables.read("predictions", columns=["model_id"])["model_id"].iloc[0])
    artifacts = [metrics / name for name in ("evaluate.json", "equity.csv", "calibration.csv", "figures")]
    tracking.record_evaluation(config.load(), model_id, files.read_json(artifacts[0]), artifacts)


def summary() -> str:
    return """
Results
  metrics/evaluate.json        the figures; `dvc metrics show` prints all of metrics/
  metrics/figures/             equity, calibration and contradictions as SVG
  data/predictions/            one row per bar, with its decision time
  models/fusionnet/README.md   the model card
The embedded market is SIMULATED: it proves the machinery, never an alpha.

Try next
  source .venv/bin/activate
  python evaluate_strategy.py --plot              against buying and holding: metrics/strategy.json, tearsheet.html
  dvc exp run -S model=price_only                 another experiment; then `dvc exp show`
  make ui                                         compare the two in MLflow, http://127.0.0.1:5000
  dvc exp run -S data=stocknet                    real prices and tweets (README, "Real data")
  make book                                       the book, written from these results
"""


def main() -> int:
    arguments = parser().parse_args()
    if arguments.summary:
        os.chdir(ROOT)
        record_last_run()
        sys.stdout.write(summary())
        return 0
    run = command(arguments)
    sys.stderr.write(f"$ dvc {shlex.join(run[3:])}\n")
    if arguments.dry_run:
        return 0
    remove_results(left_out(targets(arguments)))
    # Stages call `python`: make sure that it is this one, whether or not the environment is activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(run, cwd=ROOT, env={**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "true"}).returncode


if __name__ == "__main__":
    sys.exit(main())
