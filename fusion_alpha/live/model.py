"""What predicts: an engine of samples, checked before anything runs. `predict.engine` chooses.

A checkpoint (torch) names itself: its model card carries the start of the SHA-256 of weights and config, and the config
that of the weights. An exported model (ONNX Runtime) has a manifest with the SHA-256 of every file, and rows with the
answers that it must give. One wrong bit is one that nobody trained, so it is refused.
"""

import hashlib
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusion_alpha import checkpoint, onnx_fusionnet, prediction, samples, training
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.samples import Samples

log = logging.getLogger(__name__)


class ModelError(InputError):
    """The model is missing, damaged, or not one for this configuration: the router ends with status 78."""


class Engine(Protocol):
    """A model that is loaded and checked."""

    @property
    def model_id(self) -> str: ...

    @property
    def sha256(self) -> str:
        """Of all bytes that decide its answers."""
        ...

    def predict(self, data: Samples, rows: NDArray[np.int64]) -> pd.DataFrame:
        """p_up, p_up_sd, mean_ret, sd_ret, severity and kind of the rows, in their order."""
        ...


class TorchEngine:
    """The checkpoint as `stages/predict.py` uses it: the same batches, so the same bits."""

    def __init__(self, folder: Path, cfg: Config, exported: Path | None = None) -> None:
        """exported: folder whose golden inputs the network must answer."""
        try:
            require_whole(folder)
            self._net, self.model_id = checkpoint.load(folder, feature_names(cfg), cfg)
            if exported is not None:
                onnx_fusionnet.require_golden(self._net, self.model_id, exported)
        except ModelError:
            raise
        except InputError as error:
            raise ModelError(str(error)) from None
        self.sha256 = checkpoint.fingerprint(folder)
        self._device, self._samples = training.set_up(cfg.train), cfg.predict.mc_samples

    def predict(self, data: Samples, rows: NDArray[np.int64]) -> pd.DataFrame:
        return prediction.predict(self._net, data, rows, mc_samples=self._samples, device=self._device)


class OnnxEngine:
    """The exported model as `stages/predict.py` uses it: a row at a time, so the same bits in any company."""

    def __init__(self, folder: Path, cfg: Config) -> None:
        try:
            self.net = onnx_fusionnet.OnnxFusionNet(folder, cfg.predict.precision, feature_names(cfg), cfg)
        except InputError as error:
            raise ModelError(str(error)) from None
        training.set_up(replace(cfg.train, device="cpu"))
        self.model_id, self.sha256 = self.net.model_id, self.net.digest
        self._samples = cfg.predict.mc_samples

    def require_exported_from(self, source: Path) -> None:
        """ModelError where the checkpoint in `source` is another one."""
        try:
            self.net.require_exported_from(source)
        except InputError as error:
            raise ModelError(str(error)) from None

    def predict(self, data: Samples, rows: NDArray[np.int64]) -> pd.DataFrame:
        return self.net.predict(data, rows, mc_samples=self._samples)


def load(cfg: Config, run: Path = Path(), folder: Path | None = None) -> Engine:
    """The engine of `predict.engine`, from `folder` or from the models of a run; ModelError unless it is whole.

    An exported model of the run must be that of the run's checkpoint, where there is one; torch must then answer its
    golden inputs.
    """
    if cfg.predict.engine == "torch":
        exported = run / onnx_fusionnet.FOLDER
        if folder is not None or not exported.exists():
            log.warning(
                "no export beside the checkpoint: its bytes are checked, its answers are not (`dvc repro export`)"
            )
            return TorchEngine(folder or run / checkpoint.FOLDER, cfg)
        return TorchEngine(run / checkpoint.FOLDER, cfg, exported)
    engine = OnnxEngine(folder or run / onnx_fusionnet.FOLDER, cfg)
    if folder is None:
        engine.require_exported_from(run / checkpoint.FOLDER)
    return engine


def feature_names(cfg: Config) -> tuple[str, ...]:
    """Names of session features, as `samples.build` gives them."""
    extra = samples.CONTRADICTION_FEATURES if cfg.model.use_contradiction else ()
    return (*samples.technical_features(cfg.model.features), *extra)


def require_whole(folder: Path) -> None:
    """ModelError unless the files are there and are those that the model card names."""
    for name in (checkpoint.WEIGHTS, checkpoint.CONFIG, checkpoint.CARD):
        if not (folder / name).is_file():
            raise ModelError("no such file", file=folder / name, remedy="run `dvc repro train`, or `dvc checkout`")
    title = (folder / checkpoint.CARD).read_bytes().splitlines()[:1]
    model_id = checkpoint.fingerprint(folder)[:12]
    if not title or not title[0].endswith(f", {model_id}".encode()):
        raise ModelError(
            f"weights and config are those of model {model_id}, the model card names another one",
            file=folder / checkpoint.CARD,
            rule="a checkpoint is whole, to the bit",
            remedy="run `dvc checkout`, or train again",
        )


def config_sha256(cfg: Config) -> str:
    """Of everything in the configuration that a decision depends on."""
    groups = ("interval", "text", "model", "target", "strategy", "technical", "contradiction", "predict", "live")
    return hashlib.sha256(repr([(name, _plain(getattr(cfg, name))) for name in groups]).encode()).hexdigest()


def _plain(value: object) -> object:
    return value if isinstance(value, str) else asdict(value)  # type: ignore[call-overload]
