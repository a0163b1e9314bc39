"""The failure matrix: every fault comes over HTTP from a server on loopback, and meets the whole router.

The market is the laboratory's: one-minute bars of three tickers, on a clock that steps five seconds at a time. `whole`
is what a router says to a server without faults; a router that had to wait says the same, or nothing.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import pandas as pd
import pytest
from feed_server import Answer, FeedServer
from live_market import minutes

from fusion_alpha import checkpoint, config
from fusion_alpha.fusionnet import FusionNet
from fusion_alpha.live import feed, router, torture
from fusion_alpha.live.broker import PaperBroker, reconciled
from fusion_alpha.live.clock import SteppedClock
from fusion_alpha.live.feed import History
from fusion_alpha.live.guards import Quarantine
from fusion_alpha.live.http_feed import HttpFeed
from fusion_alpha.live.journal import Journal, read
from fusion_alpha.live.model import TorchEngine, feature_names
from fusion_alpha.live.monitor import Metrics
from fusion_alpha.live.state import State
from fusion_alpha.live.switch import KillSwitch
from fusion_alpha.live.texts import Texts

BARS = 8
TICKERS = ["AAPL", "NVDA", "TSLA"]
Bars = list[dict[str, object]]
Spoil = Callable[[pd.Timestamp, Bars], Bars | Answer]


class Clock(SteppedClock):
    """Five seconds a step, a night at once, and an end."""

    longest_s = 5.0

    def __init__(self, start: pd.Timestamp, end: pd.Timestamp) -> None:
        super().__init__(start)
        self.end = end

    def wait(self, seconds, stop):
        super().wait(seconds, stop)
        if self.now() >= self.end:
            stop.set()

    def skip(self, time):
        self._now = max(self._now, time)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Configuration, history, the bars that follow, and an engine that was never trained."""
    folder = tmp_path_factory.mktemp("world")
    cfg = minutes(folder)
    cfg.live = replace(cfg.live, connect_timeout_s=0.2, read_timeout_s=0.2)
    history, rest = torture.market(cfg)
    recent = history.prices.groupby("ticker").tail(150).reset_index(drop=True)  # enough for every window
    history = History(recent, history.news.iloc[:0])
    end = sorted(rest.prices["bar_close_utc"].unique())[BARS - 1]
    rest = rest.prices[rest.prices["bar_close_utc"] <= end]
    with Texts(cfg) as texts:
        state = State(history, texts.vectors, cfg)
        data, _ = state.samples(history.prices["bar_close_utc"].max(), [])
    names = feature_names(cfg)
    net = FusionNet(cfg.model, n_features=len(names), text_dim=cfg.text.dim, tau=(0.5, 0.5), seed=3)
    checkpoint.save(folder / "model", net, data, cfg, {})
    return cfg, history, feed.bars(rest), TorchEngine(folder / "model", cfg)


def closes(world) -> list[pd.Timestamp]:
    return sorted({bar.close_utc for bar in world[2]})


def entry(bar: feed.Bar) -> dict[str, object]:
    quotes = {name: getattr(bar, name) for name in feed.QUOTES}
    return {"ticker": bar.ticker, "bar_close_utc": bar.close_utc.isoformat()} | quotes


