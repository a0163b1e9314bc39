"""What a bar is: every way in which it can be wrong, and how a ticker comes back from a halt."""

import copy
import math
from dataclasses import replace

import live_market
import numpy as np
import pandas as pd
import pytest
from source_inputs import configuration, csv_folder

from fusion_alpha import cleaning, config, sources
from fusion_alpha.live import feed
from fusion_alpha.live.clock import Hours
from fusion_alpha.live.feed import QUOTES, Bar
from fusion_alpha.live.guards import BarGuard, Finding

OPEN = pd.Timestamp("2019-12-02T14:30Z").as_unit("us")


def at(minutes: int) -> pd.Timestamp:
    return OPEN + pd.Timedelta(minutes=minutes)


def bar(minutes: int, price: float = 100.0, **changed: float) -> Bar:
    quotes = {"open": price, "high": price * 1.0005, "low": price * 0.9995, "close": price, "adj_close": price}
    return Bar("TSLA", at(minutes), **quotes | {"volume": 1000.0} | changed)


@pytest.fixture
def guard() -> BarGuard:
    """It has seen forty bars, whose log returns are 0.001 up and down."""
    cfg = replace(config.load(), interval="1m")
    made = BarGuard(cfg.live, Hours(cfg))
    price = 100 * np.exp(0.0005 * (-1.0) ** np.arange(40))
    history = pd.DataFrame({"ticker": "TSLA", "bar_close_utc": [at(1 + i) for i in range(40)]})
    made.learn(history.assign(volume=1000.0, **dict.fromkeys(("open", "high", "low", "close", "adj_close"), price)))
    return made


def judge(guard: BarGuard, one: Bar, after_s: float = 3.0):
    return guard.judge(one, one.close_utc + pd.Timedelta(seconds=after_s))


def test_a_bar_counts_two_seconds_after_its_close(guard):
    assert judge(guard, bar(41), 1.9).finding == Finding.PARTIAL
    assert judge(guard, bar(41), 2.0).finding == Finding.GOOD


