"""The panel's clock, adjustment, target, roles and news join."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusion_alpha import config, panel, sessions, tables
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

# published (UTC) -> first session that may use the item; exactly at the close counts as after
GOLDEN = [
    ("2025-11-28 17:59", "2025-11-28"),
    ("2025-11-28 18:00", "2025-12-01"),
    ("2026-03-06 20:59", "2026-03-06"),
    ("2026-03-06 21:00", "2026-03-09"),
    ("2026-03-09 13:29", "2026-03-09"),
    ("2026-03-09 13:30", "2026-03-09"),
    ("2026-03-09 20:00", "2026-03-10"),
    ("2026-07-02 20:30", "2026-07-06"),
    ("2025-01-09 15:00", "2025-01-10"),
    ("2024-07-03 17:00", "2024-07-05"),
    ("2026-12-24 18:00", "2026-12-28"),
]


def make_config(*overrides: str) -> Config:
    return config.load(list(overrides))


def make_prices(first: str, last: str, tickers: tuple[str, ...] = ("AAPL", "TSLA"), minutes: int | None = None):
    bars = sessions.bars("XNYS", first, last, minutes)
    frames = []
    for number, ticker in enumerate(tickers):
        rng = np.random.default_rng(number)
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, len(bars))))
        frames.append(
            pd.DataFrame(
                {
                    "ticker": ticker,
                    "bar_close_utc": bars["bar_close_utc"],
                    "session": bars["session"],
                    "open": close * 1.001,
                    "high": close * 1.01,
                    "low": close * 0.99,
                    "close": close,
                    "adj_close": close,
                    "volume": 1000.0,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def make_news(published: list[str], ticker: str = "AAPL") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "news_id": [f"{number:032x}" for number in range(len(published))],
            "ticker": ticker,
            "published_utc": pd.to_datetime(published, format="ISO8601", utc=True),
            "text": [f"headline {number}" for number in range(len(published))],
            "lang": "en",
            "source": "csv",
            "is_repost": False,
            "author_key": None,
            "followers": None,
        }
    )


def joined(folder: Path, prices: pd.DataFrame, news: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    bars = panel.build(prices, tables.empty("benchmark"), cfg)
    news_path = tables.write("news", news, folder / "news.parquet")
    panel_path = tables.write("panel", bars, folder / "panel.parquet")
    rows = panel.join_news(news_path, panel_path, panel.news_since(bars, cfg))
    return tables.read("news_bars", tables.write("news_bars", rows, folder / "news_bars.parquet"))


def test_news_belongs_to_the_first_session_that_may_use_it(tmp_path):
    prices = make_prices("2024-06-03", "2026-12-31", ("AAPL",))
    rows = joined(tmp_path, prices, make_news([time for time, _ in GOLDEN]), make_config()).set_index("news_id")
    for number, (published, expected) in enumerate(GOLDEN):
        used = rows.loc[f"{number:032x}", "bar_close_utc"]
        assert used.tz_convert("America/New_York").strftime("%Y-%m-%d") == expected, published


def test_news_delay_moves_the_cutoff_earlier(tmp_path):
    prices = make_prices("2024-07-01", "2024-07-12", ("AAPL",))
    cfg = make_config("target.news_delay_s=600")
    rows = joined(tmp_path, prices, make_news(["2024-07-01 19:49:59", "2024-07-01 19:50:00"]), cfg)
    assert rows.sort_values("news_id")["bar_close_utc"].dt.day.tolist() == [1, 2]
    assert rows["age_hours"].min() == pytest.approx(1 / 3600)


def test_news_outside_the_panel_has_no_bar(tmp_path):
    prices = make_prices("2024-07-01", "2024-07-12", ("AAPL",))
    before, first, after = "2024-06-28 19:59", "2024-06-28 20:00", "2024-07-12 20:00"
    rows = joined(tmp_path, prices, make_news([before, first, after]), make_config())
    assert rows["news_id"].tolist() == [f"{1:032x}"]


def test_utc_date_rule_gives_a_row_the_news_before_the_next_session(tmp_path):
    prices = make_prices("2015-09-01", "2015-09-30", ("AAPL",))
    cfg = make_config("target.session_rule=utc_date", "target.decision_delay_s=0")
    published = [
        "2015-09-03 23:59:59",
        "2015-09-04 00:00",
        "2015-09-06 12:00",
        "2015-09-07 23:59:59",
        "2015-09-08 00:00",
    ]
    rows = joined(tmp_path, prices, make_news(published), cfg).sort_values("news_id")
    assert rows["bar_close_utc"].dt.day.tolist() == [3, 4, 4, 4, 8]  # the 7th is Labor Day


def test_clock_of_a_daily_row():
    bars = panel.build(make_prices("2024-07-01", "2024-07-12"), tables.empty("benchmark"), make_config())
    row = bars[(bars["ticker"] == "TSLA") & (bars["session"] == "2024-07-02")].iloc[0]
    assert str(row["cutoff_utc"]) == "2024-07-02 20:00:00+00:00"
    assert str(row["decided_utc"]) == "2024-07-02 20:01:00+00:00"
    assert str(row["fill_utc"]) == "2024-07-03 13:30:00+00:00"
    assert str(row["label_end_utc"]) == "2024-07-05 13:30:00+00:00"
    opens = bars[bars["ticker"] == "TSLA"].set_index("session")["open"]
    assert row["target_ret"] == opens["2024-07-05"] / opens["2024-07-03"] - 1
    assert row["target_label"] == (row["target_ret"] > 0)
    assert bars.groupby("ticker")["target_ret"].apply(lambda values: values.isna().sum()).tolist() == [2, 2]


def test_minute_row_fills_at_the_first_open_after_the_decision():
    prices = make_prices("2019-12-02", "2019-12-03", ("AAPL",), minutes=1)
    for delay, lag in ((0, 1), (2, 2), (60, 2), (61, 3)):
        bars = panel.build(
            prices, tables.empty("benchmark"), make_config("interval=1m", f"target.decision_delay_s={delay}")
        )
        assert bars["fill_utc"].iloc[10] == bars["session_open_utc"].iloc[0] + pd.Timedelta(minutes=10 + lag)
        assert bars["target_ret"].iloc[10] == bars["open"].iloc[10 + lag + 1] / bars["open"].iloc[10 + lag] - 1


def test_missing_fill_bar_leaves_no_target():
    prices = make_prices("2024-07-01", "2024-07-12", ("AAPL",))
    bars = panel.build(prices.drop(index=3).reset_index(drop=True), tables.empty("benchmark"), make_config())
    by_day = bars.set_index("session")["target_ret"]
    assert np.isnan(by_day["2024-07-03"])  # fills on the 5th, which is missing
    assert np.isnan(by_day["2024-07-02"])  # its label would end there
    assert np.isfinite(by_day["2024-07-01"])


def test_restated_adj_close_changes_no_row():
    prices = make_prices("2024-07-01", "2024-07-31", ("AAPL",))
    prices["adj_close"] *= np.where(prices.index < 8, 0.5, 1.0)  # a 2:1 split
    restated = prices.assign(adj_close=prices["adj_close"] * 0.97)  # a later dividend restates all of history
    before, after = (panel.adjust(frame) for frame in (prices, restated))
    pd.testing.assert_frame_equal(before, after, rtol=1e-14)
    assert before["adjustment"].iloc[0] == 1
    assert before["adjustment"].iloc[-1] == 2


def test_truncated_history_keeps_every_earlier_row():
    cfg = make_config()
    prices = make_prices("2024-06-03", "2024-07-31")
    whole = panel.build(prices, tables.empty("benchmark"), cfg)
    for cut in ("2024-06-20", "2024-07-03", "2024-07-05", "2024-07-31"):
        kept = prices[prices["session"] <= cut].reset_index(drop=True)
        part = panel.build(kept, tables.empty("benchmark"), cfg)
        expected = whole[whole["session"] <= cut].reset_index(drop=True)
        known = [name for name in part if not name.startswith("target_")]
        pd.testing.assert_frame_equal(part[known], expected[known], check_exact=True)


def test_no_label_is_known_in_a_later_period_than_its_role():
    cfg = make_config(
        "data.train_start=2024-01-01",
        "data.dev_start=2024-07-04",
        "data.test_start=2024-07-11",
        "data.test_end=2025-01-01",
    )
    bars = panel.build(make_prices("2024-06-24", "2024-07-19"), tables.empty("benchmark"), cfg)
    ends = bars.groupby("split")["label_end_utc"]
    assert ends.max()["train"] < pd.Timestamp("2024-07-04", tz="UTC") <= ends.min()["dev"]
    assert ends.max()["dev"] < pd.Timestamp("2024-07-11", tz="UTC") <= ends.min()["test"]


def test_wrong_interval_is_refused():
    with pytest.raises(InputError, match=r"not the close of a 1m bar"):
        panel.build(
            make_prices("2024-07-01", "2024-07-03").assign(
                bar_close_utc=lambda f: f["bar_close_utc"] + pd.Timedelta("30s")
            ),
            tables.empty("benchmark"),
            make_config("interval=1m"),
        )
    with pytest.raises(InputError, match="no prices are left"):
        panel.build(tables.empty("prices"), tables.empty("benchmark"), make_config())
