"""All that the next epoch of a training depends on, as an object, as bytes and as a file to go on from.

A training writes its state after each epoch, whole or not at all, to .cache/train/KEY.safetensors below `stage.root()`
and removes the file when its checkpoint is written. KEY hashes everything that the result's bits depend on, so a
killed training that starts again ends with the bits that it would have had, and nothing else picks the file up.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as tensor_bytes
from torch import Tensor

from fusion_alpha import files, stage
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.fusionnet import FusionNet

_COUNTERS = ("epoch", "step", "best_epoch", "best_loss", "curves")
_PACKAGES = ("fusion_alpha", "kernels")
_CODE = (".py", ".cu", ".cuh")
# What libraries raise for a header, a name or a tensor that nobody wrote.
_DAMAGED = (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError)


@dataclass
class TrainState:
    """All that the next epoch depends on, and what was best so far."""

    net: FusionNet
    optimizer: torch.optim.Optimizer
    epoch: int = 0  # epochs done
    step: int = 0  # optimizer steps done; the dropout masks' address
    best_epoch: int = 0
    best_loss: float = math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    curves: list[dict[str, float]] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """One row an epoch: epoch, then loss, bce and nll of train (dropout on, thresholds soft) and dev (neither)."""
        return pd.DataFrame(self.curves).astype({"epoch": "int64"})

    def dump(self) -> bytes:
        """The state as a safetensors file: tensors, and the counters and curves as JSON in its header."""
        tensors = {f"net/{name}": value for name, value in self.net.state_dict().items()}
        tensors |= {f"best/{name}": value for name, value in self.best_weights.items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{name}": value for name, value in moments.items()}
        counters = json.dumps({name: getattr(self, name) for name in _COUNTERS})
        return tensor_bytes({name: value.cpu().contiguous() for name, value in tensors.items()}, {"state": counters})

    def load(self, path: Path) -> None:
        """Become the state that `dump` wrote to `path`, for the same network; InputError for a damaged file."""
        try:
            self._take(path)
        except _DAMAGED as error:
            raise InputError(f"not a state of a training ({error!r})", file=path, remedy="remove it") from None

    def _take(self, path: Path) -> None:
        parts: dict[str, dict[str, Tensor]] = {"net": {}, "best": {}, "optimizer": {}}
        with safe_open(path, framework="pt") as file:
            counters: dict[str, Any] = json.loads(file.metadata()["state"])
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                part, _, rest = name.partition("/")
                parts[part][rest] = file.get_tensor(name)
        self.net.load_state_dict(parts["net"])
        device = next(self.net.parameters()).device
        self.best_weights = {name: value.to(device) for name, value in parts["best"].items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, moment = name.partition("/")
            moments.setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for name in _COUNTERS:
            setattr(self, name, counters[name])


def resume_path(cfg: Config, tables: Iterable[Path]) -> Path:
    """File of the state of this training: of this configuration, these tables, this code, torch and processor.

    tables: the files that the samples are built from.
    """
    code = Path(__file__).parents[1]
    sources = [path for name in _PACKAGES for path in sorted((code / name).rglob("*")) if path.suffix in _CODE]
    depends = {
        "settings": [asdict(part) for part in (cfg.model, cfg.text, cfg.contradiction, cfg.train)],
        "ranks": cfg.executor.ranks,
        "tables": [files.sha256(path) for path in tables],
        "code": [files.sha256(path) for path in sources],
        "versions": [torch.__version__, np.__version__],
        "processor": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if cfg.train.device == "cuda" else None,
    }
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
    return stage.root() / ".cache" / "train" / f"{key}.safetensors"
