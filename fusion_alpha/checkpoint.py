"""A trained FusionNet as a folder: weights and scalers, what it was trained for, and a model card.

    model.safetensors   weights and scalers
    config.json         model, features, text encoder, target, interval, thresholds, seed, SHA-256 of the weights
    README.md           model card

Equal training gives equal bytes: there is no time and no identifier of a run inside. The model's id is the start of
the SHA-256 of weights and config. Nothing is pickled, so loading a checkpoint runs no code of its author.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, replace_folder, sha256, write_bytes, write_json, write_text
from fusion_alpha.fusionnet import FusionNet
from fusion_alpha.samples import NEWS_FEATURES, Samples

FOLDER = Path("models/fusionnet")
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = 1
_NONE = "not there"


def save(folder: Path, net: FusionNet, samples: Samples, cfg: Config, dev: dict[str, float]) -> str:
    """Write the checkpoint, replacing the one that is there only when the new one is whole; returns its id.

    dev: metrics of the dev rows, for the model card.
    """
    weights = save_tensors({name: value.contiguous().cpu() for name, value in net.state_dict().items()})
    tau = net.tau()
    description = setting(samples.feature_names, cfg) | {
        "format": FORMAT,
        "seed": net.seed,
        "source": cfg.data.source,
        "simulated": cfg.data.simulated,
        "thresholds": None if tau is None else {"tau_over": tau[0], "tau_under": tau[1]},
        "training": asdict(cfg.train) | {"ranks": cfg.executor.ranks},
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }

    def fill(partial: Path) -> None:
        write_bytes(partial / WEIGHTS, weights)
        write_json(partial / CONFIG, description)
        write_text(partial / CARD, card(fingerprint(partial)[:12], net, samples, cfg, dev))

    replace_folder(folder, fill)
    return fingerprint(folder)[:12]


def load(folder: Path, feature_names: tuple[str, ...], cfg: Config) -> tuple[FusionNet, str]:
    """The network in evaluation mode and its id.

    Raises InputError when a file is absent or damaged, or when the checkpoint was trained for another model, other
    features, another text encoder, target or interval than the present ones.
    """
    description = _read_config(folder)
    path = folder / WEIGHTS
    if not path.exists():
        raise InputError("no such file", file=path, remedy="run `dvc repro train`")
    if sha256(path) != description["weights_sha256"]:
        raise InputError(
            "the weights are not those that were saved",
            file=path,
            rule=f"SHA-256 {description['weights_sha256']}",
            remedy="run `dvc checkout`, or train again",
        )
    require_same_setting(description, setting(feature_names, cfg), folder / CONFIG)
    net = FusionNet(
        cfg.model,
        n_features=len(feature_names),
        text_dim=cfg.text.dim,
        tau=(1.0, 1.0),  # overwritten by the weights
        seed=description["seed"],
    )
    try:
        net.load_state_dict(load_tensors(path.read_bytes()))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(
            f"the weights do not fit the network ({str(error).splitlines()[0]})", file=path, remedy="train again"
        ) from None
    return net.eval(), fingerprint(folder)[:12]


def setting(feature_names: tuple[str, ...], cfg: Config) -> dict[str, Any]:
    """What a checkpoint and its user must agree on."""
    return {
        "model": asdict(cfg.model),
        "session_features": list(feature_names),
        "news_features": list(NEWS_FEATURES),
        "text": {"name": cfg.text.name, "dim": cfg.text.dim, "sha256": cfg.text.sha256},
        "target": asdict(cfg.target),
        "interval": cfg.interval,
    }


def require_same_setting(saved: dict[str, Any], present: dict[str, Any], path: Path) -> None:
    """InputError naming the first value of `present`, a `setting`, that is another one in a checkpoint's config."""
    for name, value in present.items():
        if saved.get(name) == value:
            continue
        was = saved.get(name)
        if isinstance(value, dict) and isinstance(was, dict):
            key = next(key for key in {**value, **was} if value.get(key, _NONE) != was.get(key, _NONE))
            name, was, value = f"{name}.{key}", was.get(key, _NONE), value.get(key, _NONE)
        elif isinstance(value, list) and isinstance(was, list):
            gone, new = [one for one in was if one not in value], [one for one in value if one not in was]
            was, value = gone or "another order", new
        raise InputError(
            f"the checkpoint was trained with {name} = {was}, now it is {value}",
            file=path,
            rule="a checkpoint predicts with the configuration that it was trained with",
            remedy="train again, or set the parameter back",
        )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        raise InputError("no such file", file=path, remedy="run `dvc repro train`")
    description = read_json(path)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError("not a FusionNet checkpoint", file=path, rule=f"format {FORMAT}", remedy="train again")
    seed = description.get("seed")
    if "weights_sha256" not in description or type(seed) is not int or not 0 <= seed < 1 << 63:
        rule = "weights_sha256, and seed in [0, 2^63)"
        raise InputError("not a FusionNet checkpoint", file=path, rule=rule, remedy="train again")
    return description


