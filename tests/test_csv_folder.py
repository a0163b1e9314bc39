"""A user's own folder: what is read, what is refused and where, and adjustment from actions."""

import numpy as np
import pandas as pd
import pytest
from source_inputs import configuration, csv_folder, days, item, set_line

from fusion_alpha.errors import InputError
from fusion_alpha.sources import csv_folder as source
from fusion_alpha.sources import parsing


@pytest.fixture
def folder(tmp_path):
    return csv_folder(tmp_path / "mine")


def fetch(folder, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir(exist_ok=True)
    return source.fetch(configuration("csv", {"folder": str(folder)}), raw), raw


def read(folder):
    return source.read(configuration("csv"), folder)


def test_files_are_copied_unchanged_and_others_ignored(folder, tmp_path):
    (folder / "notes.txt").write_text("mine")
    (folder / "prices/old").mkdir()
    (folder / "prices/old/TSLA.csv").write_text("x")
    fetched, raw = fetch(folder, tmp_path)
    assert [file.url for file in fetched] == ["file:news/2015.jsonl", "file:prices/AAPL.csv", "file:prices/TSLA.csv"]
    for file in fetched:
        assert file.path.read_bytes() == (folder / file.path.relative_to(raw)).read_bytes()


@pytest.mark.parametrize("given", ["nowhere", "empty"])
def test_no_folder_no_data(given, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as error:
        source.fetch(configuration("csv", {"folder": given}), tmp_path)
    for word in ("data.csv.folder", "FOLDER/prices/TICKER.csv"):
        assert word in str(error.value)


def test_a_relative_folder_is_below_the_main_checkout(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "raw").mkdir()
    assert len(source.fetch(configuration("csv", {"folder": "mine"}), tmp_path / "raw")) == 3


def test_rows_and_places(folder):
    rows = read(folder)
    assert rows.prices.groupby("ticker").size().to_dict() == {"AAPL": 60, "TSLA": 60}
    first = rows.prices.iloc[0]
    assert (first["source_file"], first["line"], first["adj_close"]) == ("prices/AAPL.csv", 2, 100.5)
    assert len(rows.news) == 60
    assert rows.news.iloc[3][["source_file", "line", "source_id"]].tolist() == ["news/2015.jsonl", 4, "3"]
    assert rows.rejected.empty


def test_bars_within_the_day(folder):
    lines = [
        "BAR_CLOSE_UTC,open,high,low,close,volume",
        "2015-01-02T09:31:00-05:00,1,2,1,2,5",
        "2015-01-02T14:32,1,2,1,2,5",
    ]
    (folder / "prices/TSLA.csv").write_text("\n".join(lines))
    rows = read(folder)
    tesla = rows.prices[rows.prices["ticker"] == "TSLA"]
    assert tesla["bar_close_utc"].tolist() == [pd.Timestamp("2015-01-02T14:31:00Z")]
    assert tesla["session"].isna().all()
    assert rows.rejected[["line", "column", "rule"]].to_numpy().tolist() == [[3, "bar_close_utc", parsing.ZONED]]


def test_without_adj_close_and_actions_the_close_stands_for_it(folder):
    path = folder / "prices/TSLA.csv"
    path.write_text("date,open,high,low,close,volume\n2015-01-02,1,2,1,2,5\n2015-01-05,1,3,1,3,5\n")
    tesla = read(folder).prices.query("ticker == 'TSLA'")
    assert tesla["adj_close"].tolist() == [2.0, 3.0]


def test_actions_adjust_forward():
    """2-for-1 split with a dividend of 1 on the third session: return (49 + 1) * 2 / 100."""
    bars = pd.DataFrame(
        {
            "session": pd.to_datetime(["2015-01-02", "2015-01-05", "2015-01-06", "2015-01-07"]).as_unit("us"),
            "bar_close_utc": pd.Series([None] * 4, dtype="datetime64[us, UTC]"),
            "close": [90.0, 100.0, 49.0, 50.0],
        }
    )
    actions = pd.DataFrame({"session": [pd.Timestamp("2015-01-06")], "split": [2.0], "dividend": [1.0]})
    adjusted = source.adjusted(bars, actions)
    np.testing.assert_allclose(adjusted.pct_change()[1:], [10 / 90, 0.0, 1 / 49])
    pd.testing.assert_series_equal(source.adjusted(bars.head(2), actions), adjusted.head(2))  # history never changes


def test_an_action_on_a_day_without_a_usable_bar_takes_the_next():
    bars = pd.DataFrame(
        {
            "session": pd.to_datetime(["2015-01-02", "2015-01-05", "2015-01-07"]).as_unit("us"),
            "bar_close_utc": pd.Series([None] * 3, dtype="datetime64[us, UTC]"),
            "close": [100.0, -5.0, 50.0],
        }
    )
    actions = pd.DataFrame({"session": [pd.Timestamp("2015-01-05")], "split": [2.0], "dividend": [0.0]})
    assert source.adjusted(bars, actions).tolist() == [100.0, -5.0, 100.0]


def test_actions_file_is_read_and_empty_cells_mean_none(folder):
    (folder / "prices/TSLA.csv").write_text(
        "date,open,high,low,close,volume\n2015-01-02,8,8,8,8,5\n2015-01-05,4,4,4,4,5\n"
    )
    (folder / "actions.csv").write_text("ticker,session,split,dividend\ntsla,2015-01-05,2,\n")
    tesla = read(folder).prices.query("ticker == 'TSLA'")
    assert tesla["adj_close"].tolist() == [8.0, 8.0]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("XYZ,2015-01-05,2,0", "ticker"),
        ("TSLA,5 Jan,2,0", "session"),
        ("TSLA,2015-01-05,0,0", "split"),
        ("TSLA,2015-01-05,two,0", "split"),
        ("TSLA,2015-01-05,1,-1", "dividend"),
        ("TSLA,2015-01-05,1", "row"),
    ],
)
def test_a_mistake_in_actions_stops(folder, row, column):
    (folder / "actions.csv").write_text(f"ticker,session,split,dividend\nTSLA,2015-01-06,1,0\n{row}\n")
    with pytest.raises(InputError, match=rf"file actions.csv, line 3, column {column}"):
        read(folder)


