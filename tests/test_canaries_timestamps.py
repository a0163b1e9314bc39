"""Timestamps: golden cases and the second calendar agree with the pipeline, and faults of the clock are noticed."""

import pandas as pd
from canary_market import small as base

from fusion_alpha import panel, sessions
from fusion_alpha.canaries import market, timestamps
from fusion_alpha.sources import parsing


def small():
    return market.configuration(base())


def test_nothing_is_wrong_from_2000_to_2027():
    assert timestamps.wrong(small()) == []


def test_every_golden_case_gets_its_session():
    times = pd.Series(pd.to_datetime([time for time, _ in timestamps.GOLDEN], utc=True).as_unit("us"))
    given = timestamps.first_sessions(times, small())
    assert [f"{day:%Y-%m-%d}" for day in given] == [session for _, session in timestamps.GOLDEN]


def test_a_close_that_counts_as_before_is_noticed(monkeypatch):
    cutoff = panel.cutoff
    second = pd.Timedelta(microseconds=1)
    monkeypatch.setattr(panel, "cutoff", lambda table, rule: cutoff(table, rule) + second)
    assert len(timestamps.golden(small())) == 6


def test_a_news_delay_that_is_ignored_is_noticed(monkeypatch):
    monkeypatch.setattr(panel, "cutoff", lambda table, rule: table["bar_close_utc"])
    assert timestamps.golden(small()) == ["news of 2025-11-28T17:59:00Z is given to 2025-11-28, not to 2025-12-01"]


def test_one_session_that_is_off_is_noticed(monkeypatch):
    known = sessions.sessions

    def late(exchange, first, last):
        table = known(exchange, first, last)
        wrong = table["session"] == "2024-07-03"
        close = table["session_close_utc"].where(~wrong, table["session_close_utc"] + pd.Timedelta(hours=3))
        return table.assign(session_close_utc=close)

    monkeypatch.setattr(sessions, "sessions", late)
    assert timestamps.calendar(small()) == ["close of 2024-07-03"]
    assert timestamps.golden(small())
    day = pd.Timestamp("2024-07-03")
    monkeypatch.setattr(sessions, "sessions", lambda *span: known(*span)[lambda table: table["session"] != day])
    assert timestamps.calendar(small()) == ["2024-07-03 is a session of one calendar"]


def test_times_without_a_zone_that_are_taken_are_noticed(monkeypatch):
    def as_utc(texts):
        return pd.to_datetime(texts, format="ISO8601", utc=True).astype("datetime64[us, UTC]")

    monkeypatch.setattr(parsing, "instants", as_utc)
    assert timestamps.rules(small()) == ["No zone at 15:00 is there", "line 1 is not refused"]
