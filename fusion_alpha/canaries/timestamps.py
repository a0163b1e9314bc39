"""Timestamps: the session that may first use a piece of news, by cases known by hand and by a second calendar.

News exactly at a close counts as after it. The join is the pipeline's own (fusion_alpha/panel.py), on a panel of one
ticker. The second calendar alone knows of sessions that were cut short unannounced: nobody could have known that day.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fusion_alpha import cleaning, panel, sessions, tables, workspace
from fusion_alpha.canaries import findings, market
from fusion_alpha.canaries.findings import Finding
from fusion_alpha.config import Config
from fusion_alpha.files import write_text
from fusion_alpha.sources import csv_folder

# UTC -> first session that may use the news
GOLDEN = (
    ("2025-11-28T17:59:00Z", "2025-11-28"),  # half day: it closes at 18:00
    ("2025-11-28T18:00:00Z", "2025-12-01"),
    ("2026-03-06T20:59:00Z", "2026-03-06"),  # the clocks change on the Sunday after
    ("2026-03-06T21:00:00Z", "2026-03-09"),
    ("2026-03-09T13:29:00Z", "2026-03-09"),
    ("2026-03-09T13:30:00Z", "2026-03-09"),
    ("2026-03-09T20:00:00Z", "2026-03-10"),
    ("2026-07-02T20:30:00Z", "2026-07-06"),  # Friday is a holiday
    ("2025-01-09T15:00:00Z", "2025-01-10"),  # day of mourning
    ("2024-07-03T17:00:00Z", "2024-07-05"),
    ("2026-12-24T18:00:00Z", "2026-12-28"),
)
DELAYED = (("2025-11-28T17:58:59Z", "2025-11-28"), ("2025-11-28T17:59:00Z", "2025-12-01"))  # by a minute
# id, published, text -> UTC from which it is known; empty: refused, with its place kept among the rejected rows
RULES = (
    ("naive", "2026-11-02T15:00:00", "No zone", ""),
    ("once", "2026-11-01T01:30:00-04:00", "Before the clock goes back", "05:30"),
    ("twice", "2026-11-01T01:30:00-05:00", "After the clock went back", "06:30"),
    ("edited", "2026-11-02T15:00:00Z", "Profit rises", "15:00"),
    ("edited", "2026-11-02T16:00:00Z", "Profit falls", "16:00"),  # an edit is known from its own time on
    ("edited", "2026-11-02T17:00:00Z", "Profit falls", ""),  # a repetition is no edit
    ("edited", "2026-11-02T16:00:00Z", "Loss", ""),  # of one time the first text in the file
)
FIRST, LAST = "2000-01-03", "2027-12-31"
_CUT_SHORT = {"2005-06-01": pd.Timestamp("2005-06-01 20:00", tz="UTC")}  # closed early, unannounced; its planned close
_LATE = ("2001-09-17", "2001-10-08", "2002-09-11", "2003-03-20", "2004-06-07", "2006-12-27")  # opened late, unannounced
_RANDOM, _STREAM = 20_000, 31


def judged(cfg: Config) -> dict[str, Finding]:
    """timestamps: cases of any kind that come out wrong."""
    return {"timestamps": findings.at_most(len(wrong(cfg)), 0)}


def wrong(cfg: Config) -> list[str]:
    """What comes out wrong, in words."""
    return [*golden(cfg), *rules(cfg), *calendar(cfg), *whole_span(cfg)]


def golden(cfg: Config) -> list[str]:
    cases = [(cfg, GOLDEN), (replace(cfg, target=replace(cfg.target, news_delay_s=60.0)), DELAYED)]
    found = []
    for settings, pairs in cases:
        times = pd.Series(pd.to_datetime([time for time, _ in pairs], utc=True).as_unit("us"))
        given = first_sessions(times, settings)
        for (time, expected), day in zip(pairs, given, strict=True):
            if f"{day:%Y-%m-%d}" != expected:
                found.append(f"news of {time} is given to {day:%Y-%m-%d}, not to {expected}")
    return found


def rules(cfg: Config) -> list[str]:
    """What reading and cleaning make of times without a zone, times that a clock shows twice, and edited headlines."""
    days = sessions.sessions(cfg.data.exchange, "2026-10-30", "2026-11-04")["session"]
    prices = ["date,open,high,low,close,volume", *(f"{day:%Y-%m-%d},1,1,1,1,1" for day in days)]
    news = [
        json.dumps({"id": name, "ticker": "A", "published_utc": time, "text": text}) for name, time, text, _ in RULES
    ]
    daily = replace(cfg, interval="1d", tickers=[], start=None, end=None, data=replace(cfg.data, public=True))
    permissive = replace(daily, clean=replace(cfg.clean, max_rejected_share=1.0))
    with tempfile.TemporaryDirectory() as folder:
        write_text(Path(folder) / "prices/A.csv", "\n".join(prices) + "\n")
        write_text(Path(folder) / "news/news.jsonl", "\n".join(news) + "\n")
        with workspace.hushed():  # it would warn of what is refused
            made = cleaning.clean(csv_folder.read(permissive, Path(folder)), permissive)
    given = [f"{text} at {time:%H:%M}" for time, text in made.news[["published_utc", "text"]].to_numpy()]
    expected = [f"{text} at {kept}" for _, _, text, kept in RULES if kept]
    found = [f"{item} is missing" for item in expected if item not in given]
    found += [f"{item} is there" for item in given if item not in expected]
    refused = set(made.rejected["line"])
    return found + [f"line {n} is not refused" for n, rule in enumerate(RULES, 1) if not rule[3] and n not in refused]


def calendar(cfg: Config) -> list[str]:
    """Sessions of which the pipeline's calendar and the second one disagree."""
    ours = sessions.sessions(cfg.data.exchange, FIRST, LAST).set_index("session")
    theirs = _schedule(cfg).set_index("session")
    found = [f"{day:%Y-%m-%d} is a session of one calendar" for day in ours.index.symmetric_difference(theirs.index)]
    common = ours.index.intersection(theirs.index)
    for name in ("open", "close"):
        differs = ours.loc[common, f"session_{name}_utc"].array != theirs.loc[common, f"{name}_utc"].array
        found += [f"{name} of {day:%Y-%m-%d}" for day in common[differs] if f"{day:%Y-%m-%d}" not in _LATE]
    return found


