"""Feeds: what an HTTP server does to the router, on real sockets; tables; buckets, breakers and strict JSON."""

import gzip
import hashlib
import time
from dataclasses import replace

import pandas as pd
import pytest
from feed_server import Answer, FeedServer, bar, said
from yahoo_server import YahooServer

from fusion_alpha import config
from fusion_alpha.errors import InputError
from fusion_alpha.live import feed, guards
from fusion_alpha.live.guards import Quarantine, SkewGuard, strict_json
from fusion_alpha.live.http_feed import MAX_BYTES, HttpFeed
from fusion_alpha.live.limits import Breaker, TokenBucket

CLOSE = "2019-12-02T15:00:00Z"
NOW = pd.Timestamp("2019-12-02T15:00:05Z")


@pytest.fixture
def live():
    return replace(config.load().live, connect_timeout_s=0.3, read_timeout_s=0.3, requests_per_minute=60000.0)


def http(server: FeedServer, live, tmp_path, **more) -> HttpFeed:
    return HttpFeed(server.url, ["AAPL", "TSLA"], "1m", live, Quarantine(tmp_path / "quarantine"), **more)


def kinds(polled: feed.Polled) -> list[str]:
    return [problem.kind for problem in polled.problems]


def test_one_request_brings_all_tickers_with_the_servers_clock(live, tmp_path):
    item = {"id": 7, "ticker": "TSLA", "published_utc": CLOSE, "text": "Tesla up"}
    with FeedServer(said(bar("TSLA", CLOSE), bar("AAPL", CLOSE, adj_close=50.0), headlines=[item])).running() as server:
        tested = http(server, live, tmp_path)
        tested.seen({"TSLA": pd.Timestamp(CLOSE), "AAPL": pd.Timestamp(CLOSE) - pd.Timedelta(minutes=1)})
        polled = tested.poll(NOW)
    assert [(one.ticker, one.adj_close) for one in polled.bars] == [("TSLA", None), ("AAPL", 50.0)]
    assert polled.headlines == [feed.Headline("TSLA", "7", pd.Timestamp(CLOSE), "Tesla up")]
    assert polled.problems == []
    assert abs(polled.server_utc - pd.Timestamp.now("UTC")) < pd.Timedelta(seconds=3)
    assert server.asked == [{"tickers": "AAPL,TSLA", "interval": "1m", "since": "2019-12-02T14:59:00Z"}]


@pytest.mark.parametrize(
    "fault",
    [Answer(delay_s=0.5), Answer(status=503), Answer(cut=3), Answer(body=b" " * 40, drip_s=0.05)],
    ids=["silent", "503", "cut", "drips"],
)
def test_a_try_that_fails_is_repeated_up_to_three_times(fault, live, tmp_path):
    with FeedServer(fault, fault, said(bar("TSLA", CLOSE))).running() as server:
        polled = http(server, live, tmp_path).poll(NOW)
        assert (len(polled.bars), len(server.asked)) == (1, 3)
    with FeedServer(fault).running() as server:
        started = time.monotonic()
        polled = http(server, live, tmp_path).poll(NOW)
        assert (kinds(polled), len(server.asked)) == (["unavailable"], 3)
        assert time.monotonic() - started < 5


SLOW_HEAD = Answer(slow_head=True, drip_s=0.05, headers={"X": "y" * 400})


@pytest.mark.parametrize(
    ("fault", "kind", "asked"),
    [
        (SLOW_HEAD, "unavailable", 3),
        (replace(SLOW_HEAD, status=302, headers={"Location": "/feed", "X": "y" * 400}), "unavailable", 3),
        (Answer(b" " * 400, 302, {"Location": "/feed"}, drip_s=0.05), "unavailable", 3),
        (Answer(b" " * 400, 429, drip_s=0.05), "unavailable", 3),
        (Answer(b'{"bars": []}' + b" " * 400, drip_s=0.05, headers={"Content-Length": ""}), "unavailable", 3),
        (Answer(b"5;" + b"x" * 400, headers={"Transfer-Encoding": "chunked"}, drip_s=0.05), "unavailable", 3),
        (Answer(b"gone", 302, {"Location": "/feed"}), "refused", 1),
        (Answer(b"gone", 301, {"Location": "http://127.0.0.1:9/elsewhere"}), "refused", 1),
    ],
    ids=["head", "head of 302", "302", "429", "no length", "chunk", "redirect", "redirect elsewhere"],
)
def test_no_answer_holds_a_poll_and_no_redirect_is_followed(fault, kind, asked, live, tmp_path):
    with FeedServer(fault).running() as server:
        tested = http(server, live, tmp_path)
        started = time.monotonic()
        assert kinds(tested.poll(NOW)) == [kind]
        assert time.monotonic() - started < 3 * 0.6 + 2 * 1.0 + 0.5  # tries and the longest pauses between them
        assert len(server.asked) == asked
        server.answers = [said(bar("TSLA", CLOSE))]
        assert len(tested.poll(NOW).bars) == 1


