"""FusionNet on ONNX Runtime: a folder written by `onnx_export`, verified before its first use.

    float32.onnx          the network; int8.onnx where it passed its gates
    golden.safetensors    inputs, and what each model answers to them
    manifest.json         the checkpoint, parity with torch, versions, SHA-256 of every file

The graph draws nothing: its inputs are the tokens of `samples.Batch` and the masks of both dropouts, which come from
the kernels as torch's do. ONNX Runtime gives a row other last bits among other rows (products of other shapes, and in
int8 one scale for all), so every row is a call of its own: its numbers depend on the row alone. As with torch, another
processor may give other last bits.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy.special import expit

from fusion_alpha import checkpoint, prediction
from fusion_alpha.config import Config, ModelConfig
from fusion_alpha.errors import InputError
from fusion_alpha.fusionnet import DROPOUTS, FusionNet, Noise
from fusion_alpha.onnx_models import MANIFEST, as_exported, session, verified
from fusion_alpha.samples import Batch, Samples

FOLDER = Path("models/fusionnet_onnx")
GOLDEN = "golden.safetensors"
FORMAT = 1
OUTPUTS = ("logit", "mean", "sd", "severity")
MASKS = ("mask_0", "mask_1")  # of the dropout layers
ONE_ROW = {"rows": 1}  # every call has one
_CHUNK = 256  # rows whose tokens are gathered at once
_REMEDY = "run `dvc repro export`, or `dvc checkout`"


class Limits(NamedTuple):
    """How far an exported network may be from torch's float32."""

    difference: float  # of an output x, in units of max(1, |x|)
    agreement: float = 0.99  # least share of rows with p_up on the same side of 1/2
    f1_drop: float = 0.01  # of the macro-F1 of that side on labelled rows, at most


LIMITS = {"float32": Limits(1e-5), "int8": Limits(0.1)}


def file_name(precision: str) -> str:
    return f"{precision}.onnx"


def inputs(model: ModelConfig) -> tuple[str, ...]:
    """Fields of `Batch` that a network of this configuration reads."""
    return (
        *(("sessions", "session_mask") if model.use_technical else ()),
        *(("score",) if model.use_contradiction else ()),
        *(("news", "news_features", "news_lag", "news_mask") if model.use_text else ()),
    )


def masks(model: ModelConfig, seed: int, samples: int) -> dict[str, NDArray[np.float32]]:
    """What the dropout layers multiply by at inference: 0 or the scale, [samples, units] each."""
    summaries = 2 * model.use_technical + model.use_text
    return {
        name: DROPOUTS[model.mask](
            torch.ones(width), model.dropout, seed=seed, step=0, layer=layer, samples=samples, share_rows=True
        ).numpy()
        for layer, (name, width) in enumerate(zip(MASKS, (summaries * model.width, model.width), strict=True))
    }


def difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest one, in units of max(1, |expected|); infinite where something is not a number."""
    off = np.abs(found.astype(np.float64) - expected) / np.maximum(1, np.abs(expected))
    return float(np.where(np.isnan(off), np.inf, off).max(initial=0.0))


class Runner:
    """One model in memory: tokens of a row and masks -> OUTPUTS."""

    def __init__(self, model: bytes) -> None:
        self._session = session(model, ONE_ROW)

    def run(self, tokens: Mapping[str, NDArray[Any]], drawn: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """tokens [1, ...] by the names of `inputs`, masks [S, units] -> [4, S]."""
        return np.concatenate(self._session.run(None, {**tokens, **drawn}), axis=1).T


class OnnxFusionNet:
    """The network of an exported folder in one precision.

    Raises InputError when a file is absent or changed, when it was exported for another setting or not in this
    precision, and when this machine does not draw its masks or give its golden answers.
    """

    def __init__(self, folder: Path, precision: str, feature_names: tuple[str, ...], cfg: Config) -> None:
        manifest = verified(folder, FORMAT, _REMEDY)
        self._model, self._inputs = cfg.model, inputs(cfg.model)
        self._drawn: dict[int, dict[str, NDArray[np.float32]]] = {}  # masks by number of samples
        with as_exported(folder / MANIFEST, _REMEDY):
            saved = manifest["checkpoint"]
            checkpoint.require_same_setting(saved, checkpoint.setting(feature_names, cfg), folder)
            if precision not in manifest["shipped"]:
                raise InputError(
                    f"there is no model in {precision}: {manifest['parity'][precision]['refused']}",
                    file=folder,
                    rule="a model that passed the gates of its export (metrics/export.json)",
                    remedy="set predict.precision=float32",
                )
            self.model_id: str = manifest["model_id"]
            self.digest: str = manifest["digest"]  # covers every file
            self._seed, self._tau = saved["seed"], _thresholds(manifest["thresholds"])
            model, golden = (_listed(manifest, name, folder) for name in (file_name(precision), GOLDEN))
        with as_exported(model, _REMEDY):
            self.runner = Runner(model.read_bytes())
        with as_exported(golden, _REMEDY):
            self._check_golden(folder, precision)

    def require_exported_from(self, folder: Path) -> None:
        """InputError where the checkpoint in `folder` is another one; where there is none, it says nothing."""
        if (folder / checkpoint.WEIGHTS).is_file() and checkpoint.fingerprint(folder)[:12] != self.model_id:
            raise _other(checkpoint.fingerprint(folder)[:12], self.model_id, folder)

    def predict(
        self,
        samples: Samples,
        rows: NDArray[np.int64],
        *,
        mc_samples: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> pd.DataFrame:
        """As `prediction.predict`."""
        drawn = self._masks(mc_samples)
        moments = np.zeros((5, len(rows)))
        for begin in range(0, len(rows), _CHUNK):
            chosen = rows[begin : begin + _CHUNK]
            for place, tokens in enumerate(each_row(samples.gather(chosen), self._inputs)):
                moments[:, begin + place] = _moments(self.runner.run(tokens, drawn))
            if on_batch is not None:
                on_batch(len(chosen))
        return prediction.table(moments, samples, rows, self._tau)

    def _masks(self, count: int) -> dict[str, NDArray[np.float32]]:
        if count not in self._drawn:
            self._drawn[count] = masks(self._model, self._seed, count)
        return self._drawn[count]

    def _check_golden(self, folder: Path, precision: str) -> None:
        golden = _golden(folder / GOLDEN, precision)
        drawn = self._masks(len(golden[MASKS[0]]))
        if not all(np.array_equal(drawn[name], golden[name]) for name in MASKS):
            raise InputError(
                "the masks are not those of the export",
                file=folder / GOLDEN,
                rule="dropout masks are addressed by seed, layer and unit, on every machine",
                remedy=_REMEDY,
            )
        rows = ({name: golden[name][row : row + 1] for name in self._inputs} for row in range(len(golden[precision])))
        found = np.stack([self.runner.run(tokens, drawn) for tokens in rows])
        remedy = "this processor computes something else: set predict.engine=torch"
        _require_near(found, golden[precision], LIMITS[precision], folder, remedy)


@torch.no_grad()
def of_torch(net: FusionNet, batch: Batch, samples: int) -> NDArray[np.float32]:
    """OUTPUTS [rows, 4, samples] as torch's network gives them."""
    output = net(batch, Noise(samples=samples, share_rows=True))
    return torch.stack([getattr(output, name) for name in OUTPUTS]).permute(2, 0, 1).numpy()


