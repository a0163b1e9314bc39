"""The committed sentiment head: plain sentences, its card's figures, and a training that repeats itself."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fusion_alpha import config
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, sha256
from fusion_alpha.text import phrases, sentiment, sentiment_card, train_sentiment, weights
from fusion_alpha.text.encoders import LABELS, create, encode
from fusion_alpha.text.minilm import load_model
from fusion_alpha.text.transformer import mean_pool

HEAD = Path("models/sentiment_minilm")
METRICS = Path("metrics/sentiment.json")

PLAIN = {
    "negative": [
        "The company cut its full-year outlook after a weak quarter",
        "Shares plunge 15% on accounting fraud allegations",
        "Operating loss widened to 45 million from 12 million",
        "Broker downgrades the stock to sell and slashes its price target",
        "Retailer files for bankruptcy protection",
        "Stocks tumble as recession fears grow",
        "Regulators fined the bank over money laundering",
        "@user dividend suspended as cash runs short <url>",
    ],
    "neutral": [
        "The company will report its results on Thursday",
        "The annual meeting of shareholders takes place in Boston",
        "The firm appointed a new head of human resources",
        "The bank's headquarters are located in Zurich",
        "Shares of the company are listed on the Nasdaq",
        "Five things to know before the opening bell",
        "Board elects a new chairman",
        "@user earnings call transcript <url>",
    ],
    "positive": [
        "Quarterly profit doubled and the company raised its full-year guidance",
        "Shares jump 8% after the retailer beats analyst estimates",
        "The board approved a bigger dividend and a new share buyback",
        "Broker upgrades the chipmaker to buy and lifts its price target",
        "Net sales rose 12 percent thanks to strong demand in Europe",
        "Stocks rally as inflation cools more than expected",
        "Record orders push the order book to its highest level ever",
        "@user the airline returned to profit <url>",
    ],
}


@pytest.fixture(scope="module")
def encoder():
    return create(config.load([]).text)


@pytest.fixture(scope="module")
def model():
    return load_model(weights.installed_package())


@pytest.mark.parametrize("label", LABELS)
def test_plain_sentences(encoder, label):
    probabilities = encode(encoder, PLAIN[label])[1]
    said = [LABELS[number] for number in probabilities.argmax(1)]
    assert dict(zip(PLAIN[label], said, strict=True)) == dict.fromkeys(PLAIN[label], label)


def test_committed_head_reproduces_its_cards_figures(encoder, shared_data):
    rows = train_sentiment.read(shared_data / "sentiment", train_sentiment.CHOSEN_ON)
    found = sentiment_card.judge(encoder, rows["text"].tolist(), rows["label"].to_numpy())
    stated = read_json(METRICS)["judged"]["tfns_valid"]
    assert found["n"] == stated["n"]
    for name in ("accuracy", "macro_f1"):
        assert found[name] == pytest.approx(stated[name], abs=0.002)


def test_card_config_and_figures_are_about_the_committed_file():
    figures, described = read_json(METRICS), read_json(HEAD / "config.json")
    assert figures["head_sha256"] == described["weights_sha256"] == sha256(HEAD / "model.safetensors")
    assert figures["encoder_sha256"] == described["encoder_sha256"] == config.load([]).text.sha256
    assert (HEAD / "README.md").read_text() == sentiment_card.card(figures)
    assert (HEAD / "model.safetensors").stat().st_size < 8e6


def test_head_is_well_above_the_majority_and_an_mlp_on_the_frozen_embedding():
    judged = read_json(METRICS)["judged"]["tfns_valid"]
    assert judged["accuracy"] > 0.85
    assert judged["macro_f1"] > 0.80


def test_stored_branch_is_the_trained_one_but_for_rounding(model, tmp_path):
    torch.manual_seed(2)
    branch = sentiment.SentimentBranch(model, first_layer=4)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    sentiment.save(tmp_path, branch, model, {"encoder_sha256": "its hash"})
    loaded, _ = sentiment.load(tmp_path, model, "its hash")
    hidden, mask = torch.randn(3, 9, 384), torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    with torch.inference_mode():
        torch.testing.assert_close(loaded(hidden, mask), branch.eval()(hidden, mask), atol=5e-3, rtol=0)


def test_untuned_branch_continues_the_encoder_exactly(model):
    """The upper layers fed with the right hidden state give the encoder's own last one."""
    branch = sentiment.SentimentBranch(model, first_layer=3).eval()
    ids = torch.tensor([[101, 5194, 3604, 102, 0, 0], [101, 2204, 2739, 2055, 2482, 102]])
    mask = ids != 0
    with torch.inference_mode():
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        hidden = out.hidden_states[3]
        for layer in branch.layers:
            hidden = layer(hidden, mask[:, None, None, :])
    torch.testing.assert_close(mean_pool(hidden, mask), mean_pool(out.last_hidden_state, mask), atol=1e-5, rtol=0)


