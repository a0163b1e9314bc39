"""Sentiment head of MiniLM: a fine-tuned copy of its upper layers and a linear classifier, as one small file.

The lower layers are those of the unmodified encoder and run once; from their hidden states the encoder goes on to
its sentence embedding and the branch to class probabilities:

    tokens -> layers 1..k (frozen) -+-> layers k+1..6 (frozen)  -> sentence embedding
                                    +-> layers k+1..6 (tuned)   -> mean, max, first token -> linear -> 3 logits

Stored are the differences between tuned and frozen weights, matrices as int8 with one scale a row: a quarter of
float32, and finer than float16, since a difference is small against its weight. So a head belongs to one encoder,
which its config names by SHA-256. It is a fixed function once loaded: nothing is quantised by batch.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from transformers import BertModel

from fusion_alpha.errors import InputError
from fusion_alpha.files import read_object, sha256, write_bytes, write_json
from fusion_alpha.text.encoders import LABELS
from fusion_alpha.text.weights import WEIGHTS

CONFIG = "config.json"
FORMAT = 1
_AGAIN = "restore it, or train it again with python -m fusion_alpha.text.train_sentiment"
_STEPS = 127  # of int8 on either side of zero


class SentimentBranch(nn.Module):
    """Logits from the hidden states that enter layer `first_layer` (counted from 0) of a BERT encoder."""

    def __init__(self, encoder: BertModel, first_layer: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first_layer = first_layer
        self.layers = nn.ModuleList(copy.deepcopy(layer) for layer in encoder.encoder.layer[first_layer:])
        for module in self.layers.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(3 * encoder.config.hidden_size, len(LABELS))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Hidden states (B, L, d), mask (B, L) bool, true where a token is -> logits (B, 3)."""
        attend = mask[:, None, None, :]  # (B, 1, 1, L): broadcast over heads and queries
        for layer in self.layers:
            hidden = layer(hidden, attend)
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        peak = hidden.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1)
        return self.classifier(self.dropout(torch.cat([mean, peak, hidden[:, 0]], dim=1)))


def save(folder: Path, branch: SentimentBranch, encoder: BertModel, description: dict[str, Any]) -> None:
    """Write weights and config.json; `description` joins the config and must hold encoder_sha256."""
    frozen = SentimentBranch(encoder, branch.first_layer).layers.state_dict()
    tensors: dict[str, Tensor] = {}
    for name, tuned in branch.layers.state_dict().items():
        tensors |= _packed(f"layers.{name}", tuned - frozen[name])
    tensors |= {f"classifier.{name}": value for name, value in branch.classifier.state_dict().items()}
    write_bytes(folder / WEIGHTS, to_bytes(tensors))
    config = description | {
        "format": FORMAT,
        "first_layer": branch.first_layer,
        "labels": list(LABELS),
        "weights_sha256": sha256(folder / WEIGHTS),
    }
    write_json(folder / CONFIG, config)


def load(folder: Path, encoder: BertModel, encoder_sha256: str) -> tuple[SentimentBranch, str]:
    """The head in `folder` and the SHA-256 of its weights.

    Raises InputError when a file is absent or damaged, or the head was trained for another encoder.
    """
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise InputError("no such file", file=folder / name, remedy="restore it: git checkout models/")
    config, found = read_object(folder / CONFIG, "first_layer", remedy=_AGAIN), sha256(folder / WEIGHTS)
    _expect(found, config.get("weights_sha256"), "the SHA-256 of the head's weights", folder)
    _expect(encoder_sha256, config.get("encoder_sha256"), "the SHA-256 of the encoder", folder)
    _expect(FORMAT, config.get("format"), "the format", folder)
    n_layers, first = len(encoder.encoder.layer), config["first_layer"]
    if type(first) is not int or not 0 <= first <= n_layers:
        said, rule = f"first_layer is {first!r}", f"a whole number, 0 to {n_layers}"
        raise InputError(said, file=folder / CONFIG, rule=rule, remedy=_AGAIN)
    branch = SentimentBranch(encoder, first)
    frozen = branch.layers.state_dict()
    try:
        tensors = load_file(folder / WEIGHTS)
        branch.layers.load_state_dict(
            {name: value + _unpacked(f"layers.{name}", tensors, value.shape) for name, value in frozen.items()}
        )
        branch.classifier.load_state_dict(
            {name: tensors[f"classifier.{name}"] for name in branch.classifier.state_dict()}
        )
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(f"not a sentiment head ({error})", file=folder / WEIGHTS, remedy=_AGAIN) from None
    return branch.eval(), found


def _expect(found: object, expected: object, what: str, folder: Path) -> None:
    if found != expected:
        raise InputError(
            f"{what} is {found}",
            file=folder / CONFIG,
            rule=f"the head's config says {expected}",
            remedy=f"a head fits the encoder that it was trained on: {_AGAIN}",
        )


def _packed(name: str, difference: Tensor) -> dict[str, Tensor]:
    if difference.ndim == 1:
        return {name: difference.contiguous()}
    scale = difference.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / _STEPS  # (rows, 1)
    return {name: (difference / scale).round().to(torch.int8), f"{name}.scale": scale}


def _unpacked(name: str, tensors: dict[str, Tensor], shape: torch.Size) -> Tensor:
    value = tensors[name]
    sizes = {name: shape} | ({f"{name}.scale": torch.Size((shape[0], 1))} if value.dtype == torch.int8 else {})
    for part, size in sizes.items():  # before anything is spread over more than it is
        if tensors[part].shape != size:
            raise KeyError(f"{part} of {list(tensors[part].shape)}, not {list(size)}")
    return value.float() * tensors[f"{name}.scale"] if value.dtype == torch.int8 else value