class Run:
    """A router that was run against a server with a fault, and what both have to say about it."""

    def __init__(self, world, path, spoil: Spoil = lambda now, bars: bars, *, kill=None, end=None, start=None) -> None:
        cfg, history, bars, engine = world
        self.path, self.when = path / "live.log", list[pd.Timestamp]()
        start = start or history.prices["bar_close_utc"].max() + pd.Timedelta(seconds=300)
        clock = Clock(start, end or closes(world)[-1] + pd.Timedelta(seconds=30))

        def answer(query: dict[str, str]) -> Answer:
            now = clock.now()
            self.when.append(now)
            since = pd.Timestamp(query["since"])
            known = [entry(bar) for bar in bars if since < bar.close_utc <= now]
            said = spoil(now, known)
            if isinstance(said, Answer):
                return said if said.date_utc else replace(said, date_utc=now)
            return Answer(json.dumps({"bars": said}).encode(), date_utc=now)

        with FeedServer(answer).running() as self.server, Journal(self.path) as journal, Texts(cfg) as texts:
            quarantine = Quarantine(path / "quarantine")
            source = HttpFeed(
                self.server.url, TICKERS, "1m", cfg.live, quarantine, clock=lambda: clock.now().timestamp()
            )
            _, book = reconciled(read(self.path))
            self.router = router.Router(
                router.Parts(
                    *(cfg, source, history, clock, journal, engine, texts),
                    *(PaperBroker(cfg, book), KillSwitch(kill), Metrics()),
                ),
                TICKERS,
            )
            self.status = self.router.run()
        self.records = read(self.path)
        reconciled(self.records)

    def of(self, *kinds: str) -> list[dict]:
        return [record.data for record in self.records if record.kind in kinds]

    def signals(self) -> dict[tuple[str, str], dict]:
        return {(data["ticker"], data["close_utc"]): data for data in self.of("signal")}

    def reasons(self, ticker: str) -> list[str | None]:
        """Of each bar of a ticker, in turn: why it has no signal, None where it has one."""
        kinds = ("signal", "no_signal", "stale")
        rows = [one for one in self.records if one.kind in kinds and one.key[0] == ticker]
        return [row.data.get("reason") for row in rows]

    def metric(self, name: str, **labels: str) -> float:
        return self.router.parts.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    return Run(world, tmp_path_factory.mktemp("whole"))


def forecasts(run: Run) -> dict[tuple[str, str], tuple]:
    """What does not depend on the book: forecasts and features of each signal."""
    names = ("p_up", "p_up_sd", "mean_ret", "sd_ret", "severity", "kind", "price", "s", "cs")
    return {key: tuple(data[name] for name in names) for key, data in run.signals().items()}


def window(now: pd.Timestamp, first: pd.Timestamp, seconds: float) -> bool:
    return first <= now < first + pd.Timedelta(seconds=seconds)


def test_without_faults_every_bar_has_its_signals_in_time(world, whole):
    assert len(whole.signals()) == BARS * 3
    assert whole.of("stale", "no_signal", "reject", "feed", "clock", "late") == []
    assert whole.status == router.OK
    assert whole.metric("router_records_total", kind="signal") == BARS * 3


def test_a_feed_that_times_out_is_tried_three_times_and_nothing_is_lost(world, whole, tmp_path):
    third = closes(world)[2]
    run = Run(world, tmp_path, lambda now, bars: Answer(delay_s=0.4) if window(now, third, 14) else bars)
    assert run.signals() == whole.signals()
    slow = [(now, real) for now, real in zip(run.when, run.server.at, strict=True) if window(now, third, 14)]
    polls = pd.DataFrame(slow, columns=["now", "real"]).groupby("now")["real"]
    assert polls.count().tolist() == [3, 3, 3]
    assert polls.diff().std() > 1e-3  # pauses between tries are random
    assert run.of("feed") == [{"state": "degraded: unavailable"}, {"state": "ok"}]
    assert run.metric("router_feed_problems_total", kind="unavailable") == 3


def test_three_tries_with_their_pauses_fit_into_a_minute():
    live = config.load().live
    assert (live.connect_timeout_s, live.read_timeout_s, live.tries) == (2.0, 5.0, 3)
    assert live.tries * (live.connect_timeout_s + live.read_timeout_s) + 2 * 1.0 < 60 - live.settle_s


def test_one_tickers_fault_is_that_tickers_alone(world, whole, tmp_path):
    third = closes(world)[2]

    def spoil(now, bars):
        return [bar | {"close": "soon"} if bar["ticker"] == "TSLA" and window(now, third, 30) else bar for bar in bars]

    run = Run(world, tmp_path, spoil)
    expected = {key: value for key, value in forecasts(whole).items() if key[0] != "TSLA"}
    assert {key: value for key, value in forecasts(run).items() if key[0] != "TSLA"} == expected
    assert run.reasons("TSLA")[:4] == [None, None, "no bar", None]
    assert [late["ticker"] for late in run.of("late")] == ["TSLA"]
    assert run.of("feed")[0] == {"state": "degraded: malformed"}


