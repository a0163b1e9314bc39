"""The stage clean, from files to tables: every bad input is named or stopped, and nothing is ever lost."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from source_inputs import ROOT, archive, bar, configuration, csv_folder, days, item, set_line, stocknet_files

from fusion_alpha import pii, tables
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json
from stages import clean, ingest

TSLA, NEWS = "prices/TSLA.csv", "news/2015.jsonl"


@pytest.fixture(autouse=True)
def _workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv(pii.KEY_VARIABLE, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def folder(tmp_path):
    return csv_folder(tmp_path / "mine")


def configured(folder, share=0.02):
    cfg = configuration("csv", {"folder": str(folder)})
    return replace(cfg, clean=replace(cfg.clean, max_rejected_share=share))


def run(folder, share=0.02):
    cfg = configured(folder, share)
    ingest.main(cfg)
    clean.main(cfg)


def content(*folders):
    return {
        str(path): path.read_bytes() for folder in folders for path in sorted(Path(folder).rglob("*")) if path.is_file()
    }


def test_sound_input_becomes_four_tables_and_metrics(folder):
    run(folder)
    assert len(tables.read("prices")) == 120
    assert len(tables.read("news")) == 60
    assert tables.read("rejected").empty
    assert tables.read("benchmark").empty
    assert read_json(Path("metrics/clean.json"))["prices"]["kept"] == 120


def test_the_same_raw_gives_the_same_bytes(folder):
    run(folder)
    first = content("data", "metrics")
    clean.main(configured(folder))
    assert content("data", "metrics") == first


ROWS = {  # what is wrong: (file, line, text of that line, column, rule or a part of it)
    "negative price": (TSLA, 5, bar(days(4)[3], -7.0), "open", "positive and finite"),
    "high < low": (TSLA, 5, f"{days(4)[3]},100,97,98,99,50,1", "high", "at least open, close and low"),
    "duplicate session": (TSLA, 5, bar(days(3)[2]), "date", "unique bar of a ticker"),
    "unparsable date": (TSLA, 5, bar("5th of May"), "date", "YYYY-MM-DD"),
    "not a session": (TSLA, 5, bar("2015-01-10"), "date", "a session of XNYS"),
    "text for a number": (TSLA, 5, f"{days(4)[3]},1oo,102,98,101,50,1", "open", "a number"),
    "a field too few": (TSLA, 5, f"{days(4)[3]},100,102", "row", "7 fields"),
    "truncated JSON line": (NEWS, 9, item(8)[:30], "line", "one whole JSON object"),
    "item from the future": (NEWS, 9, item(8, published="2031-01-01T00:00:00Z"), "published_utc", "from the future"),
    "time without a zone": (NEWS, 9, item(8, published="2015-01-05T15:00:00"), "published_utc", "its zone"),
    "empty text": (NEWS, 9, item(8, text=" "), "text", "not empty"),
    "id used twice": (NEWS, 9, item(3), "id", "unique item of a ticker"),
}


@pytest.mark.parametrize("fault", ROWS)
def test_a_bad_row_is_rejected_with_its_place_and_its_neighbours_stay(folder, fault):
    file, line, text, column, rule = ROWS[fault]
    set_line(folder / file, line, text)
    run(folder)
    (row,) = tables.read("rejected").itertuples(index=False)
    assert (row.source_file, row.line, row.column) == (file, line, column)
    assert rule in row.rule
    metrics = read_json(Path("metrics/clean.json"))
    table = "prices" if file == TSLA else "news"
    assert (metrics["prices"]["kept"], metrics["news"]["kept"]) == ((119, 60) if table == "prices" else (120, 59))
    assert metrics[table]["rejected"] == 1


@pytest.mark.parametrize("fault", ROWS)
def test_where_no_bad_row_is_allowed_it_stops_and_nothing_is_lost(folder, fault):
    run(folder)
    before = content("data/interim", "metrics")
    file, line, text, column, rule = ROWS[fault]
    set_line(folder / file, line, text)
    with pytest.raises(InputError) as error:
        run(folder, share=0.0)
    for word in (f"file {file}, line {line}, column {column}", rule, "clean.max_rejected_share", "remedy"):
        assert word in str(error.value)
    assert content("data/interim", "metrics") == before
    assert (ingest.RAW / file).read_bytes() == (folder / file).read_bytes()


FILES = {  # what is wrong: (file, content, words of the message)
    "missing column": (TSLA, b"Date,Open,High,Low,Volume\n", [TSLA, "line 1", "column close", "missing"]),
    "no header": (TSLA, b"", [TSLA, "empty", "names the columns"]),
    "not UTF-8": (NEWS, b'{"id": 1}\n{"text": "caf\xe9"}\n', [NEWS, "line 2", "byte 23", "0xe9", "UTF-8", "iconv"]),
    "prices not UTF-8": (TSLA, b"Date,Open\n\xff\xfe\n", [TSLA, "line 2", "byte 10", "UTF-8"]),
    "quote never closed": (TSLA, b'Date,Open\n"2015,1\n', [TSLA, "not CSV"]),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_file_that_cannot_be_read_stops_and_nothing_is_lost(folder, fault):
    run(folder)
    before = content("data/interim", "metrics")
    file, damaged, words = FILES[fault]
    (folder / file).write_bytes(damaged)
    with pytest.raises(InputError) as error:
        run(folder)
    for word in words:
        assert word in str(error.value)
    assert content("data/interim", "metrics") == before
    assert (ingest.RAW / file).read_bytes() == damaged


def test_raw_that_was_edited_is_refused(folder):
    run(folder)
    set_line(ingest.RAW / TSLA, 5, bar(days(4)[3], 7.0))
    with pytest.raises(InputError, match="not as it was fetched"):
        clean.main(configured(folder))


def test_raw_of_another_source_is_refused(tmp_path, folder):
    run(folder)
    with pytest.raises(InputError, match="raw data is from source 'csv'"):
        clean.main(configuration("stocknet", {"archive": str(archive(tmp_path / "a.zip", stocknet_files()))}))


def test_stocknet_archive_to_tables(tmp_path):
    cfg = configuration("stocknet", {"archive": str(archive(tmp_path / "a.zip", stocknet_files()))})
    ingest.main(cfg)
    clean.main(cfg)
    news = tables.read("news")
    assert sorted(news["text"]) == ["RT @user: b & c", "tweet 1", "tweet 3"]
    assert len(tables.read("benchmark")) == 11


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from fusion_alpha import tables
from test_clean import configured
from stages import clean
whole = tables.pq.write_table
def killed(table, path, **options):
    whole(table, path, **options)
    if "{table}" in str(path):
        os.truncate(path, 100)
        os.kill(os.getpid(), signal.SIGKILL)
tables.pq.write_table = killed
clean.main(configured({folder!r}))
"""


@pytest.mark.parametrize("table", ["prices", "rejected"])
def test_killed_in_the_middle_then_run_again(folder, table):
    run(folder)
    finished = content("data", "metrics")
    code = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"), table=table, folder=str(folder))
    done = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    present = content("data", "metrics")
    assert {path: present[path] for path in finished} == finished  # the finished run's tables are whole
    assert len(present) > len(finished)  # beside them lies what the killed one had begun
    clean.main(configured(folder))
    assert content("data", "metrics") == finished
