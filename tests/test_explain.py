"""explain: the forecast is the prediction's own, and its tokens and weights are the network's."""

import json

import numpy as np
import pytest
import torch
from fusion_market import configuration, market

from fusion_alpha import checkpoint, explain, prediction, samples, tables, training
from fusion_alpha.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["fused", "concat", "price_only", "text_only"])
def explained(request, tmp_path_factory):
    """A checkpoint and its tables in a folder of their own, an explanation, and the row that it is about."""
    frames, cfg = market(3, 200), configuration(request.param)
    news = frames["news_bars"]
    stored = frames | {"news": news[["ticker", "news_id", "published_utc"]].assign(text="about " + news["news_id"])}
    stored["panel"] = frames["panel"].assign(
        session=frames["panel"]["bar_close_utc"].dt.tz_localize(None).dt.normalize()
    )

    def read(name, columns=None):
        return stored[name] if columns is None else stored[name][columns]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FOLDER", tmp_path_factory.mktemp("explain") / "fusionnet")
        patch.setattr(
            tables, "read", lambda name, columns=None: stored[name] if columns is None else stored[name][columns]
        )
        data = samples.build(frames, cfg)
        net = training.train(data, cfg, CPU).net
        checkpoint.save(checkpoint.FOLDER, net, data, cfg, {"loss": 1.0})
        row = int(data.select("test")[30])
        place = stored["panel"].iloc[row]
        found = explain.explain(cfg, place["ticker"], str(place["session"].date()))
        yield found, net, data, row, cfg


def test_forecast_is_the_prediction(explained):
    found, net, data, row, cfg = explained
    rows = data.select("test")
    said = prediction.predict(net, data, rows, mc_samples=cfg.predict.mc_samples, device=CPU)
    expected = said.iloc[int(np.flatnonzero(rows == row)[0])]
    assert found["forecast"] == {name: pytest.approx(value, abs=0) for name, value in expected.items()}


def test_weights_are_shares_and_tokens_are_in_their_place(explained):
    found, net, data, row, _ = explained
    for name, weights in found["attention"].items():
        np.testing.assert_allclose(np.sum(weights, axis=-1), 1, atol=1e-4, err_msg=name)
    assert (
        set(found["attention"])
        == {
            "fused": {"sessions_to_news", "news_to_sessions", "session_pool", "news_pool"},
            "concat": {"session_pool", "news_pool"},
            "price_only": {"session_pool"},
            "text_only": {"news_pool"},
        }[net.model.name]
    )
    if not net.model.use_technical:
        assert found["sessions"] == []
    else:
        assert len(found["sessions"]) == 6
        assert sum(item["share"] for item in found["sessions"]) == pytest.approx(1)
        assert found["sessions"][-1]["session"] == found["session"]
        assert found["sessions"][-1]["score"] == float(data.score[row])
    if net.model.use_text:
        _, mask = data.news_window(torch.tensor([row]))
        assert len(found["news"]) == int(mask.sum())
        no_news = found["attention"]["news_pool"][0]
        assert sum(item["share"] for item in found["news"]) + no_news == pytest.approx(1, abs=1e-5)
        assert [item["published_utc"] for item in found["news"]] == sorted(i["published_utc"] for i in found["news"])
    else:
        assert found["news"] == []


def test_what_is_not_predicted_is_an_error(explained):
    found, *_, cfg = explained
    for ticker, session, message in (
        ("NONE", found["session"], "no ticker 'NONE'"),
        (found["ticker"], "1999-01-04", "a session of the exchange from"),
        (found["ticker"], "4 May", "YYYY-MM-DD"),
    ):
        with pytest.raises(InputError, match=message):
            explain.explain(cfg, ticker, session)


def test_command_writes_what_it_shows(monkeypatch, tmp_path, capsys, explained):
    found, *_ = explained
    monkeypatch.setattr(explain, "explain", lambda *_: found)
    arguments = ["--ticker", found["ticker"], "--session", found["session"], "--output", str(tmp_path)]
    assert explain.main(arguments) == 0
    assert "p_up" in capsys.readouterr().err
    stem = tmp_path / f"{found['ticker']}-{found['session']}"
    assert json.loads(stem.with_suffix(".json").read_text()) == found
    assert stem.with_suffix(".svg").read_bytes().startswith(b"<?xml")


def test_command_says_what_is_wrong(monkeypatch, capsys):
    def refuse(*_):
        raise InputError("no ticker 'NONE'", remedy="take another")

    monkeypatch.setattr(explain, "explain", refuse)
    assert explain.main(["--ticker", "NONE", "--session", "2019-05-03"]) == 2
    assert "take another" in capsys.readouterr().err
