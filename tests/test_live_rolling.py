"""The newest row of each table is what the batch layers write for it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from synthetic_bars import panel as synthetic

from fusion_alpha import config, contradiction, nulls, technical
from fusion_alpha.indicators import WHITELIST
from fusion_alpha.live import rolling
from fusion_alpha.live.tail import Tail

RULES = config.load(["contradiction.n_paths=64"]).contradiction
LENGTHS = (330, 400, 100)


def test_a_tail_keeps_its_last_rows_in_order():
    tail = Tail({"a": np.arange(3), "b": np.arange(6.0).reshape(3, 2)}, keep=4)
    for number in range(3, 20):
        tail.append({"a": number, "b": (number, -number)})
        assert tail["a"].tolist() == list(range(max(0, number - 3), number + 1))
        assert tail["b"][-1].tolist() == [number, -number]
    tail.cut(2)
    tail.append({"a": 99, "b": (0, 0)})
    tail.insert(1, {"a": 50, "b": (1, 1)})
    assert tail["a"].tolist() == [16, 50, 17, 99]
    tail.insert(1, {"a": 51, "b": (2, 2)})
    assert tail["a"].tolist() == [51, 50, 17, 99]
    assert tail["b"][0].tolist() == [2, 2]
    assert len(Tail({"a": np.arange(9)}, keep=4)) == 4
    assert len(tail) == 4


@pytest.fixture(scope="module")
def panels():
    """Three tickers of other lengths and price levels."""
    table, made = synthetic(("AAA", "BBB", "CCC"), max(LENGTHS)), []
    for number, (length, (_, frame)) in enumerate(zip(LENGTHS, table.groupby("ticker"), strict=True)):
        part = frame.tail(length).reset_index(drop=True)
        made.append(part.assign(**{name: part[name] * 30.0**number for name in ("open", "high", "low", "close")}))
    return made


def test_indicators_of_tickers_laid_end_to_end_are_those_of_each_alone(panels):
    found = rolling.indicators(WHITELIST, [frame[list(rolling.BARS)].to_numpy() for frame in panels], 330)
    for row, frame in zip(found, panels, strict=True):
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            alone = np.array([item.compute(frame).iloc[-1] for item in WHITELIST])
        warm = np.array([item.warmup < len(frame) for item in WHITELIST])
        assert warm.sum() > 30
        np.testing.assert_allclose(row[warm], alone[warm], rtol=1e-9, atol=1e-12)


def test_indicators_that_are_not_slow_see_no_further_than_their_warm_up(panels):
    for item in WHITELIST:
        if item.warmup > rolling.SLOW:
            continue
        frame = panels[1]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            short = float(item.compute(frame.tail(item.warmup + 1)).iloc[-1])
            whole = float(item.compute(frame).iloc[-1])
        assert short == pytest.approx(whole, rel=1e-9, abs=1e-12, nan_ok=True), item.name


def test_slow_indicators_are_the_exponential_means():
    slow = {item.name for item in WHITELIST if item.warmup > rolling.SLOW}
    assert slow == {
        *("ema_ratio_20", "macd_12_26", "macd_histogram_12_26_9", "dx_14", "adx_14", "trix_15", "mass_9_25"),
        *("tsi_25_13", "force_13", "pvo_12_26"),
    }


def test_indicators_without_bars_or_items():
    assert rolling.indicators(WHITELIST, [], 300).shape == (0, len(WHITELIST))
    assert rolling.indicators([], [np.ones((9, 5))], 300).shape == (1, 0)


def scores(seed: int, lengths=LENGTHS) -> pd.DataFrame:
    """Sentiment of tickers that miss bars, in key order; a third of it unknown."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, length in enumerate(lengths):
        time = np.sort(rng.choice(420, length, replace=False))
        s = np.where(rng.random(length) < 1 / 3, np.nan, rng.uniform(-1, 1, length))
        parts.append(pd.DataFrame({"ticker": number, "time": time, "s": s}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("seed", range(3))
def test_standardised_scores_are_the_batch_layers(seed):
    table = scores(seed)
    last = table["time"].max()
    number = table.groupby("ticker").cumcount().to_numpy()
    rank = np.unique(table["time"], return_inverse=True)[1]
    batch = contradiction.standardise(table["s"].to_numpy(), number, rank, RULES.window_bars, RULES.shrink_weight)
    tails = [own.tail(RULES.window_bars + 1) for _, own in table.groupby("ticker")]
    found = rolling.standardised(
        [own["s"].to_numpy() for own in tails], [own["time"].to_numpy() for own in tails], RULES
    )
    here = [place for place, own in enumerate(tails) if own["time"].iloc[-1] == last]
    assert here
    np.testing.assert_array_equal(found[here], batch[[tails[place].index[-1] for place in here]])


def test_severity_is_the_batch_layers():
    rng = np.random.default_rng(4)
    history = [np.where(rng.random(n) < 0.5, 0.0, rng.normal(size=n).round(1)) for n in (0, 1, 40, 300)]
    now = np.array([1.0, -0.3, 0.0, 1.2])
    expected = [
        contradiction.severity(np.append(past, cs), np.arange(len(past) + 1), 80)[-1]
        for past, cs in zip(history, now, strict=True)
    ]
    np.testing.assert_array_equal(rolling.severity(now, history, 80), expected)


def test_sentiment_is_the_batch_layers():
    rng = np.random.default_rng(5)
    row, age = np.sort(rng.integers(0, 4, 60)), rng.exponential(10, 60)
    row = row[row != 2]  # one ticker without news
    shares = rng.dirichlet(np.ones(3), 60)
    n = len(row)
    panel = pd.DataFrame({"ticker": list("ABCD"), "bar_close_utc": 0})
    names = [f"{number:03}" for number in range(n)]
    news = panel.iloc[row].reset_index(drop=True).assign(age_hours=age[:n], text_hash=names)
    text = pd.DataFrame(shares[:n], columns=["p_negative", "p_neutral", "p_positive"]).assign(text_hash=names)
    batch = contradiction.sentiment(panel, news, text, 12.0)
    found = rolling.sentiment(row, age[:n], shares[:n], 4, 12.0)
    np.testing.assert_array_equal(found[0], batch[0])
    np.testing.assert_array_equal(found[1], batch[1])
    assert np.isnan(found[1]).sum() == 1
    nothing = rolling.sentiment(np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 3)), 2, 12.0)
    assert (nothing[0].tolist(), np.isnan(nothing[1]).all()) == ([0, 0], True)


