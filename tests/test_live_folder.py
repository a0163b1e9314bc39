"""The user's folder as a live feed: real files that grow, tear, vanish, return and contradict themselves."""

import os
from dataclasses import replace

import live_market
import pandas as pd
import pytest
from source_inputs import bar, configuration, csv_folder, days, item

from fusion_alpha import cleaning, sources
from fusion_alpha.config import CsvConfig
from fusion_alpha.errors import InputError
from fusion_alpha.live import router
from fusion_alpha.live.feed import History, Polled
from fusion_alpha.live.folder_feed import FolderFeed
from fusion_alpha.live.journal import Journal, read
from fusion_alpha.live.texts import Texts

HISTORY = 60  # sessions that the pipeline has seen
NEXT = days(HISTORY + 5)[HISTORY:]
NOW = pd.Timestamp("2015-07-01T12:00Z")
LATER = NOW + pd.Timedelta(seconds=61)


@pytest.fixture
def folder(tmp_path):
    return csv_folder(tmp_path / "mine", HISTORY)


def feed(folder, **block) -> FolderFeed:
    cfg = configuration("csv", {"folder": str(folder)})
    known = cleaning.clean(sources.get("csv").read(cfg, folder), cfg)
    return FolderFeed(cfg, History(known.prices, known.news))


def append(path, *rows: str, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(rows) + end)


def both(folder, *rows: str) -> None:
    for ticker in ("AAPL", "TSLA"):
        append(folder / f"prices/{ticker}.csv", *rows)


def given(polled: Polled) -> list[tuple[str, str, float]]:
    return [(one.ticker, f"{one.close_utc:%Y-%m-%d}", one.open) for one in polled.bars]


def said(polled: Polled) -> list[tuple[str, str]]:
    return [(problem.kind, problem.detail) for problem in polled.problems]


def test_a_file_that_grows_gives_its_new_rows_once(folder):
    tested = feed(folder)
    assert tested.poll(NOW) == Polled(received_utc=NOW)  # all that is there is the pipeline's
    both(folder, bar(NEXT[0]), bar(NEXT[1], 101.0))
    expected = [(ticker, day, level) for day, level in ((NEXT[0], 100), (NEXT[1], 101)) for ticker in ("AAPL", "TSLA")]
    polled = tested.poll(NOW)
    assert (given(polled), polled.problems, polled.answered) == (expected, [], True)
    assert polled.bars[0].adj_close == 100.5
    assert tested.poll(NOW).bars == []
    os.utime(folder / "prices/TSLA.csv")
    assert tested.poll(NOW).bars == []


def test_a_bar_that_is_written_early_is_given_once_it_is_over_as_it_is_by_then(folder):
    tested = feed(folder)
    close = pd.Timestamp(f"{NEXT[0]}T16:00", tz="America/New_York").tz_convert("UTC")
    both(folder, bar(NEXT[0]))
    assert given(tested.poll(close - pd.Timedelta(hours=3))) == []
    path = folder / "prices/TSLA.csv"
    path.write_text(path.read_text().replace(bar(NEXT[0]), bar(NEXT[0], 101.0)))
    assert given(tested.poll(close + pd.Timedelta(seconds=1))) == []
    assert given(tested.poll(close + pd.Timedelta(seconds=2))) == [("AAPL", NEXT[0], 100), ("TSLA", NEXT[0], 101)]
    assert given(tested.poll(close + pd.Timedelta(seconds=3))) == []


def test_a_restart_has_what_came_since_the_pipeline_ran(folder):
    made = feed(folder)
    both(folder, bar(NEXT[0]))
    assert len(made.poll(NOW).bars) == 2


def test_half_a_line_is_no_bar_until_its_end_is_there(folder):
    tested = feed(folder)
    tested.poll(NOW)
    whole = bar(NEXT[0])
    append(folder / "prices/AAPL.csv", whole)
    path = folder / "prices/TSLA.csv"
    before = path.stat().st_size
    for end in (5, 12, len(whole) - 2, len(whole)):  # the last two read as numbers, the first of them a wrong one
        append(path, whole[path.stat().st_size - before : end], end="")
        polled = tested.poll(NOW)
        assert (polled.bars, polled.problems) == ([], [])
    append(path)
    assert given(tested.poll(NOW)) == [("AAPL", NEXT[0], 100.0), ("TSLA", NEXT[0], 100.0)]


