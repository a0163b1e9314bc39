"""The loop: a replay is the batch pipeline, restarts change nothing, and each fault is answered by silence."""

import json
import os
import signal
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import requests
from feed_server import Answer, FeedServer, said
from live_market import batch_samples, daily, tables

from fusion_alpha import checkpoint, prediction
from fusion_alpha.errors import InputError
from fusion_alpha.fusionnet import FusionNet
from fusion_alpha.live import feed, router
from fusion_alpha.live.broker import Book, DryRun, PaperBroker, reconciled
from fusion_alpha.live.clock import SteppedClock
from fusion_alpha.live.feed import History, Polled, TableFeed
from fusion_alpha.live.guards import Quarantine
from fusion_alpha.live.http_feed import HttpFeed
from fusion_alpha.live.journal import Entry, Journal, read
from fusion_alpha.live.model import ModelError, TorchEngine, feature_names
from fusion_alpha.live.monitor import Metrics, Monitor
from fusion_alpha.live.state import State
from fusion_alpha.live.switch import KillSwitch
from fusion_alpha.live.texts import Texts
from fusion_alpha.trading import decide

BARS = 6


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Configuration, history, what follows it, a checkpoint that was never trained, and embedded texts."""
    cfg = daily()
    folder = tmp_path_factory.mktemp("world")
    history, rest = tables("1d", folder)
    end = sorted(rest.prices["bar_close_utc"].unique())[BARS - 1]
    rest = History(rest.prices[rest.prices["bar_close_utc"] <= end], rest.news[rest.news["published_utc"] < end])
    # Later bars of the tables only complete the history; two hundred a ticker are enough for every window.
    recent = history.prices.groupby("ticker").tail(150)
    since = recent["bar_close_utc"].min()
    history = History(recent.reset_index(drop=True), history.news[history.news["published_utc"] > since])
    with Texts(cfg) as texts:
        texts.load(history.news["text"])
        state = State(history, texts.vectors, cfg)
        data, _ = state.samples(history.prices["bar_close_utc"].max(), state.tickers)
        names = feature_names(cfg)
        assert data.feature_names == names
        net = FusionNet(cfg.model, n_features=len(names), text_dim=cfg.text.dim, tau=(0.5, 0.5), seed=3)
        checkpoint.save(folder / "model", net, data, cfg, {})
    return cfg, history, rest, folder / "model"


@pytest.fixture(scope="module")
def engine(world):
    return TorchEngine(world[3], world[0])


def table_feed(world, rest: History | None = None) -> TableFeed:
    cfg, _, whole, _ = world
    rest = rest or whole
    return TableFeed(rest.prices, rest.news, name="replay", simulated=True, delay_s=cfg.live.settle_s)


def route(world, engine, path, source=None, *, broker=None, switch=None, before=None, **more) -> router.Router:
    """Run a router until its feed ends; `before` sees it first."""
    cfg, history, _, _ = world
    with Journal(path) as journal, Texts(cfg) as texts:
        last, book = reconciled(read(path), path)
        start = history.prices["bar_close_utc"].max() if last is None else last
        made = router.Router(
            router.Parts(
                more.pop("cfg", cfg),
                source or table_feed(world),
                history,
                SteppedClock(start + pd.Timedelta(seconds=cfg.live.settle_s)),
                journal,
                engine,
                texts,
                broker or PaperBroker(cfg, book),
                switch or KillSwitch(None),
                Metrics(),
            ),
            more.pop("tickers", sorted(history.prices["ticker"].unique())),
            **more,
        )
        if before:
            before(made)
        made.status = made.run()
    return made


def said_by(path, *kinds: str) -> list[tuple[str, object, dict]]:
    return [(one.kind, one.key, one.data) for one in read(path) if one.kind in (kinds or ("signal", "fill", "bar"))]


@pytest.fixture(scope="module")
def whole(world, engine, tmp_path_factory):
    """The journal of an uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "live.log"
    made = route(world, engine, path)
    assert made.status == router.OK
    return path


