"""The latency benchmark runs the router over every bar and every headline, and its rows fit its log."""

import numpy as np
import pandas as pd
import pytest
from live_market import minutes

from fusion_alpha.live import bench
from kernels.bench import log as bench_log


class Guess:
    """Predicts without a model."""

    model_id, sha256 = "guess", "0" * 64

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def predict(self, data, rows):
        self.seen.append((len(rows), int(data.gather(rows).news_mask.sum())))
        known = {"p_up": 0.5, "p_up_sd": 0.02, "mean_ret": 0.01, "sd_ret": 0.02, "severity": 0.5, "kind": "none"}
        return pd.DataFrame(known, index=range(len(rows)))


@pytest.mark.parametrize("headlines", [0, 2])
def test_every_bar_is_timed_and_headlines_reach_the_tables(headlines, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "_HISTORY", 130)
    engine, cfg = Guess(), minutes(tmp_path)
    case = {"engine": "guess", "threads": 1, "n_tickers": 2, "headlines": headlines, "bars": 4, "speed": 6000.0}
    row = bench.measure(cfg, engine, case, tmp_path)
    assert len(engine.seen) == 1 + 5 + 4  # the router's warm-up, the benchmark's, and what counts
    assert {rows for rows, _ in engine.seen} == {2}
    lookback = cfg.model.news_lookback_bars
    late = [news for _, news in engine.seen[-4:]]
    assert any(late) == bool(headlines)  # the history's items have left the look-back by then
    assert lookback < 5
    assert all(0 < row[f"{step}_p50_ms"] <= row[f"{step}_p99_ms"] for step in bench.STEPS)
    machine = {name: value for name, value in bench_log.cpu_machine("x").items() if name in bench.COLUMNS}
    bench_log.append([machine | row], tmp_path / "log.csv", bench.COLUMNS)
    assert (tmp_path / "log.csv").read_text().count("\n") == 2
    assert list(tmp_path.glob("*.log")) == list(tmp_path.glob(".live_bench*")) == []


def test_the_market_is_possible_and_the_same_every_time(tmp_path):
    cfg = minutes(tmp_path)
    prices = bench.market(2, 50, cfg)
    pd.testing.assert_frame_equal(prices, bench.market(2, 50, cfg))
    assert (prices["high"] >= prices[["open", "close"]].max(axis=1)).all()
    assert (prices["low"] <= prices[["open", "close"]].min(axis=1)).all()
    assert 1e-4 < np.log(prices["close"]).diff().std() < 1
    items = bench.stories(prices, 1.5, 3)
    assert len({one.text for one in items}) == len(items) == 75
    assert {one.ticker for one in items} == {"N000", "N001"}
