"""Views and questions: every table has its view, and the answers are those of a calculation by hand."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fusion_alpha import sql
from fusion_alpha.errors import InputError

ROOT = Path(__file__).parents[1]
QUESTIONS = ROOT / "docs/questions.sql"
SESSIONS = pd.to_datetime(["2018-01-02", "2018-01-03", "2019-07-01"])
# ticker, session, kind, target_ret, severity, split; the last two: of test, and not a contradiction
ROWS = [
    ("AAPL", 0, "overhype", -0.0100, 0.10, "train"),
    ("XOM", 0, "overhype", -0.0300, 0.95, "train"),
    ("AAPL", 1, "overhype", 0.0200, 1.00, "dev"),
    ("AAPL", 2, "underhype", 0.0050, 0.50, "dev"),
    ("XOM", 1, "underhype", 9.0, 0.50, "test"),
    ("XOM", 2, "none", 9.0, 0.00, "train"),
]


@pytest.fixture
def lake(tmp_path):
    """Three tables and the sectors, without the columns that nobody asks for; news at 15:30 New York, or 11:30."""
    rows = pd.DataFrame(ROWS, columns=["ticker", "session", "kind", "target_ret", "severity", "split"])
    rows["session"] = SESSIONS[rows["session"]]
    closes = (rows["session"] + pd.Timedelta(hours=16)).dt.tz_localize("America/New_York")
    rows["bar_close_utc"] = closes.dt.tz_convert("UTC")
    key = ["ticker", "bar_close_utc"]
    news = rows[key].assign(published_utc=rows["bar_close_utc"] - pd.Timedelta(minutes=30))
    early = news.assign(published_utc=news["published_utc"] - pd.Timedelta(hours=4))
    stored = {
        "processed/panel": rows[[*key, "session", "split", "target_ret"]],
        "features/contradiction": rows[[*key, "kind", "severity"]].assign(cs=1.0, n_news=1),
        "processed/news_bars": pd.concat([early, news[rows["ticker"] == "AAPL"]]),
    }
    for name, frame in stored.items():
        path = tmp_path / f"data/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf/sectors.csv").write_text("ticker,sector\nAAPL,technology\n")
    return tmp_path


def asked(lake, question):
    return sql.connect(lake).execute(sql.questions(QUESTIONS)[question][1]).fetchall()


def test_every_table_has_the_view_of_its_layer_and_file():
    views = sql.VIEWS.read_text()
    for path in (ROOT / "schemas").glob("*.yaml"):
        table = yaml.safe_load(path.read_text())
        name = f"{table['layer']}.{table['table']}"
        assert f"create view {name} as from 'data/{name.replace('.', '/')}.parquet';" in views


def test_a_session_counts_once_and_test_rows_not_at_all(lake):
    # overhype against the sign: session 0 (100 + 300) / 2, session 1 -200; se = sd(200, -200) / sqrt(2)
    error = round(np.std([200, -200], ddof=1) / np.sqrt(2), 1)
    assert asked(lake, "kind") == [("overhype", 3, 2, 0.0, error), ("underhype", 1, 1, 50.0, None)]


def test_groups_are_what_their_names_say(lake):
    technology = [100.0, -200.0, 50.0]
    error = round(np.std(technology, ddof=1) / np.sqrt(3), 1)
    assert asked(lake, "sector") == [("technology", 3, 3, -16.7, error), ("unknown", 1, 1, 300.0, None)]
    assert [row[:4] for row in asked(lake, "severity")] == [(0.0, 1, 1, 100.0), (0.4, 1, 1, 50.0), (0.8, 2, 2, 50.0)]
    # the latest item counts, in New York's time, in winter and in summer
    assert [row[:4] for row in asked(lake, "hour")] == [(11, 1, 1, 300.0), (15, 3, 3, -16.7)]
    assert [row[:4] for row in asked(lake, "year")] == [(2018, 3, 2, 0.0), (2019, 1, 1, 50.0)]


def test_all_questions_run_on_the_tables_of_the_last_run():
    if not Path("data/features/contradiction.parquet").exists():
        pytest.skip("no tables: `dvc repro` makes them")
    connection = sql.connect()
    for question, (_, text) in sql.questions(QUESTIONS).items():
        assert connection.execute(text).fetchall(), question


def test_the_command_shows_titles_and_answers_and_says_what_is_wrong(lake, monkeypatch, capsys):
    monkeypatch.chdir(lake)
    assert sql.main([str(QUESTIONS)]) == 0
    shown = capsys.readouterr().out
    assert shown.index("Which contradictions paid?") < shown.index("overhype") < shown.index("In which sectors?")
    assert sql.main(["select nope from contradictions"]) == 2
    assert "nope" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO("select 41 + 1\n  as answer;\n"))
    assert sql.main([]) == 0
    assert "42" in capsys.readouterr().out


TABLE = "data/features/contradiction.parquet"
WRITES = {
    "copy": f"copy (select 1) to '{TABLE}'",
    "copy after a comment": f"/* a */ copy (select 1) to '{TABLE}' -- select",
    "copy behind letters of two bytes": f"with a as (copy (select 'üü') to '{TABLE}') from a",
    "copy in a with": f"with a as (copy (select 1) to '{TABLE}') from a",
    "copy of a pivot": f"copy (pivot sectors on sector) to '{TABLE}'",
    "copy that is explained": f"explain analyze copy (select 1) to '{TABLE}'",
    "copy in a with that is explained": f"explain (analyze) with a as (copy (select 1) to '{TABLE}') from a",
    "a query before it": f"select 1; copy (select 1) to '{TABLE}'",
    "export": "export database 'data/features'",
    "attach": "attach 'new.db'",
    "set": "set threads = 1",
    "log": "call enable_logging('QueryLog', storage = 'file', storage_path = 'logs')",
    "log by a query": "from enable_logging('QueryLog', storage = 'file', storage_path = 'logs')",
    "profile": "pragma enable_profiling = 'json'",
    "profile to a file": "pragma profiling_output = 'new.json'",
    "install": "install httpfs",
    "create": "create table a as select 1",
    "a key kept for good": "explain analyze create persistent secret a (type http)",
}


@pytest.mark.parametrize("write", WRITES)
def test_what_could_write_is_refused_and_changes_nothing(lake, monkeypatch, capsys, write):
    monkeypatch.chdir(lake)
    monkeypatch.setenv("HOME", str(lake))
    before = {path: path.read_bytes() for path in lake.rglob("*") if path.is_file()}
    assert sql.main([WRITES[write]]) == 2
    assert "remedy" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in lake.rglob("*") if path.is_file()} == before


def test_a_serialized_query_that_writes_is_refused(lake, monkeypatch, capsys):
    monkeypatch.chdir(lake)
    held = (lake / TABLE).read_bytes()
    connection = sql.connect()
    (packed,) = connection.execute("select json_serialize_sql(?)", [WRITES["copy in a with"]]).fetchone()
    for name in ("json_execute_serialized_sql", '"JSON_execute_serialized_sql"'):
        assert sql.main([f"from {name}('{packed}')"]) == 2
        assert "not a query" in capsys.readouterr().err
    assert (lake / TABLE).read_bytes() == held


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("select 'copy' as said -- copy", "copy"),
        ("describe contradictions", "severity"),
        ("show all tables", "contradiction"),
        ("summarize sectors", "technology"),
        ("pivot sectors on sector", "technology"),
        ("explain from sectors", "CSV"),
        ("with a as (from sectors) select count(*) as number from a;", "number"),
    ],
)
def test_queries_of_every_kind_are_answered(lake, query, shown):
    assert shown in sql.answer(sql.connect(lake), query)


def test_an_answer_has_all_columns_and_says_how_many_rows_there_are(lake):
    connection = sql.connect(lake)
    wide = sql.answer(connection, "select " + ", ".join(f"{n} as column_{n}" for n in range(100)))
    assert [f"column_{n} " in wide for n in range(100)] == [True] * 100
    assert wide.endswith("1 row\n")
    long = sql.answer(connection, "select range + 100000 as number from range(999) order by number desc")
    assert [str(100_000 + n) in long for n in range(999)] == [True] * 999
    assert long.endswith("999 rows\n")
    longer = sql.answer(connection, "select range + 100000 as number from range(20_500)")
    assert "100999" in longer
    assert "101000" not in longer
    assert longer.endswith("20500 rows, the first 1000 shown; `limit 1000 offset 1000` shows the next\n")
    assert "x" * 200 in sql.answer(connection, "select repeat('x', 200) as said")


def test_where_there_are_no_tables_it_says_how_to_get_them(tmp_path):
    with pytest.raises(InputError, match="dvc repro"):
        sql.connect(tmp_path)


def test_the_book_shows_the_same_answers_and_can_do_without(lake, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import exhibits
    import results

    monkeypatch.setattr(results, "ROOT", lake)
    # A year is shown as text: as a number it would get a thousands separator.
    assert [tuple(row) for row in exhibits.answer("year").rows] == [
        (str(year), *rest) for year, *rest in asked(lake, "year")
    ]
    (lake / "data/features/contradiction.parquet").unlink()
    assert "No tables here" in exhibits.answer("year")._repr_html_()
