"""The cache gives back the bits that it was given, also after a kill, beside other processes and after damage."""

import multiprocessing
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from fusion_alpha.errors import InputError
from fusion_alpha.text.cache import Embedded, EmbeddingCache
from fusion_alpha.text.encoders import Spec

SPEC = Spec("tiny", 8, "weights", "head", 64, "torch", "float32", 16)


def rows(n, seed=1):
    rng = np.random.default_rng(seed)
    return Embedded(rng.normal(size=(n, 8)).astype(np.float16), rng.dirichlet([1, 1, 1], n), rng.integers(3, 90, n))


def names(n):
    return [f"{number:032x}" for number in range(n)]


def assert_equal(found, expected):
    assert found.embeddings.tobytes() == expected.embeddings.tobytes()
    assert found.probabilities.tobytes() == expected.probabilities.tobytes()
    assert found.n_tokens.tolist() == expected.n_tokens.tolist()


def test_gives_back_the_same_bits_in_the_order_asked_for(tmp_path):
    with EmbeddingCache(tmp_path, SPEC) as cache:
        cache.put(names(1200), rows(1200))
    with EmbeddingCache(tmp_path, SPEC) as cache:
        known, found = cache.get([*names(1200)[::-1], "f" * 32])
    assert known.tolist() == [True] * 1200 + [False]
    assert found.embeddings[:-1][::-1].tobytes() == rows(1200).embeddings.tobytes()
    assert found.probabilities[:-1][::-1].tobytes() == rows(1200).probabilities.tobytes()
    assert not found.embeddings[-1].any()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"weights_sha256": "other"},
        {"head_sha256": None},
        {"max_tokens": 48},
        {"engine": "onnx"},
        {"precision": "int8"},
        {"batch_size": 8},
    ],
)
def test_another_encoder_never_meets_these_rows(tmp_path, change):
    with EmbeddingCache(tmp_path, SPEC) as cache:
        cache.put(names(3), rows(3))
    with EmbeddingCache(tmp_path, replace(SPEC, **change)) as cache:
        assert not cache.get(names(3))[0].any()


@pytest.mark.parametrize(
    "damage", ["row = zeroblob(length(row))", "row = 'short'", "checksum = zeroblob(8)", "row = NULL"]
)
def test_a_damaged_row_is_unknown_and_said_so(tmp_path, damage, caplog):
    with EmbeddingCache(tmp_path, SPEC) as cache:
        cache.put(names(3), rows(3))
        database = sqlite3.connect(cache.path)
        with database:
            database.execute(f"UPDATE texts SET {damage} WHERE text_hash = ?", (names(3)[1],))
        database.close()
        known, _ = cache.get(names(3))
        assert known.tolist() == [True, False, True]
        assert "1 damaged rows" in caplog.text
        cache.put(names(3), rows(3))
        assert_equal(cache.get(names(3))[1], rows(3))


def test_a_damaged_file_is_a_clear_error_and_stays(tmp_path):
    with EmbeddingCache(tmp_path, SPEC) as cache:
        path = cache.path
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="delete it"):
        EmbeddingCache(tmp_path, SPEC)
    assert path.exists()


def test_a_truncated_file_is_a_clear_error(tmp_path):
    with EmbeddingCache(tmp_path, SPEC) as cache:
        cache.put(names(500), rows(500))
        path = cache.path
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(InputError, match="delete it"), EmbeddingCache(tmp_path, SPEC) as cache:
        cache.get(names(500))


def fill(folder, barrier, start):
    barrier.wait()
    with EmbeddingCache(folder, SPEC) as cache:
        for at in range(start, start + 200, 10):
            cache.put(names(1000)[at : at + 10], rows(10, seed=at))


def test_processes_that_start_and_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=fill, args=(tmp_path, barrier, 200 * number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    with EmbeddingCache(tmp_path, SPEC) as cache:
        known, found = cache.get(names(800))
    assert known.all()
    assert found.embeddings[790:].tobytes() == rows(10, seed=790).embeddings.tobytes()