def whole_span(cfg: Config) -> list[str]:
    """Of news around every open and close from FIRST to LAST, and at random times, those that get another session."""
    table = _schedule(cfg)
    second = pd.Timedelta(seconds=1)
    around = [table["close_utc"] - second, table["close_utc"], table["open_utc"] - second, table["open_utc"]]
    begin, end = table["open_utc"].iloc[0], table["close_utc"].iloc[-1]
    shares = market.uniforms(_RANDOM, cfg.canaries.seed, _STREAM)
    anywhere = pd.Series(begin + shares * (end - begin)).dt.floor("us")
    times = pd.concat([*around, anywhere], ignore_index=True)
    times = times[times < end].sort_values(ignore_index=True).astype("datetime64[us, UTC]")
    place = table["close_utc"].array.searchsorted(times.array, side="right")
    expected = table["session"].to_numpy()[place]
    given = first_sessions(times, cfg).to_numpy()
    different = np.flatnonzero(given != expected)
    return [f"news of {times[row]} is given to {given[row]}, not to {expected[row]}" for row in different]


def first_sessions(times: pd.Series, cfg: Config) -> pd.Series:
    """Session that the pipeline gives news of these times to, rows as given; NaT without one."""
    daily = replace(cfg, interval="1d", target=replace(cfg.target, name="next_open", session_rule="cutoff"))
    day = pd.Timedelta(days=10)
    first, last = times.min().tz_localize(None) - day, times.max().tz_localize(None) + day
    days = sessions.sessions(cfg.data.exchange, first, last)
    prices = pd.DataFrame({"ticker": "A", "bar_close_utc": days["session_close_utc"], "session": days["session"]})
    prices = prices.assign(open=1.0, high=1.0, low=1.0, close=1.0, adj_close=1.0, volume=1.0)
    ids = [f"{number:032x}" for number in range(len(times))]
    news = pd.DataFrame({"news_id": ids, "ticker": "A", "published_utc": times, "text": "A", "lang": None})
    news = news.assign(source="canary", is_repost=False, author_key=None, followers=None)
    with tempfile.TemporaryDirectory() as folder:
        bars = panel.build(prices, tables.empty("benchmark"), daily)
        panel_path = tables.write("panel", bars, Path(folder) / "panel.parquet")
        news_path = tables.write("news", news, Path(folder) / "news.parquet")
        found = panel.join_news(news_path, panel_path, panel.news_since(bars, daily))
    session = bars.set_index("bar_close_utc")["session"]
    given = found.set_index("news_id")["bar_close_utc"].astype(session.index.dtype).map(session)
    return given.reindex(ids).reset_index(drop=True)


def _schedule(cfg: Config) -> pd.DataFrame:
    """The second calendar's sessions, those that were cut short unannounced with their planned close."""
    table = market.schedule(cfg.data.exchange, FIRST, LAST)
    planned = table["session"].dt.strftime("%Y-%m-%d").map(_CUT_SHORT)
    return table.assign(close_utc=planned.astype(table["close_utc"].dtype).fillna(table["close_utc"]))
