"""The hash of a text is a stable name that needs no heavy import."""

import re
import subprocess
import sys

from fusion_alpha.text import text_hash, text_hashes


def test_known_answer_and_form():
    # BLAKE2b with a 16-byte digest, as `b2sum -l 128` prints it
    assert text_hash("") == "cae66941d9efbd404e4d88758ea67670"
    assert re.fullmatch("[0-9a-f]{32}", text_hash("TSLA beats the estimates €"))


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
