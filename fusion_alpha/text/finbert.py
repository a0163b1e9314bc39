"""FinBERT and other BERT classifiers of sentiment: embedding and class probabilities of one model.

ProsusAI/finbert (Araci 2019, arXiv:1908.10063) by default. The embedding is the mean of the last hidden states over
the tokens, scaled to unit length; the probabilities are the model's own, put into our order by the names in its config.
"""

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForSequenceClassification

from fusion_alpha.config import TextConfig
from fusion_alpha.errors import InputError
from fusion_alpha.text import weights
from fusion_alpha.text.encoders import LABELS, Spec
from fusion_alpha.text.transformer import TransformerEncoder, mean_pool, quiet


class FinBert(TransformerEncoder):
    """`Encoder` from a local folder or a hub id (cfg.path)."""

    def __init__(self, cfg: TextConfig) -> None:
        if cfg.path is None:
            raise InputError("parameter text.path = None", rule="a folder, or a hub id such as ProsusAI/finbert")
        folder = weights.locate(cfg.path)
        sha256 = weights.check(folder, cfg)
        quiet()
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        weights.check_dim(config.hidden_size, cfg, folder)
        self._order = label_order(config.id2label, folder)
        self._model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        spec = Spec(cfg.name, cfg.dim, sha256, None, cfg.max_tokens, cfg.engine, cfg.precision, cfg.batch_size)
        super().__init__(folder, cfg, spec, config.max_position_embeddings)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        out = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        pooled = mean_pool(out.hidden_states[-1], mask)
        return torch.nn.functional.normalize(pooled, dim=1), out.logits[:, self._order]

    def unpadded(self) -> nn.Module:
        if not isinstance(self._model, BertForSequenceClassification):
            raise InputError(
                f"the model is a {type(self._model).__name__}",
                rule="text.engine=onnx exports BERT classifiers",
                remedy="set text.engine=torch",
            )
        return _Unpadded(self._model, self._order)


class _Unpadded(nn.Module):
    def __init__(self, model: BertForSequenceClassification, order: list[int]) -> None:
        super().__init__()
        self.model, self.order = model, order

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.model.bert.embeddings(input_ids=ids)
        for layer in self.model.bert.encoder.layer:
            hidden = layer(hidden, None)
        logits = self.model.classifier(self.model.bert.pooler(hidden))
        return nn.functional.normalize(hidden.mean(1), dim=1), logits[:, self.order]


def label_order(id2label: dict[int, str], folder: object) -> list[int]:
    """For each of LABELS, the model's output that holds it; InputError unless those three are the model's labels."""
    place = {label.lower(): number for number, label in id2label.items()}
    if set(place) != set(LABELS) or len(id2label) != len(LABELS):
        raise InputError(
            f"the model's labels are {', '.join(map(repr, id2label.values()))}",
            file=f"{folder}/config.json",
            rule=f"id2label names {', '.join(LABELS)}, in any order",
            remedy="choose a sentiment classifier, or correct id2label in a copy of its config",
        )
    return [place[label] for label in LABELS]
