"""A trained FusionNet as ONNX models with the answers that they must give, and how near they come to torch.

`torch.onnx.export(dynamo=True)` gives the float32 graph; ONNX Runtime's dynamic quantization makes int8 of its products
with weights. Rows and Monte-Carlo samples are free dimensions. Each model must stay within `onnx_fusionnet.LIMITS` of
torch on labelled dev rows: without float32 there is no export, without int8 there is no int8. Equal weights and
library versions give an equal folder.
"""

import copy
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from safetensors.numpy import save as to_bytes
from scipy.special import expit
from sklearn.metrics import f1_score
from torch import Tensor, nn

from fusion_alpha import checkpoint
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, replace_folder, write_bytes
from fusion_alpha.fusionnet import FusionNet, Noise, Thresholds
from fusion_alpha.onnx_fusionnet import (
    FORMAT,
    GOLDEN,
    LIMITS,
    MASKS,
    OUTPUTS,
    Runner,
    difference,
    each_row,
    file_name,
    inputs,
    masks,
    of_torch,
)
from fusion_alpha.onnx_graph import graph
from fusion_alpha.onnx_models import versions, write_manifest
from fusion_alpha.samples import Batch, Samples

SAMPLES = 32  # Monte-Carlo samples of the comparison and of the golden rows
_ROWS = 2048  # compared, at most: evenly spread over the labelled dev rows
_GOLDEN = 8  # rows whose answers every load checks
_BATCH = 256
_MOST = 1 << 16  # of a free dimension

Floats = NDArray[np.float32]
log = logging.getLogger(__name__)


class Graph(nn.Module):
    """A network as a function of tensors: fields of `Batch` that it reads, then the masks of its dropouts.

    torch computes the thresholds here, once, so that the hard steps are at the very numbers of its own predictions.
    """

    def __init__(self, net: FusionNet) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).cpu()
        self.names = (*inputs(net.model), *MASKS)
        if net.model.use_contradiction:
            self.net.thresholds = _Known(self.net.thresholds)
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Rows [B, ...] and masks [S, units] -> OUTPUTS [S, B]."""
        given: dict[str, Any] = dict.fromkeys(Batch.__dataclass_fields__) | dict(zip(self.names, tensors, strict=True))
        drawn = [given.pop(name).unsqueeze(1) for name in MASKS]
        given = self._without_others(given)
        self.net.dropout = lambda x, p, *, layer, **_: x * drawn[layer]
        output = self.net(Batch(**given), Noise(samples=2, share_rows=True))
        return tuple(getattr(output, name) for name in OUTPUTS)

    def _without_others(self, given: dict[str, Any]) -> dict[str, Any]:
        """Tokens with nothing where their mask is: what lies there belongs to other rows and would set int8's scale.

        Unknown features become the mean, as in `fusionnet.Scaler`: ONNX's Clip need not pass a NaN on.
        """
        for name, mask, scaler in (
            ("sessions", "session_mask", "scale_sessions"),
            ("news_features", "news_mask", "scale_news"),
        ):
            if given[name] is not None:
                known = given[mask].unsqueeze(-1) & ~given[name].isnan()
                given[name] = torch.where(known, given[name], getattr(self.net, scaler).mean)
        if given["news"] is not None:
            given["news"] = given["news"] * given["news_mask"].unsqueeze(-1)
            given["news_lag"] = given["news_lag"] * given["news_mask"]
        return given


class _Known(Thresholds):
    """Learned thresholds as constants."""

    over_under: Tensor
    share: Tensor

    def __init__(self, learned: Thresholds) -> None:
        super().__init__(*learned.start)
        self.load_state_dict(learned.state_dict())
        self.register_buffer("over_under", learned.tau().detach())
        self.register_buffer("share", learned.persistence().detach())

    def tau(self) -> Tensor:
        return self.over_under

    def persistence(self) -> Tensor:
        return self.share


def export(source: Path, net: FusionNet, samples: Samples, folder: Path) -> dict[str, Any]:
    """Write the network of the checkpoint `source` to `folder` (replaced as a whole); returns parity by precision.

    Raises InputError, and writes nothing, when float32 is further from torch than LIMITS allow, and without dev rows.
    """
    rows = samples.select("dev", labelled=True)
    if not len(rows):
        raise InputError("no usable row of role dev has a label", rule="rows to compare both engines on")
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_ROWS, len(rows))).astype(int))]
    names, drawn = inputs(net.model), masks(net.model, net.seed, SAMPLES)
    model = network(net, samples.gather(rows[:3]))
    models = {"float32": model.SerializeToString(deterministic=True), "int8": quantized(model)}
    net = net.cpu().eval()
    chunks = (samples.gather(rows[begin : begin + _BATCH]) for begin in range(0, len(rows), _BATCH))
    expected = np.concatenate([of_torch(net, batch, SAMPLES) for batch in chunks])
    found = {precision: of_onnx(one, samples, rows, names, drawn) for precision, one in models.items()}
    labels = samples.label.numpy()[rows] > 0.5
    measured = {precision: parity(expected, one, labels, precision) for precision, one in found.items()}
    if measured["float32"]["refused"]:
        raise InputError(
            f"the exported network is too far from torch: {measured['float32']['refused']}",
            rule="limits of float32 in fusion_alpha/onnx_fusionnet.py",
            remedy="look for extreme values in weights and features; predict.engine=torch needs no export",
        )
    shipped = [precision for precision in models if not measured[precision]["refused"]]
    manifest = {
        "format": FORMAT,
        "model_id": checkpoint.fingerprint(source)[:12],
        "checkpoint": read_json(source / checkpoint.CONFIG),
        "thresholds": net.tau(),
        "shipped": shipped,
        "parity": measured,
        "limits": {precision: LIMITS[precision]._asdict() for precision in models},
        "versions": versions(),
    }
    places = np.unique(np.linspace(0, len(rows) - 1, _GOLDEN).astype(int))
    golden = {name: getattr(samples.gather(rows[places]), name).numpy() for name in names}
    golden |= drawn | {precision: np.ascontiguousarray(found[precision][places]) for precision in shipped}

    def fill(partial: Path) -> None:
        for precision in shipped:
            write_bytes(partial / file_name(precision), models[precision])
        write_bytes(partial / GOLDEN, to_bytes(golden))
        write_manifest(partial, manifest, [*map(file_name, shipped), GOLDEN])

    replace_folder(folder, fill)
    return measured


def network(net: FusionNet, examples: Batch) -> onnx.ModelProto:
    """The float32 graph; examples: two rows at least."""
    module = Graph(net)
    drawn = masks(net.model, net.seed, 4)
    tensors = [getattr(examples, name) for name in inputs(net.model)]
    tensors += [torch.from_numpy(drawn[name]) for name in MASKS]
    rows, count = (torch.export.Dim(name, min=2, max=_MOST) for name in ("rows", "samples"))
    shapes = tuple({0: count if name in MASKS else rows} for name in module.names)
    return graph(module, tuple(tensors), {"tensors": shapes}, inputs=module.names, outputs=OUTPUTS, strict=True)


def quantized(model: onnx.ModelProto) -> bytes:
    """Products with constant weights in int8: a scale for each output, and one for all activations of a call."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        whole = copy.deepcopy(model)
        marked = onnx.StringStringEntryProto(key="onnx.quant.pre_process", value="onnxruntime.quant")
        whole.metadata_props.append(marked)  # shapes are known: no advice to infer them first
        quantize_dynamic(whole, path, per_channel=True, weight_type=QuantType.QInt8)
        made = onnx.load(path)
    del made.metadata_props[:]
    return bytes(made.SerializeToString(deterministic=True))


