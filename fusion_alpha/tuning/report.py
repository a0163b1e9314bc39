"""What a search found: on screen while it runs, in metrics/ and as an experiment of conf/ when it ends.

Nothing here holds a time, so that the same trials give the same files.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from fusion_alpha import figures, stage, tracking
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.files import replace_files, write_bytes, write_json, write_text
from fusion_alpha.tuning import space
from fusion_alpha.tuning.objective import Block, mean_loss
from fusion_alpha.tuning.study import COUNTED

log = logging.getLogger(__name__)

METRICS, FOLDER = Path("metrics/tuning.json"), Path("metrics/tuning")
EXPERIMENT = Path("conf/experiment/tuned.yaml")
_MEASURES = ("loss", "bce", "nll", "accuracy", "ic")
_SHOWN = 10  # trials of the final table
_ENOUGH = 15  # whole trials to say what matters


def best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The whole trial of the lowest loss, the earlier one of two equals; None where none is whole."""
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return min(whole, key=lambda trial: (trial.value, trial.number), default=None)


def present(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial of the configuration's own settings, where it is whole."""
    found = [trial for trial in trials if "present" in trial.user_attrs and trial.state == TrialState.COMPLETE]
    return found[0] if found else None


class Screen:
    """Progress and the best so far: live on a terminal, a line for each finished trial elsewhere."""

    def __init__(self, target: int, n_blocks: int) -> None:
        self._target, self._n_blocks = target, n_blocks
        self._said: set[int] | None = None
        self._live = Live(console=stage.console, transient=True) if stage.console.is_terminal else None

    def __enter__(self) -> "Screen":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, trials: Sequence[FrozenTrial]) -> None:
        counted = {trial.number: trial for trial in trials if trial.state in COUNTED}
        if self._said is not None:  # at first: what was done before
            for number in sorted(counted.keys() - self._said):
                log.info("%s", outcome(counted[number]))
        self._said = set(counted)
        if self._live:
            self._live.update(self._view(trials))

    def _view(self, trials: Sequence[FrozenTrial]) -> RenderableType:
        counted = sum(trial.state in COUNTED for trial in trials)
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            ProgressBar(total=self._target, completed=counted, width=40), f"{counted} of {self._target} trials"
        )
        for trial in running:
            done = len(trial.user_attrs.get("blocks", ()))
            grid.add_row(ProgressBar(total=self._n_blocks, completed=done, width=40), f"trial {trial.number}")
        leader = best(trials)
        said = Text(f"best so far: {outcome(leader)}" if leader else "no trial is whole yet")
        return Group(grid, said)


def outcome(trial: FrozenTrial) -> str:
    """One line about a finished trial."""
    settings = ", ".join(f"{key}={value}" for key, value in trial.user_attrs["settings"].items())
    if "refused" in trial.user_attrs:
        return f"trial {trial.number}: refused, {trial.user_attrs['refused']}; {settings}"
    blocks = trial.user_attrs.get("blocks", [])
    pruned = f" so far, pruned after block {len(blocks)}" if trial.state == TrialState.PRUNED else ""
    return f"trial {trial.number}: loss {mean_loss(blocks):.4f}{pruned}; {settings}"


def table(trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """One row per trial that counts: trial, state, loss (mean of its blocks), present, its settings, loss_1, ..."""
    rows = []
    for trial in trials:
        if trial.state not in COUNTED:
            continue
        blocks = trial.user_attrs.get("blocks", [])
        row = {"trial": trial.number, "state": _state(trial), "loss": mean_loss(blocks) if blocks else None}
        row |= {"present": "present" in trial.user_attrs} | trial.user_attrs["settings"]
        rows.append(row | {f"loss_{i}": block["loss"] for i, block in enumerate(blocks, start=1)})
    return pd.DataFrame(rows)


def importance(study: optuna.Study) -> dict[str, float]:
    """Share of each parameter in the spread of losses among the best (PED-ANOVA); empty for too few whole trials."""
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in whole}) < _ENOUGH:
        return {}
    return {key: round(share, 4) for key, share in optuna.importance.get_param_importances(study).items()}


def result(study: optuna.Study, cfg: Config, panel: pd.DataFrame, blocks: Sequence[Block]) -> dict[str, Any]:
    """The content of metrics/tuning.json. Raises InputError where no trial is whole."""
    trials = study.get_trials(deepcopy=False)
    leader, own = best(trials), present(trials)
    if leader is None:
        raise InputError(
            f"no trial of study {study.study_name!r} is whole",
            rule="one trial at least that is neither pruned nor refused",
            remedy="more --trials, or a narrower tune.space",
        )
    states = table(trials)["state"].value_counts().to_dict()
    losses = [block["loss"] for block in leader.user_attrs["blocks"]]
    compared = None
    if own is not None:
        gains = [was["loss"] - now for was, now in zip(own.user_attrs["blocks"], losses, strict=True)]
        compared = _scores(own) | {"gain": sum(gains) / len(gains), "gain_by_block": gains}
    return {
        "study": study.study_name,
        "source": cfg.data.source,
        "simulated": cfg.data.simulated,
        "model": cfg.model.name,
        "sampler": study.user_attrs["question"]["sampler"],
        "pruner": cfg.tune.pruner,
        "seed": cfg.tune.seed,
        "unit": "nats",
        "trials": {name: int(states.get(name, 0)) for name in ("complete", "pruned", "refused")},
        "best": {"trial": leader.number, "settings": leader.user_attrs["settings"]} | _scores(leader),
        "present": compared,
        "importance": importance(study),
        "blocks": [_dates(panel, block) for block in blocks],
    }


