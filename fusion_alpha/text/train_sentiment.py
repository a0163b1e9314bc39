"""Train the sentiment head of MiniLM on labelled text; write head, model card and figures.

    python -m fusion_alpha.text.train_sentiment --data FOLDER

Reads three CSV files (text, label, source) in the data folder, cleans texts as the interim layer does, adds the
sentences of fusion_alpha.text.phrases, trains the branch of fusion_alpha.text.sentiment from cached hidden states, and
judges the stored head through the encoder that the pipeline uses. Equal data, seed and threads give an equal file on
equal hardware and library versions.
"""

import argparse
import copy
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from transformers import AutoTokenizer, BertModel

from fusion_alpha import pii
from fusion_alpha.config import TextConfig
from fusion_alpha.errors import InputError
from fusion_alpha.files import sha256, write_json, write_text
from fusion_alpha.stage import console, set_up
from fusion_alpha.text import sentiment, sentiment_card, weights
from fusion_alpha.text.encoders import LABELS
from fusion_alpha.text.hashing import text_hash
from fusion_alpha.text.minilm import MiniLM, load_model
from fusion_alpha.text.phrases import sentences
from fusion_alpha.text.transformer import tokenize

TRAIN, CHOSEN_ON, OTHER_DOMAIN = "train_recommended_tfns_sentfin.csv", "tfns_valid.csv", "taborda_tweets.csv"
HEADLINES = "SEntFiN-1.0"  # how the source column of the training file begins where the text is a headline
HELD_OUT_OF = 20  # one headline in so many is not trained on

log = logging.getLogger("fusion_alpha.text.train_sentiment")


@dataclass(frozen=True)
class Recipe:
    """How the head is trained; chosen by accuracy and macro-F1 on tfns_valid, with a few runs."""

    first_layer: int = 3  # layers from here on (counted from 0) are tuned copies
    epochs: int = 3
    batch_size: int = 32
    lr: float = 2e-4  # of the layers; linear warm-up and decay
    lr_classifier: float = 1e-3
    weight_decay: float = 0.01
    warm_up: float = 0.06  # share of all steps
    dropout: float = 0.1
    token_dropout: float = 0.1  # share of tokens hidden from the branch in training; the first one stays
    label_smoothing: float = 0.05
    class_weight_power: float = 0.5  # class weights are (n / 3 n_class)^power: 0 = none, 1 = balanced
    average: float = 0.995  # decay of the running mean of the weights, which is what is stored
    phrases: bool = True  # join the sentences of fusion_alpha.text.phrases
    max_tokens: int = 64
    seed: int = 1


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states of many texts, one after the other."""

    tokens: NDArray[np.float16]  # (all tokens, d)
    starts: NDArray[np.int64]  # (n + 1,)

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Hidden states (B, L, d) float32 and mask (B, L) of `rows`, L the longest of them."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        hidden = torch.zeros(len(rows), int(lengths.max()), self.tokens.shape[1])
        for place, row in enumerate(rows):
            own = self.tokens[self.starts[row] : self.starts[row + 1]].astype(np.float32)
            hidden[place, : len(own)] = torch.from_numpy(own)
        return hidden, torch.arange(hidden.shape[1]) < torch.from_numpy(lengths)[:, None]


def read(folder: Path, name: str) -> pd.DataFrame:
    """Texts as the interim layer holds them, label numbers as in LABELS, source; InputError for a wrong file."""
    file = folder / name
    if not file.is_file():
        raise InputError("no such file", file=file, remedy="--data names the folder of labelled text")
    try:
        rows = pd.read_csv(file, dtype=str)
    except ValueError as error:
        raise InputError(f"not readable ({error})", file=file, rule="a CSV of text, label, source, in UTF-8") from None
    missing = {"text", "label", "source"} - set(rows)
    if missing:
        raise InputError(f"columns missing: {sorted(missing)}", file=file, rule="text, label, source")
    unknown = sorted(set(rows["label"].dropna()) - set(LABELS))
    if unknown or rows[["text", "label"]].isna().any(axis=None):
        raise InputError(f"unknown or empty labels or texts: {unknown}", file=file, rule=f"labels {', '.join(LABELS)}")
    rows["text"] = [" ".join(pii.scrub(text).split()) for text in rows["text"]]
    rows["label"] = rows["label"].map(LABELS.index)
    return rows


def split(train: pd.DataFrame, chosen_on: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to train on and held-out headlines: no text twice, with two labels, or also in `chosen_on`."""
    labels = train.groupby("text")["label"].transform("nunique")
    train = train[(labels == 1) & ~train["text"].isin(chosen_on["text"])].drop_duplicates("text", ignore_index=True)
    headline = train["source"].str.startswith(HEADLINES)
    chosen = train["text"].map(lambda text: int(text_hash(text), 16) % HELD_OUT_OF == 0)
    held_out = headline & chosen.astype(bool)  # of no row, it has no type
    return train[~held_out].reset_index(drop=True), train[held_out].reset_index(drop=True)