def fingerprint(folder: Path) -> str:
    """SHA-256 of weights and config, one after the other; its first 12 digits are the model's id."""
    content = (folder / WEIGHTS).read_bytes() + (folder / CONFIG).read_bytes()
    return hashlib.sha256(content).hexdigest()


def card(model_id: str, net: FusionNet, samples: Samples, cfg: Config, dev: dict[str, float]) -> str:
    """The model card: what the model is, the data it saw, how well it does on dev, and what it is not."""
    tau = net.tau()
    thresholds = "none: the model sees no contradiction score"
    if tau is not None:
        thresholds = f"overhype at {tau[0]:.3f}, underhype at {tau[1]:.3f} standard deviations (learned)"
    n_tickers = samples.rows["ticker"].nunique()
    simulated = (
        "**SIMULATED data: the market is invented and its answer planted. It proves the machinery, never an edge.**\n\n"
        if cfg.data.simulated
        else ""
    )
    return f"""# FusionNet `{cfg.model.name}`, {model_id}

{simulated}Probability, mean and standard deviation of the next return ({cfg.target.name}, bars of {cfg.interval}) from
the latest news and sessions of a stock.

| | |
|---|---|
| data | `{cfg.data.source}`, {n_tickers} tickers, {"simulated" if cfg.data.simulated else "real"} |
| text encoder | `{cfg.text.name}`, {cfg.text.dim} dimensions, weights SHA-256 {cfg.text.sha256 or "not pinned"} |
| parameters | {sum(value.numel() for value in net.parameters())} |
| seed | {net.seed} |
| thresholds | {thresholds} |

## Rows

A row has a role by the day on which its label is known. It is usable once its ticker's warm-up is over.

{_role_table(samples)}

The weights saw train rows only; dev rows chose the epoch. Test rows had no part in either.

## Dev rows

Measured without dropout and with hard thresholds, after the epoch was chosen on these very rows: a flattering number.

| metric | value |
|---|---|
{chr(10).join(f"| {name} | {value:.4f} |" for name, value in dev.items())}

## Limits

- Dev numbers are not evidence of a profitable strategy; the evaluation stage measures test rows after costs.
- Text encoder and sentiment head may have seen text that is newer than these rows.
- Valid for the tickers, interval, news source and target above; features are scaled by the train rows' moments.
- sd_ret holds the noise of returns and the spread of the dropout samples, not the risk of a change of regime.
"""


def _role_table(samples: Samples) -> str:
    lines = ["| role | rows | usable | labelled | up | first label | last label |", "|---|---|---|---|---|---|---|"]
    days = samples.rows["label_end_utc"].dt.strftime("%Y-%m-%d")
    for role, count in samples.counts().items():
        labelled = samples.select(role, labelled=True)
        up = f"{samples.label.numpy()[labelled].mean():.1%}" if len(labelled) else "-"
        known: pd.Series = days.iloc[labelled]
        first, last = (known.min(), known.max()) if len(labelled) else ("-", "-")
        cells = (role, count["rows"], count["usable"], count["labelled"], up, first, last)
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)
