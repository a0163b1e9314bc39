"""The Yahoo source against stand-ins for yfinance's objects: no network is used."""

import json
import time

import pandas as pd
import pytest
from source_inputs import configuration
from yfinance.exceptions import YFPricesMissingError, YFRateLimitError

from fusion_alpha import sealed
from fusion_alpha.errors import InputError
from fusion_alpha.sources import yahoo

COLUMNS = ["Open", "High", "Low", "Close", "Adj Close", "Volume", "Dividends", "Stock Splits"]


def story(number, **content):
    content = {
        "title": f"story {number}",
        "pubDate": "2024-03-05T15:00:00Z",
        "provider": {"displayName": "P"},
    } | content
    return {"id": f"id-{number}", "content": content}


class Asset:
    """Answers as yfinance.Ticker does; an exception in `answers` is raised."""

    def __init__(self, history, news=()):
        self.answers, self.news, self.asked = list(history), list(news), []

    def history(self, **arguments):
        self.asked.append(arguments)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get_news(self, count):
        return self.news[:count]


def daily(*dates):
    index = pd.DatetimeIndex(pd.to_datetime(list(dates))).tz_localize("America/New_York")
    values = [100.1, 102.0, 99.0, 101.0, 50.5, 1000, 0.0, 0.0]
    return pd.DataFrame([values] * len(dates), columns=COLUMNS, index=index.rename("Date"))


@pytest.fixture(autouse=True)
def _own_root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(time, "sleep", lambda _: None)


def fetch(tmp_path, asset, name="raw", **top):
    cfg = configuration("yahoo", **({"tickers": ["TSLA"]} | top))
    raw = tmp_path / name
    raw.mkdir()
    return yahoo.fetch(cfg, raw, lambda symbol: asset), raw, cfg


def test_daily_bars_and_headlines_round_trip(tmp_path):
    asset = Asset([daily("2024-03-04", "2024-03-05")], [story(1), story(2)])
    fetched, raw, cfg = fetch(tmp_path, asset, start="2024-03-01", end="2024-03-05")
    assert [file.path.relative_to(raw).as_posix() for file in fetched] == ["prices/TSLA.csv", "news/TSLA.jsonl"]
    assert asset.asked[0]["auto_adjust"] is False
    assert (asset.asked[0]["start"], asset.asked[0]["end"]) == ("2024-03-01", "2024-03-06")  # Yahoo's end is exclusive
    rows = yahoo.read(cfg, raw)
    assert rows.prices["session"].dt.strftime("%Y-%m-%d").tolist() == ["2024-03-04", "2024-03-05"]
    assert rows.prices[["open", "adj_close"]].iloc[0].tolist() == [100.1, 50.5]
    assert rows.news[["ticker", "source_id", "text"]].iloc[0].tolist() == ["TSLA", "id-1", "story 1"]
    assert rows.rejected.empty


def test_all_of_the_past_without_a_start(tmp_path):
    asset = Asset([daily("2024-03-04")])
    fetch(tmp_path, asset)
    assert asset.asked[0]["period"] == "max"
    assert "start" not in asset.asked[0]


def test_a_bar_that_has_not_ended_is_left_out():
    bars = daily("2024-03-04", "2024-03-05")
    cfg = configuration("yahoo", tickers=["TSLA"])
    before, after = pd.Timestamp("2024-03-05T20:59:59Z"), pd.Timestamp("2024-03-05T21:00:00Z")
    assert yahoo.ended(bars, cfg, "TSLA", before)["date"].tolist() == ["2024-03-04"]
    assert yahoo.ended(bars, cfg, "TSLA", after)["date"].tolist() == ["2024-03-04", "2024-03-05"]


def test_bars_within_the_day_are_named_by_their_end():
    index = pd.DatetimeIndex(["2024-03-05 09:30", "2024-03-05 15:30", "2024-03-05 16:00"]).tz_localize(
        "America/New_York"
    )
    bars = daily("2024-03-05", "2024-03-05", "2024-03-05").set_index(index)
    cfg = configuration("yahoo", tickers=["TSLA"], interval="60m")
    table = yahoo.ended(bars, cfg, "TSLA", pd.Timestamp("2024-03-06T00:00:00Z"))
    # The second is cut by the close; the third is no bar of the session, which cleaning says.
    assert table["bar_close_utc"].tolist() == ["2024-03-05T15:30:00Z", "2024-03-05T21:00:00Z", "2024-03-05T22:00:00Z"]


def test_headlines_accumulate_and_the_first_wording_stays(tmp_path):
    fetch(tmp_path, Asset([daily("2024-03-04")], [story(1), story(2)]), "first")
    _, raw, cfg = fetch(tmp_path, Asset([daily("2024-03-04")], [story(3), story(2, title="edited")]), "second")
    assert yahoo.read(cfg, raw).news["text"].tolist() == ["story 1", "story 2", "story 3"]
    kept = (tmp_path / "root/.cache/yahoo/news/TSLA.jsonl").read_text()
    assert kept == (raw / "news/TSLA.jsonl").read_text()


def test_older_form_of_items_and_items_without_a_time(tmp_path):
    old = {"uuid": "u", "title": "old", "providerPublishTime": 1709650800}
    _, raw, cfg = fetch(tmp_path, Asset([daily("2024-03-04")], [old, story(2, pubDate=None), story(3, title=None)]))
    rows = yahoo.read(cfg, raw)
    assert rows.news[["source_id", "text"]].to_numpy().tolist() == [["u", "old"]]
    assert rows.news["published_utc"].tolist() == [pd.Timestamp("2024-03-05T15:00:00Z")]
    assert rows.rejected[["line", "column"]].to_numpy().tolist() == [[2, "pubDate"], [3, "title"]]


def test_network_errors_are_tried_again_then_named(tmp_path):
    asset = Asset([ConnectionError("no route"), daily("2024-03-04")])
    fetch(tmp_path, asset, "first")
    assert len(asset.asked) == 2
    with pytest.raises(InputError) as error:
        fetch(tmp_path, Asset([ConnectionError("no route")]), "second")
    for word in ("bars of TSLA", "2 tries", "ConnectionError: no route", "check the network"):
        assert word in str(error.value)


def test_rate_limit_is_not_pressed(tmp_path):
    asset = Asset([YFRateLimitError()])
    with pytest.raises(InputError, match="wait some minutes"):
        fetch(tmp_path, asset)
    assert len(asset.asked) == 1


@pytest.mark.parametrize("answer", [daily(), YFPricesMissingError("TSLA", "(1d)")])
def test_empty_answers_name_symbol_and_dates(tmp_path, answer):
    with pytest.raises(InputError) as error:
        fetch(tmp_path, Asset([answer]), start="2024-03-02", end="2024-03-03")
    assert "bars of TSLA" in str(error.value)
    assert "remedy" in str(error.value)


def test_tickers_and_interval_are_asked_for(tmp_path):
    with pytest.raises(InputError, match="tickers is empty"):
        fetch(tmp_path, Asset([daily()]), "first", tickers=[])
    with pytest.raises(InputError, match="interval = 7m"):
        fetch(tmp_path, Asset([daily()]), "second", interval="7m")


def test_store_holds_items_as_they_came(tmp_path):
    lines = yahoo.remember("TSLA", [story(1, title="é ✓")], sealed.writer(configuration("yahoo")))
    assert json.loads(lines[0]) == story(1, title="é ✓")