def hidden_states(model: BertModel, encoder_ids: list[NDArray[np.int32]], layer: int) -> HiddenStates:
    """Run the frozen layers below `layer` once over all texts."""
    lengths = np.array([len(ids) for ids in encoder_ids])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.zeros((starts[-1], model.config.hidden_size), np.float16)
    model = copy.deepcopy(model)
    model.encoder.layer = model.encoder.layer[:layer]
    order = np.argsort(lengths, kind="stable")
    with Progress(console=console) as progress, torch.inference_mode():
        for start in progress.track(range(0, len(order), 32), description="hidden states"):
            rows = order[start : start + 32]
            ids = torch.zeros(len(rows), int(lengths[rows].max()), dtype=torch.int64)
            for place, row in enumerate(rows):
                ids[place, : lengths[row]] = torch.from_numpy(encoder_ids[row].astype(np.int64))
            mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths[rows])[:, None]
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()
            for place, row in enumerate(rows):
                tokens[starts[row] : starts[row + 1]] = hidden[place, : lengths[row]]
    return HiddenStates(tokens, starts)


def batches(lengths: NDArray[np.int64], recipe: Recipe, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
    """One epoch: shuffled, then sorted by length within blocks of batches (less padding), batches shuffled again."""
    order = torch.randperm(len(lengths), generator=generator).numpy()
    size, block = recipe.batch_size, 32 * recipe.batch_size
    found = []
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        found += [rows[at : at + size] for at in range(0, len(rows), size)]
    for number in torch.randperm(len(found), generator=generator):
        yield found[int(number)]


def train(
    branch: sentiment.SentimentBranch, states: HiddenStates, labels: NDArray[np.int64], recipe: Recipe
) -> sentiment.SentimentBranch:
    """Minimise the weighted cross-entropy; returns the running mean of the weights."""
    torch.manual_seed(recipe.seed)  # dropout
    generator = torch.Generator().manual_seed(recipe.seed)  # order of the rows
    counts = np.bincount(labels, minlength=len(LABELS))
    weight = torch.tensor((counts.sum() / (len(LABELS) * counts)) ** recipe.class_weight_power, dtype=torch.float32)
    loss_of = nn.CrossEntropyLoss(weight=weight, label_smoothing=recipe.label_smoothing)
    optimizer = torch.optim.AdamW(
        [
            {"params": branch.layers.parameters(), "lr": recipe.lr},
            {"params": branch.classifier.parameters(), "lr": recipe.lr_classifier},
        ],
        weight_decay=recipe.weight_decay,
    )
    steps = recipe.epochs * -(-len(labels) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (recipe.warm_up * steps), 1.0) * (1 - step / (steps + 1))
    )
    averaged = copy.deepcopy(branch)
    branch.train()
    with Progress(console=console) as progress:
        task = progress.add_task("training", total=steps)
        for _ in range(recipe.epochs):
            for rows in batches(np.diff(states.starts), recipe, generator):
                hidden, mask = states.batch(rows)
                keep = torch.rand(mask.shape) >= recipe.token_dropout
                keep[:, 0] = True
                loss = loss_of(branch(hidden, mask & keep), torch.from_numpy(labels[rows]))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(branch.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                with torch.no_grad():
                    for mean, value in zip(averaged.parameters(), branch.parameters(), strict=True):
                        mean.lerp_(value, 1 - recipe.average)
                progress.update(task, advance=1, description=f"training, loss {loss.item():.3f}")
    return averaged.eval()


def text_config(head: Path, recipe: Recipe) -> TextConfig:
    """MiniLM from the installed package with this head, as conf/text/minilm.yaml has it."""
    return TextConfig("minilm", None, None, str(head), 384, "torch", "float32", recipe.max_tokens, 16, 2)


def make(data: Path, out: Path, recipe: Recipe) -> dict[str, Any]:
    """Train, store and judge; returns what goes to the metrics file."""
    chosen_on, other = read(data, CHOSEN_ON), read(data, OTHER_DOMAIN)
    rows, held_out = split(read(data, TRAIN), chosen_on)
    counted = {"labelled texts": sentiment_card.class_counts(rows["label"].to_numpy())}
    if recipe.phrases:
        own = pd.DataFrame(sentences(), columns=["text", "label"])
        own["label"] = own["label"].map(LABELS.index)
        counted["sentences of our own grammar"] = sentiment_card.class_counts(own["label"].to_numpy())
        rows = pd.concat([rows, own], ignore_index=True)
    log.info("%d texts to train on, %d held-out headlines", len(rows), len(held_out))

    folder = weights.installed_package()
    encoder_sha256 = sha256(folder / weights.WEIGHTS)
    model = load_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids, _ = tokenize(tokenizer, rows["text"].tolist(), recipe.max_tokens)
    states = hidden_states(model, ids, recipe.first_layer)
    torch.manual_seed(recipe.seed)  # classifier
    branch = sentiment.SentimentBranch(model, recipe.first_layer, recipe.dropout)
    branch = train(branch, states, rows["label"].to_numpy(), recipe)
    description = {"encoder": "all-MiniLM-L6-v2", "encoder_sha256": encoder_sha256, "recipe": asdict(recipe)}
    sentiment.save(out, branch, model, description)

    encoder = MiniLM(text_config(out, recipe))
    judged = {
        CHOSEN_ON.removesuffix(".csv"): chosen_on,
        "sentfin_held_out": held_out,
        OTHER_DOMAIN.removesuffix(".csv"): other,
    }
    return {
        "encoder_sha256": encoder_sha256,
        "head_sha256": sha256(out / weights.WEIGHTS),
        "head_bytes": (out / weights.WEIGHTS).stat().st_size,
        "recipe": asdict(recipe),
        "versions": sentiment_card.versions(),
        "trained_on": counted,
        "judged": {
            name: sentiment_card.judge(encoder, texts["text"].tolist(), texts["label"].to_numpy())
            for name, texts in judged.items()
            if len(texts)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fusion_alpha.text.train_sentiment", description="Train the sentiment head of MiniLM."
    )
    parser.add_argument("--data", type=Path, required=True, help=f"folder of {TRAIN}, {CHOSEN_ON}, {OTHER_DOMAIN}")
    parser.add_argument("--out", type=Path, default=Path("models/sentiment_minilm"), help="folder of the head")
    parser.add_argument("--metrics", type=Path, default=Path("metrics/sentiment.json"), help="file of its figures")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; part of the result's last bits")
    arguments = parser.parse_args()
    set_up("train_sentiment")
    torch.set_num_threads(arguments.threads)
    figures = make(arguments.data, arguments.out, Recipe(seed=arguments.seed, epochs=arguments.epochs))
    write_json(arguments.metrics, figures)
    write_text(arguments.out / "README.md", sentiment_card.card(figures))


if __name__ == "__main__":
    main()
