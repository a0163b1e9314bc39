"""What a search found: on screen, in metrics/ and as an experiment of conf/.

Nothing here holds a time, so that the same trials give the same files.
"""

import tempfile
from collections.abc import Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import yaml
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from rich.table import Column, Table

from fusion_alpha import config, figures, tracking
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.files import replace_files, write_bytes, write_json, write_text
from fusion_alpha.tuning import space
from fusion_alpha.tuning.objective import Block, mean_loss
from fusion_alpha.tuning.study import COUNTED

Tree = dict[str, Any]
METRICS, FOLDER = Path("metrics/tuning.json"), Path("metrics/tuning")
EXPERIMENT = Path("conf/experiment/tuned.yaml")
_MEASURES = ("loss", "bce", "nll", "accuracy", "ic")
_SHOWN = 5  # trials of the final table
_ENOUGH = 15  # whole trials to say what matters


def best(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The whole trial of the lowest loss, the earlier one of two equals; None where none is whole."""
    whole = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return min(whole, key=lambda trial: (trial.value, trial.number), default=None)


def present(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial of the configuration's own settings, where it is whole."""
    found = [trial for trial in trials if "present" in trial.user_attrs and trial.state == TrialState.COMPLETE]
    return found[0] if found else None


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
            remedy="more --trials, a longer --timeout, or a narrower tune.space",
        )
    states = table(trials)["state"].value_counts().to_dict()
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
        "present": _scores(own) | _gains(trials, leader, own) if own else None,
        "importance": importance(study),
        "blocks": [_dates(panel, block) for block in blocks],
    }


def _scores(trial: FrozenTrial) -> dict[str, Any]:
    """Means over blocks, and the loss of each."""
    blocks = pd.DataFrame(trial.user_attrs["blocks"])
    means = {name: float(blocks[name].mean()) for name in _MEASURES}
    return means | {"loss_by_block": [float(loss) for loss in blocks["loss"]]}


def _gains(trials: Sequence[FrozenTrial], leader: FrozenTrial, own: FrozenTrial) -> dict[str, Any]:
    """How much lower than with the present settings the loss is, and what is left of that on blocks apart.

    gain_se: standard error of the mean over blocks. gain_apart: each block's gain by the trial that is best on the
    others. The search itself and its pruning have still seen every block, so that this too is on the high side.
    """
    losses = np.array([_losses(trial) for trial in trials if trial.state == TrialState.COMPLETE])  # [trials, blocks]
    was, n = _losses(own), losses.shape[1]
    gains = was - _losses(leader)
    apart = None
    if n > 1:
        chosen = [np.delete(losses, block, axis=1).mean(axis=1).argmin() for block in range(n)]
        apart = float(np.mean([was[block] - losses[trial, block] for block, trial in enumerate(chosen)]))
    return {
        "gain": float(gains.mean()),
        "gain_se": float(gains.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
        "gain_by_block": gains.tolist(),
        "gain_apart": apart,
    }


def _losses(trial: FrozenTrial) -> NDArray[np.float64]:
    return np.array([block["loss"] for block in trial.user_attrs["blocks"]])


def _dates(panel: pd.DataFrame, block: Block) -> dict[str, Any]:
    parts = {}
    for name, rows in vars(block).items():
        days = panel["decided_utc"].iloc[rows].dt.strftime("%Y-%m-%d")
        parts[name] = {"first": days.min(), "last": days.max(), "rows": len(rows)}
    return parts


def experiment(found: dict[str, Any], cfg: Config) -> str:
    """The text of conf/experiment/tuned.yaml: with it, conf/ composes to the configuration of the best trial.

    It holds what was searched and all else in which the search's configuration differs from conf/ (its data, --set).
    """
    settings = found["best"]["settings"]
    tuned = asdict(space.apply(cfg, settings))
    with tempfile.TemporaryDirectory() as folder:
        composed = Path(folder) / "params.yaml"
        config.compose(composed)
        plain = asdict(config.load(params=composed))
    for unused in ("tune", "hypothesis"):
        del tuned[unused]
    content = _differences(tuned, plain, settings)
    n, best_loss = found["trials"], found["best"]["loss"]
    against = f", {found['present']['loss']:.4f} with the settings of conf/" if found["present"] else ""
    lines = [
        "# @package _global_",
        f"# The best of {sum(n.values())} trials of tune_fusion.py for data={found['source']}, model={found['model']}",
        f"# (study {found['study']}). Loss on walk-forward blocks of train and dev: {best_loss:.4f} nats{against}.",
        "# dvc exp run -S +experiment=tuned",
    ]
    content |= {"hypothesis": f"the settings of study {found['study']} lower the loss on test rows too"}
    return "\n".join(lines) + "\n" + yaml.safe_dump(content, sort_keys=False, width=1000)


def _differences(own: Tree, plain: Tree, always: Container[str], prefix: str = "") -> Tree:
    """What of own is not in plain, or always wanted by its dotted name; nested as own is."""
    found: Tree = {}
    for name, value in own.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            inner = _differences(value, plain.get(name) or {}, always, f"{key}.")
            found |= {name: inner} if inner else {}
        elif key in always or name not in plain or plain[name] != value:
            found[name] = value
    return found


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
    write_text(EXPERIMENT, experiment(found, cfg))


def final_table(study: optuna.Study, cfg: Config) -> Table:
    """The best whole trials, one a column, and the present settings wherever they stand."""
    trials = table(study.get_trials(deepcopy=False))
    whole = trials[trials["state"] == "complete"].sort_values(["loss", "trial"], ignore_index=True)
    shown = whole[(whole.index < _SHOWN) | whole["present"]]
    places = [f"{int(str(place)) + 1}{'*' if present else ''}" for place, present in shown["present"].items()]
    drawn = Table(
        "place",
        *(Column(place, justify="right", no_wrap=True) for place in places),
        title=f"study {study.study_name}: the best of {len(whole)} trials on all blocks",
        caption="* the settings of conf/" if whole["present"].any() else None,
    )
    drawn.add_row("trial", *map(str, shown["trial"]))
    drawn.add_row("mean loss, nats", *(f"{loss:.4f}" for loss in shown["loss"]), end_section=True)
    for key in space.ranges(cfg):
        drawn.add_row(key, *map(_text, shown[key]))
    return drawn


def verdict(found: dict[str, Any]) -> str:
    """What the best trial is worth beside the present settings, in words."""
    leader, own = found["best"], found["present"]
    if own is None:
        return f"Best: trial {leader['trial']}, {leader['loss']:.4f} nats."
    if own["gain"] <= 0:
        return f"No trial is better than the settings of conf/ ({own['loss']:.4f} nats)."
    said = (
        f"Best: trial {leader['trial']}, {leader['loss']:.4f} nats; gain over the settings of conf/ {own['gain']:.4f}"
    )
    if own["gain_se"] is not None:
        said += f" +- {own['gain_se']:.4f} (standard error over {len(found['blocks'])} blocks)"
        said += f", {own['gain_apart']:+.4f} on blocks apart from those that chose"
    return f"{said}. The best of many looks better than it is; only a run on test says what it is worth."


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
