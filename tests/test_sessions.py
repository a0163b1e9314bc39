"""The exchange's clock, against a second calendar."""

import pandas as pd
import pandas_market_calendars
import pytest

from fusion_alpha import sessions
from fusion_alpha.errors import InputError

# minutes of these days that only the second calendar knows: late openings, and one close cut short
LATE_OPENS = ["2001-09-17", "2001-10-08", "2002-09-11", "2003-03-20", "2004-06-07", "2006-12-27"]
EARLY_CLOSES = ["2005-06-01"]


def test_sessions_agree_with_a_second_calendar():
    ours = sessions.sessions("XNYS", "2000-01-03", "2027-12-31").set_index("session")
    theirs = pandas_market_calendars.get_calendar("NYSE").schedule("2000-01-03", "2027-12-31")
    assert ours.index.tolist() == theirs.index.tolist()
    for name, other, known in (("open", "market_open", LATE_OPENS), ("close", "market_close", EARLY_CLOSES)):
        differs = ours[f"session_{name}_utc"].array != theirs[other].array
        assert ours.index[differs].strftime("%Y-%m-%d").tolist() == known


def test_half_days_and_daylight_saving():
    table = sessions.sessions("XNYS", "2025-11-26", "2025-12-01")
    assert table["session_close_utc"].dt.strftime("%d %H:%M").tolist() == ["26 21:00", "28 18:00", "01 21:00"]
    table = sessions.sessions("XNYS", "2026-03-06", "2026-03-09")
    assert table["session_open_utc"].dt.strftime("%H:%M").tolist() == ["14:30", "13:30"]


@pytest.mark.parametrize(("minutes", "full", "half"), [(1, 390, 210), (5, 78, 42), (60, 7, 4)])
def test_bars_tile_the_session(minutes, full, half):
    table = sessions.bars("XNYS", "2024-07-02", "2024-07-03", minutes)
    assert table.groupby("session").size().tolist() == [full, half]
    for _, day in table.groupby("session"):
        assert day["bar_open_utc"].iloc[0] == day["session_open_utc"].iloc[0]
        assert day["bar_close_utc"].iloc[-1] == day["session_close_utc"].iloc[0]
        assert (day["bar_close_utc"].iloc[:-1].array == day["bar_open_utc"].iloc[1:].array).all()


def test_a_daily_bar_is_its_session():
    table = sessions.bars("XNYS", pd.Timestamp("2024-07-02"), "2024-07-05", None)
    assert (table["bar_close_utc"].array == table["session_close_utc"].array).all()


def test_unknown_exchange_is_refused():
    with pytest.raises(InputError, match="unknown exchange 'XMOON'"):
        sessions.sessions("XMOON", "2024-07-01", "2024-07-02")