def test_over_tls_and_a_proxy_too_headers_that_drip_end(live, tmp_path, monkeypatch):
    server = YahooServer(charts={"feed": [SLOW_HEAD]})
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with server.running(tmp_path) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        url = "https://query1.finance.yahoo.com/v8/finance/chart/feed"
        tested = HttpFeed(url, ["TSLA"], "1m", replace(live, tries=1), Quarantine(tmp_path / "quarantine"))
        started = time.monotonic()
        (problem,) = tested.poll(NOW).problems
        assert time.monotonic() - started < 2
        assert (problem.kind, problem.detail) == ("unavailable", "the answer took too long")
        server.charts["feed"] = [said(bar("TSLA", CLOSE))]
        assert len(tested.poll(NOW).bars) == 1


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_an_answer_beyond_32_mib_is_refused(packed, live, tmp_path):
    body = b" " * (MAX_BYTES + 1)
    fault = Answer(gzip.compress(body, 1), headers={"Content-Encoding": "gzip"}) if packed else Answer(body)
    live = replace(live, connect_timeout_s=5.0, read_timeout_s=5.0)
    with FeedServer(fault, said(bar("TSLA", CLOSE))).running() as server:
        tested = http(server, live, tmp_path)
        polled = tested.poll(NOW)
        assert (kinds(polled), polled.answered, len(server.asked)) == (["too_large"], False, 1)
        assert not (tmp_path / "quarantine").exists()
        assert len(tested.poll(NOW).bars) == 1


def test_a_dead_port_is_a_problem_and_no_exception(live, tmp_path):
    with FeedServer(said()).running() as server:
        tested = http(server, live, tmp_path)
    assert kinds(tested.poll(NOW)) == ["unavailable"]


def test_429_is_not_repeated_and_retry_after_is_honoured(live, tmp_path):
    now = [0.0]
    refused = Answer(status=429, headers={"Retry-After": "7"})
    with FeedServer(refused, said(bar("TSLA", CLOSE))).running() as server:
        tested = http(server, live, tmp_path, clock=lambda: now[0])
        assert kinds(tested.poll(NOW)) == ["rate_limited"]
        now[0] = 6.9
        resting = tested.poll(NOW)
        assert (kinds(resting), resting.answered) == (["resting"], None)
        assert len(server.asked) == 1
        now[0] = 7.1
        assert len(tested.poll(NOW).bars) == 1


def test_a_retry_after_date_is_honoured(live, tmp_path):
    stamp = (pd.Timestamp.now("UTC") + pd.Timedelta(seconds=100)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    with FeedServer(Answer(status=429, headers={"Retry-After": stamp})).running() as server:
        tested = http(server, live, tmp_path)
        tested.poll(NOW)
        assert kinds(tested.poll(NOW)) == ["resting"]


def test_the_breaker_opens_after_five_failures_and_lets_one_try_through_later(live, tmp_path):
    now = [0.0]
    with FeedServer(*[Answer(status=404)] * 5, said(bar("TSLA", CLOSE))).running() as server:
        tested = http(server, live, tmp_path, clock=lambda: now[0])
        for _ in range(5):
            assert kinds(tested.poll(NOW)) == ["refused"]
            now[0] += 1
        left_alone = tested.poll(NOW)
        assert (kinds(left_alone), left_alone.answered) == (["breaker_open"], None)
        assert len(server.asked) == 5
        now[0] += live.breaker_rest_s
        assert len(tested.poll(NOW).bars) == 1
        assert len(tested.poll(NOW).bars) == 1


def test_more_requests_than_allowed_are_not_made(live, tmp_path):
    with FeedServer(said()).running() as server:
        tested = http(server, replace(live, requests_per_minute=1.0), tmp_path)
        found = [tested.poll(NOW) for _ in range(7)]
    assert [kinds(one) for one in found] == [[]] * 5 + [["throttled"]] * 2
    assert [one.answered for one in found] == [True] * 5 + [None] * 2
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>", b'{"bars": [', b'{"bars": [NaN]}', b'{"bars": [{"open": -Infinity}]}', b'{"bars": [1e999]}'),
        *(b"\xff\xfe", b"", b"[" * 100_000),
    ],
)
def test_bytes_that_are_no_answer_are_kept_and_the_next_poll_goes_on(body, live, tmp_path):
    with FeedServer(Answer(body), said(bar("TSLA", CLOSE))).running() as server:
        tested = http(server, live, tmp_path)
        (problem,) = tested.poll(NOW).problems
        assert problem.kind == "malformed"
        assert (tmp_path / "quarantine" / f"{problem.quarantined}.bin").read_bytes() == body
        assert len(tested.poll(NOW).bars) == 1


