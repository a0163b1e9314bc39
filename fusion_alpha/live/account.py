"""What a journal tells of a day: decisions, bars and events as tables, for `python -m fusion_alpha.live_report`.

Records that are about a bar carry its close. The others (the feed's state, the clock, the kill switch, a start) have no
time of the market's; they stand in the journal behind the bar after which they happened, and get its close.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha.errors import InputError
from fusion_alpha.live.journal import Key, Record

DECIDED = ("signal", "no_signal", "stale")
EVENTS = ("start", "stop", "feed", "clock", "latch", "release", "reject", "revised", "late", "late_news", "stale")
STEPS = ("wait", "texts", "features", "samples", "predict", "decide", "journal")  # in the order of time
NUMBERS = ("price", "s", "cs", "severity", "p_up", "mean_ret", "sd_ret", "weight", "held", "latency_s")


@dataclass(frozen=True)
class Account:
    """decisions: a row for each ticker and bar; bars: equity, latency_s and a column for each step; events: time, kind,
    ticker, said. about: of the first start in the journal; starts: how many there are."""

    decisions: pd.DataFrame
    bars: pd.DataFrame
    events: pd.DataFrame
    about: dict[str, Any]
    starts: int

    @property
    def simulated(self) -> bool:
        return bool(self.about.get("simulated"))

    @property
    def tickers(self) -> list[str]:
        return sorted(self.decisions["ticker"].unique())

    @property
    def daily(self) -> bool:
        return str(self.about.get("interval", "1d")) == "1d"


def tell(records: Iterable[Record]) -> Account:
    """All that the records say. InputError where no bar was dealt with."""
    decisions, bars, events, starts = [], [], [], []
    time: pd.Timestamp | None = None
    for record in records:
        own = _time(record.data.get("close_utc"))
        time = own if record.kind == "bar" and own is not None else time
        if record.kind == "start":
            starts.append(record.data)
            time = _time(record.data.get("after_utc")) if time is None else time
        if own is None and (record.kind == "bar" or record.kind in DECIDED):
            continue  # not as a router writes it
        if record.kind in DECIDED and record.key is not None and not _of_silence(record.key):
            decisions.append(_decision(record, own))
        elif record.kind == "bar":
            seconds = record.timing.get("steps_s")
            steps = {name: _number((seconds if isinstance(seconds, dict) else {}).get(name)) for name in STEPS}
            latency, equity = _number(record.timing.get("latency_s")), _number(record.data.get("equity"))
            bars.append({"close_utc": own, "equity": equity, "latency_s": latency, **steps})
        elif record.kind in EVENTS:
            when = time if own is None else own
            events.append((when, record.kind, _text(record.data.get("ticker", "")), _text(_said(record))))
    if not bars or not decisions:
        raise InputError(
            "no bar was dealt with", rule="a report needs one `bar` record", remedy="let the router run on"
        )
    return Account(
        # After a power cut a bar is decided again, and counts as it was decided last: a `bar` record comes after it.
        pd.DataFrame(decisions).drop_duplicates(["ticker", "close_utc"], keep="last", ignore_index=True),
        pd.DataFrame(bars).drop_duplicates("close_utc", ignore_index=True),
        pd.DataFrame(events, columns=["time", "kind", "ticker", "said"]).dropna(subset="time").reset_index(drop=True),
        starts[0] if starts else {},
        len(starts),
    )


def between(account: Account, first: pd.Timestamp | None, last: pd.Timestamp | None) -> Account:
    """The part from `first` up to `last`; InputError where no bar ends there."""

    def inside(times: pd.Series) -> pd.Series:
        return (times >= (first or times.min())) & (times <= (last or times.max()))

    bars = account.bars[inside(account.bars["close_utc"])]
    if bars.empty:
        begin, end = account.bars["close_utc"].min(), account.bars["close_utc"].max()
        raise InputError("no bars from --from to --to", rule=f"the journal has bars from {begin} to {end}")
    decisions = account.decisions[inside(account.decisions["close_utc"])]
    events = account.events[inside(account.events["time"])] if len(account.events) else account.events
    decisions, bars, events = (frame.reset_index(drop=True) for frame in (decisions, bars, events))
    return Account(decisions, bars, events, account.about, account.starts)


def outcomes(rows: pd.DataFrame) -> Counter[str]:
    """How often each action and each reason for silence occurs."""
    return Counter(rows["action"].where(rows["kind"] == "signal", rows["reason"]).astype(str))


def latencies(seconds: pd.Series) -> dict[str, float]:
    """Median, 99th percentile and maximum in milliseconds; NaN where nothing was measured."""
    known = seconds.dropna().to_numpy("float64") * 1e3
    if not len(known):
        return dict.fromkeys(("p50", "p99", "max"), float("nan"))
    return {"p50": float(np.quantile(known, 0.5)), "p99": float(np.quantile(known, 0.99)), "max": float(known.max())}


def _of_silence(key: Key) -> bool:
    """Is it the key of a `stale` record of a ticker that has no bar, about which nothing was decided?"""
    return key[:1] == ("stale",) and len(key) == 4


def _decision(record: Record, close: pd.Timestamp | None) -> dict[str, Any]:
    data = record.data | {"latency_s": record.timing.get("latency_s")}
    texts = {name: _text(data.get(name, "")) for name in ("ticker", "action", "reason")}
    numbers = {name: _number(data.get(name)) for name in NUMBERS}
    return {"close_utc": close, "kind": record.kind, "contradiction": _text(data.get("kind", "none"))} | texts | numbers


def _said(record: Record) -> str:
    """What an event is about, in a line."""
    data, timing = record.data, record.timing
    words = {
        "start": f"feed {data.get('feed')}, model {data.get('model_id')}",
        "feed": " ".join(str(part) for part in (data.get("state"), timing.get("detail") or "") if part),
        "clock": f"{data.get('state')}, {timing.get('skew_s', '')} s apart",
        "reject": f"{data.get('finding')}: {data.get('rule')}",
        "revised": "other numbers; the first ones stay",
        "late": "extends the history only",
        "late_news": "a headline came after its bar",
    }
    return words.get(record.kind) or str(data.get("reason", ""))


def _text(value: object) -> str:
    """What a terminal shows and a page can hold: a feed's text may have escape sequences or half a character."""
    return re.sub("[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", str(value))


def _time(text: object) -> pd.Timestamp | None:
    if not isinstance(text, str):
        return None
    try:
        time = pd.Timestamp(text)
    except ValueError:
        return None
    return None if time.tzinfo is None else time.tz_convert("UTC")


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
