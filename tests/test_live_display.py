"""The live table: it fits 80 columns and 24 lines, says why there is no signal, and is a log without a terminal."""

import io
import logging
from types import SimpleNamespace

import pandas as pd
import pytest
from rich.console import Console

from fusion_alpha import config
from fusion_alpha.live import display
from fusion_alpha.live.clock import SimulatedClock
from fusion_alpha.live.router import Row

CLOSE = pd.Timestamp("2020-01-02T21:00Z")
SIGNAL = {"price": 48.09, "s": -0.17, "cs": 0.94, "p_up": 0.4, "p_up_sd": 0.026, "mean_ret": -0.0041, "sd_ret": 0.0155}
WELL = {"simulated": True, "killed": None, "journal": "ok", "feed_failures": 0}
ROWS = {
    "TSLA": Row(CLOSE, SIGNAL | {"action": "sell", "weight": -0.2}, 2.645),
    "GOOGL": Row(CLOSE, {"reason": "halted: waiting for good bars", "price": 12248.09, "s": None, "cs": 0.0}, 0.045),
    "NVDA": Row(CLOSE, SIGNAL | {"action": "hold", "weight": 0.0}, 0.003),
}


def shown(tickers, monkeypatch, width=80, height=24, **health) -> list[str]:
    output = io.StringIO()
    monkeypatch.setattr(display, "console", Console(file=output, width=width, height=height))
    made = display.Display(router(tickers, WELL | health))
    display.console.print(made.view())
    return output.getvalue().rstrip("\n").splitlines()


def router(tickers, state):
    parts = SimpleNamespace(
        cfg=config.load(),
        clock=SimulatedClock(CLOSE + pd.Timedelta(seconds=4000), 17280.0),
        feed=SimpleNamespace(name="lab", simulated=True),
        broker=SimpleNamespace(equity=lambda: 1.0123),
    )
    return SimpleNamespace(parts=parts, rows=ROWS, tickers=tickers, health=lambda: state, on_bar=None)


@pytest.mark.parametrize(("width", "head"), [(80, "contra"), (120, "contradiction")])
def test_every_column_is_whole(width, head, monkeypatch):
    lines = shown(["AAPL", *ROWS], monkeypatch, width)
    assert lines[0] == "SIMULATED lab, 2020-01-02 22:06:40 UTC, equity 1.0123"
    assert lines[1] == "next bar ends 2020-01-03 21:00 UTC, in 22.9 h (5 s here)"
    assert head in lines[2].split()
    assert "…" not in "".join(lines)
    assert len(lines) == 2 + 1 + 4 + 1
    (tesla,) = (line for line in lines if line.startswith("TSLA"))
    assert " ".join(tesla.split()) == "TSLA 48.09 -0.17 +0.94 0.40±0.03 -0.41±1.55% sell -0.200 1.1 h 2645 ms"
    assert "waiting" in lines[3]
    assert lines[-1] == "no signal: 1 halted: waiting for good bars"


def test_trouble_stands_above_the_table(monkeypatch):
    lines = shown(list(ROWS), monkeypatch, killed="kill exists", feed_failures=3, journal="No space left")
    assert "KILLED: kill exists; no signals until --release" in lines
    assert "FEED: no answer, 3 times in a row" in lines
    assert "JOURNAL: No space left; nothing is sent any more" in lines


def test_names_and_reasons_are_shown_as_they_are(monkeypatch):
    """What is in brackets is no markup: a name, a file of the kill switch, an error of the disk."""
    row = Row(CLOSE, {"reason": "[/]: see [bold]"}, 0.045)
    monkeypatch.setitem(ROWS, "[/T]", row)
    lines = shown(["[/T]", "TSLA"], monkeypatch, killed="[/tmp/kill] exists", journal="[Errno 28] [/var]")
    assert any(line.startswith("[/T]") and "[/]" in line for line in lines)
    assert lines[-1] == "no signal: 1 [/]: see [bold]"
    assert "KILLED: [/tmp/kill] exists; no signals until --release" in lines
    assert "JOURNAL: [Errno 28] [/var]; nothing is sent any more" in lines


def test_more_tickers_than_lines_are_counted(monkeypatch):
    lines = shown([*(f"T{number}" for number in range(40)), "TSLA"], monkeypatch, killed="signal", feed_failures=1)
    assert len(lines) <= 24
    assert "and 25 more: 24 waiting, 1 sell" in lines


def test_without_a_terminal_a_bar_is_lines_that_fit(monkeypatch, caplog):
    with caplog.at_level(logging.INFO, "fusion_alpha.live.display"), display.Display(router(list(ROWS), WELL)) as made:
        assert made._router.on_bar == made.lines
        made.lines()
    assert caplog.messages == [
        "SIMULATED bar 2020-01-02 21:00 UTC: equity 1.0123, latency 2645 ms",
        "SIMULATED TSLA 48.09, sell -0.200, P(up) 0.40±0.03, return -0.41±1.55%, news -0.17, contra +0.94",
        "SIMULATED GOOGL 12248.09 no signal: halted: waiting for good bars",
        "SIMULATED NVDA 48.09, hold +0.000, P(up) 0.40±0.03, return -0.41±1.55%, news -0.17, contra +0.94",
    ]
    assert max(map(len, caplog.messages)) <= 120 - len("15:13:28 INFO     ")


def test_before_the_first_bar_nothing_is_said(caplog):
    display.Display(router(["AAPL"], WELL)).lines()
    assert caplog.messages == []
