"""Paired trainings with BICEP's and torch's dropout: the same data, weights and batches, other masks.

A pair shares train.seed, from which weights and the order of batches come; its masks differ. Trainings are independent
tasks of the executor. Each that has finished leaves one small file, so that an interrupted comparison goes on where it
was; the files stand in a folder named by a hash of all that their content depends on: tables, parameters, code, torch.

Pairs are added until the interval of the mean difference is narrower than the margin. That rule looks at the spread
alone, never at the mean, so it does not favour a verdict.
"""

import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fusion_alpha import executor, parity, tables, training
from fusion_alpha.config import Config
from fusion_alpha.files import read_json, sha256, write_json
from fusion_alpha.fusionnet import DROPOUTS
from fusion_alpha.samples import INPUTS, Samples
from fusion_alpha.tracking import flatten

_IRRELEVANT = ("model.mask", "model.name", "train.seed", "hypothesis")
_OTHER_STAGES = ("benchmark.", "evaluate.", "executor.", "parity.", "predict.", "recovery.", "strategy.")
_PACKAGES = ("fusion_alpha", "kernels")


def losses(samples: Samples, cfg: Config, folder: Path) -> pd.DataFrame:
    """Dev BCE of both by seed, in nats: columns seed, bicep, torch; `parity.min_seeds` to `parity.max_seeds` rows.

    folder: of the finished trainings; see `cache_key`.
    """
    n_seeds = cfg.parity.min_seeds
    while True:
        table = _pairs(samples, cfg, range(cfg.train.seed, cfg.train.seed + n_seeds), folder)
        test = parity.equivalence(table["bicep"] - table["torch"], cfg.parity.margin_nats)
        if test.high - test.low < cfg.parity.margin_nats or n_seeds == cfg.parity.max_seeds:
            return table
        n_seeds = min(n_seeds + max(1, cfg.executor.workers // 2), cfg.parity.max_seeds)


def _pairs(samples: Samples, cfg: Config, seeds: range, folder: Path) -> pd.DataFrame:
    files = {(seed, mask): folder / f"{seed}-{mask}.json" for seed in seeds for mask in DROPOUTS}
    todo = [key for key, path in files.items() if not path.exists()]
    variants = [parity.variant(cfg, seed=seed, mask=mask) for seed, mask in todo]
    results = executor.in_order(partial(train, samples), variants, cfg.executor, label=f"L2: {len(seeds)} pairs")
    for key, result in zip(todo, results, strict=True):
        write_json(files[key], result)
    remedy = f"remove {folder}"
    rows = [{"seed": seed} | {mask: read_json(files[seed, mask], remedy)["bce"] for mask in DROPOUTS} for seed in seeds]
    return pd.DataFrame(rows)


def train(samples: Samples, cfg: Config) -> dict[str, Any]:
    """Epochs of one training, and the dev BCE of its best one, in nats."""
    device = training.set_up(cfg.train)
    state = training.train(samples, cfg, device)
    best = state.curves[state.best_epoch - 1]
    return {"bce": best["dev_bce"], "best_epoch": state.best_epoch, "epochs": state.epoch}


def cache_key(cfg: Config) -> str:
    """Hash of all that a training depends on but its seed and its masks."""
    parts = [f"torch {torch.__version__}"]
    parts += [f"{name} {sha256(tables.schema(name).path)}" for name in sorted(INPUTS)]
    parts += [
        f"{key} {value}" for key, value in flatten(cfg).items() if not key.startswith(_IRRELEVANT + _OTHER_STAGES)
    ]
    parts += [f"{path.name} {sha256(path)}" for path in _code()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _code() -> list[Path]:
    """Our modules that are loaded, and the sources that they compile at run time."""
    loaded = [module for name, module in sorted(sys.modules.items()) if name.split(".")[0] in _PACKAGES]
    files = [Path(module.__file__) for module in loaded if module.__file__]
    return files + sorted(path for path in Path(__file__).parents[1].glob("kernels/*.cu*"))
