"""The Yahoo feed against a server on loopback that speaks what Yahoo answers: real TLS connections, nothing patched."""

import hashlib
import json
import time
from dataclasses import replace

import live_market
import pandas as pd
import pytest
from feed_server import Answer
from pyrage import x25519
from yahoo_server import YahooServer, chart, stories, story

from fusion_alpha import config, sealed
from fusion_alpha.config import PrivacyConfig
from fusion_alpha.errors import InputError
from fusion_alpha.live import router
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import Bar, History, Polled
from fusion_alpha.live.guards import BarGuard, Finding, Quarantine, SkewGuard
from fusion_alpha.live.journal import Journal, read
from fusion_alpha.live.texts import Texts
from fusion_alpha.live.yahoo_feed import LAG, YahooFeed

DAY = "2024-03-05"  # in winter time: New York is five hours behind UTC
LAST = pd.Timestamp(f"{DAY}T15:00Z")  # close of the last minute that the history has
FEEDS: list[YahooFeed] = []


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return tmp_path_factory.mktemp("authority")


@pytest.fixture
def serving(tmp_path, authority, monkeypatch):
    """A server and the environment that leads the client to it."""
    server = YahooServer()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    with server.running(authority) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield server
        while any(tested._asking() for tested in FEEDS):  # or its last tries would reach the next server
            time.sleep(0.02)
        FEEDS.clear()


def configured(interval: str = "1m", **live: float):
    cfg = config.load(["data=yahoo", "tickers=[AAPL,TSLA]", f"interval={interval}"])
    quick = {"connect_timeout_s": 1.0, "read_timeout_s": 1.0, "requests_per_minute": 60000} | live
    return replace(cfg, live=replace(cfg.live, **quick))


def minutes_before(ticker: str, last: pd.Timestamp = LAST, count: int = 8) -> pd.DataFrame:
    closes = pd.date_range(end=last, periods=count, freq="min").as_unit("us")
    return pd.DataFrame({"ticker": ticker, "bar_close_utc": closes, "close": 100.0, "adj_close": 100.0})


def days_before(ticker: str) -> pd.DataFrame:
    days = pd.DatetimeIndex([f"2024-02-{day}T21:00Z" for day in (26, 27, 28, 29)]).as_unit("us")
    return pd.DataFrame({"ticker": ticker, "bar_close_utc": days, "close": 100.0, "adj_close": 100.0})


def feed(tmp_path, cfg=None, history=None, **more) -> YahooFeed:
    cfg = cfg or configured()
    rows = history or [minutes_before("AAPL"), minutes_before("TSLA")]
    made = YahooFeed(cfg, History(pd.concat(rows), pd.DataFrame()), Quarantine(tmp_path / "quarantine"), **more)
    FEEDS.append(made)
    return made


def minute(text: str, close: float = 101.0, volume: float | None = 10) -> tuple:
    return (f"{DAY}T{text}Z", close, close + 1, close - 1, close, volume)


def known(*more: tuple) -> list[tuple]:
    return [minute(f"14:{number}:00", 100.0) for number in (55, 56, 57, 58, 59)] + list(more)


def at(text: str) -> pd.Timestamp:
    return pd.Timestamp(f"{DAY}T{text}Z")


def kinds(polled: Polled) -> list[str]:
    return sorted(problem.kind for problem in polled.problems)


def given(polled: Polled) -> list[tuple[str, str]]:
    return [(bar.ticker, f"{bar.close_utc:%H:%M}") for bar in polled.bars]


def both(server: YahooServer, *rows: tuple, until: str) -> None:
    for symbol in ("AAPL", "TSLA"):
        server.charts[symbol] = [chart(symbol, known(*rows), until=f"{DAY}T{until}Z")]