def test_429_is_obeyed_for_as_long_as_the_server_asks(world, whole, tmp_path):
    third = closes(world)[2]
    refused = Answer(status=429, headers={"Retry-After": "40"})
    run = Run(world, tmp_path, lambda now, bars: refused if window(now, third, 10) else bars)
    asked = [now for now in run.when if window(now, third, 50)]
    assert asked[0] == third + pd.Timedelta(seconds=2)
    assert asked[1] - asked[0] >= pd.Timedelta(seconds=40)
    assert {query["tickers"] for query in run.server.asked} == {"AAPL,NVDA,TSLA"}
    assert forecasts(run) == forecasts(whole)
    assert run.metric("router_feed_problems_total", kind="rate_limited") == 1
    assert run.metric("router_feed_problems_total", kind="resting") >= 5
    assert run.of("feed") == [{"state": "degraded: rate_limited"}, {"state": "ok"}]  # never down: nobody was asked


def test_fewer_requests_than_looks_at_the_feed_are_no_fault_of_its(world, whole, tmp_path):
    cfg, *rest = world
    slow = replace(cfg, live=replace(cfg.live, requests_per_minute=5.0))
    run = Run((slow, *rest), tmp_path)
    assert run.metric("router_feed_problems_total", kind="throttled") > 10
    assert run.of("feed") == []
    assert run.metric("router_feed_state", state="ok") == 1
    assert run.router.health()["feed_failures"] == 0
    assert {key: forecasts(whole)[key] for key in forecasts(run)} == forecasts(run)


def test_the_breaker_opens_after_five_failures_and_health_says_so(world, whole, tmp_path):
    third, healthy = closes(world)[2], []

    def spoil(now, bars):
        if now > third:
            healthy.append(run_of_now[-1].health()["ok"])
        return Answer(status=404) if window(now, third, 25) else bars

    run_of_now: list[router.Router] = []
    keep = router.Router._start
    run = None

    def start(self):
        run_of_now.append(self)
        keep(self)

    router.Router._start = start
    try:
        run = Run(world, tmp_path, spoil)
    finally:
        router.Router._start = keep
    asked = [now for now in run.when if window(now, third, 60)]
    assert len([now for now in asked if window(now, third, 25)]) == 5
    assert asked[5] - asked[4] >= pd.Timedelta(seconds=world[0].live.breaker_rest_s)
    assert healthy[5] is False
    assert healthy[-1] is True
    states = [data["state"] for data in run.of("feed")]
    assert states == ["degraded: refused", "down: refused", "ok"]  # it stays down while the breaker lets nobody ask
    assert forecasts(run) == forecasts(whole)


def test_silence_is_stale_and_what_comes_after_it_is_late_and_never_a_signal(world, whole, tmp_path):
    """From the third bar on nothing for four minutes, then everything at once."""
    third = closes(world)[2]
    run = Run(world, tmp_path, lambda now, bars: [] if window(now, third, 240) else bars)
    reasons = [None, None, "LATE", "LATE", *[None] * (BARS - 4)]
    assert {ticker: run.reasons(ticker) for ticker in TICKERS} == dict.fromkeys(TICKERS, reasons)
    silent = [one.data for one in run.records if one.kind == "stale" and one.key[0] == "stale"]
    assert [(data["ticker"], data["reason"]) for data in silent] == [(ticker, "STALE") for ticker in TICKERS]
    assert {data["close_utc"] for data in silent} == {closes(world)[1].isoformat()}
    back = {key: value for key, value in forecasts(whole).items() if key in forecasts(run)}
    assert forecasts(run) == back  # the tables are those of a router that missed nothing
    decided = {one["book"]["orders"][-1]["decided_utc"] for one in run.of("bar") if one["book"]["orders"]}
    assert len(decided) == BARS - 4
    missed = {data["close_utc"] for data in run.of("signal") if "order" in data}
    assert missed == {close.isoformat() for close in closes(world)[4:6]}  # in time, but their opens were over
    assert run.server.asked[-1]["since"] > run.server.asked[0]["since"]


def test_a_bar_that_is_not_over_is_no_bar(world, whole, tmp_path):
    """The server also has the minute that is going on, with its numbers so far."""

    def spoil(now, bars):
        going_on = [bar for bar in world[2] if now - pd.Timedelta(seconds=2) < bar.close_utc]
        first = min((bar.close_utc for bar in going_on), default=None)
        return bars + [entry(bar) | {"close": bar.open, "volume": 1} for bar in going_on if bar.close_utc == first]

    run = Run(world, tmp_path, spoil)
    assert run.metric("router_bars_total", finding="partial") > 3 * BARS
    assert run.signals() == whole.signals()
    assert run.of("revised") == []