def test_a_line_that_never_ends_is_named_once_and_delays_no_other_for_long(folder):
    tested = feed(folder)
    tested.poll(NOW)
    append(folder / "prices/AAPL.csv", bar(NEXT[0]))
    append(folder / "prices/TSLA.csv", bar(NEXT[0]), end="")
    assert tested.poll(NOW).bars == []
    polled = tested.poll(LATER)
    assert given(polled) == [("AAPL", NEXT[0], 100.0)]
    assert said(polled) == [("rejected", "prices/TSLA.csv:62: a row ends with a line break")]
    assert said(tested.poll(LATER)) == []


def test_a_file_that_is_replaced_is_read_anew_and_only_what_changed_is_given(folder):
    tested = feed(folder)
    both(folder, bar(NEXT[0]), bar(NEXT[1]))
    tested.poll(NOW)
    path = folder / "prices/TSLA.csv"
    header, *rows = path.read_text().splitlines()
    temporary = folder / "prices/new"
    temporary.write_text("\n".join([header, *rows[-3:-2], bar(NEXT[0], 107.0), rows[-1], bar(NEXT[2])]) + "\n")
    temporary.replace(path)
    append(folder / "prices/AAPL.csv", bar(NEXT[2]))
    polled = tested.poll(NOW)
    # The first is a revision, which the router's guard refuses: known with other numbers.
    assert given(polled) == [("TSLA", NEXT[0], 107.0), ("AAPL", NEXT[2], 100.0), ("TSLA", NEXT[2], 100.0)]
    assert polled.problems == []


@pytest.mark.parametrize("how", ["file", "folder"])
def test_what_is_removed_is_missed_and_welcome_back(how, folder, tmp_path):
    tested = feed(folder)
    tested.poll(NOW)
    path, away = (folder / "prices/TSLA.csv" if how == "file" else folder), tmp_path / "away"
    path.rename(away)
    polled = tested.poll(NOW)
    assert [problem.kind for problem in polled.problems] == ["missing"]
    assert "is gone" in polled.problems[0].detail
    assert polled.answered == (how == "file")
    if how == "file":  # the others go on, and wait for nobody
        append(folder / "prices/AAPL.csv", bar(NEXT[0]))
        assert given(tested.poll(NOW)) == [("AAPL", NEXT[0], 100.0)]
        append(away, bar(NEXT[0]))
    away.rename(path)
    polled = tested.poll(NOW)
    assert polled.problems == []
    assert given(polled) == ([("TSLA", NEXT[0], 100.0)] if how == "file" else [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("Close,", "Last,", 1), "line 1, column close: the column is missing"),
        (lambda text: text.replace(",", ";"), "columns are separated by ';'"),
        (lambda text: text.replace("Date", "When"), "neither date nor bar_close_utc is there"),
        (lambda text: "", "the file is empty"),
    ],
)
def test_wrong_columns_silence_their_ticker_until_they_are_right(change, words, folder):
    tested = feed(folder)
    tested.poll(NOW)
    path = folder / "prices/TSLA.csv"
    right = path.read_text() + bar(NEXT[0]) + "\n"
    append(folder / "prices/AAPL.csv", bar(NEXT[0]))
    path.write_text(change(right))
    for _ in range(2):
        polled = tested.poll(NOW)
        ((kind, detail),) = said(polled)
        assert kind == "malformed"
        assert detail.startswith("prices/TSLA.csv: ")
        assert words in detail
        assert polled.problems[0].tickers == ("TSLA",)
        assert polled.answered
    path.write_text(right)
    polled = tested.poll(NOW)
    assert (given(polled), polled.problems) == ([("TSLA", NEXT[0], 100.0)], [])


def test_bytes_that_are_no_text_are_named_by_line(folder):
    tested = feed(folder)
    tested.poll(NOW)
    with (folder / "prices/TSLA.csv").open("ab") as file:
        file.write(bar(NEXT[0]).encode() + b"\n\xff\n")
    ((_, detail),) = said(tested.poll(NOW))
    assert "line 63: byte" in detail


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (bar(NEXT[0]).replace(",102.0,", ",one hundred,"), "prices/TSLA.csv:62, high = one hundred: a number"),
        (bar(NEXT[0]).replace(",102.0,", ",99.0,"), "high = 99.0: at least open, close and low"),
        (bar(NEXT[0]).replace(",98.0,", ",-98.0,"), "low = -98.0: positive and finite"),
        (bar(NEXT[0]).replace(",98.0,", ",nan,"), "low = nan: a number"),
        (bar(NEXT[0]) + ",7", "row = 8 fields: 7 fields, as in the header"),
        (bar("2015-04-03"), "a session of XNYS"),
        (bar("03/31/2015"), "a day as YYYY-MM-DD"),
        (bar(days(60)[-1], 117.0), None),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused_by_name_and_its_neighbours_stay(row, words, folder):
    tested = feed(folder)
    tested.poll(NOW)
    append(folder / "prices/TSLA.csv", row, bar(NEXT[1]))
    append(folder / "prices/AAPL.csv", bar(NEXT[1]))
    polled = tested.poll(NOW)
    assert given(polled) == [("AAPL", NEXT[1], 100.0), ("TSLA", NEXT[1], 100.0)]
    if words is None:  # a bar of the history again: its first numbers stay
        return
    ((kind, detail),) = said(polled)
    assert kind == "rejected"
    assert detail.startswith("prices/TSLA.csv:62, ")
    assert words in detail
    assert said(tested.poll(NOW)) == []