def test_a_replay_gives_the_signals_of_the_batch_pipeline_to_the_bit(world, engine, whole):
    cfg, history, rest, _ = world
    data = batch_samples(cfg, history, rest)
    found = prediction.predict(
        engine._net, data, data.select(), mc_samples=cfg.predict.mc_samples, device=engine._device
    )
    batch = pd.concat([data.rows.iloc[data.select()].reset_index(drop=True), found], axis=1)
    signals = [data for _, _, data in said_by(whole, "signal")]
    assert len(signals) == BARS * 3
    for signal_ in signals:
        row = batch[(batch["ticker"] == signal_["ticker"]) & (batch["bar_close_utc"] == signal_["close_utc"])].iloc[0]
        for name in ("p_up", "p_up_sd", "mean_ret", "sd_ret", "severity", "kind"):
            assert signal_[name] == row[name], name
        assert pd.Timestamp(signal_["decided_utc"]) == row["decided_utc"]
    first = [one for one in signals if one["close_utc"] == signals[0]["close_utc"]]
    rows = batch[batch["bar_close_utc"] == first[0]["close_utc"]]
    weights = decide(rows, cfg, held=pd.Series(dtype="float64"))
    assert {one["ticker"]: one["weight"] for one in first} == weights.to_dict()
    assert any(one["weight"] != 0 for one in signals)


def later(world, bars: int) -> tuple:
    """The world after the pipeline ran again, when the feed had given so many bars."""
    cfg, history, rest, model = world
    end = sorted(rest.prices["bar_close_utc"].unique())[bars - 1]
    prices, news = (pd.concat([getattr(history, name), getattr(rest, name)]) for name in ("prices", "news"))
    known = prices[prices["bar_close_utc"] <= end].sort_values(["ticker", "bar_close_utc"], ignore_index=True)
    news = news[news["published_utc"] < end].sort_values(["ticker", "news_id"], ignore_index=True)
    return cfg, History(known, news), History(rest.prices[rest.prices["bar_close_utc"] > end], rest.news), model


def test_an_order_is_filled_although_the_pipeline_ran_while_the_router_did_not(world, engine, whole, tmp_path):
    path = tmp_path / "live.log"
    route(world, engine, path, once=True)
    route(later(world, 3), engine, path)
    assert said_by(path, "fill")[0] == said_by(whole, "fill")[0]
    bars, whole_bars = said_by(path, "bar"), said_by(whole, "bar")
    assert [key for _, key, _ in bars] == [key for _, key, _ in whole_bars]
    assert not bars[1][2]["book"]["orders"], "nothing was decided on what only the pipeline saw"
    reconciled(read(path), path)


def test_a_book_at_prices_of_another_history_is_not_gone_on_with(world, engine, tmp_path):
    cfg, history, rest, model = world
    path = tmp_path / "live.log"
    route(world, engine, path, once=True)
    before = path.read_bytes()
    held = next(iter(Book.restored(said_by(path, "bar")[-1][2]["book"]).orders[0].weights))
    prices = history.prices
    shorter = prices.drop(prices.index[prices["ticker"] == held][0])
    for changed, rule in ((shorter, "at prices of a history from"), (prices[prices["ticker"] != held], "has none")):
        other, names = History(changed.reset_index(drop=True), history.news), sorted(changed["ticker"].unique())
        follows = History(rest.prices[rest.prices["ticker"].isin(names)], rest.news)
        with pytest.raises(InputError, match=rule):
            route((cfg, other, follows, model), engine, path, tickers=names)
    assert path.read_bytes() == before


def test_a_bar_that_is_decided_again_after_a_power_cut_and_too_late_says_so(world, engine, tmp_path):
    path = tmp_path / "live.log"
    route(world, engine, path, once=True)
    lines = path.read_bytes().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if b'"kind":"bar"' in line)
    path.write_bytes(b"".join(lines[:place]) + lines[place][:40])
    cfg, history, rest, _ = world
    closes = sorted(rest.prices["bar_close_utc"].unique())
    late = SteppedClock(closes[2] + pd.Timedelta(seconds=cfg.live.settle_s))
    route(world, engine, path, before=lambda made: setattr(made.parts, "clock", late))
    first = min(history.prices["ticker"])
    of_first = (first, closes[0].isoformat())
    kinds = [kind for kind, key, _ in said_by(path, "signal", "stale", "no_signal") if key[:2] == of_first]
    assert kinds == ["signal", "stale"]
    assert not said_by(path, "bar")[0][2]["book"]["orders"]


class Looking(SteppedClock):
    """Looks at the feed once a minute."""

    longest_s = 60.0


def test_a_feed_whose_bars_come_late_by_design_is_not_stale(world, engine, whole, tmp_path):
    _, history, rest, _ = world
    slow = TableFeed(rest.prices, rest.news, name="replay", simulated=True, delay_s=1200.0)
    clock = Looking(history.prices["bar_close_utc"].max())
    route(world, engine, tmp_path / "live.log", slow, before=lambda made: setattr(made.parts, "clock", clock))
    assert not said_by(tmp_path / "live.log", "stale")
    assert said_by(tmp_path / "live.log", "signal") == said_by(whole, "signal")


