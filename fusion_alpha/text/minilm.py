"""all-MiniLM-L6-v2: the sentence embedding of the unmodified model, sentiment by a head of our own.

Mean of the last hidden states over the tokens, scaled to unit length, as its makers use it
(https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2).
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertModel

from fusion_alpha.config import TextConfig
from fusion_alpha.errors import InputError
from fusion_alpha.text import sentiment, weights
from fusion_alpha.text.encoders import Spec
from fusion_alpha.text.transformer import TransformerEncoder, mean_pool, quiet


def load_model(folder: Path) -> BertModel:
    """The encoder without any head, float32, ready for inference."""
    quiet()
    return AutoModel.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


class MiniLM(TransformerEncoder):
    """`Encoder` of cfg.text: weights from the installed package or cfg.path, the head from cfg.head."""

    def __init__(self, cfg: TextConfig) -> None:
        if cfg.head is None:
            raise InputError(
                "parameter text.head = None",
                rule="MiniLM has no classifier of its own; its sentiment comes from a head",
                remedy="set text.head=models/sentiment_minilm",
            )
        folder = weights.installed_package() if cfg.path is None else weights.locate(cfg.path)
        sha256 = weights.check(folder, cfg)
        self._model = load_model(folder)
        weights.check_dim(self._model.config.hidden_size, cfg, folder)
        self._branch, head_sha256 = sentiment.load(Path(cfg.head), self._model, sha256)
        spec = Spec(cfg.name, cfg.dim, sha256, head_sha256, cfg.max_tokens, cfg.engine, cfg.precision, cfg.batch_size)
        super().__init__(folder, cfg, spec, self._model.config.max_position_embeddings)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        pooled = mean_pool(out.last_hidden_state, mask)
        logits = self._branch(out.hidden_states[self._branch.first_layer], mask)
        return torch.nn.functional.normalize(pooled, dim=1), logits

    def unpadded(self) -> nn.Module:
        return _Unpadded(self._model, self._branch)


class _Unpadded(nn.Module):
    def __init__(self, model: BertModel, branch: sentiment.SentimentBranch) -> None:
        super().__init__()
        self.model, self.branch = model, branch

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.model.embeddings(input_ids=ids)
        own = [*self.model.encoder.layer]
        for layer in own[: self.branch.first_layer]:
            hidden = layer(hidden, None)
        tuned = hidden
        for layer in own[self.branch.first_layer :]:
            hidden = layer(hidden, None)
        for layer in self.branch.layers:
            tuned = layer(tuned, None)
        features = torch.cat([tuned.mean(1), tuned.amax(1), tuned[:, 0]], dim=1)
        return nn.functional.normalize(hidden.mean(1), dim=1), self.branch.classifier(features)