def test_a_row_that_contradicts_an_earlier_one_is_refused(folder):
    tested = feed(folder)
    both(folder, bar(NEXT[0]))
    tested.poll(NOW)
    append(folder / "prices/TSLA.csv", bar(NEXT[0], 150.0), bar(NEXT[0]))
    polled = tested.poll(NOW)
    assert sorted(said(polled)) == [
        ("rejected", "prices/TSLA.csv:63: unique bar of a ticker: that of line 62 stays"),
        ("rejected", f"prices/TSLA.csv:64, date = {NEXT[0]}: unique bar of a ticker: the first row stays"),
    ]
    assert polled.bars == []


def test_two_files_of_a_ticker_are_none(folder):
    tested = feed(folder)
    (folder / "prices/tsla.csv").write_text((folder / "prices/TSLA.csv").read_text())
    assert said(tested.poll(NOW)) == [("malformed", "prices has 2 files of TSLA")]


def test_adjustment_comes_from_actions_as_in_the_pipeline(folder):
    for path in (folder / "prices").iterdir():
        rows = [",".join(row.split(",")[:5] + row.split(",")[6:]) for row in path.read_text().splitlines()]
        path.write_text("\n".join(rows) + "\n")
    (folder / "actions.csv").write_text(f"ticker,session,split,dividend\nTSLA,{NEXT[0]},2,0\n")
    tested = feed(folder)
    both(folder, *(",".join([*bar(day).split(",")[:5], "1000"]) for day in NEXT[:2]))
    found = {(one.ticker, f"{one.close_utc:%Y-%m-%d}"): one.adj_close for one in tested.poll(NOW).bars}
    cfg = configuration("csv", {"folder": str(folder)})
    batch = cleaning.clean(sources.get("csv").read(cfg, folder), cfg).prices
    expected = {(row.ticker, f"{row.session:%Y-%m-%d}"): row.adj_close for row in batch.itertuples()}
    assert found == {key: expected[key] for key in found}
    assert found["TSLA", NEXT[1]] == 202.0
    (folder / "actions.csv").write_text("ticker,session,split,dividend\nTSLA,soon,2,0\n")
    both(folder, ",".join([*bar(NEXT[2]).split(",")[:5], "1000"]))
    polled = tested.poll(NOW)
    assert polled.bars == []
    assert {kind for kind, _ in said(polled)} == {"malformed"}
    assert "actions.csv" in said(polled)[0][1]
    (folder / "actions.csv").write_text(f"ticker,session,split,dividend\nTSLA,{NEXT[0]},2,0\n")
    assert len(tested.poll(NOW).bars) == 2


def test_headlines_come_once_and_an_edit_is_another_one(folder):
    tested = feed(folder)
    assert tested.poll(NOW).headlines == []
    news = folder / "news/2015.jsonl"
    append(
        news, item(1000), item(1001, ticker="NONE"), item(3), '{"id": 4', item(1002, published="2015-01-05T15:00:00")
    )
    polled = tested.poll(NOW)
    assert [(one.item_id, one.text) for one in polled.headlines] == [("1000", "headline 1000")]
    assert [detail.split(",")[0] for _, detail in said(polled)] == ["news/2015.jsonl:64", "news/2015.jsonl:65"]
    append(news, item(1000, "2015-01-05T16:00:00Z", text="corrected"), item(1000, text="corrected earlier"))
    (edited,) = tested.poll(NOW).headlines
    assert (edited.item_id, edited.text) == ("1000\n2015-01-05T16:00:00.000000Z", "corrected")