@pytest.mark.parametrize(
    "broken",
    [
        {"close": "100"},
        {"close": True},
        {"bar_close_utc": "2019-12-02T15:00:00"},
        {"bar_close_utc": 7},
        {"bar_close_utc": "soon"},
        {"bar_close_utc": "soon\ud800"},
        *({"bar_close_utc": f"{year}-12-02T15:00:00Z"} for year in ("0202", "1970", "2200", "9999")),
        {"bar_close_utc": "0001-01-01T00:00+23:59"},
        {"open": 10**400},
        {"volume": -(10**400)},
        {"ticker": "MSFT"},
        {"ticker": ["TSLA"]},
    ],
)
def test_one_malformed_entry_spoils_no_other(broken, live, tmp_path):
    with FeedServer(said(bar("TSLA", CLOSE) | broken, bar("AAPL", CLOSE))).running() as server:
        polled = http(server, live, tmp_path).poll(NOW)
    assert [one.ticker for one in polled.bars] == ["AAPL"]
    assert kinds(polled) == ["malformed"]
    assert polled.problems[0].tickers in (("TSLA",), ())
    assert len(list((tmp_path / "quarantine").iterdir())) == 1


@pytest.mark.parametrize("year", ["0202", "1970", "9999"])
def test_a_headline_of_no_such_year_spoils_no_other(year, live, tmp_path):
    good = {"id": 7, "ticker": "TSLA", "published_utc": CLOSE, "text": "Tesla up"}
    wrong = good | {"id": 8, "published_utc": f"{year}-12-02T15:00:00Z"}
    with FeedServer(said(headlines=[wrong, good])).running() as server:
        polled = http(server, live, tmp_path).poll(NOW)
    assert [item.item_id for item in polled.headlines] == ["7"]
    assert kinds(polled) == ["malformed"]


def test_half_a_surrogate_pair_is_what_it_is_in_the_pipeline(live, tmp_path):
    item = {"id": "\ud83d", "ticker": "TSLA", "published_utc": CLOSE, "text": "up \ud83d\ude80 and \ud800"}
    with FeedServer(said(headlines=[item])).running() as server:
        (found,) = http(server, live, tmp_path).poll(NOW).headlines
    assert (found.item_id, found.text) == ("\ufffd", "up \U0001f680 and \ufffd")


def test_bars_of_one_answer_come_in_order_of_time(live, tmp_path):
    closes = [f"2019-12-02T14:{minute}:00Z" for minute in (59, 57, 58)]
    with FeedServer(said(*(bar(name, close) for close in closes for name in ("TSLA", "AAPL")))).running() as server:
        polled = http(server, live, tmp_path).poll(NOW)
    found = [(one.ticker, one.close_utc.minute) for one in polled.bars]
    assert found == [(name, minute) for minute in (57, 58, 59) for name in ("TSLA", "AAPL")]


def test_an_answer_of_another_form_is_malformed(live, tmp_path):
    for body in (b"[]", b"{}", b'{"bars": 7}', b'{"bars": [], "headlines": 7}', b'{"bars": [7]}'):
        with FeedServer(Answer(body)).running() as server:
            assert kinds(http(server, live, tmp_path).poll(NOW)) == ["malformed"], body


def test_an_unknown_price_comes_as_nan_for_the_guards_to_refuse(live, tmp_path):
    with FeedServer(said(bar("TSLA", CLOSE) | {"close": None})).running() as server:
        (only,) = http(server, live, tmp_path).poll(NOW).bars
    assert only.close != only.close


@pytest.mark.parametrize(("skew", "said_of_it"), [(0, "ok"), (-5, "warn"), (5, "warn"), (-20, "halt"), (20, "halt")])
def test_clock_skew_against_the_http_date(skew, said_of_it, live, tmp_path):
    with FeedServer(Answer(skew_s=skew)).running() as server:
        now = pd.Timestamp.now("UTC")
        polled = http(server, live, tmp_path).poll(now)
    guard = SkewGuard(live)
    assert guard.judge(polled.server_utc, polled.received_utc) == said_of_it
    assert guard.judge(None, None) == said_of_it


