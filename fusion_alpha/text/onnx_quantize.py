"""Weights and activations of an ONNX encoder as int8, so that what a text gets never depends on its batch-mates.

onnxruntime.quantization's dynamic mode takes one scale from the whole batch; here every token has its own. For a
product x W with tokens in rows and a smoothing vector s over the inputs:

    x'  = x / s                      q_x = round(127 x' / max_j |x'_j|)         one scale a token
    W'  = diag(s) W                  q_W = round(127 W' / max_i |W'_ij|)        one scale an output
    x W ~ (q_x q_W) * (scale of the token) * (scale of the output)

The sums of q_x q_W are whole numbers, equal in any order and for any number of rows. s_j = sqrt(max |x_j| / max |W_j|)
lets weights take over a part of the few inputs that are much larger than the rest [SmoothQuant, Xiao et al. 2023,
arXiv:2211.10438, eq. 4 with alpha = 0.5]. Attention itself, normalisation and the classifier stay float32.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_LEVELS = 127  # of int8 on either side of zero
_DOMAIN = "com.microsoft"  # of the product that gives float32
_LEAST_PEAK = 0.1  # of an input, in medians: one that calibration hardly saw is not blown up
_TINY = np.float32(1e-20)


def quantized(model: onnx.ModelProto, batches: Sequence[NDArray[np.int64]]) -> onnx.ModelProto:
    """A copy of `model` (one input of token ids, (B, L)) whose products with constant weights are int8.

    batches: token ids (B, L) of typical texts, from which the smoothing vectors are taken.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    weights = {one.name: numpy_helper.to_array(one) for one in graph.initializer if len(one.dims) == 2}
    peaks = _peaks(model, list(_consumers(graph, weights)), batches)
    builder = _Builder(graph.input[0].name)
    smoothing = {
        name: _smoothing(peaks[name], [weights[weight] for weight in taking])
        for name, taking in _consumers(graph, weights).items()
    }
    for node in graph.node:
        if _is_product(node, weights):
            builder.product(node, weights[node.input[1]], smoothing[node.input[0]])
        else:
            builder.nodes.append(node)
    used = {name for node in builder.nodes for name in node.input}
    constants = [one for one in graph.initializer if one.name in used] + builder.constants
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(builder.nodes)
    graph.initializer.extend(constants)
    result.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return result


class _Builder:
    """Nodes and constants of the new graph. `flat` tensors have a row for each token of the batch."""

    def __init__(self, ids: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._scales: dict[str, tuple[str, str]] = {}  # activation -> its int8 form and its scales
        self._constant("int8_last", np.array([-1], np.int64))
        self._constant("int8_one", np.array(1, np.float32))
        self._constant("int8_zero", np.array(128, np.uint8))
        self._constant("int8_tiny", np.array(_TINY))
        self._constant("int8_step", np.array(1 / _LEVELS, np.float32))
        shape = self._node("Shape", [ids], "int8_shape")
        self._node("Concat", [shape, "int8_last"], "int8_back", axis=0)
        tokens = self._node("ReduceProd", [shape], "int8_tokens", keepdims=1)
        self._node("Expand", ["int8_zero", tokens], "int8_zeros")

    def product(self, node: onnx.NodeProto, weight: NDArray[np.float32], smoothing: NDArray[np.float32]) -> None:
        """Replace `node`, a product of an activation (B, L, K) with weights (K, N)."""
        flat, scale = self._activation(node.input[0], smoothing)
        out, smooth = node.output[0], weight * smoothing[:, None]
        step = np.maximum(np.abs(smooth).max(0), _TINY) / np.float32(_LEVELS)  # (N,)
        inputs = [
            flat,
            self._constant(f"{out}_int8_weight", np.rint(smooth / step).astype(np.int8)),
            "int8_one",
            self._constant(f"{out}_int8_step", step),
            "int8_zero",
            self._constant(f"{out}_int8_weight_zero", np.zeros(len(step), np.int8)),
        ]
        summed = self._node("MatMulIntegerToFloat", inputs, f"{out}_int8_sum", domain=_DOMAIN)
        scaled = self._node("Mul", [summed, scale], f"{out}_int8_scaled")
        self._node("Reshape", [scaled, "int8_back"], out)

    def _activation(self, name: str, smoothing: NDArray[np.float32]) -> tuple[str, str]:
        """`name` smoothed and rounded (tokens, K) and its scales (tokens, 1), computed once for all who take it."""
        if name not in self._scales:
            flat_shape = self._constant(f"{name}_int8_flat", np.array([-1, len(smoothing)], np.int64))
            flat = self._node("Reshape", [name, flat_shape], f"{name}_int8_tokens")
            smooth = self._node("Mul", [flat, self._constant(f"{name}_int8_s", 1 / smoothing)], f"{name}_int8_smooth")
            peak = self._node(
                "ReduceMax",
                [self._node("Abs", [smooth], f"{name}_int8_abs"), "int8_last"],
                f"{name}_int8_peak",
                keepdims=1,
            )
            peak = self._node("Max", [peak, "int8_tiny"], f"{name}_int8_positive")
            scale = self._node("Mul", [peak, "int8_step"], f"{name}_int8_scale")
            row_scale = self._node("Reshape", [scale, "int8_last"], f"{name}_int8_row_scale")
            whole = self._node("QuantizeLinear", [smooth, row_scale, "int8_zeros"], f"{name}_int8", axis=0)
            self._scales[name] = whole, scale
        return self._scales[name]

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _constant(self, name: str, value: NDArray) -> str:
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _is_product(node: onnx.NodeProto, weights: dict[str, NDArray]) -> bool:
    return node.op_type == "MatMul" and node.input[1] in weights


def _consumers(graph: onnx.GraphProto, weights: dict[str, NDArray]) -> dict[str, list[str]]:
    """For each activation, the weights that it is multiplied with."""
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if _is_product(node, weights):
            found.setdefault(node.input[0], []).append(node.input[1])
    return found


def _peaks(
    model: onnx.ModelProto, names: list[str], batches: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[np.float32]]:
    """Largest absolute value of each input (K,) of the activations `names` over all tokens of `batches`."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    peaks: dict[str, NDArray[np.float32]] = {}
    for ids in batches:
        for name, value in zip(names, session.run(names, {model.graph.input[0].name: ids}), strict=True):
            peak = np.abs(value).max((0, 1))
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    return peaks


def _smoothing(peak: NDArray[np.float32], weights: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """s (K,) of the module's docstring for inputs of these peaks (K,) and all weights (K, N) that take them."""
    heaviest = np.max([np.abs(weight).max(1) for weight in weights], axis=0)
    peak = np.maximum(peak, _LEAST_PEAK * np.median(peak))
    return np.sqrt(np.maximum(peak, _TINY) / np.maximum(heaviest, np.float32(1e-5))).astype(np.float32)
