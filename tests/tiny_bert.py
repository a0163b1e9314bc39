"""A BERT classifier of random weights, small enough to build in a test, saved the way the hub's models are."""

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from fusion_alpha.config import TextConfig

WORDS = ["profit", "loss", "shares", "rise", "fall", "beats", "misses", "the", "of", "in", "company", "market", "up"]
WORDS += ["down", "dividend", "bank", "oil", "chip"]
DIM = 32


def build(folder: Path, labels: tuple[str, ...] = ("positive", "negative", "neutral")) -> Path:
    """Write config, safetensors weights and a WordPiece tokenizer to `folder`."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *"abcdefghijklmnopqrstuvwxyz0123456789@<>.,%"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        initializer_range=0.5,
    )
    torch.manual_seed(3)
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    return folder


def config(folder: Path, **changes: object) -> TextConfig:
    values = {
        "name": "finbert",
        "path": str(folder),
        "sha256": None,
        "head": None,
        "dim": DIM,
        "engine": "torch",
        "precision": "float32",
        "max_tokens": 64,
        "batch_size": 16,
        "threads": 2,
    }
    return TextConfig(**(values | changes))


def texts(n: int) -> list[str]:
    """Distinct texts of many lengths, some longer than 64 tokens."""
    step = [3, 7, 11, 5, 13]
    return [
        f"{number} "
        + " ".join(WORDS[(number * step[word % 5] + word) % len(WORDS)] for word in range(1 + number * 7 % 70))
        for number in range(n)
    ]