@pytest.mark.parametrize(
    "published", ["9999-12-31T00:00:00Z", "0202-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "\ud800"]
)
def test_an_item_of_no_such_time_is_refused_by_its_line_alone(published, folder):
    tested = feed(folder)
    tested.poll(NOW)
    append(folder / "news/2015.jsonl", item(1000, published), item(1001, text="half \ud800"))
    polled = tested.poll(NOW)
    assert [(one.item_id, one.text) for one in polled.headlines] == [("1001", "half \ufffd")]
    assert [detail.split(":")[:2] for _, detail in said(polled)] == [["news/2015.jsonl", "61, published_utc"]]


def test_an_edit_has_the_identifier_that_the_pipeline_gives_it(folder):
    tested = feed(folder)
    tested.poll(NOW)
    append(folder / "news/2015.jsonl", item(1000), item(1000, "2015-01-05T16:00:00Z", text="corrected"))
    found = tested.poll(NOW).headlines
    cfg = configuration("csv", {"folder": str(folder)})
    batch = cleaning.clean(sources.get("csv").read(cfg, folder), cfg).news
    names = tested._hash.hash("news", pd.Series([one.item_id for one in found], dtype="str"))
    assert set(names) <= set(batch["news_id"])
    assert len(found) == 2


def test_bars_within_the_day(tmp_path):
    folder = tmp_path / "mine"
    (folder / "prices").mkdir(parents=True)
    header, closes = (
        "bar_close_utc,open,high,low,close,volume",
        pd.date_range("2015-01-02T14:31Z", periods=5, freq="min"),
    )
    rows = [f"{close:%Y-%m-%dT%H:%M:%SZ},100,102,98,101,10" for close in closes]
    for ticker in ("AAPL", "TSLA"):
        (folder / f"prices/{ticker}.csv").write_text("\n".join([header, *rows[:3]]) + "\n")
    cfg = replace(configuration("csv", {"folder": str(folder)}), interval="1m")
    known = cleaning.clean(sources.get("csv").read(cfg, folder), cfg)
    tested = FolderFeed(cfg, History(known.prices, known.news))
    both(folder, rows[3], "2015-01-02T14:34:30Z,100,102,98,101,10")
    polled = tested.poll(NOW)
    assert [one.close_utc for one in polled.bars] == [closes[3]] * 2
    assert [detail.split(",")[0] for _, detail in said(polled)] == ["prices/AAPL.csv:6", "prices/TSLA.csv:6"]
    both(folder, "2015-01-02T09:35,100,102,98,101,10", rows[4])
    polled = tested.poll(NOW)
    assert [one.close_utc for one in polled.bars] == [closes[4]] * 2
    assert "a time with its zone" in said(polled)[0][1]


def test_a_growing_folder_drives_the_router(tmp_path):
    """Two bars, the second written while the router runs, behind a row that contradicts the first."""
    history, rest = live_market.tables("1d", tmp_path)
    history = live_market.recent(history, ("AAPL", "TSLA"))
    small, folder, path = live_market.daily(), tmp_path / "mine", tmp_path / "live.log"
    cfg = replace(small, data=replace(small.data, source="csv", csv=CsvConfig(str(folder))))
    first, second = sorted(rest.prices["bar_close_utc"].unique())[:2]
    (folder / "prices").mkdir(parents=True)
    columns = ["session", "open", "high", "low", "close", "adj_close", "volume"]

    def rows(close: pd.Timestamp, **changed: float) -> dict[str, str]:
        table = rest.prices[rest.prices["bar_close_utc"] == close].assign(**changed)[["ticker", *columns]]
        table = table.assign(session=table["session"].dt.strftime("%Y-%m-%d"))
        return {row[0]: ",".join(map(str, row[1:])) for row in table.itertuples(index=False)}

    for ticker in ("AAPL", "TSLA"):
        append(folder / f"prices/{ticker}.csv", ",".join(["date", *columns[1:]]), rows(first)[ticker])
    with Journal(path) as journal, Texts(cfg) as texts:
        source = FolderFeed(cfg, history)
        start = first + pd.Timedelta(seconds=cfg.live.settle_s)
        made, seen = live_market.steady_router(cfg, source, history, start, journal, texts), []

        def on_bar() -> None:
            seen.append(1)
            if len(seen) == 2:
                made.stop.set()
            append(folder / "prices/AAPL.csv", rows(second)["AAPL"])
            append(folder / "prices/TSLA.csv", rows(first, volume=7.0)["TSLA"], rows(second)["TSLA"])

        made.on_bar = on_bar
        assert made.run() == router.OK
    records = read(path)
    assert [record.data["close_utc"] for record in records if record.kind == "signal"] == [
        time.isoformat() for time in (first, second)
    ]
    (refused,) = (record.data["rule"] for record in records if record.kind == "reject")
    assert refused == "prices/TSLA.csv:3: unique bar of a ticker: that of line 2 stays"


def test_another_source_is_refused(folder):
    with pytest.raises(InputError, match="data=csv ends"):
        FolderFeed(configuration("yahoo"), History(pd.DataFrame(), pd.DataFrame()))
