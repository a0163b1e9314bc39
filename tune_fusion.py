#!/usr/bin/env python
"""Search for better settings of FusionNet on the tables that the pipeline has made (`dvc repro` first).

    python tune_fusion.py --trials 50 --sampler tpe
    python tune_fusion.py --trials 200 --workers 8 --set model=concat
    python tune_fusion.py --sampler grid --set tune.grid_levels=2 tune.space.train.beta=null
    python tune_fusion.py --trials 20 --timeout 600 --folds 3

A trial trains on walk-forward blocks inside train and dev and is scored on what follows; test rows are never read.
Trial 0 has the settings of conf/, the ones to beat. What is searched stands in conf/config.yaml under tune.space.

The same command goes on with the same study, after Ctrl-C, a kill or a time limit, and with more --trials after its
end. Results: a table, metrics/tuning.json, metrics/tuning/ (trials, figures), a run with one child per trial in MLflow,
and conf/experiment/tuned.yaml, to be tried with `dvc exp run -S +experiment=tuned`.

Exit status: 0 all trials are done, 1 a worker failed, 2 wrong input, 3 the time was up before, 130 interrupted.
"""

import argparse
import sys

SAMPLERS = {
    "tpe": "tree-structured Parzen estimator: settings like those of the best trials (default)",
    "random": "each setting drawn by itself",
    "cmaes": "covariance matrix adaptation, for the numbers; choices are drawn at random",
    "grid": "all combinations of choices and tune.grid_levels values of each range, in random order",
}


def parser() -> argparse.ArgumentParser:
    new = argparse.ArgumentParser(
        prog="tune_fusion.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    about = "; ".join(f"{name}: {text}" for name, text in SAMPLERS.items())
    new.add_argument("--trials", type=_positive(int), default=50, metavar="N", help="trials in all (default: 50)")
    new.add_argument("--sampler", choices=list(SAMPLERS), default="tpe", help=about)
    new.add_argument("--workers", type=_positive(int), default=1, metavar="N", help="processes at once (default: 1)")
    new.add_argument("--study", metavar="NAME", help="study to begin or go on with (default: SOURCE-MODEL-SAMPLER)")
    new.add_argument("--timeout", type=_positive(float), metavar="S", help="end after this many seconds")
    new.add_argument("--folds", type=_positive(int), metavar="N", help="walk-forward blocks (default: tune.folds)")
    new.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other setting: train.epochs=10, model=concat"
    )
    return new


def _positive(kind: type[int] | type[float]):  # noqa: ANN202 (argparse's type)
    def read(text: str) -> float:
        value = kind(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not positive")
        return value

    read.__name__ = kind.__name__
    return read


def main() -> int:
    arguments = parser().parse_args()
    from fusion_alpha import config, stage  # after the help, which needs nothing of it
    from fusion_alpha.errors import InputError

    stage.set_up("tune")
    from fusion_alpha.tuning import command, workers

    try:
        settings = arguments.set + ([f"tune.folds={arguments.folds}"] if arguments.folds else [])
        cfg = config.load(settings)
        name = arguments.study or f"{cfg.data.source}-{cfg.model.name}-{arguments.sampler}"
        asked = workers.Search(name, arguments.sampler, arguments.trials, arguments.workers, arguments.timeout, cfg)
        status = command.search(asked)
    except (InputError, workers.WorkerFailed) as error:
        stage.console.print("[bold red]tune_fusion.py stopped[/]", highlight=False)
        stage.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return getattr(error, "status", 2)
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(
        "\nResults: metrics/tuning.json, metrics/tuning/ and MLflow (make ui)\n"
        "Try them: dvc exp run -S +experiment=tuned\n"
    )
    return status


if __name__ == "__main__":
    sys.exit(main())
