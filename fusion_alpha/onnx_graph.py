"""torch modules as ONNX graphs that say nothing about where they were made: equal weights give equal bytes."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn


def graph(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    dynamic_shapes: Any,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    strict: bool = False,
) -> onnx.ModelProto:
    """The graph of `module` in evaluation mode.

    dynamic_shapes: as `torch.export.export` takes it; the names of its dimensions are those of the graph. strict: let
    torch read the module's code; needed where it asks for the length of a tensor.
    """
    with _quiet(), torch.no_grad():
        read = torch.export.export(module, examples, dynamic_shapes=dynamic_shapes, strict=True) if strict else module
        exported = torch.onnx.export(
            read,
            examples,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:], model.graph.value_info[:], model.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
    return model


class _quiet(warnings.catch_warnings):
    """No advice from the exporter about packages and deprecations of its own."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        logging.getLogger("onnxscript").setLevel(logging.ERROR)
