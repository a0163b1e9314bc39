"""Tokens of rows: windows against a plain loop, masks, missing news, no look-ahead, and tables that do not fit."""

import numpy as np
import pandas as pd
import pytest
import torch
from fusion_market import DIM, WARMUP, configuration, market, until

from fusion_alpha import samples, tables, technical
from fusion_alpha.errors import InputError


@pytest.fixture(scope="module")
def frames():
    return market()


@pytest.fixture
def cfg():
    return configuration()


def plain_news(frames: dict[str, pd.DataFrame], row: int, lookback: int, limit: int) -> pd.DataFrame:
    """Items of the look-back, straight from the definition."""
    panel, news = frames["panel"], frames["news_bars"]
    own = panel[panel["ticker"] == panel["ticker"][row]]
    window = own[own["bar_close_utc"] <= panel["bar_close_utc"][row]]["bar_close_utc"].iloc[-lookback:]
    chosen = news[(news["ticker"] == panel["ticker"][row]) & news["bar_close_utc"].isin(window)]
    return chosen.sort_values(["published_utc", "news_id"]).iloc[-limit:]


def test_windows_are_those_of_the_definition(frames, cfg):
    data = samples.build(frames, cfg)
    rows = np.array([0, 1, WARMUP, WARMUP + 2, 119, 120, 121, 150, 359])  # ends and starts of tickers, end of warm-up
    batch = data.gather(rows)
    texts = {key: i for i, key in enumerate(frames["text"]["text_hash"])}
    vectors = tables.vectors(frames["text"]["embedding"])
    technical = frames["technical"]["ret_1"].to_numpy("float32")
    for i, row in enumerate(rows):
        number = row % 120
        for lag in range(6):
            is_token = number - lag >= WARMUP
            assert batch.session_mask[i, 5 - lag] == is_token
            if is_token:
                assert batch.sessions[i, 5 - lag, 0] == technical[row - lag]
                assert batch.score[i, 5 - lag] == np.float32(frames["contradiction"]["cs"][row - lag])
        expected = plain_news(frames, row, lookback=3, limit=4)
        assert batch.news_mask[i].sum() == len(expected)
        assert batch.news_mask[i, 4 - len(expected) :].all()  # the latest stand last
        for place, (_, item) in zip(range(4 - len(expected), 4), expected.iterrows(), strict=True):
            assert torch.equal(batch.news[i, place], torch.tensor(vectors[texts[item["text_hash"]]]).float())
            hours = (frames["panel"]["cutoff_utc"][row] - item["published_utc"]) / pd.Timedelta(hours=1)
            text = frames["text"].iloc[texts[item["text_hash"]]]
            features = [np.log1p(hours), item["is_repost"], text["p_negative"], text["p_neutral"], text["p_positive"]]
            np.testing.assert_allclose(batch.news_features[i, place], np.array(features, "float32"), rtol=1e-6)
            bars = frames["panel"]["bar_close_utc"].iloc[: row + 1]
            same = (frames["panel"]["ticker"].iloc[: row + 1] == item["ticker"]) & (bars > item["bar_close_utc"])
            assert batch.news_lag[i, place] == same.sum()


def test_label_and_target_in_units_of_volatility(frames, cfg):
    frames = frames | {"panel": frames["panel"].copy()}
    frames["panel"].loc[50, "target_ret"] = 0.9  # 45 sd
    batch = samples.build(frames, cfg).gather(np.array([50, 51, 118]))
    assert batch.target[0] == samples.TARGET_CLIP
    assert batch.target[1].item() == pytest.approx(frames["panel"]["target_ret"][51] / 0.02)
    assert batch.label[1] == float(frames["panel"]["target_label"][51])
    assert batch.label[2].isnan()
    assert batch.target[2].isnan()


def test_rows_of_the_warm_up_are_counted_and_not_usable(frames, cfg):
    data = samples.build(frames, cfg)
    assert data.counts() == {
        "train": {"rows": 216, "usable": 216 - 3 * WARMUP, "labelled": 216 - 3 * WARMUP},
        "dev": {"rows": 72, "usable": 72, "labelled": 72},
        "test": {"rows": 72, "usable": 72, "labelled": 66},
        "none": {"rows": 0, "usable": 0, "labelled": 0},
    }
    assert (data.select() % 120 >= WARMUP).all()


