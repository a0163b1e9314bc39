"""The search: what it may see, which settings come next, what deaths and interruptions leave, and what it writes."""

import copy
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
import yaml
from fusion_market import complete, configuration, market
from omegaconf import OmegaConf
from optuna.trial import TrialState

import tune_fusion
from fusion_alpha import config, samples, stage, tables, tracking
from fusion_alpha.config import RangeConfig, SpaceConfig
from fusion_alpha.errors import InputError
from fusion_alpha.tuning import command, objective, report, screen, space, study, workers
from fusion_alpha.tuning.study import COUNTED, SAMPLERS

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("deterministic_torch")

CPU = torch.device("cpu")
BLOCKS = 3
PATIENCE_S = 300  # a busy machine
FORK = multiprocessing.get_context("fork")  # a test's children know the fake score


@pytest.fixture(scope="module")
def frames():
    return market()


def one_epoch() -> config.Config:
    small = configuration()
    small.train = replace(small.train, epochs=1)
    small.tune = replace(small.tune, folds=BLOCKS)
    return small


def with_small_space(cfg: config.Config) -> config.Config:
    """Each parameter of a trial is a transaction."""
    train = {"lr": RangeConfig(0.0003, 0.01, log=True), "batch_size": RangeConfig(choices=[64, 128])}
    space = SpaceConfig(train, {"dropout": RangeConfig(0.1, 0.7), "sessions": RangeConfig(4, 12)})
    return replace(cfg, tune=replace(cfg.tune, space=space))


@pytest.fixture
def whole_space():
    return one_epoch()


@pytest.fixture
def cfg():
    return with_small_space(one_epoch())


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """Creating one takes a second, so the tests copy it."""
    path = tmp_path_factory.mktemp("empty") / "tuning.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def root(tmp_path, monkeypatch, empty_database):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    shutil.copytree(ROOT / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("tuned.yaml"))
    (tmp_path / "tuning.db").write_bytes(empty_database.read_bytes())
    return tmp_path


class Fake:
    """In place of training: a smooth score with its best at lr 0.003 and dropout 0.3."""

    def __init__(self, epoch_s: float = 0.0) -> None:
        self.epoch_s = epoch_s
        self.blocks = [None] * BLOCKS  # stands for Development too

    def __call__(self, development, base, cfg, device, on_block, on_epoch) -> float:
        loss = 1.4 + 0.1 * math.log10(cfg.train.lr / 0.003) ** 2 + (cfg.model.dropout - 0.3) ** 2
        results = []
        for number in range(BLOCKS):
            time.sleep(self.epoch_s)
            on_epoch()
            one = loss + 0.01 * number
            results.append({"loss": one, "bce": one / 2, "nll": one, "accuracy": 0.5, "ic": 0.1, "epochs": 1})
            on_block(results)
        return objective.mean_loss(results)


@pytest.fixture
def fake(monkeypatch, root):
    """A search whose training takes no time."""
    made = Fake()
    monkeypatch.setattr(study, "score", made)
    return made


def never() -> bool:
    return False


def stop_at(asked: int):
    """What answers yes from the time that it is asked the n-th time: after so many epochs, or between trials."""
    count = itertools.count(1)
    return lambda: next(count) >= asked


def search(cfg, fake, sampler="tpe", trials=6, name="one", should_stop=never) -> optuna.Study:
    opened = study.open_study(name, sampler, cfg)
    study.run_trials(opened, fake, cfg, CPU, trials, should_stop)
    return opened


def counted(opened: optuna.Study) -> list[tuple]:
    """(settings, state, value) of the trials that count, in order."""
    trials = opened.get_trials(states=COUNTED)
    return [(json.dumps(trial.user_attrs["settings"]), trial.state.name, trial.value) for trial in trials]


# what a trial may see


