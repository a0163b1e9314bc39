"""What encoders on transformers share: tokens, batches of fixed shape, worker threads.

A text's bits may not depend on its batch-mates. A matrix product may sum in another order when its shape changes, so
the shape is fixed: a text's own length chooses the width (multiples of 8 tokens, from 16), and every batch has
`batch_size` rows, the last one filled up with dummies. Threads work on whole batches, one core each, instead of
sharing one product between them; that is also faster. Measured with torch 2.13 (MKL, AVX-512): no vector depends on
its row or its batch-mates at any width. The number of rows does show: in the products of one row for each text (the
classifiers, below 16 rows) and, with two threads inside a product, in the embedding as well. So it is part of `Spec`,
while the number of worker threads is not. Another processor may give other last bits, and the tests show whether
rows still do not matter there.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from fusion_alpha.config import TextConfig
from fusion_alpha.errors import InputError
from fusion_alpha.text.encoders import Part, Spec, run_ahead

_WIDTH_STEP, _WIDTH_MIN = 8, 16  # tokens
_TOKENIZED_AT_ONCE = 1024


def width(n_tokens: int) -> int:
    """The fixed number of token positions that a text of `n_tokens` is padded to."""
    return max(_WIDTH_MIN, -(-n_tokens // _WIDTH_STEP) * _WIDTH_STEP)


def plan(lengths: Sequence[int], batch_size: int) -> Iterator[tuple[int, list[int]]]:
    """Batches as (width, rows), longest texts first, so that the remaining time is never underestimated."""
    by_width: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_width.setdefault(width(length), []).append(row)
    for tokens in sorted(by_width, reverse=True):
        rows = by_width[tokens]
        yield from ((tokens, rows[start : start + batch_size]) for start in range(0, len(rows), batch_size))


def quiet() -> None:
    """No progress bars and advice from transformers: what matters is raised as InputError."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are no padding: (B, L, d), (B, L) bool -> (B, d)."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)  # (B, L, 1)
    return (hidden * weight).sum(1) / weight.sum(1)


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_tokens: int
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
    """Token ids of each text, cut to `max_tokens` with the closing token kept, and the numbers before the cut."""
    ids: list[NDArray[np.int32]] = []
    n_tokens = np.zeros(len(texts), np.int64)
    for start in range(0, len(texts), _TOKENIZED_AT_ONCE):
        batch = list(texts[start : start + _TOKENIZED_AT_ONCE])
        for one in tokenizer(batch, verbose=False)["input_ids"]:
            n_tokens[len(ids)] = len(one)
            cut = [*one[: max_tokens - 1], tokenizer.sep_token_id] if len(one) > max_tokens else one
            ids.append(np.array(cut, np.int32))
    return ids, n_tokens


class TransformerEncoder(ABC):
    """`Encoder` with a tokenizer and a model in `folder`; subclasses hold the model."""

    def __init__(self, folder: Path, cfg: TextConfig, spec: Spec, max_positions: int) -> None:
        if cfg.max_tokens > max_positions:
            raise InputError(
                f"parameter text.max_tokens = {cfg.max_tokens}",
                rule=f"at most the {max_positions} positions of the model in {folder}",
            )
        quiet()
        self.spec, self.positions = spec, max_positions
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._threads = cfg.threads

    @abstractmethod
    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) int64, mask (B, L) bool -> embeddings (B, dim) float32, logits (B, 3) as in LABELS."""

    @abstractmethod
    def unpadded(self) -> nn.Module:
        """What `forward` computes, for texts of one length and so without a mask: token ids -> embeddings, logits."""

    def stream(self, texts: Sequence[str]) -> Iterator[Part]:
        tokens, n_tokens = tokenize(self.tokenizer, texts, self.spec.max_tokens)
        batches = (
            partial(self._encode_batch, tokens, n_tokens, tokens_wide, np.array(rows))
            for tokens_wide, rows in plan([len(ids) for ids in tokens], self.spec.batch_size)
        )
        yield from run_ahead(batches, self._threads)

    def _encode_batch(
        self, tokens: list[NDArray[np.int32]], n_tokens: NDArray[np.int64], tokens_wide: int, rows: NDArray[np.int64]
    ) -> Part:
        torch.set_num_threads(1)  # in every worker, as OpenMP's setting is a thread's own; MKL's is the process's
        ids = torch.full((self.spec.batch_size, tokens_wide), self.tokenizer.pad_token_id)  # (B, L)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        mask[len(rows) :, 0] = True  # dummy rows: one token, so that their mean exists
        for place, row in enumerate(rows):
            length = len(tokens[row])
            ids[place, :length] = torch.from_numpy(tokens[row].astype(np.int64))
            mask[place, :length] = True
        with torch.inference_mode():
            embeddings, logits = self.forward(ids, mask)
            probabilities = logits[: len(rows)].double().softmax(1)
        return Part(rows, embeddings[: len(rows)].numpy(), probabilities.numpy(), n_tokens[rows])
