"""The benchmark of the text encoder: equal texts for all, the ratio is to the peer, wrong input is said so."""

import csv
import time

import numpy as np
import pytest

from fusion_alpha.errors import InputError
from fusion_alpha.text import bench


def sleeper(name, seconds, flip=False):
    def run(texts):
        time.sleep(seconds)
        probabilities = np.tile([0.1, 0.2, 0.7], (len(texts), 1))
        if flip:
            probabilities[0] = probabilities[0, ::-1]
        return np.tile(np.float32([0.6, 0.8]), (len(texts), 1)), probabilities

    return bench.Provider(name, "float32", run)


def test_ratio_to_the_peer_and_agreement_of_labels():
    found = [sleeper("plain", 0.06), sleeper("onnx", 0.01, flip=True)]
    rows = bench.measure(found, ["a", "b", "c", "d"], threads=1, rounds=3)
    assert [row["provider"] for row in rows] == ["plain", "onnx"]
    assert rows[0]["x_plain"] == 1
    assert 2 < rows[1]["x_plain"] < 8
    assert (rows[0]["agreement"], rows[1]["agreement"]) == (1.0, 0.75)
    assert rows[1]["cosine_least"] == pytest.approx(1)
    assert set(rows[0]) <= set(bench.COLUMNS)


def test_texts_are_distinct_and_spread_over_the_labs_companies():
    texts = bench.headlines(200)
    assert len(set(texts)) == 200
    assert len(set(bench.headlines(20)) & set(texts)) < 20
    with pytest.raises(InputError, match="ask for fewer"):
        bench.headlines(10**6)


def test_tweets_are_cleaned(shared_data):
    texts = bench.tweets(shared_data / "stocknet" / "stocknet-dataset-master.zip", 40)
    assert len(set(texts)) == 40
    assert not any("http://" in text or "https://" in text for text in texts)


def test_committed_rows_have_the_columns_and_all_providers():
    if not bench.OUTPUT.exists():
        pytest.skip("nobody has measured yet")
    with bench.OUTPUT.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == bench.COLUMNS
    assert {row["provider"] for row in rows} == {"plain", "plain_embedding", "torch", "onnx"}