def _scores(trial: FrozenTrial) -> dict[str, Any]:
    """Means over blocks, and the loss of each."""
    blocks = pd.DataFrame(trial.user_attrs["blocks"])
    means = {name: float(blocks[name].mean()) for name in _MEASURES}
    return means | {"loss_by_block": [float(loss) for loss in blocks["loss"]]}


def _dates(panel: pd.DataFrame, block: Block) -> dict[str, Any]:
    parts = {}
    for name, rows in vars(block).items():
        days = panel["decided_utc"].iloc[rows].dt.strftime("%Y-%m-%d")
        parts[name] = {"first": days.min(), "last": days.max(), "rows": len(rows)}
    return parts


def experiment(found: dict[str, Any]) -> str:
    """The text of conf/experiment/tuned.yaml."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in found["best"]["settings"].items():
        group, name = key.split(".")
        groups.setdefault(group, {})[name] = value
    n, best_loss = found["trials"], found["best"]["loss"]
    against = f", {found['present']['loss']:.4f} with the settings of conf/" if found["present"] else ""
    lines = [
        "# @package _global_",
        f"# The best of {sum(n.values())} trials of tune_fusion.py for data={found['source']}, model={found['model']}",
        f"# (study {found['study']}). Loss on walk-forward blocks of train and dev: {best_loss:.4f} nats{against}.",
        "# dvc exp run -S +experiment=tuned",
    ]
    content = groups | {"hypothesis": f"the settings of study {found['study']} lower the loss on test rows too"}
    return "\n".join(lines) + "\n" + yaml.safe_dump(content, sort_keys=False, width=1000)


def write(study: optuna.Study, cfg: Config, found: dict[str, Any]) -> None:
    """Metrics, table, figures and the experiment of conf/."""
    trials = table(study.get_trials(deepcopy=False))
    log_scaled = [key for key, item in space.ranges(cfg).items() if item.log]
    keys = list(space.ranges(cfg))

    def fill(folder: Path) -> None:
        write_text(folder / "trials.csv", trials.to_csv(index=False))
        for kind in ("svg", "png"):
            drawn = {
                "history": figures.search_history(trials, cfg.data.simulated, kind),
                "slices": figures.search_slices(trials, keys, log_scaled, cfg.data.simulated, kind),
            }
            if found["importance"]:
                drawn["importance"] = figures.search_importance(found["importance"], cfg.data.simulated, kind)
            for name, content in drawn.items():
                write_bytes(folder / f"{name}.{kind}", content)

    replace_files(FOLDER, fill)
    write_json(METRICS, found)
    write_text(EXPERIMENT, experiment(found))


def final_table(study: optuna.Study, cfg: Config) -> Table:
    """The best whole trials, and the present settings wherever they stand."""
    trials = table(study.get_trials(deepcopy=False))
    whole = trials[trials["state"] == "complete"].sort_values(["loss", "trial"], ignore_index=True)
    shown = whole[(whole.index < _SHOWN) | whole["present"]]
    keys = list(space.ranges(cfg))
    heads = (key.replace(".", ".\n") for key in keys)
    drawn = Table(
        *(Column(name, overflow="fold") for name in ("place", "trial", "loss", *heads)),
        title=f"study {study.study_name}: mean loss on blocks, nats",
        caption="* the settings of conf/" if whole["present"].any() else None,
    )
    for place, row in shown.iterrows():
        name = f"{row['trial']}*" if row["present"] else str(row["trial"])
        drawn.add_row(str(int(str(place)) + 1), name, f"{row['loss']:.4f}", *(_text(row[key]) for key in keys))
    return drawn


def trial_records(trials: Sequence[FrozenTrial], cfg: Config, study: str) -> list[tracking.Trial]:
    """The trials that count, as MLflow keeps them; where settings excluded each other, nothing was run."""
    return [record for trial in trials if trial.state in COUNTED for record in (_record(trial, cfg, study),) if record]


def _record(trial: FrozenTrial, cfg: Config, study: str) -> tracking.Trial | None:
    try:
        own = space.apply(cfg, trial.user_attrs["settings"])
    except InputError:
        return None
    if trial.datetime_start is None or trial.datetime_complete is None:
        return None
    blocks = pd.DataFrame(trial.user_attrs.get("blocks", []), columns=list(_MEASURES))
    return tracking.Trial(
        number=trial.number,
        cfg=own,
        metrics={f"tune/{name}": float(value) for name, value in blocks.mean().items()},
        folds=blocks,
        tags={"search": study, "state": _state(trial)},
        start_ms=int(trial.datetime_start.timestamp() * 1000),
        end_ms=int(trial.datetime_complete.timestamp() * 1000),
    )


def _state(trial: FrozenTrial) -> str:
    return "refused" if "refused" in trial.user_attrs else trial.state.name.lower()


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