def test_bars_that_are_over_and_headlines_come_in_utc(serving, tmp_path):
    both(serving, minute("15:00:00"), minute("15:01:00"), until="15:01:20")
    serving.news["TSLA"] = [stories(story(1, f"{DAY}T10:00:30-05:00", "Tesla up"))]
    tested = feed(tmp_path)
    polled = tested.poll(at("15:01:30"))
    assert given(polled) == [("AAPL", "15:01"), ("TSLA", "15:01")]
    assert polled.bars[0] == Bar("AAPL", at("15:01"), 101.0, 102.0, 100.0, 101.0, 101.0, 10.0)
    (item,) = polled.headlines
    assert (item.ticker, item.item_id, item.text, item.published_utc) == ("TSLA", "id-1", "Tesla up", at("15:00:30"))
    assert polled.problems == []
    assert polled.answered
    assert polled.bars[0].close_utc.tz is not None
    assert tested.poll(at("15:01:35")) == Polled(answered=None)  # nothing is missing: nobody is asked


def test_a_bar_in_progress_does_not_count_even_where_only_yahoo_is_late(serving, tmp_path):
    both(serving, minute("15:00:00"), minute("15:01:00"), until="15:01:31")
    tested = feed(tmp_path)
    late = tested.poll(at("15:16:31"))  # quotes are fifteen minutes old: 15:01 is not over there
    assert given(late) == [("AAPL", "15:01"), ("TSLA", "15:01")]
    both(serving, minute("15:00:00"), minute("15:01:00", 107.0), until="15:02:01")
    assert given(tested.poll(at("15:17:01"))) == [("AAPL", "15:02"), ("TSLA", "15:02")]


def test_a_trade_that_yahoo_adds_within_the_minute_belongs_to_it(serving, tmp_path):
    both(serving, minute("15:00:00"), minute("15:01:00"), minute("15:01:37", 109.0, 0), until="15:01:37")
    tested = feed(tmp_path)
    assert given(tested.poll(at("15:01:40"))) == [("AAPL", "15:01"), ("TSLA", "15:01")]
    (bar, _) = tested.poll(at("15:30:00")).bars  # nobody traded since: after twenty minutes it counts
    assert (f"{bar.close_utc:%H:%M}", bar.close) == ("15:02", 109.0)


def test_an_empty_answer_is_a_problem_of_its_ticker_alone(serving, tmp_path):
    serving.charts["AAPL"] = [chart("AAPL", known(minute("15:00:00")), until=f"{DAY}T15:01:01Z")]
    tested = feed(tmp_path)
    polled = tested.poll(at("15:01:03"))
    assert kinds(polled) == ["empty"]
    assert polled.problems[0].tickers == ("TSLA",)
    assert "delisted" in polled.problems[0].detail
    assert polled.bars == []  # for a while, bars of a minute wait for each other
    assert given(tested.poll(at("15:01:40"))) == [("AAPL", "15:01")]
    assert tested.poll(at("15:01:41")).answered is None


def test_an_answer_without_a_bar_says_nothing(serving, tmp_path):
    both(serving, until="15:00:00")
    polled = feed(tmp_path).poll(at("15:01:03"))
    assert (polled.bars, polled.problems, polled.answered) == ([], [], True)
    serving.charts = {name: [chart(name, [])] for name in ("AAPL", "TSLA")}
    assert kinds(feed(tmp_path).poll(at("15:01:03"))) == ["empty", "empty"]