def test_quarantine_keeps_equal_bytes_once(tmp_path):
    quarantine = Quarantine(tmp_path / "q")
    assert quarantine.keep(b"a") == quarantine.keep(b"a")
    assert Quarantine(tmp_path / "q").keep(b"b")
    assert len(list((tmp_path / "q").iterdir())) == 2


def test_a_quarantine_keeps_no_more_than_its_limits_over_restarts_and_in_either_form(tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "_KEPT_FILES", 3)
    monkeypatch.setattr(guards, "_KEPT_BYTES", 1000)
    folder = tmp_path / "q"
    Quarantine(folder).keep(b"a")
    (folder / f"{hashlib.sha256(b'b').hexdigest()}.bin.age").write_bytes(b"sealed")
    assert Quarantine(folder).keep(b"b") == hashlib.sha256(b"b").hexdigest()  # it is there, sealed
    assert len(list(folder.iterdir())) == 2
    tested = Quarantine(folder)
    tested.keep(b"x" * 994)  # seven bytes are taken
    assert len(list(folder.iterdir())) == 2
    tested.keep(b"x" * 993)
    for number in range(5):
        assert tested.keep(b"%d" % number) == hashlib.sha256(b"%d" % number).hexdigest()
    assert len(list(folder.iterdir())) == 3


def test_a_quarantine_that_cannot_be_written_is_no_exception(tmp_path):
    (tmp_path / "q").write_bytes(b"a file where a folder should be")
    assert Quarantine(tmp_path / "q").keep(b"a") == hashlib.sha256(b"a").hexdigest()


def test_strict_json_takes_what_json_is():
    assert strict_json(b'{"a": [1, 2.5, null, true, "NaN"]}') == {"a": [1, 2.5, None, True, "NaN"]}


def test_the_bucket_fills_with_time():
    now = [0.0]
    bucket = TokenBucket(60, 2, lambda: now[0])
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now[0] = 1.5
    assert [bucket.take() for _ in range(2)] == [True, False]


def test_the_breaker_closes_with_a_success():
    now = [0.0]
    breaker = Breaker(2, 10, lambda: now[0])
    breaker.failure()
    breaker.success()
    breaker.failure()
    assert breaker.allows()
    breaker.failure()
    assert breaker.open
    assert not breaker.allows()
    now[0] = 10
    assert breaker.allows()
    breaker.failure()
    assert not breaker.allows()


def table_feed() -> feed.TableFeed:
    closes = pd.to_datetime(["2019-12-02T21:00Z", "2019-12-03T21:00Z"]).as_unit("us")
    prices = pd.DataFrame({"ticker": ["TSLA"] * 2, "bar_close_utc": closes})
    prices = prices.assign(**dict.fromkeys(feed.QUOTES, 1.0))
    news = pd.DataFrame(
        {"ticker": ["TSLA"], "news_id": ["a"], "published_utc": closes[:1], "text": ["x"], "is_repost": [False]}
    )
    return feed.TableFeed(prices, news, name="replay", simulated=True)


def test_a_table_hands_over_each_row_once_when_its_time_has_come():
    tested = table_feed()
    first = pd.Timestamp("2019-12-02T21:00Z")
    assert tested.poll(first - pd.Timedelta(seconds=1)).bars == []
    polled = tested.poll(first)
    assert [one.close_utc for one in polled.bars] == [first]
    assert len(polled.headlines) == 1
    assert tested.poll(first).bars == []
    assert len(tested.poll(first + pd.Timedelta(days=3)).bars) == 1


def test_the_laboratory_goes_on_where_the_pipeline_stopped():
    cfg = config.load(["data.lab.first_session=2019-11-01", "data.lab.n_tickers=2"])
    history, rest = feed.laboratory(cfg)
    assert rest.simulated
    assert history.prices["session"].max() == pd.Timestamp("2019-12-31")
    (first, second) = rest.poll(pd.Timestamp("2020-01-02T21:00:02Z")).bars
    assert {first.ticker, second.ticker} == {"AAPL", "TSLA"}
    assert first.close_utc == pd.Timestamp("2020-01-02T21:00Z")
    assert history.news["published_utc"].max() <= history.prices["bar_close_utc"].max()


def test_history_is_demanded():
    prices = pd.DataFrame({"session": [pd.Timestamp("2019-01-01")]})
    with pytest.raises(InputError, match="no bars before 2015-01-01"):
        feed.split(feed.History(prices, pd.DataFrame()), pd.Timestamp("2015-01-01"))