class Repeating(TableFeed):
    """Hands over each bar again at the next poll, its volume unknown."""

    given: tuple = ()

    def poll(self, now):
        again = [replace(bar, volume=float("nan")) for bar in self.given]
        polled = super().poll(now)
        self.given = tuple(polled.bars)
        return replace(polled, bars=[*polled.bars, *again])


def test_a_revision_to_an_unknown_number_is_written_down(world, engine, tmp_path):
    _, _, rest, _ = world
    route(world, engine, tmp_path / "live.log", Repeating(rest.prices, rest.news, name="replay", simulated=True))
    revised = said_by(tmp_path / "live.log", "revised")
    assert {data["bar"]["volume"] for _, _, data in revised} == {"nan"}


def test_orders_fill_at_the_next_open_and_the_book_is_in_the_journal(whole, world):
    records = read(whole)
    kinds = [record.kind for record in records]
    assert kinds[0] == "start"
    assert kinds[-1] == "stop"
    fills, bars = said_by(whole, "fill"), said_by(whole, "bar")
    assert len(fills) == BARS - 1  # the last decision waits for an open that never came
    assert [Book.restored(data["book"]).orders[0].fill_utc for _, _, data in bars[:-1]] == [
        pd.Timestamp(data["opens_utc"]).isoformat() for _, _, data in fills
    ]
    assert bars[-1][2]["equity"] != 1.0


def test_a_router_cut_off_anywhere_and_started_again_writes_the_same_records(world, engine, whole, tmp_path):
    content = whole.read_bytes()
    expected = said_by(whole)
    rng = np.random.default_rng(0)
    for length in sorted(rng.integers(0, len(content), 4)):
        path = tmp_path / f"{length}.log"
        path.write_bytes(content[:length])
        route(world, engine, path)
        assert said_by(path) == expected, length


def test_a_second_run_over_the_same_bars_adds_nothing(world, engine, whole, tmp_path):
    path = tmp_path / "live.log"
    path.write_bytes(whole.read_bytes())
    route(world, engine, path)
    assert said_by(path) == said_by(whole)


def test_once_deals_with_one_bar(world, engine, tmp_path):
    route(world, engine, tmp_path / "live.log", once=True, tickers=["TSLA"])
    assert len(said_by(tmp_path / "live.log", "bar")) == 1
    assert len(said_by(tmp_path / "live.log", "signal")) == 1


def test_a_dry_run_signals_and_holds_nothing(world, engine, tmp_path):
    path = tmp_path / "live.log"
    route(world, engine, path, broker=DryRun())
    assert len(said_by(path, "signal")) == BARS * 3
    assert said_by(path, "fill") == []
    assert all(data["held"] == 0 for _, _, data in said_by(path, "signal"))


def test_the_journal_never_repeats_a_key(whole):
    keys = [record.key for record in read(whole) if record.key is not None]
    assert len(keys) == len(set(keys))


def changed(world, close_number: int, ticker: str = "TSLA", **quotes: float) -> History:
    """What follows the history, with a ticker's bar of that number changed."""
    rest = world[2]
    prices = rest.prices.copy()
    close = sorted(prices["bar_close_utc"].unique())[close_number]
    row = (prices["ticker"] == ticker) & (prices["bar_close_utc"] == close)
    for name, value in quotes.items():
        prices.loc[row, name] = value
    return History(prices, rest.news)


def test_a_held_ticker_without_a_signal_is_closed_by_the_decision_on_the_others(world, engine, whole, tmp_path):
    def books(path):
        return [data["book"] for _, _, data in said_by(path, "bar")]

    ticker = next(iter(books(whole)[3]["weights"]))
    path = tmp_path / "live.log"
    route(world, engine, path, table_feed(world, changed(world, 3, ticker, close=np.nan)))
    said = [data for _, _, data in said_by(path, "no_signal") if data["ticker"] == ticker]
    assert [one["reason"] for one in said] == [
        "no bar",
        "halted: waiting for good bars",
        "halted: waiting for good bars",
    ]
    assert said[0]["held"] != 0
    assert said[0]["weight"] == 0
    assert said[0]["action"] in ("buy", "sell")
    kept, *closed = books(path)[3:]
    assert kept["orders"][-1]["weights"][ticker] == 0
    assert ticker in kept["weights"]
    assert all(ticker not in book["weights"] for book in closed)