@pytest.mark.parametrize(
    "fault",
    [Answer(delay_s=1.6), Answer(status=503), Answer(cut=3), Answer(body=b" " * 40, drip_s=0.05)],
    ids=["silent", "503", "cut", "drips"],
)
def test_a_ticker_whose_server_fails_delays_no_other(fault, serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    serving.charts["TSLA"] = [fault if fault.body != Answer().body else replace(fault, body=b"{" * 9)]
    tested = feed(tmp_path, configured(tries=2, connect_timeout_s=0.6, read_timeout_s=0.6))
    began = time.monotonic()
    polled = tested.poll(at("15:01:03"))
    assert kinds(polled) == ["unavailable"]
    assert polled.problems[0].tickers == ("TSLA",)
    assert polled.answered
    assert serving.count("TSLA") == 2
    assert time.monotonic() - began < 12
    assert given(tested.poll(at("15:01:34"))) == [("AAPL", "15:01")]


def test_a_failure_that_passes_is_not_seen(serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    serving.charts["TSLA"].insert(0, Answer(status=502))
    polled = feed(tmp_path).poll(at("15:01:03"))
    assert (len(polled.bars), polled.problems) == (2, [])


def test_429_is_not_pressed_and_retry_after_is_honoured_by_all(serving, tmp_path):
    now = [0.0]
    both(serving, minute("15:00:00"), until="15:01:01")
    serving.charts["AAPL"].insert(0, Answer(status=429, headers={"Retry-After": "7"}))
    cfg = configured()
    tested = feed(
        tmp_path, replace(cfg, live=replace(cfg.live, tries=3)), [minutes_before("AAPL")], clock=lambda: now[0]
    )
    assert kinds(tested.poll(at("15:01:03"))) == ["rate_limited"]
    asked = len(serving.asked)
    assert serving.count("AAPL") == 1
    now[0] = 6.9
    resting = tested.poll(at("15:01:20"))
    assert (kinds(resting), resting.answered, len(serving.asked)) == (["resting"], None, asked)
    now[0] = 7.1
    assert given(tested.poll(at("15:01:21"))) == [("AAPL", "15:01")]


def test_a_crumb_that_is_refused_stops_nothing(serving, tmp_path):
    serving.crumb = Answer(b"Too Many Requests", status=429)
    both(serving, minute("15:00:00"), until="15:01:01")
    assert len(feed(tmp_path).poll(at("15:01:03")).bars) == 2


def test_the_breaker_opens_and_lets_one_ticker_try(serving, tmp_path):
    now = [0.0]
    both(serving, minute("15:00:00"), until="15:01:01")
    working = dict(serving.charts)
    serving.charts = {name: [Answer(b"<html>")] for name in working}
    cfg = configured(breaker_failures=2)
    tested = feed(tmp_path, cfg, clock=lambda: now[0])
    first = tested.poll(at("15:01:03"))
    assert (kinds(first), first.answered) == (["malformed", "malformed"], False)
    asked = len(serving.asked)
    left_alone = tested.poll(at("15:01:20"))
    assert (kinds(left_alone), left_alone.answered) == (["breaker_open"], None)
    assert len(serving.asked) == asked
    serving.charts = working
    now[0] = cfg.live.breaker_rest_s + 1
    tested.poll(at("15:01:40"))
    assert serving.count("AAPL") + serving.count("TSLA") == 3
    assert given(tested.poll(at("15:01:41"))) == [("AAPL", "15:01"), ("TSLA", "15:01")]


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", b"", b'{"chart": [', b"[]", b"{}", b'{"chart": {"result": 7, "error": null}}', b"\xff\xfe"),
        b'{"chart": {"result": [{"meta": {"regularMarketTime": NaN}}], "error": null}}',
    ],
)
def test_bytes_that_are_no_table_are_kept(body, serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    serving.charts["TSLA"].insert(0, Answer(body))
    tested = feed(tmp_path)
    polled = tested.poll(at("15:01:03"))
    (problem,) = polled.problems
    if problem.kind == "malformed":
        assert (tmp_path / "quarantine" / f"{problem.quarantined}.bin").read_bytes() == body
    else:
        assert problem.kind == "empty"
    assert given(tested.poll(at("15:01:20"))) == [("AAPL", "15:01"), ("TSLA", "15:01")]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_refused(number, serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    good = serving.charts["TSLA"][0]
    serving.charts["TSLA"] = [replace(good, body=good.body.replace(b"102.0", number.encode()))]
    polled = feed(tmp_path).poll(at("15:01:03"))
    assert kinds(polled) == ["malformed"]


@pytest.mark.parametrize("column", [1, 2, 3, 4, 5], ids=["open", "high", "low", "close", "volume"])
def test_a_number_that_yahoo_does_not_know_is_made_up_by_nobody(column, serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    row = list(minute("15:00:00"))
    row[column] = None
    serving.charts["TSLA"] = [chart("TSLA", known(tuple(row)), until=f"{DAY}T15:01:01Z")]
    cfg = configured()
    bar = next(bar for bar in feed(tmp_path, cfg).poll(at("15:01:03")).bars if bar.ticker == "TSLA")
    guard = BarGuard(cfg.live, Hours(cfg))
    assert guard.judge(guard.adjusted(bar), at("15:01:03")).finding is Finding.IMPOSSIBLE


def test_a_minute_without_trades_is_no_bar(serving, tmp_path):
    both(serving, (f"{DAY}T15:00:00Z", None, None, None, None, None), minute("15:01:00"), until="15:02:01")
    assert given(feed(tmp_path).poll(at("15:02:03"))) == [("AAPL", "15:02"), ("TSLA", "15:02")]


def test_a_revised_bar_comes_again_and_an_equal_one_does_not(serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    tested = feed(tmp_path)
    tested.poll(at("15:01:03"))
    both(serving, minute("15:00:00", volume=17), minute("15:01:00"), until="15:02:01")
    serving.charts["AAPL"] = [chart("AAPL", known(minute("15:00:00"), minute("15:01:00")), until=f"{DAY}T15:02:01Z")]
    polled = tested.poll(at("15:02:03"))
    assert given(polled) == [("TSLA", "15:01"), ("AAPL", "15:02"), ("TSLA", "15:02")]


def test_bars_that_no_known_bar_leads_to_are_refused(serving, tmp_path):
    rows = [minute("18:00:00"), minute("18:01:00")]
    serving.charts = {name: [chart(name, rows, until=f"{DAY}T18:02:10Z")] for name in ("AAPL", "TSLA")}
    polled = feed(tmp_path).poll(at("18:02:30"))
    assert (polled.bars, kinds(polled)) == ([], ["no_overlap", "no_overlap"])
    assert "run the pipeline again" in polled.problems[0].detail


def day(date: str, close: float, adjusted: float | None = None) -> tuple:
    return (f"{date}T14:30Z", close, close, close, close, 10, close if adjusted is None else adjusted)


def daily(server: YahooServer, *rows: tuple, events: dict | None = None) -> None:
    more = {"events": events} if events else {}
    server.charts = {"AAPL": [chart("AAPL", list(rows), until="2024-03-01T21:00:01Z", interval="1d", **more)]}


def test_a_days_bar_comes_twenty_minutes_after_its_close(serving, tmp_path):
    daily(serving, day("2024-02-28", 100), day("2024-02-29", 100), day("2024-03-01", 103))
    tested = feed(tmp_path, configured("1d"), [days_before("AAPL")])
    assert tested.poll(pd.Timestamp("2024-03-01T21:19:59Z")).bars == []
    (bar,) = tested.poll(pd.Timestamp("2024-03-01T21:20:00Z")).bars
    assert (bar.close_utc, bar.close) == (pd.Timestamp("2024-03-01T21:00Z"), 103.0)


def test_a_dividend_restates_the_past_and_not_the_return(serving, tmp_path):
    rows = [day("2024-02-28", 100, 98.0), day("2024-02-29", 100, 98.0), day("2024-03-01", 98.0)]
    daily(serving, *rows, events={"dividends": {"1": {"amount": 2.0, "date": 1709303400}}})
    (bar,) = feed(tmp_path, configured("1d"), [days_before("AAPL")]).poll(pd.Timestamp("2024-03-01T22:00Z")).bars
    assert bar.close == 98.0
    assert bar.adj_close == pytest.approx(100.0)  # nothing was lost


@pytest.mark.parametrize("restated", [True, False])
def test_a_split_is_no_crash(restated, serving, tmp_path):
    before = 25.0 if restated else 100.0  # Yahoo restates the past, sometimes a day late
    rows = [day("2024-02-28", before), day("2024-02-29", before), day("2024-03-01", 25.5)]
    split = {"numerator": 4, "denominator": 1, "splitRatio": "4:1", "date": 1709303400}
    daily(serving, *rows, events={"splits": {"1": split}})
    (bar,) = feed(tmp_path, configured("1d"), [days_before("AAPL")]).poll(pd.Timestamp("2024-03-01T22:00Z")).bars
    assert (bar.close, bar.adj_close) == (25.5, pytest.approx(102.0))


def test_a_day_that_is_no_session_is_refused_by_name(serving, tmp_path):
    daily(serving, day("2024-02-28", 100), day("2024-02-29", 100), day("2024-03-01", 103), day("2024-03-02", 1))
    polled = feed(tmp_path, configured("1d"), [days_before("AAPL")]).poll(pd.Timestamp("2024-03-03T22:00Z"))
    assert [bar.close for bar in polled.bars] == [103.0]
    assert polled.problems[0].detail == "AAPL of 2024-03-02: date is a session of XNYS"


def test_the_hour_changes_with_new_york(serving, tmp_path):
    """From 10 March 2024 on the session begins an hour earlier in UTC."""
    last = pd.Timestamp("2024-03-08T21:00Z")
    rows = [(f"2024-03-08T20:{number}Z", 100, 100, 100, 100, 1) for number in (55, 56, 57, 58, 59)]
    rows += [("2024-03-11T13:30Z", 101, 101, 101, 101, 1)]
    serving.charts["AAPL"] = [chart("AAPL", rows, until="2024-03-11T13:31:02Z")]
    tested = feed(tmp_path, history=[minutes_before("AAPL", last)])
    (bar,) = tested.poll(pd.Timestamp("2024-03-11T13:31:03Z")).bars
    assert bar.close_utc == pd.Timestamp("2024-03-11T13:31Z")


def test_headlines_come_once_and_those_without_time_or_title_are_refused_by_name(serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    good = story(1, f"{DAY}T14:00:00Z", "first")
    serving.news["TSLA"] = [
        stories(good, story(2, None), story(3, f"{DAY}T14:00:00Z", None), story(4, f"{DAY}T14:00:00")),
        stories(story(1, f"{DAY}T14:00:00Z", "edited"), story(2, None), story(5, f"{DAY}T15:01:30Z", "second")),
    ]
    tested = feed(tmp_path)
    first = tested.poll(at("15:01:03"))
    assert [item.text for item in first.headlines] == ["first"]
    assert kinds(first) == ["rejected"] * 3
    assert [problem.detail.split(":")[0] for problem in first.problems] == [
        f"headline id-{number} of TSLA" for number in (2, 3, 4)
    ]
    assert json.loads((tmp_path / "quarantine" / f"{first.problems[0].quarantined}.bin").read_bytes()) == story(2, None)
    both(serving, minute("15:00:00"), minute("15:01:00"), until="15:02:01")
    second = tested.poll(at("15:02:03"))
    assert ([item.text for item in second.headlines], second.problems) == (["second"], [])
    again = feed(tmp_path).poll(at("15:02:04"))  # a restart has all that was seen, though Yahoo lists the latest only
    assert [item.text for item in again.headlines] == ["first", "second"]


def store(tmp_path, *items: dict[str, object]) -> None:
    """Headlines of TSLA as ingest stores them."""
    path = tmp_path / "root" / ".cache/yahoo/news/TSLA.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.mark.parametrize(
    "published", ["9999-12-31T00:00:00Z", "0202-01-01T00:00:00Z", "1970-01-01T00:00:00Z", "\ud800", 253402300000, 0]
)
def test_a_headline_of_no_such_time_is_refused_alone(published, serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    wrong = story(2, published) if isinstance(published, str) else {"uuid": "id-2", "title": "x"}
    wrong |= {} if isinstance(published, str) else {"providerPublishTime": published}
    store(tmp_path, wrong)
    serving.news["TSLA"] = [stories(story(1, f"{DAY}T14:00:00Z"))]
    polled = feed(tmp_path).poll(at("15:01:03"))
    assert [item.item_id for item in polled.headlines] == ["id-1"]
    assert [problem.detail.split(":")[0] for problem in polled.problems] == ["headline id-2 of TSLA"]


@pytest.mark.parametrize("seconds", [0, 253402300000, -62135596800, 10**400])
def test_a_bar_of_no_such_time_ends_nothing(seconds, serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    answer = json.loads(chart("TSLA", known(minute("15:00:00")), until=f"{DAY}T15:01:01Z").body)
    answer["chart"]["result"][0]["timestamp"][-1] = seconds
    serving.charts["TSLA"] = [Answer(json.dumps(answer).encode())]
    polled = feed(tmp_path).poll(at("15:01:03"))
    assert set(kinds(polled)) <= {"malformed", "rejected"}
    assert [bar for bar in polled.bars if bar.ticker == "TSLA"] == []


def test_a_stored_headline_with_nan_is_taken_as_ingest_takes_it(serving, tmp_path):
    """Ingest stores what Python's JSON has, in fields that nobody reads."""
    both(serving, minute("15:00:00"), until="15:01:01")
    first = story(1, f"{DAY}T14:00:00Z", "half \ud800")
    store(tmp_path, first | {"score": float("nan")}, story(2, None) | {"score": float("inf")})
    serving.news["TSLA"] = [stories(story(3, f"{DAY}T14:30:00Z", "second"))]
    polled = feed(tmp_path).poll(at("15:01:03"))
    assert [item.text for item in polled.headlines] == ["half \ufffd", "second"]
    assert [problem.detail.split(":")[0] for problem in polled.problems] == ["headline id-2 of TSLA"]
    assert len(polled.bars) == 2


def test_an_item_without_an_id_is_named_by_its_file_and_not_by_its_text(serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    serving.news["TSLA"] = [stories({"title": "no time"}, {"title": "an id that is a text", "id": "x" * 61})]
    problems = feed(tmp_path).poll(at("15:01:03")).problems
    assert len(problems) == 2
    for problem in problems:
        assert problem.detail.startswith(f"headline {problem.quarantined[:12]} of TSLA: ")


def test_no_bar_overtakes_headlines_that_cannot_be_read(serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    serving.news["TSLA"] = [Answer(b"<html>"), stories(story(1, f"{DAY}T14:00:00Z"))]
    tested = feed(tmp_path)
    polled = tested.poll(at("15:01:03"))
    assert (kinds(polled), polled.bars, serving.count("TSLA")) == (["malformed"], [], 0)
    later = tested.poll(at("15:01:10"))
    assert ([item.ticker for item in later.headlines], len(later.bars)) == (["TSLA"], 2)


@pytest.mark.parametrize(
    ("skew", "age", "said"), [(0, None, "ok"), (-5, None, "warn"), (20, None, "halt"), (-30, "30", "ok")]
)
def test_clock_skew_against_yahoos_date(skew, age, said, serving, tmp_path):
    both(serving, minute("15:00:00"), until="15:01:01")
    headers = {} if age is None else {"Age": age}  # a cache keeps the Date of the answer that it repeats
    serving.charts = {
        name: [replace(answers[0], skew_s=skew, headers=headers)] for name, answers in serving.charts.items()
    }
    polled = feed(tmp_path).poll(at("15:01:03"))
    assert SkewGuard(configured().live).judge(polled.server_utc, polled.received_utc) == said


def test_requests_wait_for_their_turn(serving, tmp_path):
    tested = feed(tmp_path, configured(requests_per_minute=300.0))
    began = time.monotonic()
    for number in (1, 2):
        rows = [minute(f"15:0{before}:00") for before in range(number)]
        both(serving, *rows, until=f"15:0{number}:01")
        assert len(tested.poll(at(f"15:0{number}:03")).bars) == 2
    assert len(serving.asked) >= 8
    assert time.monotonic() - began > 0.9 * (len(serving.asked) - 5) / 5  # five at once, then five a second


def test_what_yahoo_cannot_serve_is_refused(tmp_path):
    cases = [
        (config.load([]), "data=yahoo"),
        (configured("7m"), "interval = 7m"),
        (configured(requests_per_minute=3.0), "live.requests_per_minute"),
    ]
    for cfg, said in cases:
        with pytest.raises(InputError, match=said):
            feed(tmp_path, cfg)


def routed(serving, tmp_path, *more: Answer, privacy: PrivacyConfig | None = None):
    """The records of a router on the history of a run and two bars of Yahoo; more: answers with headlines, first."""
    small = live_market.daily()
    history, rest = live_market.tables("1d", tmp_path)
    history = live_market.recent(history, ("AAPL", "TSLA"))
    settings = {"connect_timeout_s": 2.0, "read_timeout_s": 3.0, "requests_per_minute": 60000.0, "skew_halt_s": 1e12}
    cfg = replace(
        small,
        data=replace(small.data, source="yahoo", yahoo=configured().data.yahoo),
        privacy=privacy or small.privacy,
        live=replace(small.live, **settings),
    )
    closes = sorted(rest.prices["bar_close_utc"].unique())[:2]
    for ticker in ("AAPL", "TSLA"):
        held = pd.concat([history.prices, rest.prices[rest.prices["bar_close_utc"] <= closes[-1]]])
        own = held[held["ticker"] == ticker].sort_values("bar_close_utc").tail(8)
        columns = [own[name] for name in ("open", "high", "low", "close", "volume", "adj_close")]
        opens = [f"{session:%Y-%m-%d}T14:30Z" for session in own["session"]]
        serving.charts[ticker] = [chart(ticker, list(zip(opens, *columns, strict=True)), interval="1d")]
        serving.news[ticker] = [*more, stories(story(1, f"{closes[0]:%Y-%m-%d}T15:00:00Z", f"{ticker} up"))]
    path = tmp_path / "live.log"
    with Journal(path) as journal, Texts(cfg) as texts:
        source = YahooFeed(cfg, history, Quarantine(tmp_path / "quarantine"))
        FEEDS.append(source)
        made = live_market.steady_router(cfg, source, history, closes[1] + LAG, journal, texts)
        seen = []
        made.on_bar = lambda: (seen.append(1), len(seen) == 2 and made.stop.set())
        assert made.run() == router.OK
    return read(path)


def test_yahoo_drives_the_router(serving, tmp_path):
    """The first bar was missed and only extends the history, the second is decided."""
    records = routed(serving, tmp_path)
    said = [
        (record.kind, record.data.get("reason"))
        for record in records
        if record.kind in ("signal", "no_signal", "stale")
    ]
    assert said[-1] == ("signal", None)
    assert said[0][0] in ("stale", "no_signal")
    assert (records[0].data["feed"], records[0].data["simulated"]) == ("yahoo", False)


CANARY = "canary_4711"


def test_nothing_that_a_sensitive_source_refuses_lies_in_the_clear(serving, tmp_path, monkeypatch):
    """Items without a time, an answer that is none, and bars that are none; the journal names them by a hash."""
    identity = x25519.Identity.generate()
    monkeypatch.setenv(sealed.IDENTITY, str(identity))
    items = [{"title": CANARY}, {"id": CANARY, "content": {"title": CANARY, "pubDate": CANARY}}, {"id": {"x": CANARY}}]
    faults = (Answer(f'{{"data": "{CANARY}'.encode()), Answer(json.dumps({"data": CANARY}).encode()), stories(*items))
    privacy = PrivacyConfig(["yahoo"], [str(identity.to_public())])
    records = routed(serving, tmp_path, *faults, privacy=privacy)
    rules = {record.data["rule"] for record in records if record.kind == "reject"}
    assert len(rules) == 6
    assert {record.data["state"] for record in records if record.kind == "feed"} >= {"degraded: malformed"}
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in written if CANARY.encode() in path.read_bytes() or CANARY in path.name] == []
    kept = [path for path in written if path.parent.name == "quarantine"]
    opened = [sealed.unseal(path.read_bytes(), str(path)) for path in kept]
    assert {path.suffixes[0] + path.suffixes[1] for path in kept} == {".bin.age"}
    assert sum(CANARY.encode() in content for content in opened) == len(kept) == 5
    assert {hashlib.sha256(content).hexdigest() for content in opened} == {path.name.split(".")[0] for path in kept}