@pytest.mark.parametrize(
    "body", [b"<html>busy</html>", b'{"bars": [{"ticker": "TSLA", "open": NaN, "close": -Infinity}]}']
)
def test_a_malformed_answer_is_kept_under_its_hash_and_the_router_goes_on(body, world, whole, tmp_path):
    third = closes(world)[2]
    run = Run(world, tmp_path, lambda now, bars: Answer(body) if window(now, third, 5) else bars)
    (state,) = [one for one in run.records if one.kind == "feed" and one.data["state"] == "degraded: malformed"]
    name = hashlib.sha256(body).hexdigest()
    assert state.timing["sha256"] == name
    assert (tmp_path / "quarantine" / f"{name}.bin").read_bytes() == body
    assert forecasts(run) == forecasts(whole)


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"close": None}, "finite"),
        ({"open": 0.0}, "positive"),
        ({"high": 1.0}, "high is at least"),
    ],
    ids=["unknown", "zero", "high below low"],
)
def test_an_impossible_bar_halts_its_ticker_alone_until_three_good_ones(changed, rule, world, whole, tmp_path):
    third = closes(world)[2]

    def spoil(now, bars):
        return [bar | changed if bar["ticker"] == "TSLA" and at(bar) == third else bar for bar in bars]

    run = Run(world, tmp_path, spoil)
    (rejected,) = run.of("reject")
    assert (rejected["ticker"], rejected["close_utc"], rejected["finding"]) == ("TSLA", third.isoformat(), "impossible")
    assert rule in rejected["rule"]
    halted = "halted: waiting for good bars"
    assert run.reasons("TSLA") == [None, None, "no bar", halted, halted, *[None] * (BARS - 5)]
    others = {key: value for key, value in forecasts(whole).items() if key[0] != "TSLA"}
    found = {key: value for key, value in forecasts(run).items() if key[0] != "TSLA"}
    assert {key: value[-3:] for key, value in found.items()} == {key: value[-3:] for key, value in others.items()}
    assert run.metric("router_bars_total", finding="impossible") >= 1


def at(bar: dict[str, object]) -> pd.Timestamp:
    return pd.Timestamp(str(bar["bar_close_utc"]))


def test_a_jump_of_ten_deviations_halts_its_ticker_and_is_in_no_table(world, whole, tmp_path):
    third = closes(world)[2]

    def spoil(now, bars):
        wrong = dict.fromkeys(feed.QUOTES, 3.0 * world[2][-1].close)
        return [bar | wrong if bar["ticker"] == "TSLA" and at(bar) == third else bar for bar in bars]

    run = Run(world, tmp_path, spoil)
    assert {(one["ticker"], one["finding"]) for one in run.of("reject")} == {("TSLA", "jump")}
    assert [one["close_utc"] for one in run.of("reject")] == [one.isoformat() for one in closes(world)[2:4]]
    assert run.reasons("TSLA")[2:7] == ["no bar", "no bar", *["halted: waiting for good bars"] * 2, None]
    assert max(data["price"] for data in run.signals().values()) == max(one["price"] for one in whole.of("signal"))


def test_a_bar_again_is_nothing_and_a_revised_one_a_record_alone(world, whole, tmp_path):
    known: Bars = []

    def spoil(now, bars):
        """Everything that was ever said, and once the third bar with other numbers."""
        known.extend(bar for bar in bars if bar not in known)
        revised = [bar | {"volume": 7.0} for bar in known if at(bar) == closes(world)[2]]
        return known + (revised if now > closes(world)[4] else [])

    run = Run(world, tmp_path, spoil)
    assert run.signals() == whole.signals()
    assert sorted((one["ticker"], one["bar"]["volume"]) for one in run.of("revised")) == [
        (name, 7.0) for name in TICKERS
    ]
    assert run.metric("router_bars_total", finding="duplicate") > 3 * BARS
    keys = [record.key for record in run.records if record.key]
    assert len(keys) == len(set(keys))