def test_one_unknown_feature_does_not_cost_the_row(frames, cfg):
    frames = frames | {"technical": frames["technical"].copy()}
    frames["technical"].loc[60, "mfi_14"] = np.nan
    assert 60 in samples.build(frames, cfg).select()


@pytest.mark.parametrize("keep_texts", [True, False])
def test_a_market_without_news(frames, cfg, keep_texts):
    text = frames["text"] if keep_texts else tables.empty("text")
    batch = samples.build(frames | {"news_bars": frames["news_bars"].iloc[:0], "text": text}, cfg).gather(np.arange(40))
    assert batch.news.shape == (40, 4, DIM)
    assert not batch.news_mask.any()


def test_a_price_model_gathers_no_news(frames):
    batch = samples.build(frames, configuration("price_only")).gather(np.arange(5))
    assert batch.news.shape == (5, 0, DIM)
    assert batch.sessions.shape == (5, 6, len(samples.BASIC))


def test_technical_features_are_chosen_by_set_family_and_name(frames):
    columns = [name for name in tables.schema("technical").columns if name not in tables.BAR_KEY]
    assert samples.technical_features(["all"]) == columns
    assert samples.technical_features(["basic"]) == [name for name in columns if name in samples.BASIC]
    assert samples.technical_features([]) == [samples.VOLATILITY]
    families = technical.FAMILIES
    expected = {*samples.BASIC, "adx_14", *(name for name in columns if families[name] == "returns")}
    found = samples.technical_features(["adx_14", "returns", "basic"])
    assert found == [name for name in columns if name in expected]
    assert len(found) == len(samples.BASIC) + 5  # ret_2, ret_10, ret_60, body_1, adx_14
    data = samples.build(frames, configuration("price_only", features=["volume", "ret_1"]))
    assert data.feature_names[:2] == ("ret_1", samples.VOLATILITY)
    with pytest.raises(InputError, match=r"(?s)model.features has 'volum'.*returns, trend"):
        samples.build(frames, configuration(features=["volum"]))


def test_later_data_changes_no_token(frames, cfg):
    whole = samples.build(frames, cfg)
    for end in (35, 77, 118):
        short = samples.build(until(frames, frames["panel"]["bar_close_utc"][end]), cfg)
        keys = short.rows[tables.BAR_KEY].merge(whole.rows[tables.BAR_KEY].reset_index(), on=tables.BAR_KEY, how="left")
        here, there = short.gather(np.arange(len(short.rows))), whole.gather(np.array(keys["index"], "int64"))
        for name in ("session_mask", "news_mask"):
            assert torch.equal(getattr(here, name), getattr(there, name))
        for name, mask in (("sessions", "session_mask"), ("news", "news_mask"), ("news_features", "news_mask")):
            shown = getattr(here, mask)
            assert torch.equal(getattr(here, name)[shown].nan_to_num(), getattr(there, name)[shown].nan_to_num())


def test_news_after_the_decision_is_refused(frames, cfg):
    news = frames["news_bars"].copy()
    late = frames["panel"].set_index(tables.BAR_KEY)["decided_utc"][tuple(news.loc[7, tables.BAR_KEY])]
    news.loc[7, "published_utc"] = late + pd.Timedelta(seconds=1)
    with pytest.raises(InputError, match=rf"(?s)news_bars.*{news['news_id'][7]}.*decided after the publication"):
        samples.build(frames | {"news_bars": news}, cfg)


def test_tables_that_do_not_belong_together_are_refused(frames, cfg):
    with pytest.raises(InputError, match=r"(?s)technical\.parquet.*359 rows are not the 360"):
        samples.build(frames | {"technical": frames["technical"].iloc[1:].reset_index(drop=True)}, cfg)
    with pytest.raises(InputError, match=r"(?s)text\.parquet.*no embedding of text"):
        samples.build(frames | {"text": frames["text"].iloc[1:].reset_index(drop=True)}, cfg)
    cfg.text.dim = DIM + 1
    with pytest.raises(InputError, match=rf"{DIM} dimensions, text.dim is {DIM + 1}"):
        samples.build(frames, cfg)


def test_a_history_within_the_warm_up_is_refused(frames, cfg):
    short = until(frames, frames["panel"]["bar_close_utc"][WARMUP - 1])
    with pytest.raises(InputError, match=r"(?s)volatility_20.*warmup_bars"):
        samples.build(short, cfg)
