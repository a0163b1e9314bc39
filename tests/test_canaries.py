"""The time machine, the start shift and the mutants, on the real stages of a small market: quiet, and able to fail."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from canary_market import small

from fusion_alpha import config, prediction, tables, workspace
from fusion_alpha.canaries import attacks, layers, market, mutants, start_shift, time_machine
from fusion_alpha.errors import InputError

ROOT = Path(__file__).parents[1]
CUTS = {cut.kind: cut for cut in reversed(market.cuts(market.configuration(small())))}  # the first of each kind


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workspace of the whole market, all stages done."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("canaries")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("DVC_ROOT", str(folder))
        cfg = market.configuration(small())
        with workspace.opened(folder / "market", cfg, market.STAGES) as space:
            space.run(*market.STAGES, quiet=True)
            yield space
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _apart(whole, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(whole.folder.parent))


def test_cuts_of_the_default_are_24_and_adversarial_and_inside_the_market():
    cfg = market.configuration(config.load())
    found = market.cuts(cfg)
    counts = pd.Series([cut.kind for cut in found]).value_counts().to_dict()
    assert counts == {"random": 8, "half day": 4, "clock change": 4, "month end": 4, "fold edge": 4}
    assert len({cut.utc for cut in found}) == 24
    assert {"2015-11-27T18:00Z", "2015-03-09T20:00Z", "2017-11-24T18:00Z"} <= {cut.name for cut in found}
    closes = market.clock(cfg)["close_utc"]
    assert all(closes.iloc[0] < cut.utc < closes.iloc[-1] for cut in found)
    days = [f"{day:%Y-%m-%d}" for day in market.clock(cfg)["session"]]
    beside = {(days.index(market.last_known(cfg, cut)) - 504) % 63 for cut in found if cut.kind == market.FOLD_EDGE}
    assert beside <= {1, 62}
    assert len(market.forecast_cuts(cfg)) == 4


def test_what_is_known_at_a_cut_is_told_by_the_second_calendar():
    cfg = market.configuration(small())
    close = pd.Timestamp("2015-11-27 18:00", tz="UTC")
    assert market.last_known(cfg, market.Cut("half day", close)) == "2015-11-27"
    assert market.last_known(cfg, market.Cut("half day", close - pd.Timedelta(seconds=1))) == "2015-11-25"


def test_too_short_a_market_and_an_unknown_exchange_are_refused():
    with pytest.raises(InputError, match="first_session to last_session"):
        market.configuration(small("canaries.last_session='2015-06-30'"))
    with pytest.raises(InputError, match="XLON"):
        market.schedule("XLON", "2015-01-02", "2015-02-02")


@pytest.mark.parametrize("how", attacks.ATTACKS)
def test_attacks_change_the_future_alone(whole, tmp_path, how):
    cut = CUTS[market.HALF_DAY]
    mirror = attacks.mirrored(whole.read("news"), whole.read("text"))
    with layers.copied(whole, "attacked") as part:
        raw = part.folder / "data/raw"
        count = attacks.attack(raw, whole.cfg, cut, how, mirror)
        before, after = (
            [line for path in sorted((folder / "prices").glob("*.csv")) for line in path.read_text().splitlines()]
            for folder in (whole.folder / "data/raw", raw)
        )
        news = [json.loads(line) for line in (raw / "news/news.jsonl").read_text().splitlines() if line.endswith("}")]
    assert count > 1000
    known = [line for line in before if line[:10] <= "2015-11-27" or line[0] == "d"]
    assert [line for line in after if line[:10] <= "2015-11-27" or line[0] == "d"] == known
    assert (len(after) == len(before)) is (how == "poison")
    assert not (set(after) - set(known)) & set(before) or how == "delete"
    late = [item for item in news if isinstance(item["published_utc"], str) and item["published_utc"][:1] == "2"]
    late = [item for item in late if pd.Timestamp(item["published_utc"]) >= cut.utc]
    assert bool(late) is (how == "poison")


def test_a_flipped_headline_has_the_opposite_rank(whole):
    news, text = whole.read("news"), whole.read("text")
    mirror = attacks.mirrored(news, text)
    tone = (text["p_positive"] - text["p_negative"]).set_axis(text["text_hash"])
    from fusion_alpha.text import text_hashes

    pairs = pd.DataFrame({"text": list(mirror), "other": list(mirror.values())})
    own, other = (tone.reindex(text_hashes(pairs[name])).to_numpy() for name in ("text", "other"))
    assert np.corrcoef(own, other)[0, 1] < -0.9
    assert all(mirror[mirror[one]] == one for one in mirror)


@pytest.mark.parametrize("kind", [market.HALF_DAY, market.CLOCK_CHANGE, market.FOLD_EDGE])
def test_no_future_changes_the_past(whole, kind):
    trained = CUTS[kind] in market.forecast_cuts(whole.cfg)
    answer = time_machine.at_cut(whole, CUTS[kind], trained)
    assert trained is (kind == market.FOLD_EDGE)
    found = time_machine.judged({"cut": answer})
    assert found["time_machine"].value == 0
    assert found["time_machine"].passed
    for how in attacks.ATTACKS:
        assert answer[how]["cells"] > 10_000
        assert answer[how]["future"] > 100
    if trained:
        assert all(one.passed for one in found.values())
    assert not time_machine.tasks(whole, Path("nowhere"))[0].path.exists()


def test_the_live_window_gives_what_the_whole_history_gives(whole):
    day = start_shift.sessions(whole.cfg)[0]
    answer = start_shift.at_session(whole, day)
    assert len(answer["features"]) > 70
    assert all(one.passed for one in start_shift.judged({day: answer}).values())
    assert start_shift.live_window(whole.cfg) < len(market.clock(whole.cfg))


@pytest.mark.parametrize("name", [mutant.name for mutant in mutants.MUTANTS])
def test_every_mutant_is_caught_by_what_is_meant_to_catch_it(whole, name):
    mutant = next(one for one in mutants.MUTANTS if one.name == name)
    canary = "time_machine_walk_forward" if mutant.learned else "time_machine"
    caught = mutants.caught_by(whole, name)
    for cut in mutants.cuts_for(mutant, whole):
        assert {f"{canary}/{how}/{cut.name}" for how in attacks.ATTACKS} <= set(caught)
    assert any(one.startswith("start_shift/") for one in caught) is mutant.starts
    assert ("timestamps" in caught) is mutant.clock


def test_forecasts_that_see_the_other_rows_are_caught(whole, monkeypatch):
    predict = prediction.predict

    def centred(*arguments, **more):
        found = predict(*arguments, **more)
        return found.assign(mean_ret=found["mean_ret"] - found["mean_ret"].mean())

    monkeypatch.setattr(prediction, "predict", centred)
    with layers.copied(whole, "centred", model=True) as mutated:
        mutated.once("ingest", lambda: None)
        mutated.run(*layers.FEATURES, "predict", quiet=True)
        answer = time_machine.at_cut(mutated, CUTS[market.HALF_DAY], trained=False)
        day = start_shift.sessions(whole.cfg)[0]
        started = start_shift.at_session(mutated, day)
    assert time_machine.judged({"cut": answer})["time_machine"].passed
    assert not time_machine.judged({"cut": answer})["time_machine_live"].passed
    assert not start_shift.judged({day: started})["start_shift_forecast"].passed


def frame(**changes) -> pd.DataFrame:
    columns = {
        "ticker": ["A", "A", "B"],
        "bar_close_utc": pd.to_datetime(["2020-01-02", "2020-01-03", "2020-01-02"], utc=True),
        "x": [0.0, np.nan, 1.0],
        "flag": pd.array([True, None, False], dtype="boolean"),
        "target_ret": [1.0, 2.0, 3.0],
        "vector": tables.vector_series(np.ones((3, 2), np.float16)),
    }
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {}),
        ({"target_ret": [9.0, 9.0, 9.0]}, {}),
        ({"x": [0.0, np.nan, 1.0 + 2**-52]}, {"x": 1}),
        ({"x": [-0.0, 0.0, 1.0]}, {"x": 2}),
        ({"flag": pd.array([True, False, None], dtype="boolean")}, {"flag": 2}),
        ({"vector": tables.vector_series(np.array([[1, 1], [1, 2], [1, 1]], np.float16))}, {"vector": 1}),
        ({"ticker": ["A", "A", "C"]}, {layers.ROWS: 2}),
    ],
)
def test_every_bit_counts_and_targets_do_not(changes, found):
    assert layers.compare(frame(), frame(**changes), ["ticker", "bar_close_utc"])[1] == found


def test_a_cut_before_which_nothing_is_known_proves_nothing(whole):
    cut = market.Cut("early", pd.Timestamp("2015-01-01", tz="UTC"))
    with pytest.raises(AssertionError, match="no row is known"):
        layers.differences(whole, whole, ("clean",), cut, "2015-01-01")