def test_damaged_head_and_head_of_another_encoder_are_refused(model, tmp_path):
    encoder_sha256 = read_json(HEAD / "config.json")["encoder_sha256"]
    with pytest.raises(InputError, match="the SHA-256 of the encoder"):
        sentiment.load(HEAD, model, "0" * 64)
    shutil.copytree(HEAD, tmp_path / "head")
    weights_file = tmp_path / "head" / "model.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-100])
    with pytest.raises(InputError, match="the SHA-256 of the head's weights"):
        sentiment.load(tmp_path / "head", model, encoder_sha256)
    weights_file.unlink()
    with pytest.raises(InputError, match="no such file"):
        sentiment.load(tmp_path / "head", model, encoder_sha256)


@pytest.fixture
def small_data(tmp_path):
    folder = tmp_path / "labelled"
    folder.mkdir()
    rows = pd.DataFrame([(text, label, "own") for label in LABELS for text in PLAIN[label]])
    rows.columns = ["text", "label", "source"]
    rows[::2].to_csv(folder / train_sentiment.TRAIN, index=False)
    rows[1::2].to_csv(folder / train_sentiment.CHOSEN_ON, index=False)
    rows[1::4].to_csv(folder / train_sentiment.OTHER_DOMAIN, index=False)
    return folder


def test_equal_data_and_seed_give_an_equal_file(small_data, tmp_path):
    recipe = train_sentiment.Recipe(epochs=1, batch_size=4, phrases=False)
    figures = [train_sentiment.make(small_data, tmp_path / name, recipe) for name in ("a", "b")]
    assert figures[0] == figures[1]
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    other = train_sentiment.make(small_data, tmp_path / "c", replace(recipe, seed=2))
    assert other["head_sha256"] != figures[0]["head_sha256"]


def test_training_texts_are_those_of_the_interim_layer(small_data):
    file = small_data / train_sentiment.TRAIN
    pd.DataFrame(
        {
            "text": ["@someone sells  $TSLA https://t.co/abc", "mail me: a.b@example.com", "call +1 212-555-0100 now"],
            "label": ["negative", "neutral", "neutral"],
            "source": "own",
        }
    ).to_csv(file, index=False)
    rows = train_sentiment.read(small_data, train_sentiment.TRAIN)
    assert rows["text"].tolist() == ["@user sells $TSLA <url>", "mail me: <email>", "call <phone> now"]
    assert rows["label"].tolist() == [0, 1, 1]


def test_no_text_is_trained_on_twice_or_judged_on():
    headline = f"{train_sentiment.HEADLINES}/single-sentiment"
    train = pd.DataFrame(
        [("a", 0, "own"), ("a", 0, "own"), ("b", 0, "own"), ("b", 1, "own"), ("judged", 2, "own")]
        + [(f"headline {number}", 1, headline) for number in range(400)],
        columns=["text", "label", "source"],
    )
    kept, held_out = train_sentiment.split(train, pd.DataFrame({"text": ["judged"]}))
    assert kept["text"].tolist()[0] == "a"
    assert not set(kept["text"]) & {"b", "judged"}
    assert not set(kept["text"]) & set(held_out["text"])
    assert len(kept) + len(held_out) == 401
    assert 5 <= len(held_out) <= 40


def test_sentences_of_the_grammar_are_distinct_balanced_and_not_those_judged_here():
    pairs = phrases.sentences()
    texts = [text for text, _ in pairs]
    counts = [sum(label == each for _, label in pairs) for each in LABELS]
    assert len(set(texts)) == len(texts) > 1500
    assert min(counts) > 0.15 * len(texts)
    assert not {text.lower() for text in texts} & {text.lower() for group in PLAIN.values() for text in group}
    assert not any(mark in text for text in texts for mark in "{}")
    labels = dict(pairs)
    assert labels["net loss of the company fell in the first quarter"] == "positive"
    assert labels["net loss of the company rose in the first quarter"] == "negative"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"text": ["a"], "label": ["good"], "source": ["own"]}, r"labels or texts: \['good'\]"),
        ({"text": [None], "label": ["neutral"], "source": ["own"]}, "empty"),
        ({"text": ["a"], "label": ["neutral"]}, r"columns missing: \['source'\]"),
    ],
)
def test_wrong_labelled_files_are_refused(tmp_path, rows, message):
    pd.DataFrame(rows).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(InputError, match=message):
        train_sentiment.read(tmp_path, "x.csv")
    with pytest.raises(InputError, match="no such file"):
        train_sentiment.read(tmp_path, "y.csv")


def test_judge_counts_by_hand():
    class Fixed:
        spec = type("Spec", (), {"dim": 1})

        def stream(self, texts):
            from fusion_alpha.text.encoders import Part

            probabilities = np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
            yield Part(np.arange(4), np.zeros((4, 1), np.float32), probabilities, np.ones(4, np.int64))

    figures = sentiment_card.judge(Fixed(), list("abcd"), np.array([0, 1, 0, 1]))
    assert figures["confusion"] == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert figures["accuracy"] == 0.5
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 0) / 3, abs=1e-4)
    assert figures["calibration_error"] == pytest.approx(0.3)
    assert figures["per_class"]["neutral"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5}
