"""The file of costs: what it says of a ticker, what it leaves to the strategy, and what it may not say."""

import numpy as np
import pandas as pd
import pytest
from trading_market import configuration

from fusion_alpha import costs
from fusion_alpha.config import load
from fusion_alpha.errors import InputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "costs.csv"


def test_a_cell_overrides_and_an_empty_one_does_not(path):
    path.write_text("ticker,borrow_bps,commission_bps\nGME,3000,\nBRK.B,,2\n")
    cfg = configuration(costs=str(path))
    rates = costs.rates(pd.Series(["AAPL", "BRK.B", "GME", "AAPL"]), cfg)
    np.testing.assert_allclose(rates.side, [2.5e-4, 4e-4, 2.5e-4, 2.5e-4], rtol=1e-12)
    np.testing.assert_allclose(rates.borrow * 252, [50e-4, 50e-4, 3000e-4, 50e-4], rtol=1e-12)


def test_no_file_and_only_a_first_line_mean_the_same_costs_for_all(path):
    path.write_text("ticker\n")
    for name in (None, str(path)):
        rates = costs.rates(pd.Index(["A", "B"]), configuration(costs=name))
        assert rates.side.tolist() == pytest.approx([2.5e-4] * 2)


def test_the_committed_file_is_read():
    cfg = load()
    assert costs.rates(pd.Index(["TSLA"]), cfg).side.tolist() == pytest.approx([2.5e-4])


def test_a_changed_file_is_read_again(path):
    cfg = configuration(costs=str(path))
    for borrow in (100, 2000):
        path.write_text(f"ticker,borrow_bps\nA,{borrow}\n{'B,1' if borrow > 100 else ''}\n".rstrip() + "\n")
        assert costs.rates(pd.Index(["A"]), cfg).borrow.tolist() == pytest.approx([borrow * 1e-4 / 252])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ticker,borrow\nA,1\n", "columns ticker, borrow"),
        ("borrow_bps\n1\n", "columns borrow_bps"),
        ("ticker,borrow_bps\nA,-1\n", "line 2: 'A,-1'"),
        ("ticker,borrow_bps\nA,1\nB,cheap\n", "line 3: 'B,cheap'"),
        ("ticker,borrow_bps\nA,1\nB,inf\n", "line 3: 'B,inf'"),
        ("ticker,borrow_bps\nA,1\nA,2\n", "line 3: 'A,2'"),
        ("ticker,borrow_bps\n,2\n", "line 2: ',2'"),
        ("", "not readable"),
    ],
)
def test_what_is_no_file_of_costs_is_refused(path, text, message):
    path.write_text(text)
    with pytest.raises(InputError) as error:
        costs.read(path)
    assert message in str(error.value).replace("file ", "") or message in str(error.value)
    assert "strategy.costs" in str(error.value)


def test_a_missing_file_is_refused(path):
    with pytest.raises(InputError, match="not readable"):
        costs.read(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("severity_share", 1.5), ("severity_share", -0.1), ("max_turnover", 0.0)],
        *[("impact_bps", -1.0), ("volume_bars", 0), ("capital", 0.0)],
    ],
)
def test_parameters_outside_their_range_are_refused(name, value):
    with pytest.raises(InputError, match=f"strategy.{name}"):
        configuration(**{name: value})