@pytest.mark.parametrize("name", ["open", "high", "low", "close", "adj_close", "volume"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_number_that_cannot_be_refuses_the_bar_and_halts_the_ticker(guard, name, value):
    verdict = judge(guard, bar(41, **{name: value}))
    assert verdict.finding == Finding.IMPOSSIBLE
    assert guard.halted("TSLA")


@pytest.mark.parametrize("changed", [{"close": 0.0}, {"high": 99.0}, {"low": 101.0}, {"open": 102.0}])
def test_prices_that_contradict_each_other_are_refused(guard, changed):
    assert judge(guard, bar(41, **changed)).finding == Finding.IMPOSSIBLE


def test_three_good_bars_end_a_halt(guard):
    judge(guard, bar(41, close=math.nan))
    halted = [judge(guard, bar(minute)).halted for minute in (42, 43, 44)]
    assert halted == [True, True, False]


def test_a_bad_bar_within_the_three_starts_them_again(guard):
    judge(guard, bar(41, close=math.nan))
    judge(guard, bar(42))
    judge(guard, bar(43, volume=-1.0))
    assert [judge(guard, bar(minute)).halted for minute in (44, 45, 46)] == [True, True, False]


def test_ten_standard_deviations_are_a_jump(guard):
    last = 100 * math.exp(-0.0005)
    assert judge(copy.deepcopy(guard), bar(41, last * math.exp(0.0101))).finding == Finding.JUMP
    assert judge(guard, bar(41, last * math.exp(0.0094))).finding == Finding.GOOD  # its high is at 0.0099


@pytest.mark.parametrize("factor", [1.0, 0.5])
@pytest.mark.parametrize(
    "changed",
    [{"open": 1e6, "high": 1e6}, {"high": 1e6}, {"low": 1e-3}, {"open": 1e-3, "low": 1e-3}, {"high": 101.1}],
    ids=["open", "high", "low", "open below", "high by eleven"],
)
def test_a_jump_of_any_price_is_one_however_the_close_is_adjusted(changed, factor, guard):
    close = 100 * math.exp(-0.0005)
    changed = {name: value / factor for name, value in changed.items()}
    verdict = judge(guard, bar(41, close / factor, adj_close=close, **changed))
    assert (verdict.finding, verdict.halted) == (Finding.JUMP, True)
    assert verdict.rule.startswith(("open", "high", "low"))
    assert [judge(guard, bar(minute)).halted for minute in (42, 43, 44)] == [True, True, False]  # its close was right


@pytest.mark.parametrize("price", [5e-324, 1e-320, 1.7e308])
@pytest.mark.parametrize("name", [*QUOTES[:5], "all"])
def test_a_price_at_the_ends_of_64_bits_is_refused_and_no_exception(name, price, guard):
    changed = dict.fromkeys(QUOTES[:5] if name == "all" else [name], price)
    assert judge(guard, bar(41, **changed)).finding == Finding.IMPOSSIBLE
    assert judge(guard, bar(41, **changed), 60).finding == Finding.DUPLICATE
    judge(guard, bar(43))
    assert judge(guard, bar(42, **changed), 120).finding == Finding.IMPOSSIBLE
    assert [judge(guard, bar(minute)).halted for minute in (44, 45, 46)] == [True, True, False]


@pytest.mark.parametrize("price", [1e-49, 1e49])
def test_a_price_that_is_barely_possible_is_a_jump_and_forgotten_like_another(price, guard):
    for minute, adj_close in ((41, price), (42, 1 / price)):
        assert judge(guard, bar(minute, price, adj_close=adj_close)).finding == Finding.JUMP
    found = [judge(guard, bar(minute)) for minute in (43, 44, 45, 46)]
    assert [verdict.halted for verdict in found] == [True, True, True, False]


def test_a_ticker_whose_closes_stand_still_may_move_as_far_as_its_bars_are_wide(tmp_path):
    """The folder's files: every close is the same, every bar ranges over four percent."""
    source = csv_folder(tmp_path / "mine", 60)
    cfg = configuration("csv", {"folder": str(source)})
    known = cleaning.clean(sources.get("csv").read(cfg, source), cfg)
    tested, day = BarGuard(cfg.live, Hours(cfg)), pd.Timestamp("2015-03-31T20:00Z").as_unit("us")
    tested.learn(known.prices)
    usual = Bar("TSLA", day, 100.0, 102.0, 98.0, 101.0, 100.5, 1000.0)
    assert judge(copy.deepcopy(tested), usual).finding == Finding.GOOD
    assert judge(copy.deepcopy(tested), replace(usual, low=92.0)).finding == Finding.GOOD
    for wide in ({"open": 1e6, "high": 1e6}, {"high": 140.0}, {"low": 70.0}):
        assert judge(copy.deepcopy(tested), replace(usual, **wide)).finding == Finding.JUMP


def test_good_bars_of_the_laboratory_are_none_of_them_refused(tmp_path):
    """Days and minutes, over nights, weekends and a year: no price of a usual bar is beyond the limit."""
    for interval, cfg in (("1d", live_market.daily()), ("1m", live_market.minutes(tmp_path))):
        history, rest = live_market.tables(interval, tmp_path)
        tested = BarGuard(cfg.live, Hours(cfg))
        tested.learn(history.prices)
        found = [tested.judge(one, one.close_utc + pd.Timedelta(seconds=3)) for one in feed.bars(rest.prices)]
        assert len(found) > 700
        assert {verdict.finding for verdict in found} == {Finding.GOOD}


def test_a_usual_night_is_no_jump_for_minutes_and_an_unusual_one_is(guard):
    last = 100 * math.exp(-0.0005)
    first = pd.Timestamp("2019-12-03T14:31Z").as_unit("us")
    for minute in range(41, 391):
        judge(guard, bar(minute, 100 * math.exp(0.0005 * (-1.0) ** minute)))

    def opened(move: float) -> Finding:
        one = replace(bar(41, last * math.exp(move)), close_utc=first)
        return judge(copy.deepcopy(guard), one).finding

    assert opened(0.05) == Finding.GOOD  # fifty times the move of a minute
    assert opened(0.25) == Finding.JUMP


def test_what_is_remembered_of_a_ticker_has_an_end(guard):
    guard._kept = 50
    for minute in range(41, 200):
        judge(guard, bar(minute, 100 * math.exp(0.0005 * (-1.0) ** minute)))
    assert len(guard._tickers["TSLA"].known) <= 100
    assert judge(guard, bar(1), 1e6).finding == Finding.OLD
    assert judge(guard, bar(199, 100 * math.exp(-0.0005)), 60).finding == Finding.DUPLICATE


def test_a_wrong_print_is_refused_there_and_back(guard):
    assert judge(guard, bar(41, 150.0)).finding == Finding.JUMP
    assert judge(guard, bar(42, 100.0)).finding == Finding.JUMP
    assert [judge(guard, bar(minute)).halted for minute in (43, 44, 45)] == [True, True, False]


def test_a_wrong_print_that_is_sent_again_is_still_refused_and_its_correction_is_measured_from_before(guard):
    wrong = bar(41, 150.0)
    assert [judge(guard, wrong, after).finding for after in (3, 8, 13)] == [Finding.JUMP, *[Finding.DUPLICATE] * 2]
    assert judge(guard, bar(41), 18).finding == Finding.GOOD
    assert [judge(guard, bar(minute)).halted for minute in (42, 43)] == [True, False]


def test_an_impossible_bar_that_is_sent_again_halts_its_ticker_once(guard):
    judge(guard, bar(41, close=math.nan))
    for minute in (42, 43, 44):
        judge(guard, bar(minute))
        assert judge(guard, bar(41, close=math.nan), 300).finding == Finding.DUPLICATE
    assert not guard.halted("TSLA")


def test_a_market_that_really_moved_is_followed_after_three_bars(guard):
    assert judge(guard, bar(41, 150.0)).finding == Finding.JUMP
    assert [judge(guard, bar(minute, 150.0)).halted for minute in (42, 43, 44)] == [True, True, False]


def test_the_same_bar_is_a_duplicate_and_with_other_numbers_a_revision(guard):
    judge(guard, bar(41))
    assert judge(guard, bar(41), 60).finding == Finding.DUPLICATE
    assert judge(guard, bar(41, 100.1), 60).finding == Finding.REVISED
    assert judge(guard, bar(41), 60).finding == Finding.DUPLICATE


def test_a_bar_before_the_latest_is_late(guard):
    judge(guard, bar(43))
    verdict = judge(guard, bar(42), 120)
    assert (verdict.finding, verdict.backfill) == (Finding.LATE, True)
    assert judge(guard, bar(42), 130).finding == Finding.DUPLICATE


@pytest.mark.parametrize("factor", [100, 0.01, 0.98])
@pytest.mark.parametrize("changed", [("open", "high"), ("low",), QUOTES[:5]], ids=["open", "low", "all"])
def test_a_late_bar_that_is_far_from_both_its_neighbours_is_refused(changed, factor, guard):
    judge(guard, bar(43))
    prices = {name: (min if name == "low" else max)(100.0, 100.0 * factor) for name in changed}
    prices = dict.fromkeys(changed, 100.0 * factor) if len(changed) == 5 else prices
    verdict = judge(guard, bar(42, **prices), 120)
    if set(prices.values()) == {100.0}:
        assert verdict.finding == Finding.LATE
        return
    assert (verdict.finding, verdict.halted) == (Finding.JUMP, True)
    assert judge(guard, bar(42, **prices), 130).finding == Finding.DUPLICATE
    assert [judge(guard, bar(minute)).halted for minute in (44, 45, 46)] == [True, True, False]
    assert judge(guard, bar(42, **prices, volume=7.0), 600).finding == Finding.JUMP
    assert not guard.halted("TSLA")  # it did for this bar
    assert judge(guard, bar(42), 600).finding == Finding.LATE  # put right


def test_a_late_bar_may_be_at_the_level_of_either_side(guard):
    for minute in (43, 44):
        judge(guard, bar(minute, 110.0))
    found = [judge(copy.deepcopy(guard), bar(42, price), 300).finding for price in (100.0, 105.0, 110.0)]
    assert found == [Finding.LATE, Finding.JUMP, Finding.LATE]


def test_a_jump_that_comes_again_with_another_volume_after_later_bars_stays_refused(guard):
    assert judge(guard, bar(41, 150.0)).finding == Finding.JUMP
    for minute in (42, 43, 44, 45):
        judge(guard, bar(minute))
    assert not guard.halted("TSLA")
    for volume in (1001.0, 1002.0):
        assert judge(guard, bar(41, 150.0, volume=volume), 600).finding == Finding.JUMP
    assert judge(guard, bar(42, volume=7.0), 600).finding == Finding.JUMP  # there and back
    assert not guard.halted("TSLA")
    assert judge(guard, bar(41, volume=7.0), 600).finding == Finding.LATE


def test_a_market_that_moved_does_not_make_the_refused_bar_a_good_one(guard):
    for minute in (41, 42, 43, 44):
        judge(guard, bar(minute, 150.0))
    assert judge(guard, bar(41, 150.0, volume=7.0), 600).finding == Finding.JUMP


def test_a_bar_from_before_the_history_is_nothing_and_loads_no_calendar(guard):
    early = replace(bar(41), close_utc=pd.Timestamp("1990-01-02T15:00Z").as_unit("us"))
    judge(guard, bar(41))
    loaded = len(guard._hours._closes)
    assert guard.judge(early, at(60)).finding == Finding.OLD
    assert len(guard._hours._closes) == loaded
    assert guard.seen(["TSLA"]) == {"TSLA": at(41)}


def test_what_is_remembered_of_refused_bars_has_an_end(guard):
    guard._kept = 50
    for minute in range(41, 341):
        judge(guard, bar(minute, close=math.nan))
    assert len(guard._tickers["TSLA"].refused) <= 100
    assert judge(guard, bar(340, close=math.nan), 60).finding == Finding.DUPLICATE
    for minute in range(341, 391):
        judge(guard, bar(minute))
    for minute in range(1, 101):
        first = pd.Timestamp("2019-12-03T14:30Z").as_unit("us") + pd.Timedelta(minutes=minute)
        judge(guard, replace(bar(1), close_utc=first))
    assert guard._tickers["TSLA"].refused == {}  # all of them are before what is remembered
    assert judge(guard, bar(340, close=math.nan), 1e6).finding == Finding.OLD


def test_a_feed_is_asked_from_the_first_bar_that_is_missing_among_the_latest(guard):
    assert guard.seen(["TSLA", "NONE"]) == {"TSLA": at(40)}
    judge(guard, bar(41))
    judge(guard, bar(43))
    assert guard.seen(["TSLA"]) == {"TSLA": at(41)}
    judge(guard, bar(42, close=math.nan), 120)  # what was refused came
    assert guard.seen(["TSLA"]) == {"TSLA": at(43)}


def test_a_ticker_that_has_no_bars_any_more_makes_no_answer_grow(guard):
    for minute in range(41, 101):
        judge(guard, replace(bar(minute), ticker="AAPL"))
    assert guard.seen(["TSLA", "AAPL"]) == {"TSLA": at(71), "AAPL": at(100)}


def test_bars_that_come_after_a_pause_only_fill_it(guard):
    now = at(50) + pd.Timedelta(seconds=3)
    found = [guard.judge(bar(minute), now).backfill for minute in range(41, 51)]
    assert found == [True] * 7 + [False] * 3  # those within live.stale_s are still of use


@pytest.mark.parametrize(
    "close", ["2019-12-02T22:00Z", "2019-12-07T15:00Z", "2019-12-02T15:30:30Z", "2019-12-25T15:00Z"]
)
def test_a_bar_off_the_calendar_is_refused(guard, close):
    time = pd.Timestamp(close).as_unit("us")
    verdict = guard.judge(replace(bar(41), close_utc=time), max(time, at(60)) + pd.Timedelta(seconds=3))
    assert verdict.finding == Finding.OFF_CALENDAR
    assert not verdict.halted


def test_the_calendar_knows_half_days_and_daylight_saving():
    hours = Hours(replace(config.load(), interval="1m"))
    assert hours.is_close(pd.Timestamp("2019-11-29T18:00Z"))
    assert not hours.is_close(pd.Timestamp("2019-11-29T18:01Z"))
    assert hours.next_close(pd.Timestamp("2019-11-29T18:00Z")) == pd.Timestamp("2019-12-02T14:31Z")
    assert hours.is_close(pd.Timestamp("2019-07-01T13:31Z"))
    assert hours.bars_between(pd.Timestamp("2019-11-29T17:58Z"), pd.Timestamp("2019-12-02T14:31Z")) == 3
    assert hours.is_open(pd.Timestamp("2019-11-29T17:59Z"))
    assert not hours.is_open(pd.Timestamp("2019-11-29T18:00Z"))


def test_days_have_one_bar_and_their_signals_hold_until_the_next_open():
    cfg = config.load()
    hours = Hours(cfg)
    close = pd.Timestamp("2019-11-27T21:00Z")
    assert hours.next_close(close) == pd.Timestamp("2019-11-29T18:00Z")
    assert BarGuard(cfg.live, hours).deadline(close) == pd.Timestamp("2019-11-29T14:30Z")
    assert hours.fill(close + pd.Timedelta(seconds=60)) == pd.Timestamp("2019-11-29T14:30Z")
    assert hours.open_of(close) == pd.Timestamp("2019-11-27T14:30Z")


def test_a_bar_without_an_adjusted_close_keeps_the_factor_of_the_one_before(guard):
    judge(guard, bar(41, 50.0, adj_close=100.0))
    kept = guard.adjusted(bar(42, 50.2, adj_close=None))
    assert kept.adj_close == pytest.approx(100.4)
    assert judge(guard, kept).finding == Finding.GOOD
    assert guard.adjusted(bar(43)) == bar(43)


def test_the_calendar_counts_over_years():
    hours = Hours(config.load())
    assert hours.bars_between(pd.Timestamp("2015-01-02T21:00Z"), pd.Timestamp("2019-12-31T21:00Z")) == 1257
    assert hours.bars_between(pd.Timestamp("2016-01-04T21:00Z"), pd.Timestamp("2016-01-05T21:00Z")) == 1