@pytest.mark.parametrize("quotes", [{"close": np.nan}, {"low": -1.0}, {"high": 0.01}, {"adj_close": 1e6}])
def test_a_bad_bar_halts_its_ticker_alone_until_three_good_ones(quotes, world, engine, tmp_path):
    path = tmp_path / "live.log"
    route(world, engine, path, table_feed(world, changed(world, 1, **quotes)))
    assert len(said_by(path, "reject")) >= 1
    tesla = [
        (kind, data.get("reason")) for kind, _, data in said_by(path, "signal", "no_signal") if data["ticker"] == "TSLA"
    ]
    back = "adj_close" in quotes  # a wrong print is a jump there and back
    silent = ["no bar"] * (1 + back) + ["halted: waiting for good bars"] * 2
    assert [reason for _, reason in tesla] == [None, *silent, *[None] * (BARS - 1 - len(silent))]
    others = [data["ticker"] for _, _, data in said_by(path, "signal") if data["ticker"] != "TSLA"]
    assert len(others) == BARS * 2


def test_a_bar_that_comes_late_is_taken_and_not_signalled(world, engine, tmp_path):
    rest = world[2]
    closes = sorted(rest.prices["bar_close_utc"].unique())
    missing = (rest.prices["ticker"] == "TSLA") & (rest.prices["bar_close_utc"] == closes[1])

    class Late(TableFeed):
        def poll(self, now):
            polled = super().poll(now)
            if now > closes[3] and not self.given:
                self.given = True
                return replace(polled, bars=[*feed.bars(rest.prices[missing]), *polled.bars])
            return polled

    source = Late(rest.prices[~missing], rest.news, name="replay", simulated=True, delay_s=2.0)
    source.given = False
    path = tmp_path / "live.log"
    route(world, engine, path, source)
    ((_, _, late),) = said_by(path, "late")
    assert (late["ticker"], pd.Timestamp(late["close_utc"])) == ("TSLA", closes[1])
    tesla = [kind for kind, _, data in said_by(path, "signal", "no_signal") if data["ticker"] == "TSLA"]
    assert tesla == ["signal", "no_signal", *["signal"] * (BARS - 2)]


def test_duplicates_and_revisions_are_not_signalled_again(world, engine, whole, tmp_path):
    class Twice(TableFeed):
        def poll(self, now):
            polled = super().poll(now)
            again = [replace(bar, volume=bar.volume + 1) for bar in polled.bars]
            return replace(polled, bars=[*polled.bars, *polled.bars, *again])

    rest = world[2]
    path = tmp_path / "live.log"
    made = route(world, engine, path, Twice(rest.prices, rest.news, name="replay", simulated=True, delay_s=2.0))
    assert said_by(path) == said_by(whole)
    assert len(said_by(path, "revised")) == BARS * 3
    assert made.parts.metrics.bars.labels("duplicate")._value.get() == BARS * 3


def test_the_kill_file_stops_signals_and_stays_latched_until_released(world, engine, tmp_path):
    path, kill = tmp_path / "live.log", tmp_path / "kill"
    seen = []

    def pull(made: router.Router) -> None:
        def on_bar() -> None:
            seen.append(1)
            if len(seen) == 2:
                kill.touch()

        made.on_bar = on_bar

    made = route(world, engine, path, switch=KillSwitch(kill), before=pull)
    assert len(said_by(path, "signal")) == 2 * 3
    assert [data["reason"] for _, _, data in said_by(path, "latch")] == [f"{kill} exists"]
    assert all("killed" in data["reason"] for _, _, data in said_by(path, "no_signal"))
    assert not made.health()["ok"]
    assert made.parts.metrics.killed._value.get() == 1
    kill.unlink()
    rest = world[2]
    closes = sorted(rest.prices["bar_close_utc"].unique())
    made = route(world, engine, path, switch=KillSwitch(kill))
    assert made.latched
    assert len(said_by(path, "signal")) == 2 * 3
    assert len(said_by(path, "bar")) == len(closes)