def test_blocks_learn_from_the_past_and_no_label_reaches_into_the_next_part(frames, cfg):
    for train_sessions in (None, 40):
        tune = replace(cfg.tune, train_sessions=train_sessions, embargo_sessions=2)
        panel = frames["panel"]
        found = objective.blocks(panel, tune)
        assert len(found) == BLOCKS
        dates = np.unique(panel["decided_utc"][panel["split"].isin(objective.ROLES)].dt.floor("D"))
        scored = [panel["decided_utc"].iloc[block.score].dt.floor("D").unique() for block in found]
        assert [len(days) for days in scored] == [int(tune.score_share * len(dates)) // BLOCKS] * BLOCKS
        assert (np.concatenate(scored) == dates[-len(np.concatenate(scored)) :]).all()
        for block in found:
            for earlier, later in ((block.train, block.stop), (block.stop, block.score)):
                known, begins = panel["label_end_utc"].iloc[earlier].max(), panel["decided_utc"].iloc[later].min()
                assert known < begins
                between = panel["decided_utc"][panel["decided_utc"].between(known, begins, inclusive="left")]
                assert between.dt.floor("D").nunique() >= 2, "the embargo"
        lengths = [panel["decided_utc"].iloc[block.train].dt.floor("D").nunique() for block in found]
        assert (len(set(lengths)) == 1) == (train_sessions is not None), "rolling keeps its length, expanding grows"


def test_rows_of_test_are_not_in_memory_and_change_nothing(frames, cfg):
    poisoned = {name: table.copy() for name, table in frames.items()}
    is_test = (frames["panel"]["split"] == "test").to_numpy()
    poisoned["panel"].loc[is_test, "target_ret"] = 9.0
    poisoned["panel"].loc[is_test, "target_label"] = True
    poisoned["technical"].loc[is_test, "ret_5"] = 1e3
    poisoned["contradiction"].loc[is_test, "cs"] = 5.0
    keys = frames["panel"].loc[is_test, ["ticker", "bar_close_utc"]].assign(of_test=True)
    of_test = poisoned["news_bars"].merge(keys, how="left")["of_test"].notna().to_numpy()
    assert of_test.any()
    poisoned["news_bars"].loc[of_test, "is_repost"] = True
    plain, other = (objective.Development.of(tables, cfg) for tables in (frames, poisoned))
    end = frames["panel"]["label_end_utc"][frames["panel"]["split"] == "dev"].max()
    assert set(plain.frames["panel"]["split"]) == {"train", "dev"}
    assert plain.frames["panel"]["label_end_utc"].max() == end
    assert plain.frames["news_bars"]["published_utc"].max() < end
    for name in samples.INPUTS:
        pd.testing.assert_frame_equal(plain.frames[name], other.frames[name])
    scored = [
        objective.score(seen, cfg, cfg, CPU, on_block=lambda results: None, on_epoch=lambda: None)
        for seen in (plain, other)
    ]
    assert scored[0] == scored[1]


def test_no_row_to_score_on_is_refused_with_the_block(frames, cfg):
    panel = frames["panel"].copy()
    last = panel["split"].eq("dev")
    panel.loc[last, ["target_ret", "target_label"]] = pd.NA
    with pytest.raises(InputError, match="block 2 has no usable row with a label to score on"):
        objective.Development.of(frames | {"panel": panel}, cfg)
    with pytest.raises(InputError, match="less than one session"):
        objective.Development.of(frames, replace(cfg, tune=replace(cfg.tune, score_share=0.02)))
    with pytest.raises(InputError, match="role train or dev"):
        objective.Development.of(frames | {"panel": panel.assign(split="test")}, cfg)


def test_every_trial_is_scored_with_the_same_weight_of_the_loss(frames, cfg):
    seen = objective.Development.of(frames, cfg)
    results = []
    for beta in (0.2, 2.0):
        own = space.apply(cfg, {"train.beta": beta})
        objective.score(seen, cfg, own, CPU, on_block=results.append, on_epoch=lambda: None)
    for block in results[-1] + results[0]:
        assert block["loss"] == pytest.approx(block["bce"] + cfg.train.beta * block["nll"])
    assert results[0] != results[-1]


# the space


def test_points_are_within_their_ranges_and_fit_the_configuration(whole_space):
    cfg = whole_space
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(50):
        point = space.settings(space.suggest(drawn.ask(), cfg))
        for key, item in space.ranges(cfg).items():
            ends = item.choices or (item.low, item.high)
            assert min(ends) <= point[key] <= max(ends)
            assert item.choices is None or point[key] in item.choices
            assert not isinstance(point[key], float) or point[key] == float(f"{point[key]:.3g}")
        assert point["model.width"] % 16 == 0
        own = space.apply(cfg, point)
        assert (own.train.lr, own.model.sessions) == (point["train.lr"], point["model.sessions"])
        assert own.train.seed == cfg.train.seed


def test_the_default_settings_are_in_the_default_space():
    assert space.present(config.load())["model.dropout"] == config.load().model.dropout


def test_variants_and_lists_of_features_are_choices(cfg):
    names, lists = ["fused", "concat", "price_only"], [["basic"], ["basic", "trend"], ["all"]]
    cfg.tune.space.model = {"name": RangeConfig(choices=names), "features": RangeConfig(choices=lists)}
    space.check(cfg)
    assert (space.present(cfg)["model.name"], space.present(cfg)["model.features"]) == ("fused", "basic")
    assert {point["model.features"] for point in space.grid(cfg)} == {"basic", "basic+trend", "all"}
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    seen = set()
    for _ in range(30):
        point = space.suggest(drawn.ask(), cfg)
        own = space.apply(cfg, point).model
        file = config.load([f"model={own.name}"]).model
        assert (own.fusion, own.use_text, own.severity_gate) == (file.fusion, file.use_text, file.severity_gate)
        assert own.dropout == cfg.model.dropout, "what the files do not differ in stays as it is configured"
        assert own.features in lists
        seen.add((own.name, tuple(own.features)))
    assert len(seen) == 9
    with_gate = space.apply(cfg, {"model.name": "concat", "model.severity_gate": True}).model
    assert (with_gate.fusion, with_gate.severity_gate) == ("concat", True)


def test_present_settings_are_a_point_only_where_the_space_holds_them(cfg):
    assert space.present(cfg)["train.lr"] == 0.002
    cfg.tune.space.model["width"] = RangeConfig(16, 64, step=16)
    assert space.present(cfg)["model.width"] == 16
    for group, name, value in (("train", "lr", 0.5), ("train", "batch_size", 100), ("model", "width", 24)):
        outside = replace(cfg, **{group: replace(getattr(cfg, group), **{name: value})})
        assert space.present(outside) is None


def test_grid_has_choices_and_levels(cfg):
    cfg.tune.space.train = {"lr": RangeConfig(0.001, 0.01, log=True), "batch_size": RangeConfig(choices=[64, 128])}
    cfg.tune.space.model = {"width": RangeConfig(16, 60, step=16), "sessions": RangeConfig(4, 5)}
    points = space.grid(cfg)
    levels = {key: sorted({point[key] for point in points}) for key in points[0]}
    assert levels == {
        "train.lr": [0.001, 0.00316, 0.01],
        "train.batch_size": [64, 128],
        "model.width": [16, 32, 48],
        "model.sessions": [4, 5],
    }
    assert len(points) == 3 * 2 * 3 * 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.space.train.lr.low=x", r"tune\.space\.train\.lr\.low = 'x'.*a number or null"),
        ("tune.space.train.lr.lwo=1", r"unknown parameter.*did you mean tune\.space\.train\.lr\.low"),
        ("tune.space.train.lr={lwo: 1}", r"unknown parameter 'tune\.space\.train\.lr\.lwo'"),
        ("tune.space.train.lrr={low: 1}", r"tune\.space\.train\.lrr.*changes what is learned"),
        ("tune.space.train.lr.low=1", "ascending"),
        ("tune.space.train.lr.low=0", "positive on a log scale"),
        ("tune.space.train.lr.step=0.1", "none on a log scale"),
        ("tune.space.model.heads.choices=[2]", "at least two"),
        ("tune.space.model.heads.choices=[2,a]", "of the kind of model.heads"),
        ("tune.space.model.features={choices: [[basic], basic]}", "of the kind of model.features"),
        ("tune.space.model.features={choices: [[basic], [1]]}", "of the kind of model.features"),
        ("tune.space.model.heads.low=2", "not both"),
        ("tune.space.model.width.low=16.5", "whole numbers"),
        ("tune.pruner=best", "median, asha or none"),
        ("tune.score_share=1", r"in \(0, 1\)"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(override, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        config.load([override])


def test_a_space_is_changed_by_overrides():
    gate = "tune.space.model.severity_gate={choices: [true, false]}"
    asked = ["tune.space.train.beta=null", "tune.space.train.lr={choices: [0.1, 0.01]}", gate]
    train, model = (getattr(config.load(asked).tune.space, group) for group in ("train", "model"))
    assert sorted(train) == ["batch_size", "lr", "weight_decay"]
    assert train["lr"] == RangeConfig(choices=[0.1, 0.01])
    assert model["severity_gate"] == RangeConfig(choices=[True, False])
    assert model["dropout"] == config.load().tune.space.model["dropout"]


def test_a_range_of_what_does_not_exist_or_may_not_move_is_refused(cfg, root):
    for group, name in (("train", "seed"), ("model", "depth")):
        with pytest.raises(InputError, match=rf"(?s)tune\.space\.{group}\.{name}.*changes what is learned"):
            replace(cfg.tune.space, **{group: {name: RangeConfig(1, 2)}})
    cfg.tune.space.model = {"dropout": RangeConfig(0.5, 1.0)}
    with pytest.raises(InputError, match=r"model\.dropout = 1\.0"):
        study.open_study("one", "tpe", cfg)
    cfg.tune.space.model = {"name": RangeConfig(choices=["fused", "fusedd"])}
    with pytest.raises(InputError, match=r"model = 'fusedd'"):
        study.open_study("one", "tpe", cfg)
    cfg.tune.space.model = {"features": RangeConfig(choices=[["basic"], ["trends"]])}
    with pytest.raises(InputError, match=r"model\.features has 'trends'"):
        study.open_study("one", "tpe", cfg)
    cfg.tune.space.model = cfg.tune.space.train = {}
    with pytest.raises(InputError, match=r"tune\.space is empty"):
        study.open_study("one", "tpe", cfg)


# which settings come next


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_trains_and_scores(frames, whole_space, root, sampler):
    cfg = whole_space
    seen = objective.Development.of(frames, cfg)
    trials = search(cfg, seen, sampler, trials=3).get_trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert trials[0].user_attrs["settings"] == space.present(cfg)
    assert len({json.dumps(trial.user_attrs["settings"]) for trial in trials}) == 3
    for trial in trials:
        assert len(trial.user_attrs["blocks"]) == BLOCKS
        assert trial.value == pytest.approx(np.mean([block["loss"] for block in trial.user_attrs["blocks"]]))
        assert 1.0 < trial.value < 2.0
        assert (trial.user_attrs["settings"] in space.grid(cfg)) == (sampler == "grid" and trial.number > 0)


ENOUGH = {"tpe": 12, "random": 5, "cmaes": 8, "grid": 5}  # trials to come past what a sampler draws at random first


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_worker_finds_the_same_trials_again_and_another_seed_does_not(cfg, fake, sampler):
    n = ENOUGH[sampler]
    first, again = (counted(search(cfg, fake, sampler, n, name)) for name in ("first", "again"))
    assert first == again
    assert len({settings for settings, *_ in first}) == n
    cfg.tune = replace(cfg.tune, seed=3)
    assert counted(search(cfg, fake, sampler, 3, "other"))[1:] != first[1:3]


@pytest.mark.slow
def test_tpe_ends_nearer_to_the_best_than_it_began(cfg, fake):
    cfg.tune = replace(cfg.tune, pruner="none")
    values = [value for _, _, value in counted(search(cfg, fake, "tpe", 24))]
    assert np.mean(values[-6:]) < np.mean(values[:10]) - 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupted_search_goes_on_to_the_same_trials(cfg, fake, sampler):
    n = ENOUGH[sampler]
    whole = counted(search(cfg, fake, sampler, n, "whole"))
    for asked in (6, 3, 1, 4):
        parts = search(cfg, fake, sampler, n, "parts", should_stop=stop_at(asked))
        assert len(counted(parts)) < n
    found = counted(search(cfg, fake, sampler, n, "parts"))
    check_nothing_is_lost_or_doubled(parts, n)
    assert parts.get_trials(states=(TrialState.FAIL,))
    if sampler != "cmaes":
        assert found == whole


def check_nothing_is_lost_or_doubled(opened: optuna.Study, asked: int) -> None:
    found = counted(opened)
    assert len(found) == len({settings for settings, *_ in found}) == asked
    trials = opened.get_trials()
    assert {trial.state for trial in trials} <= {*COUNTED, TrialState.FAIL}
    repeated = sorted(trial.user_attrs["repeats"] for trial in trials if "repeats" in trial.user_attrs)
    assert repeated == [trial.number for trial in trials if trial.state == TrialState.FAIL]
    for trial in trials:
        if "repeats" in trial.user_attrs:
            former = trials[trial.user_attrs["repeats"]].user_attrs
            assert "settings" not in former or former["settings"] == trial.user_attrs["settings"]


def test_more_trials_go_on_and_fewer_do_nothing(cfg, fake):
    short = counted(search(cfg, fake, trials=3))
    assert counted(search(cfg, fake, trials=3)) == short
    assert counted(search(cfg, fake, trials=2)) == short
    longer = counted(search(cfg, fake, trials=5))
    assert longer[:3] == short
    assert len(longer) == 5


def test_a_grid_ends_with_its_points(cfg, fake):
    cfg.tune.space.train = {"lr": RangeConfig(0.001, 0.004)}
    cfg.tune.space.model = {"width": RangeConfig(choices=[16, 32])}
    cfg.tune = replace(cfg.tune, pruner="none")
    asked = workers.Search("one", "grid", 50, 1, None, cfg)
    assert asked.target() == 7, "3 x 2 points and the present settings"
    check_nothing_is_lost_or_doubled(search(cfg, fake, "grid", 50), 7)


# pruning and refusal


@pytest.mark.parametrize(("pruner", "prunes"), [("median", True), ("asha", True), ("none", False)])
def test_pruners(cfg, fake, pruner, prunes):
    cfg.tune = replace(cfg.tune, pruner=pruner)
    opened = search(cfg, fake, "random", 10)
    pruned = opened.get_trials(states=(TrialState.PRUNED,))
    assert bool(pruned) == prunes
    assert len(counted(opened)) == 10, "a pruned trial counts"
    first = {trial.number: trial.user_attrs["blocks"][0]["loss"] for trial in opened.get_trials()}
    for trial in pruned:
        assert 1 <= len(trial.user_attrs["blocks"]) < BLOCKS
        assert first[trial.number] > min(first.values())


def test_settings_that_exclude_each_other_and_trainings_that_diverge_are_refused_and_count(cfg, fake, monkeypatch):
    cfg.tune.space.model = {"width": RangeConfig(16, 20), "heads": RangeConfig(choices=[2, 3])}
    cfg.tune = replace(cfg.tune, pruner="none")

    def diverges(*arguments) -> float:
        raise InputError("the training loss is not finite in epoch 3", rule="training converges")

    opened = search(cfg, fake, "random", 12)
    refused = [trial for trial in opened.get_trials() if "refused" in trial.user_attrs]
    assert refused
    assert all("model.width" in trial.user_attrs["refused"] for trial in refused)
    monkeypatch.setattr(study, "score", diverges)
    opened = search(cfg, fake, "random", 16)
    assert len(counted(opened)) == 16
    assert "the training loss is not finite in epoch 3" in {
        trial.user_attrs.get("refused") for trial in opened.get_trials()
    }
    states = report.table(opened.get_trials())["state"]
    assert (states[12:] == "refused").all()


# deaths


def begin(cfg, fake, trials: int, name: str, sampler: str = "tpe") -> multiprocessing.Process:
    process = FORK.Process(target=search, args=(cfg, fake, sampler, trials, name))
    process.start()
    return process


def wait_for(opened: optuna.Study, ready) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready(opened.get_trials(deepcopy=False)):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def running(trials) -> list[int]:
    """Process ids of the trials that run."""
    mine = [trial.user_attrs.get("process") for trial in trials if trial.state == TrialState.RUNNING]
    return [int(process.split(".")[0]) for process in mine if process is not None]


def n_finished(trials) -> int:
    return sum(trial.state in COUNTED for trial in trials)


@pytest.mark.parametrize("sampler", ["random", "cmaes"])
def test_killed_workers_lose_no_trial_and_double_none(cfg, fake, monkeypatch, sampler):
    whole = counted(search(cfg, fake, sampler, 7, "whole"))
    slow = Fake(epoch_s=0.02)
    monkeypatch.setattr(study, "score", slow)
    opened = study.open_study("parts", sampler, cfg)
    for enough in (1, 3, 4):
        process = begin(cfg, slow, 7, "parts", sampler)
        wait_for(opened, lambda trials, n=enough: n_finished(trials) >= n)
        time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    monkeypatch.setattr(study, "score", fake)
    search(cfg, fake, sampler, 7, "parts")
    check_nothing_is_lost_or_doubled(opened, 7)
    if sampler == "random":
        assert counted(opened) == whole


def test_several_workers_one_of_them_killed(cfg, fake, monkeypatch):
    slow = Fake(epoch_s=0.02)
    monkeypatch.setattr(study, "score", slow)
    opened = study.open_study("one", "tpe", cfg)
    team = [begin(cfg, slow, 10, "one") for _ in range(3)]
    wait_for(opened, lambda trials: n_finished(trials) >= 3)
    os.kill(team[0].pid, signal.SIGKILL)
    for process in team:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in team] == [-signal.SIGKILL, 0, 0]
    search(cfg, slow, trials=10)  # where the others had ended before the death was seen
    check_nothing_is_lost_or_doubled(opened, 10)
    processes = {trial.user_attrs["process"] for trial in opened.get_trials(states=COUNTED)}
    assert len(processes) >= 2, "the work was shared"


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_trial_that_kills_again_and_again_is_given_up_and_not_drawn_again(cfg, fake, monkeypatch, sampler):
    def deadly(*arguments) -> float:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0.0

    cfg.tune = replace(cfg.tune, grid_levels=2)
    opened = search(cfg, fake, sampler, 3)
    monkeypatch.setattr(study, "score", deadly)
    for _ in range(study.RETRIES + 1):
        process = begin(cfg, fake, 6, "one", sampler)
        process.join(PATIENCE_S)
        assert process.exitcode == -signal.SIGKILL
    monkeypatch.setattr(study, "score", fake)
    search(cfg, fake, sampler, 6)
    failed = opened.get_trials(states=(TrialState.FAIL,))
    assert len(failed) == study.RETRIES + 1
    assert len({json.dumps(trial.user_attrs["settings"]) for trial in failed}) == 1
    found = counted(opened)
    assert len(found) == 6
    assert json.dumps(failed[0].user_attrs["settings"]) not in {settings for settings, *_ in found}
    trials = opened.get_trials()
    asked = workers.Search("one", sampler, 50, 1, None, cfg)
    assert asked.target(trials) == (16 if sampler == "grid" else 50), "2^4 points and the present settings, less one"


def test_a_process_that_stands_still_keeps_its_trial(cfg, fake, monkeypatch):
    slow = Fake(epoch_s=0.3)
    monkeypatch.setattr(study, "score", slow)
    opened = study.open_study("one", "random", cfg)
    process = begin(cfg, slow, 4, "one", "random")

    def trains(trials) -> bool:
        return any(trial.state == TrialState.RUNNING and "blocks" in trial.user_attrs for trial in trials)

    wait_for(opened, trains)
    time.sleep(0.1)  # in the middle of an epoch: it holds no lock
    os.kill(process.pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(study, "score", fake)
        search(cfg, fake, "random", 4)
        assert n_finished(opened.get_trials()) == 3
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.join(PATIENCE_S)
    assert {trial.state for trial in opened.get_trials()} <= set(COUNTED), "nobody took it for dead"
    check_nothing_is_lost_or_doubled(opened, 4)
    assert not list((stage.root() / ".cache" / "tuning").iterdir())


def test_a_trial_that_ends_in_an_error_is_kept_for_the_next_try(cfg, fake, monkeypatch):
    def broken(*arguments) -> float:
        raise ZeroDivisionError

    whole = counted(search(cfg, fake, "grid", 4, "whole"))
    search(cfg, fake, "grid", 2)
    monkeypatch.setattr(study, "score", broken)
    with pytest.raises(ZeroDivisionError):
        search(cfg, fake, "grid", 4)
    monkeypatch.setattr(study, "score", fake)
    assert counted(search(cfg, fake, "grid", 4)) == whole


# one study, one question


def test_a_study_goes_on_only_with_the_settings_and_data_that_it_was_begun_with(cfg, fake, monkeypatch, tmp_path):
    search(cfg, fake, trials=1)
    with pytest.raises(InputError, match=r"(?s)begun with train\.epochs = 1, now it is 9.*--study NAME"):
        search(replace(cfg, train=replace(cfg.train, epochs=9)), fake)
    with pytest.raises(InputError, match="begun with sampler = tpe, now it is random"):
        search(cfg, fake, "random")
    cfg.strategy = replace(cfg.strategy, max_gross=0.5)
    assert len(counted(search(cfg, fake, trials=2))) == 2, "what no trial reads may change"
    monkeypatch.chdir(tmp_path)
    Path("data/features").mkdir(parents=True)
    Path("data/features/text.parquet").write_text("other data")
    with pytest.raises(InputError, match=r"begun with data/"):
        search(cfg, fake)


def test_a_damaged_database_is_refused(cfg, root):
    (root / "tuning.db").write_bytes(b"not a database, though it is long enough to be one" * 40)
    with pytest.raises(InputError, match=r"(?s)tuning\.db.*database of searches cannot be used"):
        study.open_study("one", "tpe", cfg)


# what is written


@pytest.fixture(scope="module")
def finished(frames, empty_database, tmp_path_factory):
    """A finished search, its configuration and its result."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tuning.db").write_bytes(empty_database.read_bytes())
    small = with_small_space(one_epoch())
    small.tune = replace(small.tune, pruner="none")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.setattr(study, "score", Fake())
        opened = search(small, Fake(), trials=16)
    seen = objective.Development.of(frames, small)
    return opened, small, report.result(opened, small, seen.frames["panel"], seen.blocks)


def test_result_names_the_best_and_compares_it_with_the_present_settings(finished):
    opened, _, result = finished
    values = {trial.number: trial.value for trial in opened.get_trials(states=(TrialState.COMPLETE,))}
    assert result["best"]["loss"] == pytest.approx(min(values.values()))
    assert values[result["best"]["trial"]] == min(values.values())
    assert sum(result["trials"].values()) == 16
    gain = result["present"]["loss"] - result["best"]["loss"]
    by_block = result["present"]["gain_by_block"]
    assert result["present"]["gain"] == pytest.approx(gain) == pytest.approx(np.mean(by_block))
    assert result["present"]["gain_se"] == pytest.approx(np.std(by_block, ddof=1) / BLOCKS**0.5)
    assert result["present"]["gain_apart"] == pytest.approx(gain), "this score prefers the same trial on every block"
    assert sum(result["importance"].values()) == pytest.approx(1, abs=0.01)
    assert set(result["importance"]) == {"train.lr", "train.batch_size", "model.dropout", "model.sessions"}
    assert [block["score"]["rows"] for block in result["blocks"]] == [36, 36, 36]
    assert result["simulated"] is True


def whole_trial(number: int, losses: list[float], **attributes) -> optuna.trial.FrozenTrial:
    blocks = [dict.fromkeys(("bce", "nll", "accuracy", "ic"), 0.0) | {"loss": loss} for loss in losses]
    known = {"settings": {"train.lr": 0.001 * (number + 1)}, "blocks": blocks} | attributes
    return optuna.create_trial(value=float(np.mean(losses)), user_attrs=known)


def test_gain_apart_is_that_of_trials_chosen_on_other_blocks():
    own = whole_trial(0, [1.0, 1.0, 1.0], present=True)
    lucky = [whole_trial(1, [0.4, 1.1, 1.1]), whole_trial(2, [1.3, 0.3, 1.2]), whole_trial(3, [1.1, 1.3, 0.5])]
    found = report._gains([own, *lucky], lucky[0], own)
    assert found["gain"] == pytest.approx(0.4 / 3)
    # on blocks 2 and 3 trial 2 is best (mean 0.75), on 1 and 3 trial 1 (0.75), on 1 and 2 trial 1 (0.75)
    assert found["gain_apart"] == pytest.approx(np.mean([1 - 1.3, 1 - 1.1, 1 - 1.1]))


def test_verdict_says_what_the_best_is_worth():
    own = whole_trial(0, [1.0, 1.0], present=True)
    better = whole_trial(1, [0.9, 0.8])
    base = {"blocks": [None, None], "best": {"trial": 1, "loss": 0.85}}
    said = report.verdict(base | {"present": {"loss": 1.0} | report._gains([own, better], better, own)})
    assert "0.1500 +- 0.0500 (standard error over 2 blocks)" in said
    said = report.verdict(base | {"present": {"loss": 1.0} | report._gains([own], own, own)})
    assert "No trial is better than the settings of conf/ (1.0000 nats)" in said
    assert "0.8500" in report.verdict(base | {"present": None})


def test_files_are_the_same_for_the_same_trials(finished, root, monkeypatch):
    opened, cfg, result = finished
    monkeypatch.chdir(root)
    contents = []
    for _ in range(2):
        report.write(opened, cfg, result)
        files = [report.METRICS, report.EXPERIMENT, *sorted(report.FOLDER.iterdir())]
        contents.append({path: path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    names = {path.name for path in report.FOLDER.iterdir()}
    assert names == {f"{n}.{kind}" for n in ("history", "slices", "importance") for kind in ("svg", "png")} | {
        "trials.csv"
    }
    assert b"SIMULATED" not in contents[0][report.FOLDER / "trials.csv"]
    trials = pd.read_csv(report.FOLDER / "trials.csv")
    assert len(trials) == 16
    assert trials["loss"].min() == pytest.approx(result["best"]["loss"])
    text = report.METRICS.read_text() + report.EXPERIMENT.read_text()
    assert not any(word in text for word in ("20" + time.strftime("%y-%m-%d"), str(root), tracking.process_name()))


def test_the_experiment_composes_to_the_best_trial(finished, root, monkeypatch):
    _, searched, result = finished
    monkeypatch.chdir(root)
    config.compose(root / "params.yaml")
    plain = config.load()
    (root / report.EXPERIMENT).write_text(report.experiment(result, searched))
    composed = recomposed(root)
    best = space.apply(searched, result["best"]["settings"])
    assert "study one" in composed.hypothesis
    assert asdict(composed) == asdict(replace(best, hypothesis=composed.hypothesis, tune=plain.tune))

    (root / report.EXPERIMENT).write_text(report.experiment(result, plain))
    written = yaml.safe_load((root / report.EXPERIMENT).read_text())
    assert {f"{group}.{name}" for group in ("train", "model") for name in written[group]} == set(
        result["best"]["settings"]
    ), "all that was searched, also where it is conf/'s own, and nothing else"
    assert set(written) == {"train", "model", "hypothesis"}


def test_the_experiment_repeats_a_search_on_another_source_and_model(finished, root, monkeypatch):
    _, _, result = finished
    monkeypatch.chdir(root)
    config.compose(root / "params.yaml", ["data=stocknet", "text=finbert"])
    searched = config.load(["model=concat", "train.weight_decay=0.02"], params=root / "params.yaml")
    result = copy.deepcopy(result)
    result["best"]["settings"] |= {"model.name": "price_only", "model.features": "basic+trend"}
    (root / report.EXPERIMENT).write_text(report.experiment(result, searched))
    composed = recomposed(root)
    best = space.apply(searched, result["best"]["settings"])
    assert (best.model.name, best.model.use_text, best.model.features) == ("price_only", False, ["basic", "trend"])
    assert asdict(composed) == asdict(replace(best, hypothesis=composed.hypothesis, tune=composed.tune))


def recomposed(root: Path) -> config.Config:
    config.compose(root / "params.yaml", ["+experiment=tuned"])
    return config.load(params=root / "params.yaml")


def test_a_search_without_a_whole_trial_says_so(cfg, fake, frames, monkeypatch):
    def diverges(*arguments) -> float:
        raise InputError("not finite")

    monkeypatch.setattr(study, "score", diverges)
    with pytest.raises(InputError, match=r"(?s)no trial of study 'one' is whole.*more --trials"):
        report.result(search(cfg, fake, trials=2), cfg, frames["panel"], [])


def test_screen_says_each_trial_once(cfg, fake, caplog):
    opened = search(cfg, fake, trials=1)
    caplog.set_level("INFO", logger="fusion_alpha.tuning.screen")
    with screen.Screen(target=4, n_blocks=BLOCKS) as shown:
        shown.show(opened.get_trials())
        search(cfg, fake, trials=3)
        for _ in range(2):
            shown.show(opened.get_trials())
    trials = opened.get_trials()
    said = [record.message for record in caplog.records]
    assert [line.split(": loss")[0] for line in said] == ["2 of 4: trial 1", "3 of 4: trial 2"]
    assert f"loss {trials[1].value:.4f}" in said[0]
    assert "train.lr=" in said[0]
    values = [trial.value for trial in trials]
    leads = [values[number] == min(values[: number + 1]) for number in (1, 2)]
    assert ["the best so far" in line for line in said] == leads
    with stage.console.capture() as captured:
        stage.console.print(shown._view(trials))
    assert "3 of 4 trials, 0 min" in captured.get()
    assert " left" in captured.get()
    assert "best so far: trial" in captured.get()


def test_time_in_words():
    said = [screen._minutes(seconds) for seconds in (0.4, 59.9, 65, 3599, 5400)]
    assert said == ["0 min 00 s", "0 min 59 s", "1 min 05 s", "59 min 59 s", "1.5 h"]


def test_the_table_fits_a_terminal(finished, monkeypatch):
    opened, cfg, _ = finished
    monkeypatch.setattr(stage.console, "_width", 80)
    with stage.console.capture() as captured:
        stage.console.print(report.final_table(opened, cfg))
    cells = [line.split("\u2502")[1].strip() for line in captured.get().splitlines() if "\u2502" in line]
    assert cells[2:] == list(space.ranges(cfg)), "a line for each, none broken"
    assert "*" in captured.get()


def test_trials_that_are_finished_while_workers_end_are_shown_and_recorded(frames, cfg, fake, monkeypatch, caplog):
    monkeypatch.chdir(stage.root())
    seen = objective.Development.of(frames, cfg)
    monkeypatch.setattr(command.Development, "read", lambda cfg: seen)

    def run(asked, opened, show) -> str:
        show(opened.get_trials())
        study.run_trials(opened, fake, cfg, CPU, asked.trials, never)
        return "done"

    recorded = []
    monkeypatch.setattr(workers, "run", run)
    monkeypatch.setattr(tracking.SearchRun, "add", lambda self, trials: recorded.append(len(trials)))
    caplog.set_level("INFO", logger="fusion_alpha.tuning.screen")
    assert command.search(workers.Search("one", "random", 2, 1, None, cfg)) == command.DONE
    assert recorded == [0, 2]
    shown = [record.message for record in caplog.records if record.name == "fusion_alpha.tuning.screen"]
    assert [message.split(": loss")[0] for message in shown] == ["1 of 2: trial 0", "2 of 2: trial 1"]


def test_trials_for_mlflow(cfg, fake):
    cfg.tune = replace(cfg.tune, pruner="asha")
    cfg.tune.space.model = {"width": RangeConfig(16, 20), "heads": RangeConfig(choices=[2, 3])}
    opened = search(cfg, fake, "random", trials=12)
    records = {record.number: record for record in report.trial_records(opened.get_trials(), cfg, "one")}
    states = {trial.number: trial for trial in opened.get_trials()}
    assert {number for number, trial in states.items() if "refused" not in trial.user_attrs} == set(records)
    assert {record.tags["state"] for record in records.values()} == {"complete", "pruned"}
    for number, record in records.items():
        settings = states[number].user_attrs["settings"]
        assert (record.cfg.train.lr, record.cfg.model.width) == (settings["train.lr"], settings["model.width"])
        assert record.folds["loss"].tolist() == [block["loss"] for block in states[number].user_attrs["blocks"]]
        assert record.metrics["tune/loss"] == pytest.approx(record.folds["loss"].mean())
        assert record.start_ms <= record.end_ms


# the team


@dataclass
class Ended:
    """In place of a process that has ended."""

    exitcode: int


def team_of(cfg, *statuses: int) -> workers._Team:
    team = workers._Team(workers.Search("one", "tpe", 10, 2, None, cfg))
    team.members = [Ended(status) for status in statuses]
    return team


def test_a_worker_that_ends_is_let_go_and_one_that_fails_ends_the_search(cfg):
    team = team_of(cfg, 0, 0)
    assert not team.reap(counted=1)
    assert team.members == []
    for status in (1, 2):
        with pytest.raises(workers.WorkerFailed, match="error above") as failed:
            team_of(cfg, 0, status).reap(counted=1)
        assert failed.value.status == status


def test_workers_that_die_without_end_are_not_replaced_for_ever(cfg):
    team = team_of(cfg)
    most = (study.RETRIES + 1) * 2 + 1  # two workers
    for counted_trials in (1, 1, *[2] * most):
        team.members = [Ended(-signal.SIGKILL)]
        assert team.reap(counted_trials)
    team.members = [Ended(-signal.SIGKILL)]
    with pytest.raises(workers.WorkerFailed, match="is memory short") as failed:
        team.reap(2)
    assert failed.value.status == 1


# the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "not positive"),
        (["--trials", "x"], "invalid int"),
        (["--timeout", "-1"], "not positive"),
        (["--sampler", "best"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tune_fusion.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        tune_fusion.main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_and_code_name_the_same_samplers():
    assert tuple(tune_fusion.SAMPLERS) == SAMPLERS
    assert "Exit status: 0" in tune_fusion.parser().format_help()
    assert (command.DONE, command.TIMEOUT, command.INTERRUPTED) == (0, 3, 130)


def test_without_tables_it_says_what_to_run(root, monkeypatch, capsys):
    params = Path("params.yaml").read_bytes()
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["tune_fusion.py"])
    monkeypatch.setattr(stage, "set_up", lambda name: None)
    assert tune_fusion.main() == 2
    (root / "params.yaml").write_bytes(params)
    assert tune_fusion.main() == 2
    said = capsys.readouterr().err
    assert "make params" in said
    assert "panel.parquet" in said
    assert "dvc repro" in said
    assert {path.name for path in root.iterdir()} == {"conf", "params.yaml", "tuning.db"}, "nothing is begun"


# the whole: processes, signals, MLflow


@pytest.fixture
def folder(frames, tmp_path, monkeypatch):
    """A working folder with the tables of the small market, and trainings that take a second."""
    slow = with_small_space(one_epoch())
    slow.train = replace(slow.train, epochs=30, patience=30)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "conf", "conf")
    for name, frame in frames.items():
        tables.write(name, complete(name, frame))
    OmegaConf.save(OmegaConf.create(asdict(slow)), "params.yaml")
    return tmp_path


def command_line(*arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("DVC_ROOT", None)
    words = [sys.executable, str(ROOT / "tune_fusion.py"), "--study", "one", *arguments]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def begun(database: Path) -> bool:
    """Whether the study is there; Optuna would create the tables, and a search that does so too would fail."""
    if not database.exists():
        return False
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as plain:
        try:
            return bool(plain.execute("SELECT 1 FROM studies WHERE study_name = 'one'").fetchall())
        except sqlite3.OperationalError:  # no such table yet
            return False


def wait_for_study(folder: Path, ready) -> list:
    url = f"sqlite:///{folder / 'tuning.db'}"
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if begun(folder / "tuning.db"):
            trials = optuna.load_study(study_name="one", storage=url).get_trials(deepcopy=False)
            if ready(trials):
                return trials
    raise AssertionError("the search does not get on")


@pytest.mark.slow
def test_the_command_survives_kills_and_interruptions(folder):
    first = command_line("--trials", "12", "--workers", "2")
    trials = wait_for_study(folder, lambda trials: n_finished(trials) >= 1 and running(trials))
    os.kill(running(trials)[0], signal.SIGKILL)
    wait_for_study(folder, lambda trials: n_finished(trials) >= 3 and running(trials))
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=600)
    assert first.returncode == 130, said
    assert "a worker was killed (SIGKILL)" in said
    assert "the same command goes on" in said
    assert not running(wait_for_study(folder, lambda trials: True)), "interrupted trials are back in the queue"

    second = command_line("--trials", "12", "--workers", "2")
    trials = wait_for_study(folder, lambda trials: n_finished(trials) >= 5 and running(trials))
    second.kill()
    second.communicate()
    for pid in running(trials):
        wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists())

    third = command_line("--trials", "12", "--workers", "1", "--timeout", "0.1")
    said, _ = third.communicate(timeout=600)
    assert third.returncode == 3, said

    last = command_line("--trials", "12", "--workers", "2")
    said, _ = last.communicate(timeout=600)
    assert last.returncode == 0, said
    opened = optuna.load_study(study_name="one", storage=f"sqlite:///{folder / 'tuning.db'}")
    check_nothing_is_lost_or_doubled(opened, 12)
    assert "SIMULATED" in said
    assert "dvc exp run -S +experiment=tuned" in said
    result = json.loads((folder / report.METRICS).read_text())
    assert sum(result["trials"].values()) == 12
    assert (
        yaml.safe_load((folder / report.EXPERIMENT).read_text())["train"]["lr"]
        == result["best"]["settings"]["train.lr"]
    )
    check_mlflow(folder, opened)


def wait_until(ready) -> None:
    deadline = time.monotonic() + 300
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def check_mlflow(folder: Path, opened: optuna.Study) -> None:
    """One run of the search, and each trial that counts once below it."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    parent = client.get_run(opened.user_attrs["mlflow_run"])
    assert parent.info.status == "FINISHED"
    children = [run for run in runs if run.info.run_id != parent.info.run_id]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    numbers = sorted(int(run.data.tags["trial"]) for run in children)
    assert numbers == [trial.number for trial in opened.get_trials(states=COUNTED)]
    assert {run.info.status for run in children} == {"FINISHED"}


@pytest.mark.slow
def test_the_command_refuses_what_a_study_was_not_begun_with(folder):
    done = command_line("--trials", "1", "--set", "train.epochs=1", "train.patience=1")
    said, _ = done.communicate(timeout=600)
    assert done.returncode == 0, said
    again = command_line("--trials", "1")
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 2, said
    assert "begun with train.epochs = 1, now it is 30" in said
