"""The hash of a text is a stable name that needs no heavy import."""

import re
import subprocess
import sys

import duckdb

from fusion_alpha.text import text_hash, text_hashes


def test_known_answer_and_form():
    assert text_hash("") == "e3b0c44298fc1c149afbf4c8996fb924"  # half of what `sha256sum` prints for nothing
    assert re.fullmatch("[0-9a-f]{32}", text_hash("TSLA beats the estimates €"))


def test_the_news_join_computes_the_same_hash_in_sql():
    texts = ["", "TSLA beats the estimates €", "naïve 🚀 'quoted' \"text\"", "x" * 5000]
    rows = duckdb.sql("SELECT left(sha256(text), 32) FROM (SELECT unnest($texts) AS text)", params={"texts": texts})
    assert [found for (found,) in rows.fetchall()] == text_hashes(texts)


def test_differs_on_case_space_and_accents():
    texts = ["Apple", "apple", "apple ", "applé", ""]
    assert len(set(text_hashes(texts))) == len(texts)


def test_many_equals_one_by_one_in_order():
    texts = ["b", "a", "b", "c", "a"]
    assert text_hashes(texts) == [text_hash(text) for text in texts]
    assert text_hashes([]) == []


def test_import_is_light():
    code = "import sys, fusion_alpha.text; assert not {'torch', 'transformers', 'sqlite3', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