def of_onnx(
    model: bytes, samples: Samples, rows: NDArray[np.int64], names: tuple[str, ...], drawn: dict[str, Floats]
) -> Floats:
    """OUTPUTS [rows, 4, SAMPLES] of an exported model, a row at a time."""
    runner = Runner(model)
    chunks = (samples.gather(rows[begin : begin + _BATCH]) for begin in range(0, len(rows), _BATCH))
    return np.stack([runner.run(tokens, drawn) for batch in chunks for tokens in each_row(batch, names)])


def parity(expected: Floats, found: Floats, labels: NDArray[np.bool_], precision: str) -> dict[str, Any]:
    """How far `found` is from `expected`, and which gates that breaks: `refused`, empty where none.

    differences: by output, in units of max(1, |expected|). agreement: share of rows with p_up on the same side of 1/2.
    """
    before, after = (expit(one[:, 0].astype(np.float64)).mean(axis=1) >= 0.5 for one in (expected, found))
    f1 = [f1_score(labels, side, average="macro", labels=[False, True], zero_division=0) for side in (before, after)]
    differences = {name: difference(found[:, k], expected[:, k]) for k, name in enumerate(OUTPUTS)}
    measured = {
        "rows": len(labels),
        "samples": expected.shape[-1],
        "differences": differences,
        "agreement": float((before == after).mean()),
        "macro_f1_torch": float(f1[0]),
        "macro_f1": float(f1[1]),
        "f1_drop": float(f1[0] - f1[1]),
    }
    return measured | {"refused": "; ".join(_broken(measured, max(differences.values()), precision))}


def _broken(measured: dict[str, Any], largest: float, precision: str) -> Sequence[str]:
    limits, said = LIMITS[precision], []
    if not largest <= limits.difference:
        said.append(f"outputs differ by {largest:.3g} (limit {limits.difference:g})")
    if not measured["agreement"] >= limits.agreement:
        said.append(f"{measured['agreement']:.2%} of the rows keep their side (limit {limits.agreement:.0%})")
    if not measured["f1_drop"] <= limits.f1_drop:
        said.append(f"macro-F1 falls by {measured['f1_drop']:.4f} (limit {limits.f1_drop:g})")
    return said