def test_one_item_about_two_tickers_is_two_rows(folder):
    set_line(folder / "news/2015.jsonl", 1, item(0, ticker=None, tickers=["TSLA", "aapl", "TSLA"], author="me"))
    news = read(folder).news.head(2)
    assert news[["ticker", "line", "author"]].to_numpy().tolist() == [["TSLA", 1, "me"], ["AAPL", 1, "me"]]


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"id": None}, "id"),
        ({"id": True}, "id"),
        ({"ticker": None}, "ticker"),
        ({"tickers": ["AAPL"]}, "ticker"),
        ({"ticker": None, "tickers": [1]}, "ticker"),
        ({"published_utc": "2015-01-05T15:00:00"}, "published_utc"),
        ({"published_utc": 1420470000}, "published_utc"),
        ({"text": ["a"]}, "text"),
        ({"lang": 1}, "lang"),
        ({"is_repost": "no"}, "is_repost"),
        ({"author": 1.5}, "author"),
        ({"followers": -1}, "followers"),
        ({"followers": 1 << 70}, "followers"),
    ],
)
def test_fields_that_are_not_right_are_refused_and_the_others_stay(folder, fields, column):
    set_line(folder / "news/2015.jsonl", 7, item(6, **fields))
    rows = read(folder)
    assert rows.rejected[["table", "source_file", "line", "column"]].to_numpy().tolist() == [
        ["news", "news/2015.jsonl", 7, column]
    ]
    assert rows.rejected["value"].isna().all()
    assert len(rows.news) == 59


def test_all_optional_fields_are_kept(folder):
    fields = {"author": 42, "followers": 7, "lang": "en", "is_repost": True, "unknown": {"a": 1}}
    set_line(folder / "news/2015.jsonl", 1, item(0, **fields))
    first = read(folder).news.iloc[0]
    assert first[["author", "followers", "lang", "is_repost"]].tolist() == ["42", 7, "en", True]


def test_a_folder_without_news_is_prices_alone(folder, tmp_path):
    (folder / "news/2015.jsonl").unlink()
    _, raw = fetch(folder, tmp_path)
    assert read(raw).news.empty


def test_a_file_without_a_bar_is_said_aloud(folder, caplog):
    (folder / "prices/TSLA.csv").write_text("date,open,high,low,close,volume\n")
    assert set(read(folder).prices["ticker"]) == {"AAPL"}
    assert "prices/TSLA.csv: not one bar; TSLA is left out" in caplog.text


def test_two_files_of_one_ticker(folder):
    (folder / "prices/tsla.csv").write_text("date,open,high,low,close,volume\n")
    with pytest.raises(InputError, match="second file of TSLA"):
        read(folder)


def test_days_helper_gives_sessions():
    assert days(2) == ["2015-01-02", "2015-01-05"]
