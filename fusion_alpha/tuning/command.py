"""A search from beginning to end: check, run the workers, record in MLflow, write what was found."""

import logging
import sys
from collections.abc import Sequence

from optuna.trial import FrozenTrial

from fusion_alpha import stage, tracking
from fusion_alpha.tuning import report, workers
from fusion_alpha.tuning.objective import Development
from fusion_alpha.tuning.screen import Screen
from fusion_alpha.tuning.study import COUNTED, open_study
from fusion_alpha.tuning.workers import Search

log = logging.getLogger(__name__)

DONE, TIMEOUT, INTERRUPTED = 0, 3, 130


def search(asked: Search) -> int:
    """Run or go on with a search; returns the exit status. Raises InputError and WorkerFailed."""
    if asked.cfg.data.simulated:
        log.info("tune: SIMULATED data (%s)", asked.cfg.data.source)
    development = Development.read(asked.cfg)
    panel, blocks = development.frames["panel"], development.blocks
    del development
    study = open_study(asked.name, asked.sampler, asked.cfg)
    target = asked.target()
    n_known = sum(trial.state in COUNTED for trial in study.get_trials(deepcopy=False))
    log.info("study %s: %d of %d trials done", asked.name, n_known, target)
    with tracking.search_run(asked.cfg, asked.name, study.user_attrs.get("mlflow_run")) as record:
        study.set_user_attr("mlflow_run", record.id)
        with Screen(target, len(blocks)) as screen:
            follow = _Follower(asked, screen, record)
            ended = workers.run(asked, study, follow)
            follow(study.get_trials(deepcopy=False))  # some may have been finished while the workers ended
        if ended == "interrupted":
            log.warning("interrupted; the same command goes on")
            sys.exit(INTERRUPTED)
        found = report.result(study, asked.cfg, panel, blocks)
        report.write(study, asked.cfg, found)
        numbers = {f"tune/{name}": found["best"][name] for name in ("loss", "accuracy", "ic")}
        record.finish(numbers | {"tune/trials": found["trials"]}, [report.METRICS, report.FOLDER, report.EXPERIMENT])
    stage.console.print(report.final_table(study, asked.cfg))
    stage.console.print(report.verdict(found), markup=False, highlight=False, soft_wrap=True)
    if ended == "timeout":
        log.warning("the time is up before %d trials; the same command goes on", target)
    return TIMEOUT if ended == "timeout" else DONE


class _Follower:
    """Shows the trials, and records the finished ones in MLflow."""

    def __init__(self, asked: Search, screen: Screen, record: tracking.SearchRun) -> None:
        self._asked, self._screen, self._record = asked, screen, record
        self._recorded = -1

    def __call__(self, trials: Sequence[FrozenTrial]) -> None:
        self._screen.show(trials)
        counted = [trial for trial in trials if trial.state in COUNTED]
        if len(counted) != self._recorded:
            self._record.add(report.trial_records(counted, self._asked.cfg, self._asked.name))
            self._recorded = len(counted)
