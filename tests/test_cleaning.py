"""What is plausible is decided once: each rule rejects with its place, each choice is counted, nothing is lost."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from source_inputs import configuration, days

from fusion_alpha import cleaning, pii, tables
from fusion_alpha.errors import InputError
from fusion_alpha.sources import NEWS_COLUMNS, PRICE_COLUMNS, RawRows


@pytest.fixture(autouse=True)
def _public_key(monkeypatch):
    monkeypatch.delenv(pii.KEY_VARIABLE, raising=False)


def prices(n=100, ticker="TSLA", **changes):
    """n sound daily bars; `changes` sets whole columns."""
    frame = pd.DataFrame({"source_file": f"prices/{ticker}.csv", "line": np.arange(2, n + 2), "ticker": ticker})
    frame["session"] = pd.to_datetime(days(n))
    frame["bar_close_utc"] = pd.NaT
    values = {"open": 100.0, "high": 102.0, "low": 98.0, "close": 101.0, "adj_close": 50.5, "volume": 1000.0}
    frame = frame.assign(**(values | changes))
    frame["bar_close_utc"] = pd.Series(frame["bar_close_utc"].tolist(), dtype="datetime64[us, UTC]")
    return frame[list(PRICE_COLUMNS)].astype(PRICE_COLUMNS)


def news(n=100, **changes):
    frame = pd.DataFrame({"source_file": "news/a.jsonl", "line": np.arange(1, n + 1), "ticker": "TSLA"})
    frame["source_id"] = [str(number) for number in range(n)]
    frame["published_utc"] = pd.Timestamp("2015-01-05T15:00:00Z")
    frame["text"] = [f"item {number}" for number in range(n)]
    frame = frame.assign(lang="en", is_repost=False, author="me", followers=3)
    for column, value in changes.items():
        frame[column] = value
    frame["published_utc"] = pd.to_datetime(frame["published_utc"], utc=True)
    return frame[list(NEWS_COLUMNS)].astype(NEWS_COLUMNS)


def clean(bars=None, items=None, source="csv", share=0.02, **top):
    cfg = configuration(source, **top)
    cfg = replace(cfg, clean=replace(cfg.clean, max_rejected_share=share))
    rows = bars if isinstance(bars, RawRows) else RawRows(prices() if bars is None else bars, news(0))
    return cleaning.clean(replace(rows, news=rows.news if items is None else items), cfg)


def broken(row, **values):
    bars = prices()
    for column, value in values.items():
        bars.loc[row, column] = value
    return bars


def test_sound_rows_pass_and_have_the_session_close():
    interim = clean(items=news())
    assert len(interim.prices) == 100
    first = interim.prices.sort_values("bar_close_utc").iloc[0]
    assert first["bar_close_utc"] == pd.Timestamp("2015-01-02T21:00:00Z")
    assert interim.rejected.empty
    for name in ("prices", "news", "rejected", "benchmark"):
        frame = getattr(interim, name)
        tables.validate(name, frame.astype(tables.empty(name).dtypes.to_dict()), tables.schema(name).path)


def test_half_days_and_daylight_saving_have_their_own_close():
    close = clean(prices(252)).prices.set_index("session")["bar_close_utc"]
    assert close["2015-07-01"] == pd.Timestamp("2015-07-01T20:00:00Z")
    assert close["2015-11-27"] == pd.Timestamp("2015-11-27T18:00:00Z")


@pytest.mark.parametrize(
    ("values", "column", "rule"),
    [
        ({"open": -1.0}, "open", "positive and finite"),
        ({"close": 0.0}, "close", "positive and finite"),
        ({"low": np.inf}, "low", "positive and finite"),
        ({"adj_close": np.nan}, "adj_close", "positive and finite"),
        ({"volume": -1.0}, "volume", "0 or more and finite"),
        ({"high": 97.0}, "high", "at least open, close and low"),
        ({"high": 100.5}, "high", "at least open, close and low"),
        ({"low": 100.5}, "low", "at most open, close and high"),
        ({"session": pd.Timestamp("2015-01-03")}, "date", "a session of XNYS"),
        ({"session": pd.Timestamp("2015-12-25")}, "date", "a session of XNYS"),
        ({"session": pd.Timestamp("1850-01-02")}, "date", "a session of XNYS"),
        ({"session": pd.Timestamp("2015-01-02")}, "date", "unique bar of a ticker: the first row stays"),
        ({"ticker": "tesla motors"}, "ticker", "symbol: [A-Z0-9.^-]{1,12}"),
    ],
)
def test_each_price_rule_rejects_one_row_with_its_place(values, column, rule):
    interim = clean(broken(50, **values))
    assert len(interim.prices) == 99
    (row,) = interim.rejected.itertuples(index=False)
    assert (row.table, row.source_file, row.line, row.column, row.rule) == (
        "prices",
        "prices/TSLA.csv",
        52,
        column,
        rule,
    )
    (value,) = values.values()
    assert pd.isna(row.value) if pd.isna(value) else row.value.startswith(str(value).split(" ")[0])
    assert interim.metrics["rejected_by_rule"] == {f"prices.{column}: {rule}": 1}


def test_float_noise_is_neither_rejected_nor_changed():
    interim = clean(broken(50, open=102.0 * (1 + 5e-7), close=98.0 * (1 - 5e-7)))
    assert interim.rejected.empty
    assert interim.prices["open"].max() == 102.0 * (1 + 5e-7)
    assert len(clean(broken(50, open=102.0 * (1 + 3e-6))).rejected) == 1


def test_first_of_two_bars_stays_whether_equal_or_not():
    twice = pd.concat([prices(), prices(1, open=99.0).assign(line=900)], ignore_index=True)
    interim = clean(twice)
    assert interim.prices.sort_values("session").iloc[0]["open"] == 100.0
    assert interim.rejected["line"].tolist() == [900]


def test_a_bad_row_does_not_shadow_a_good_one_of_the_same_bar():
    twice = pd.concat([prices(1, open=-1.0).assign(line=1), prices()], ignore_index=True)
    interim = clean(twice)
    assert len(interim.prices) == 100
    assert interim.rejected["rule"].tolist() == ["positive and finite"]


@pytest.mark.parametrize(
    ("values", "column", "rule"),
    [
        ({"text": "  \u200b\n"}, "text", "not empty"),
        ({"text": None}, "text", "not empty"),
        ({"source_id": ""}, "id", "present"),
        ({"source_id": "0"}, "id", "unique item of a ticker: the earliest stays"),
        ({"published_utc": pd.NaT}, "published_utc", "present"),
        (
            {"published_utc": pd.Timestamp("2015-06-04T20:00:00Z")},
            "published_utc",
            "not from the future: at most 7 days after the last bar",
        ),
        ({"followers": -1}, "followers", "0 or more"),
    ],
)
def test_each_news_rule_rejects_one_row_with_its_place_and_no_value(values, column, rule):
    items = news()
    for name, value in values.items():
        items.loc[50, name] = value
    interim = clean(items=items)  # the last bar ends 2015-05-27 20:00 UTC
    assert len(interim.news) == 99
    (row,) = interim.rejected.itertuples(index=False)
    assert (row.table, row.source_file, row.line, row.column, row.rule) == ("news", "news/a.jsonl", 51, column, rule)
    assert pd.isna(row.value)


@pytest.mark.parametrize("newest_first", [True, False])
def test_an_edit_is_known_from_its_own_time_on_and_replaces_nothing(newest_first):
    whole = news()
    later = whole.assign(published_utc=whole["published_utc"] + pd.Timedelta(hours=1))
    edited = later.assign(text="edited", line=whole["line"] + 500)
    repeated = edited.assign(published_utc=edited["published_utc"] + pd.Timedelta(hours=1), line=whole["line"] + 700)
    items = pd.concat([edited, whole, repeated])
    items = items.sort_values("published_utc", ascending=not newest_first, ignore_index=True)
    interim = clean(items=items, share=1.0)
    assert set(interim.rejected["line"]) == set(repeated["line"])
    edits = interim.news[interim.news["text"] == "edited"]
    first, alone = (
        found.sort_values("news_id", ignore_index=True)
        for found in (interim.news.drop(edits.index), clean(items=whole).news)
    )
    pd.testing.assert_frame_equal(first, alone)
    assert set(edits["published_utc"]) == set(later["published_utc"])
    assert interim.news["news_id"].is_unique


def test_another_text_of_the_same_time_is_refused():
    whole = news()
    other = whole.assign(text="other", line=whole["line"] + 500)
    interim = clean(items=pd.concat([whole, other], ignore_index=True), share=1.0)
    pd.testing.assert_frame_equal(interim.news, clean(items=whole).news)
    assert set(interim.rejected["line"]) == set(other["line"])


def test_news_shortly_after_the_last_bar_is_kept():
    items = news()
    items.loc[50, "published_utc"] = pd.Timestamp("2015-06-02T20:00:00Z")
    assert clean(items=items).rejected.empty


def test_text_is_decoded_tidied_and_scrubbed():
    text = "A&amp;B\n\u202e up &#64;john &lt;b&gt; @\u200bjane jane@x.org\x00 http://t.co/1  $TSLA 5%"
    interim = clean(items=news(1, text=text))
    assert interim.news["text"].tolist() == ["A&B up @user <b> @user <email> <url> $TSLA 5%"]


def test_personal_data_is_counted_before_and_gone_after():
    items = news(2, text=["@a @b", "call 212-555-0123"], author=["42", None])
    interim = clean(items=items)
    counts = interim.metrics["pii"]
    assert counts["before"] == {"links": 0, "emails": 0, "phones": 1, "handles": 2, "author_ids": 1}
    assert set(counts["after"].values()) == {0}
    assert interim.news["author_key"].isna().sum() == 1
    assert not interim.news.isin(["42", "0", "1"]).any().any()
    assert counts["key_private"] is False


def test_a_source_that_is_not_public_needs_a_key_for_its_authors(monkeypatch):
    cfg = configuration("csv")
    private = replace(cfg.data, public=False)
    with pytest.raises(InputError, match=pii.KEY_VARIABLE):
        clean(items=news(), data=private)
    assert len(clean(items=news(author=None), data=private).news) == 100
    monkeypatch.setenv(pii.KEY_VARIABLE, "k" * 32)
    assert clean(items=news(), data=private).metrics["pii"]["key_private"] is True


def test_choices_are_left_out_not_rejected(caplog):
    caplog.set_level("INFO", "fusion_alpha")
    bars = pd.concat([prices(), prices(ticker="AAPL", open=-1.0)], ignore_index=True)
    items = pd.concat([news(), news(10, ticker="AAPL"), news(5, ticker="XYZ")], ignore_index=True)
    items.loc[0, "published_utc"] = pd.Timestamp("2015-01-04T23:59:00Z")
    interim = clean(bars, items, tickers=["TSLA"], start="2015-01-05", end="2015-01-09")
    assert interim.rejected.empty
    assert interim.prices["session"].agg(["min", "max"]).dt.strftime("%m-%d").tolist() == ["01-05", "01-09"]
    assert interim.metrics["prices"] == {
        "rows": 200,
        "kept": 5,
        "rejected": 0,
        "left_out": {"tickers": 100, "window": 95},
    }
    assert interim.metrics["news"]["left_out"] == {"tickers": 15, "no_prices": 0, "window": 1}
    assert "100 rows of prices left out: not in tickers" in caplog.text
    assert clean(prices(), items).metrics["news"]["left_out"] == {"no_prices": 15}
    assert "15 rows of news left out: their ticker has no prices" in caplog.text


def test_unknown_tickers_are_answered_with_known_ones():
    with pytest.raises(InputError, match=r"'TSLS' is not in source csv(.|\n)*did you mean TSLA"):
        clean(tickers=["TSLS"])
    with pytest.raises(InputError, match="choose from TSLA"):
        clean(tickers=["ZZZZ"])


def test_rows_of_the_reader_are_part_of_the_account():
    unparsed = pd.DataFrame(
        {"table": ["news"], "source_file": ["n"], "line": [3], "column": ["line"], "rule": ["JSON"], "value": [None]}
    )
    rows = RawRows(prices(), news(), rejected=unparsed, left_out={"prices": 7, "news": 0})
    interim = clean(rows)
    assert interim.metrics["news"] == {"rows": 101, "kept": 100, "rejected": 1, "left_out": {"no_prices": 0}}
    assert interim.metrics["prices"] == {"rows": 107, "kept": 100, "rejected": 0, "left_out": {"source": 7}}


def test_every_row_is_kept_left_out_or_rejected():
    rng = np.random.default_rng(5)
    bars = pd.concat([prices(ticker=name) for name in ("A", "B", "C")], ignore_index=True)
    for column in ("open", "high", "low", "close", "volume"):
        bars.loc[rng.random(300) < 0.05, column] = -1.0
    bars = bars.sample(400, replace=True, random_state=1).assign(line=np.arange(400) + 2)
    items = news(300).sample(400, replace=True, random_state=2).assign(line=np.arange(400) + 1)
    interim = clean(bars, items, share=1.0, start="2015-01-20")
    for table in ("prices", "news"):
        account = interim.metrics[table]
        assert account["rows"] == 400 == account["kept"] + account["rejected"] + sum(account["left_out"].values())
        assert account["kept"] == len(getattr(interim, table))
        assert account["rejected"] == (interim.rejected["table"] == table).sum()


def test_a_line_about_two_tickers_is_one_rejected_place():
    twice = pd.concat([news(3), news(3, ticker="AAPL")], ignore_index=True).assign(text="")
    bars = pd.concat([prices(), prices(ticker="AAPL")], ignore_index=True)
    interim = clean(bars, twice, share=1.0)
    assert len(interim.rejected) == 3
    assert interim.metrics["news"]["rejected"] == 6


@pytest.mark.parametrize("kind", ["prices", "news"])
def test_too_many_rejected_rows_stop_and_name_the_first(kind):
    items = news()
    items.loc[:2, "text"] = ""
    bars = prices()
    bars.loc[:2, "open"] = -1.0
    with pytest.raises(InputError) as error:
        clean(*((bars, news()) if kind == "prices" else (prices(), items)))
    place = "prices/TSLA.csv, line 2, column open" if kind == "prices" else "news/a.jsonl, line 1, column text"
    for word in (place, f"3 of 100 rows of {kind}", "max_rejected_share = 0.02", "remedy"):
        assert word in str(error.value)


def test_the_share_is_inclusive():
    bars = prices()
    bars.loc[:1, "open"] = -1.0
    assert len(clean(bars).rejected) == 2


def test_no_price_left():
    with pytest.raises(InputError, match="no price rows are left"):
        clean(items=news(), start="2016-01-01")
    with pytest.raises(InputError, match="100 of 100 rows of prices"):
        clean(prices(open=-1.0), news())


def minute_bars(times):
    close = pd.to_datetime(times, utc=True, format="ISO8601")
    bars = prices(len(times), session=pd.NaT)
    return bars.assign(bar_close_utc=close).astype(PRICE_COLUMNS)


def test_bars_within_the_day_must_end_on_the_grid_of_the_session():
    times = ["2015-01-02T14:31Z", "2015-01-02T21:00Z", "2015-01-02T14:30Z", "2015-01-02T14:32:30Z", "2015-01-03T15:00Z"]
    interim = clean(minute_bars(times), interval="1m", share=1.0)
    assert interim.prices["session"].dt.strftime("%m-%d").tolist() == ["01-02", "01-02"]
    assert interim.rejected["line"].tolist() == [4, 5, 6]
    assert set(interim.rejected["rule"]) == {"the end of a 1m bar of XNYS"}


def test_the_last_bar_of_a_session_may_be_short():
    interim = clean(minute_bars(["2015-01-02T20:30Z", "2015-01-02T21:00Z"]), interval="60m")
    assert len(interim.prices) == 2


def test_the_window_of_bars_within_the_day_is_in_sessions():
    times = ["2015-01-02T21:00Z", "2015-01-05T14:31Z", "2015-01-06T14:31Z"]
    interim = clean(minute_bars(times), interval="1m", start="2015-01-05", end="2015-01-05")
    assert interim.prices["session"].dt.strftime("%m-%d").tolist() == ["01-05"]


def test_bars_of_another_length_than_the_interval():
    with pytest.raises(InputError, match=r"prices/TSLA.csv, line 2, column date(.|\n)*interval = 1m"):
        clean(interval="1m")
    with pytest.raises(InputError, match=r"column bar_close_utc(.|\n)*interval = 1d"):
        clean(minute_bars(["2015-01-02T14:31Z"]))


def test_benchmark_rows_follow_the_tickers():
    movements = pd.DataFrame(
        {"ticker": ["TSLA", "AAPL"], "session": pd.to_datetime(["2015-01-05"] * 2), "movement": 0.1, "set_a": True}
    )
    assert clean(RawRows(prices(), news(0), benchmark=movements)).benchmark["ticker"].tolist() == ["TSLA"]