def test_a_switch_that_is_pulled_between_bars_is_latched_before_the_next_one_and_before_a_stop(world, engine, tmp_path):
    """The file is gone, or the process, when the next bar comes."""
    path, kill = tmp_path / "live.log", tmp_path / "kill"

    class Touched(TableFeed):
        def poll(self, now):
            kill.touch()
            return Polled(received_utc=now)

        def ended(self, now):
            return True

    rest = world[2]
    made = route(
        world, engine, path, Touched(rest.prices, rest.news, name="replay", simulated=True), switch=KillSwitch(kill)
    )
    assert (made.latched, said_by(path, "bar")) == (f"{kill} exists", [])

    path, switch = tmp_path / "other.log", KillSwitch(None)

    def pull(made: router.Router) -> None:
        made.on_bar = switch.pull

    route(world, engine, path, switch=switch, before=pull, once=True)
    assert [one.kind for one in read(path)][-3:] == ["bar", "latch", "stop"]


def test_a_kill_switch_that_cannot_be_seen_counts_as_pulled(tmp_path):
    folder = tmp_path / "gone"
    assert "gone" in KillSwitch(folder / "kill").pulled()
    folder.mkdir()
    assert KillSwitch(folder / "kill").pulled() is None
    (folder / "kill").symlink_to("nowhere")
    assert KillSwitch(folder / "kill").pulled()
    assert KillSwitch(tmp_path / ("x" * 300) / "kill").pulled()
    by_signal = KillSwitch(None)
    by_signal.pull()
    assert by_signal.pulled() == "signal"


def test_a_full_disk_ends_all_signals_and_shows_in_health(world, engine, tmp_path):
    def fill(made: router.Router) -> None:
        def on_bar() -> None:
            full = os.open("/dev/full", os.O_WRONLY)
            os.dup2(full, made.parts.journal._file)
            os.close(full)

        made.on_bar = on_bar

    made = route(world, engine, tmp_path / "live.log", before=fill)
    assert made.status == router.BROKEN
    assert not made.health()["ok"]
    assert "No space left" in made.health()["journal"]
    assert len(said_by(tmp_path / "live.log", "signal")) == 3
    assert made.parts.broker.book.orders == []  # the first one is filled, a second one was never sent


def test_a_signal_that_would_come_too_late_is_a_stale_record(world, engine, tmp_path):
    class Slow:
        model_id, sha256 = engine.model_id, engine.sha256

        def predict(self, data, rows):
            found = engine.predict(data, rows)
            made.parts.clock._now += pd.Timedelta(days=1)
            return found

    def keep(one: router.Router) -> None:
        nonlocal made
        made = one

    made: router.Router
    path = tmp_path / "live.log"
    route(world, Slow(), path, before=keep, once=True)
    assert said_by(path, "signal") == []
    assert len([one for one in said_by(path, "stale") if one[2]["reason"] == "STALE"]) >= 3


def test_a_clock_that_is_wrong_stops_signals(world, engine, tmp_path):
    class Skewed(TableFeed):
        def poll(self, now):
            return replace(super().poll(now), server_utc=now - pd.Timedelta(seconds=20))

    rest = world[2]
    path = tmp_path / "live.log"
    route(world, engine, path, Skewed(rest.prices, rest.news, name="replay", simulated=True, delay_s=2.0))
    assert said_by(path, "signal") == []
    assert all("clock skew" in data["reason"] for _, _, data in said_by(path, "no_signal"))
    assert said_by(path, "clock")[0][2] == {"state": "halt"}


def test_a_ticker_that_falls_silent_is_named_while_others_trade(world, engine, tmp_path):
    rest = world[2]
    closes = sorted(rest.prices["bar_close_utc"].unique())
    silent = (rest.prices["ticker"] == "TSLA") & (rest.prices["bar_close_utc"] > closes[0])
    path = tmp_path / "live.log"
    route(world, engine, path, table_feed(world, History(rest.prices[~silent], rest.news)))
    assert "HALTED?" in {data["reason"] for _, _, data in said_by(path, "stale") if data["ticker"] == "TSLA"}


def test_a_feed_over_http_drives_the_router(world, engine, tmp_path):
    cfg, _, rest, _ = world
    bars = [
        {"ticker": one.ticker, "bar_close_utc": one.close_utc.isoformat()}
        | {name: getattr(one, name) for name in feed.QUOTES}
        for one in feed.bars(rest.prices)
    ]
    path = tmp_path / "live.log"
    cfg = replace(cfg, live=replace(cfg.live, skew_halt_s=1e12, requests_per_minute=60000.0))
    with FeedServer(Answer(b"{NaN"), Answer(status=503), said(*bars)).running() as server:
        source = HttpFeed(server.url, ["AAPL", "NVDA", "TSLA"], "1d", cfg.live, Quarantine(tmp_path / "q"))
        made = route(world, engine, path, source, cfg=cfg, once=True)
    assert made.status == router.OK
    assert len(said_by(path, "signal")) == 3
    assert said_by(path, "feed")[0][2] == {"state": "degraded: malformed"}
    assert len(list((tmp_path / "q").iterdir())) == 1


