"""fusion_alpha.executor: the same results in the same order from every executor, errors as they were raised."""

import importlib.util
import os
import sys

import numpy as np
import pandas as pd
import pytest
import synthetic_bars

from fusion_alpha import config, executor, nulls, technical
from fusion_alpha.config import ExecutorConfig
from fusion_alpha.errors import InputError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install nimbus-fusion[ray]"
)
ONE, TWO, RAY = (ExecutorConfig(name, n, ranks=1) for name, n in (("pool", 1), ("pool", 2), ("ray", 2)))
SPREADS = [pytest.param(ONE, id="serial"), pytest.param(TWO, id="pool"), pytest.param(RAY, id="ray", marks=needs_ray)]


@pytest.fixture(autouse=True, scope="module")
def _no_cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def loaded(epochs: list[int], spread: ExecutorConfig) -> list[int]:
    """A function of the package itself: Ray's processes know no other folder."""
    found = executor.in_order(config.load, [[f"train.epochs={n}"] for n in epochs], spread, label="configurations")
    return [cfg.train.epochs for cfg in found]


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("epochs", [[], [3], [5, 1, 4, 2, 3] * 3], ids=len)
def test_results_come_in_the_order_of_the_tasks(epochs, spread):
    assert loaded(epochs, spread) == epochs


@pytest.mark.parametrize("spread", SPREADS)
def test_what_a_task_raises_is_raised_here(spread):
    with pytest.raises(InputError, match=r"^parameter train.epochs = 0\n  rule:   at least 1"):
        loaded([1, 0, 2], spread)


def test_one_worker_is_this_process():
    def processes(spread: ExecutorConfig) -> set[int]:
        return set(executor.in_order(process, [0, 1], spread, label="processes"))

    assert processes(ONE) == {os.getpid()}
    assert os.getpid() not in processes(TWO)


def process(_: int) -> int:
    return os.getpid()


@needs_ray
def test_ray_reports_nothing():
    loaded([1], RAY)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("spread", SPREADS)
def test_features_are_the_same_to_the_bit(spread):
    bars = synthetic_bars.panel(("AAA", "BBB", "CCC"), 90)
    cfg = config.load(["contradiction.n_paths=128"])
    expected = technical.build(bars, cfg.technical)
    pd.testing.assert_frame_equal(technical.build(bars, cfg.technical, spread), expected, check_exact=True)
    null = nulls.features(bars, cfg.contradiction)
    for column, whole in zip(nulls.features(bars, cfg.contradiction, spread), null, strict=True):
        np.testing.assert_array_equal(column, whole)


def test_without_ray_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"(?s)Ray is not installed.*pip install nimbus-fusion\[ray\]"):
        loaded([1], RAY)


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        (["executor=dask"], "one of ddp, pool, ray"),
        (["executor.name=dask"], "pool, ray or ddp"),
        (["executor.workers=0"], "at least 1"),
        (["executor.ranks=2"], "1: it follows from executor=ddp"),
        (["executor.name=ddp"], "2: it follows from executor=ddp"),
    ],
)
def test_settings_that_make_no_sense(overrides, rule):
    with pytest.raises(InputError, match=rule):
        config.load(overrides)


def test_the_number_of_ranks_follows_the_choice_of_executor():
    assert config.load().executor == ExecutorConfig("pool", 2, 1)
    assert config.load(["executor.workers=3", "executor=ddp"]).executor == ExecutorConfig("ddp", 3, 3)
    assert config.load(["executor=ray"]).executor == RAY


def test_a_choice_on_the_command_line_sets_one_block():
    assert config.load(["model.width=24", "model=price_only"]).model.name == "price_only"
    with pytest.raises(InputError, match=r"(?s)data=stocknet.*python -m fusion_alpha.config data=stocknet"):
        config.load(["data=stocknet"])
