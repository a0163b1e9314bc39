"""kernels.variance: exact values, limits, continuity, refusals."""

import numpy as np
import pytest

from kernels.variance import controlled_vol


def test_exact_values():
    np.testing.assert_array_equal(controlled_vol(0.02, 3), [0.02, 0.02, 0.02])
    np.testing.assert_array_equal(controlled_vol(0.02, 2, feedback=0.0), [0.01, 0.01])
    np.testing.assert_array_equal(controlled_vol(0.02, 2, feedback=0.5), [0.015, 0.015])
    np.testing.assert_array_equal(controlled_vol([1.0, 2.0, 4.0], 3, feedback=0.5), [0.75, 1.5, 3.0])
    np.testing.assert_allclose(controlled_vol(1.0, 4, decay=np.log(2.0)), [1.0, 0.5, 0.25, 0.125], rtol=1e-15)
    assert controlled_vol(1.0, 0).shape == (0,)


def test_formula():
    vol, f, decay = np.linspace(0.1, 0.9, 500), 0.37, 0.013
    expected = vol * (0.5 + 0.5 * f) * np.exp(-decay * np.arange(500))
    np.testing.assert_allclose(controlled_vol(vol, 500, f, decay), expected, rtol=1e-12)


def test_feedback_is_continuous_and_straight():
    """No jump anywhere, f = 1/2 included: equal steps of f move the volatility by equal amounts."""
    f = np.linspace(0.0, 1.0, 1001)
    vol = np.array([controlled_vol(1.0, 3, feedback, 0.1) for feedback in f])  # [f, t]
    np.testing.assert_allclose(np.diff(vol, axis=0), np.tile(vol[-1] / 2000, (1000, 1)), rtol=1e-9)
    around = [controlled_vol(1.0, 1, feedback)[0] for feedback in (np.nextafter(0.5, 0), 0.5, np.nextafter(0.5, 1))]
    assert max(around) - min(around) <= 2.0**-52


def test_limits_of_the_decay():
    np.testing.assert_array_equal(controlled_vol(0.3, 4, decay=1e4), [0.3, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(controlled_vol(0.3, 100, decay=1e-12), 0.3, rtol=1e-9)
    vol = controlled_vol(0.3, 100, 0.7, 0.05)
    assert (np.diff(vol) < 0).all()
    assert (vol > 0).all()


@pytest.mark.parametrize("feedback", [-1e-9, 1 + 1e-9, np.nan, np.inf])
def test_refuses_feedback(feedback):
    with pytest.raises(ValueError, match="feedback"):
        controlled_vol(0.1, 5, feedback=feedback)


@pytest.mark.parametrize("decay", [-1e-9, np.nan, np.inf])
def test_refuses_decay(decay):
    with pytest.raises(ValueError, match="decay"):
        controlled_vol(0.1, 5, decay=decay)


@pytest.mark.parametrize("vol", [[0.1, 0.2], [[0.1]]])
def test_refuses_another_shape(vol):
    with pytest.raises(ValueError, match="vol"):
        controlled_vol(vol, 5)