def require_golden(net: FusionNet, model_id: str, folder: Path) -> None:
    """InputError where torch's network does not give the golden answers of its export, or `folder` is of another."""
    manifest = verified(folder, FORMAT, _REMEDY)
    if manifest.get("model_id") != model_id:
        raise _other(model_id, str(manifest.get("model_id")), folder)
    with as_exported(folder / GOLDEN, _REMEDY):
        golden = _golden(_listed(manifest, GOLDEN, folder), "float32")
        tokens = {name: torch.from_numpy(golden[name]) for name in inputs(net.model)}
        fields: dict[str, Any] = dict.fromkeys(Batch.__dataclass_fields__) | tokens
        remedy = "the network in memory is not the one that was trained: run `dvc checkout`; or torch was changed"
        found = of_torch(net, Batch(**fields), len(golden[MASKS[0]]))
        _require_near(found, golden["float32"], LIMITS["float32"], folder, remedy)


def _listed(manifest: Mapping[str, Any], name: str, folder: Path) -> Path:
    """The path of a file; KeyError where the manifest does not vouch for it."""
    if name not in manifest["files"]:
        raise KeyError(name)
    return folder / name


def _thresholds(given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    over, under = given
    return float(over), float(under)


def _golden(path: Path, precision: str) -> dict[str, NDArray[Any]]:
    """Tokens, masks and answers [rows, 4, S]; ValueError where there is none, or not one of each sample."""
    golden = load_file(path)
    answers, n_samples = golden[precision], len(golden[MASKS[0]])
    if not answers.size or answers.shape != (len(answers), len(OUTPUTS), n_samples):
        raise ValueError(f"answers of {answers.shape} to {n_samples} samples")
    return golden


def _require_near(
    found: NDArray[np.float32], expected: NDArray[np.float32], limits: Limits, folder: Path, remedy: str
) -> None:
    """Compare answers [rows, 4, S] to the golden ones."""
    for row, (answer, golden) in enumerate(zip(found, expected, strict=True)):
        off = difference(answer, golden)
        if not off <= limits.difference:
            raise InputError(
                f"golden row {row}: answers differ by {off:.2g}",
                file=folder / GOLDEN,
                rule=f"at most {limits.difference:g}",
                remedy=remedy,
            )


def _other(found: str, exported: str, folder: Path) -> InputError:
    return InputError(
        f"the checkpoint is {found}, exported was {exported}",
        file=folder,
        rule="a model answers the golden inputs of its own export",
        remedy="run `dvc repro export`",
    )


def each_row(batch: Batch, names: tuple[str, ...]) -> list[dict[str, NDArray[Any]]]:
    """The named fields of each row, [1, ...] each."""
    fields = {name: getattr(batch, name).numpy() for name in names}
    return [{name: value[row : row + 1] for name, value in fields.items()} for row in range(len(batch.label))]


def _moments(outputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """p_up, p_up_sd, mean, sd and severity of OUTPUTS [4, S]; see `prediction.predict`."""
    logit, mean, sd, severity = outputs.astype(np.float64)
    variance = np.square(sd).mean() + mean.var()
    p_up = expit(logit)
    return np.array([p_up.mean(), p_up.std(), mean.mean(), np.sqrt(variance), severity.mean()])