@pytest.mark.parametrize("sessions", [1, 390])
def test_the_null_is_the_batch_layers(panels, sessions):
    rules = replace(RULES, null_sessions=60)
    lengths = (330, 62, 61)
    frames = []
    for number, (frame, length) in enumerate(zip(panels, lengths, strict=True)):
        part = frame.head(length).reset_index(drop=True)
        frames.append(part.assign(ticker=str(number), session=np.arange(length) // sessions))
    panel = pd.concat(frames, ignore_index=True)
    batch = nulls.features(panel, rules)
    last = np.cumsum(lengths) - 1
    moves = nulls.log_moves(panel)
    table = np.column_stack([moves[name] for name in rolling.MOVES])
    for found, expected in zip(rolling.null(np.split(table, last[:-1] + 1), rules), batch, strict=True):
        np.testing.assert_array_equal(found, expected[last])
    assert np.isfinite(batch.z_r[last]).tolist() == [True, True, False]
    quotes = panel[["open", "high", "low", "close"]].to_numpy()
    opens = panel["session"].to_numpy()[last] != panel["session"].to_numpy()[last - 1]
    np.testing.assert_array_equal(rolling.moves(quotes[last], quotes[last - 1, 3], opens), table[last])


def test_features_of_the_technical_table_are_among_those_computed(panels):
    frame = panels[0].assign(adjustment=1.0)
    batch = technical.features(frame, 0).iloc[-1]
    found = rolling.indicators(WHITELIST, [frame[list(rolling.BARS)].to_numpy()], len(frame))[0]
    np.testing.assert_allclose(found, batch.to_numpy(float), rtol=1e-9, atol=1e-12)
