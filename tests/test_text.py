"""Stage text: one row for each distinct text, embedded once, the same bits after a kill."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny_bert

from fusion_alpha import config, tables
from fusion_alpha.files import read_json
from fusion_alpha.text import text_hash
from fusion_alpha.text.cache import EmbeddingCache
from fusion_alpha.text.embed import embed
from fusion_alpha.text.encoders import create
from stages import text as stage

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert.build(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder as DVC gives it to an experiment, with its own main checkout for the cache."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "main"))
    (tmp_path / "work").mkdir()
    shutil.copy("params.yaml", tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def write_news(texts):
    news = tables.empty("news").reindex(range(len(texts)))
    news["news_id"] = [f"{number:032x}" for number in range(len(texts))]
    news["ticker"], news["source"], news["is_repost"] = "TSLA", "csv", False
    news["published_utc"] = pd.Timestamp("2019-01-02T15:00Z")
    news["text"] = texts
    tables.write("news", news)


def configured(folder, **changes):
    return replace(config.load([]), text=tiny_bert.config(folder, **changes))


def cached_rows(main: Path) -> int:
    files = list((main / ".cache" / "embeddings").glob("*.sqlite"))
    if not files:
        return 0
    database = sqlite3.connect(f"file:{files[0]}?mode=ro", uri=True)
    try:
        return database.execute("SELECT count(*) FROM texts").fetchone()[0]
    except sqlite3.OperationalError:  # the other process is just creating it
        return 0
    finally:
        database.close()


def test_one_row_for_each_distinct_text(workspace, folder):
    texts = tiny_bert.texts(50)
    write_news([*texts, *texts[:20]])
    cfg = configured(folder)
    stage.main(cfg)
    frame = tables.read("text")
    assert frame["text_hash"].tolist() == sorted(map(text_hash, texts))
    vectors = tables.vectors(frame["embedding"])
    assert vectors.dtype == np.float16
    assert vectors.shape == (50, tiny_bert.DIM)
    np.testing.assert_allclose(frame[["p_negative", "p_neutral", "p_positive"]].sum(axis=1), 1, atol=1e-12)
    figures = read_json(stage.METRICS)
    assert figures["distinct_texts"] == 50
    assert figures["tokens"]["max"] > 64 >= figures["tokens"]["p50"]
    assert 0 < figures["truncated_share"] < 0.2
    assert sum(figures["class_share"].values()) == pytest.approx(1, abs=1e-5)


def test_warm_rerun_encodes_nothing_and_gives_the_same_bytes(workspace, folder, monkeypatch):
    write_news(tiny_bert.texts(60))
    stage.main(configured(folder))
    first = (tables.schema("text").path.read_bytes(), stage.METRICS.read_bytes())

    def refuse(*_):
        raise AssertionError("the encoder was asked")

    monkeypatch.setattr("fusion_alpha.text.finbert.FinBert.stream", refuse)
    stage.main(configured(folder, threads=1))
    assert (tables.schema("text").path.read_bytes(), stage.METRICS.read_bytes()) == first


def test_only_new_texts_are_encoded(tmp_path, folder):
    encoder, texts = create(tiny_bert.config(folder)), tiny_bert.texts(40)
    asked = []
    stream = encoder.stream
    encoder.stream = lambda missing: asked.append(list(missing)) or stream(missing)
    with EmbeddingCache(tmp_path, encoder.spec) as cache:
        embed(texts[:25], [text_hash(text) for text in texts[:25]], encoder, cache)
        both = embed(texts, [text_hash(text) for text in texts], encoder, cache)
    assert asked == [texts[:25], texts[25:]]
    alone = embed(texts, [text_hash(text) for text in texts], encoder, None)
    assert both.embeddings.tobytes() == alone.embeddings.tobytes()
    assert both.probabilities.tobytes() == alone.probabilities.tobytes()


def test_no_news_gives_an_empty_table(workspace, folder):
    tables.write("news", tables.empty("news"))
    stage.main(configured(folder))
    assert tables.read("text").empty
    assert read_json(stage.METRICS)["tokens"]["max"] is None


def test_stub_says_that_it_carries_no_meaning_and_leaves_no_cache(workspace, caplog):
    write_news(tiny_bert.texts(30))
    cfg = config.load(["text.name=stub", "text.engine=none", "text.dim=16"])
    stage.main(cfg)
    assert "carry no meaning" in caplog.text
    assert tables.vectors(tables.read("text")["embedding"]).shape == (30, 16)
    assert not (workspace / "main" / ".cache").exists()


def test_a_kill_in_the_middle_loses_one_batch_and_changes_no_byte(workspace, folder):
    texts = tiny_bert.texts(1500)
    write_news(texts)
    stage.main(configured(folder, batch_size=2))
    expected = (tables.schema("text").path.read_bytes(), stage.METRICS.read_bytes())
    tables.schema("text").path.unlink()
    stage.METRICS.unlink()

    main = workspace / "killed"
    command = [sys.executable, "-m", "stages.text", "text.name=finbert", f"text.path={folder}", "text.sha256=null"]
    command += ["text.head=null", f"text.dim={tiny_bert.DIM}", "text.batch_size=2"]
    env = os.environ | {"DVC_ROOT": str(main), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
    while cached_rows(main) < 40 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = cached_rows(main)
    assert 40 <= kept < len(texts)
    assert not tables.schema("text").path.exists()

    rerun = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    said = " ".join(rerun.stderr.split())
    assert f"{kept} from the cache, {len(texts) - kept} to encode" in said
    assert (tables.schema("text").path.read_bytes(), stage.METRICS.read_bytes()) == expected


def test_importing_the_stage_does_not_load_the_models():
    code = "import sys, stages.text; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