def test_a_bar_that_comes_after_its_minute_was_decided_is_history_alone(world, whole, tmp_path):
    third = closes(world)[2]
    run = Run(
        world,
        tmp_path,
        lambda now, bars: [
            bar for bar in bars if (bar["ticker"], at(bar)) != ("TSLA", third) or now > closes(world)[4]
        ],
    )
    ((late,),) = [run.of("late")]
    assert (late["ticker"], late["close_utc"]) == ("TSLA", third.isoformat())
    assert run.reasons("TSLA") == [None, None, "no bar", *[None] * (BARS - 3)]
    after = [key for key in forecasts(whole) if pd.Timestamp(key[1]) > closes(world)[5]]
    assert {key: forecasts(run)[key] for key in after} == {key: forecasts(whole)[key] for key in after}


@pytest.mark.parametrize(("skew", "state"), [(5.0, "warn"), (-20.0, "halt")])
def test_a_clock_that_is_off_is_warned_of_and_further_off_stops_signals(skew, state, world, whole, tmp_path):
    def spoil(now, bars):
        return Answer(json.dumps({"bars": bars}).encode(), skew_s=skew, date_utc=now)

    run = Run(world, tmp_path, spoil, end=closes(world)[2])
    assert run.of("clock") == [{"state": state}]
    assert abs(run.metric("router_clock_skew_seconds") + skew) <= 1
    assert run.router.health()["ok"] == (state == "warn")
    reasons = {reason for ticker in TICKERS for reason in run.reasons(ticker)}
    assert (reasons == {None}) if state == "warn" else all("clock skew" in reason for reason in reasons)
    assert bool(run.of("bar")[-1]["book"]["orders"]) == (state == "warn")


def test_a_ticker_that_falls_silent_is_named_while_the_others_go_on(world, whole, tmp_path):
    third = closes(world)[2]
    run = Run(world, tmp_path, lambda now, bars: [bar for bar in bars if bar["ticker"] != "TSLA" or at(bar) < third])
    assert [(one["ticker"], one["reason"]) for one in run.of("stale")] == [("TSLA", "HALTED?")]
    assert run.reasons("TSLA") == [None, None, *["no bar"] * (BARS - 2)]
    assert run.reasons("AAPL") == [None] * BARS


def test_a_closed_market_is_left_alone_but_for_headlines(world, tmp_path):
    end = world[1].prices["bar_close_utc"].max()
    run = Run(world, tmp_path, start=end + pd.Timedelta(seconds=2), end=end + pd.Timedelta(minutes=5))
    asked = [now for now in run.when if now > end + pd.Timedelta(seconds=world[0].live.stale_s)]
    assert len(asked) <= 1  # and then the night is skipped, which no wall's clock can
    assert run.of("signal", "no_signal", "stale", "bar") == []


def test_a_kill_file_counts_for_the_very_bar_that_is_on_its_way(world, whole, tmp_path):
    third, kill = closes(world)[2], tmp_path / "kill"

    def spoil(now, bars):
        if now > third:
            kill.touch()
        return bars

    run = Run(world, tmp_path, spoil, kill=kill)
    assert run.reasons("AAPL") == [None, None, *[f"killed: {kill} exists"] * (BARS - 2)]
    assert [one["reason"] for one in run.of("latch")] == [f"{kill} exists"]
    assert run.of("bar")[-1]["book"]["orders"] == []
    assert run.metric("router_killed") == 1
    assert run.router.health()["killed"] == f"{kill} exists"


def test_a_router_that_was_down_asks_for_what_it_missed(world, whole, tmp_path):
    first = Run(world, tmp_path, end=closes(world)[2] + pd.Timedelta(seconds=20))
    assert len(first.signals()) == 9
    again = Run(world, tmp_path, start=closes(world)[6] + pd.Timedelta(seconds=30))
    assert again.server.asked[0]["since"] == world[1].prices["bar_close_utc"].max().strftime("%Y-%m-%dT%H:%M:%SZ")
    assert again.reasons("AAPL") == [None, None, None, "LATE", *[None] * (BARS - 4)]
    expected = forecasts(whole)
    assert {key: expected[key] for key in forecasts(again)} == forecasts(again)