def test_sigterm_while_the_feed_is_silent_ends_within_five_seconds(world, engine, tmp_path):
    cfg = world[0]
    live = replace(cfg.live, read_timeout_s=60.0)
    with FeedServer(said(), Answer(delay_s=30)).running() as server:
        source = HttpFeed(server.url, ["TSLA"], "1d", live, Quarantine(tmp_path / "q"))

        def arm(made: router.Router) -> None:
            signal.signal(signal.SIGTERM, lambda *_: made.interrupt())

        def kill() -> None:
            while len(server.asked) < 2:
                stopped.wait(0.05)
            os.kill(os.getpid(), signal.SIGTERM)

        stopped = threading.Event()
        threading.Thread(target=kill, daemon=True).start()
        made = route(world, engine, tmp_path / "live.log", source, before=arm)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        stopped.set()
    assert made.status == router.OK
    assert read(tmp_path / "live.log")[-1].data == {"reason": "signal"}


def test_metrics_and_health_are_served_on_loopback(world, engine, whole):
    metrics, state = Metrics(), {"ok": True}
    with Monitor(0, metrics, lambda: state) as monitor:
        url = f"http://127.0.0.1:{monitor.port}"
        assert 'router_feed_state{state="ok"} 1.0' in requests.get(f"{url}/metrics", timeout=5).text
        assert requests.get(f"{url}/health", timeout=5).status_code == 200
        state["ok"] = False
        answer = requests.get(f"{url}/health", timeout=5)
        assert (answer.status_code, answer.json()) == (503, {"ok": False})
        assert requests.get(url, timeout=5).status_code == 404


def test_one_wrong_bit_in_the_model_is_refused(world, tmp_path):
    cfg, _, _, folder = world
    rng = np.random.default_rng(1)
    for name in (checkpoint.WEIGHTS, checkpoint.CONFIG):
        content = (folder / name).read_bytes()
        for place in rng.integers(0, 8 * len(content), 10):
            damaged = tmp_path / "model"
            damaged.mkdir(exist_ok=True)
            for other in folder.iterdir():
                (damaged / other.name).write_bytes(other.read_bytes())
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << place % 8
            (damaged / name).write_bytes(flipped)
            with pytest.raises(ModelError):
                TorchEngine(damaged, cfg)


def test_a_model_that_is_absent_or_of_another_interval_is_refused(world, tmp_path):
    cfg, _, _, folder = world
    with pytest.raises(ModelError, match="no such file"):
        TorchEngine(tmp_path, cfg)
    with pytest.raises(ModelError, match="interval = 1d, now it is 1m"):
        TorchEngine(folder, replace(cfg, interval="1m"))


def test_a_latched_switch_is_released_by_a_record(world, engine, tmp_path):
    path = tmp_path / "live.log"
    with Journal(path) as journal:
        journal.append(Entry("latch", {"reason": "test"}), Entry("release", {"reason": "checked"}))
    assert route(world, engine, path, once=True).latched is None
    assert json.loads(path.read_bytes().splitlines()[0])["data"] == {"reason": "test"}
    assert Polled().problems == []


def test_bars_after_a_hole_in_the_history_give_no_signal(world, engine, tmp_path):
    """A year between the pipeline's last bar and the feed's first one."""
    cfg, history, rest, folder = world
    year = pd.Timedelta(days=364)
    closes = sorted(history.prices["bar_close_utc"].unique())
    prices = history.prices[history.prices["bar_close_utc"] <= closes[-40]]
    news = history.news[history.news["published_utc"] < closes[-40]]
    moved = History(
        prices.assign(bar_close_utc=prices["bar_close_utc"] - year, session=prices["session"] - year), news.iloc[:0]
    )
    on_calendar = prices["bar_close_utc"].isin(closes)
    assert on_calendar.all()
    hours = router.Hours(cfg)
    real = moved.prices["bar_close_utc"].map(hours.is_close)
    moved = History(moved.prices[real].reset_index(drop=True), moved.news)
    path = tmp_path / "live.log"
    route((cfg, moved, rest, folder), engine, path)
    reasons = {data["reason"] for _, _, data in said_by(path, "no_signal", "stale") if "gap" in data["reason"]}
    assert reasons == {"gap: most of its recent bars are missing"}
    assert said_by(path, "signal") == []
