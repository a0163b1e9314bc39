"""A day drawn from its journal: numbers, pictures that fetch nothing, and journals that are torn or damaged."""

import re
import subprocess
import sys

import pandas as pd
import pytest

from fusion_alpha import live_report
from fusion_alpha.errors import InputError
from fusion_alpha.live import account, drawings
from fusion_alpha.live.journal import Damaged, Entry, Journal, read

BEGIN = pd.Timestamp("2020-01-02T14:31Z")
BARS = 12
MODEL = ("0" * 16, "1" * 16)


def write(path, bars: int = BARS, tickers=("AAPL", "TSLA"), simulated: bool = True):
    """A journal with a bar a minute: TSLA is halted in three of them, the kill switch is pulled at last."""
    about = {"feed": "lab", "simulated": simulated, "interval": "1m", "model_id": "abc", "tickers": list(tickers)}
    with Journal(path) as journal:
        journal.append(Entry("start", about | {"after_utc": (BEGIN - pd.Timedelta(minutes=1)).isoformat()}))
        for number in range(bars):
            close = (BEGIN + pd.Timedelta(minutes=number)).isoformat()
            if number == 4:
                rule = "prices are positive, volume is not negative"
                entry = {"ticker": "TSLA", "close_utc": close, "finding": "impossible", "rule": rule, "bar": {}}
                journal.append(
                    Entry("reject", entry), Entry("feed", {"state": "degraded: malformed"}, timing={"detail": "<b>"})
                )
            if number == bars - 2:
                journal.append(Entry("latch", {"reason": "signal"}))
            timing = {"at_utc": close, "latency_s": 0.01 * (number + 1)}
            entries = []
            for ticker in tickers:
                known = {"ticker": ticker, "close_utc": close, "price": 100.0 + number, "s": 0.5, "cs": 1.0}
                reason = "halted: waiting for good bars" if ticker == "TSLA" and 4 <= number < 7 else None
                reason = "killed: signal" if number >= bars - 2 else reason
                said = {
                    "p_up": 0.6,
                    "p_up_sd": 0.02,
                    "mean_ret": 0.001,
                    "sd_ret": 0.01,
                    "severity": 0.5,
                    "kind": "overhype",
                    "weight": 0.1,
                }
                said |= {"action": ("buy", "sell", "hold")[number % 3], "held": 0.0}
                kind = "signal" if reason is None else "no_signal"
                data = known | (said if reason is None else {"reason": reason})
                entries.append(Entry(kind, data, (ticker, close, *MODEL), timing))
            steps = {"features": 0.004, "predict": 0.003, "journal": 0.002}
            state = {"close_utc": close, "equity": 1.0 + 0.001 * number, "book": {}}
            entries.append(Entry("bar", state, ("bar", close, *MODEL), timing | {"steps_s": steps}))
            journal.append(*entries)
        journal.append(Entry("stop", {"reason": "done"}))
    return path


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "live.log")


def run(*given: object, monkeypatch) -> int:
    monkeypatch.setattr(sys, "argv", ["live_report", *map(str, given)])
    return live_report.main()


def test_the_account_has_every_decision_and_event(log):
    told = account.tell(read(log))
    assert (len(told.bars), len(told.decisions), told.tickers, told.starts) == (BARS, 2 * BARS, ["AAPL", "TSLA"], 1)
    assert told.simulated
    assert not told.daily
    assert told.events["kind"].tolist() == ["start", "reject", "feed", "latch", "stop"]
    closes = told.bars["close_utc"]
    # Those without a time of their own happened after the bar before them.
    assert told.events["time"].tolist() == [BEGIN - pd.Timedelta(minutes=1), *closes[[4, 3, 9, 11]]]
    silent = {"halted: waiting for good bars": 3, "killed: signal": 4}
    assert account.outcomes(told.decisions) == {"buy": 7, "sell": 5, "hold": 5} | silent
    assert account.latencies(told.bars["latency_s"])["p50"] == pytest.approx(65.0)
    assert told.bars["features"].tolist() == [0.004] * BARS
    assert told.bars["texts"].isna().all()


def test_a_bar_that_was_decided_again_counts_once_as_it_was_decided_last(log):
    """Its signals were in the journal when the power failed, its `bar` record was not."""
    close = (BEGIN + pd.Timedelta(minutes=BARS)).isoformat()
    about = {"ticker": "TSLA", "close_utc": close, "price": 100.0}
    with Journal(log) as journal:
        journal.append(
            Entry("signal", about | {"action": "buy", "weight": 0.1}, ("TSLA", close, *MODEL, "signal")),
            Entry("stale", about | {"reason": "LATE"}, ("TSLA", close, *MODEL, "stale")),
            Entry("stale", about | {"reason": "HALTED?"}, ("stale", "TSLA", close, "HALTED?")),
            Entry("bar", {"close_utc": close, "equity": 1.0, "book": {}}, ("bar", close, *MODEL)),
        )
    told = account.tell(read(log))
    (last,) = told.decisions[told.decisions["close_utc"] == pd.Timestamp(close)].itertuples()
    assert (last.kind, last.reason) == ("stale", "LATE")
    assert told.events["said"].tolist()[-1] == "HALTED?"


def test_the_facts_are_those_of_the_journal(log):
    facts = {fact.name: (fact.value, fact.note) for fact in live_report.facts(account.tell(read(log)))}
    assert facts["Signals"] == ("17", "7 buy, 5 sell, 5 hold")
    assert facts["Not given"] == ("7", "4 killed: signal; 3 halted: waiting for good bars")
    assert facts["Book on paper"][0] == "1.0110"
    assert facts["Kill switch"] == ("1", "times latched; 1 bars refused, revised or late")


def test_page_and_sheet_are_made_of_the_journal_alone_and_fetch_nothing(log, tmp_path, monkeypatch, capsys):
    for name in ("one", "two"):
        assert run(log, "--output", tmp_path / name, monkeypatch=monkeypatch) == 0
    for name in (live_report.PAGE, live_report.SHEET):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    page = (tmp_path / "one" / live_report.PAGE).read_text()
    assert not re.search(r"<script|<link|https?://|@import|url\(", page)
    assert page.count("<img ") == page.count('src="data:image/svg+xml;base64,') == 7
    assert page.count("(SIMULATED)") == 7
    assert "&lt;b&gt;" in page  # what a feed said is text
    assert "<b>" not in page
    assert (tmp_path / "one" / live_report.SHEET).read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "SIMULATED: AAPL, TSLA, 2020-01-02 14:31 to 2020-01-02 14:42" in said
    assert "halted: waiting for good bars" in said
    assert max(map(len, said.splitlines()[:30])) <= 130


def test_the_time_of_the_kill_switch_is_shaded(log):
    with Journal(log) as journal:
        journal.append(Entry("release", {"reason": "checked"}), Entry("latch", {"reason": "signal"}))
    told = account.tell(read(log))
    assert drawings.latched(told) == [(BARS - 3, BARS - 1), (BARS - 1, BARS - 0.5)]


def test_a_real_market_has_no_watermark(tmp_path):
    told = account.tell(read(write(tmp_path / "live.log", simulated=False)))
    assert "SIMULATED" not in live_report.html(told, [])


@pytest.mark.parametrize(
    ("first", "last", "bars"),
    [
        ("2020-01-02T14:33", "2020-01-02T14:35", 3),
        ("2020-01-02", "2020-01-02", BARS),
        ("2020-01-02T09:33-05:00", None, BARS - 2),
        (None, "2020-01-02T14:31", 1),
    ],
)
def test_a_part_of_the_day(first, last, bars, log):
    options = [(name, value) for name, value in (("--from", first), ("--to", last)) if value]
    told = account.tell(read(log))
    for given in (sum(options, ()), [f"{name}={value}" for name, value in options]):
        asked = live_report.parser().parse_args(["live.log", *given])
        part = account.between(told, asked.first, asked.last)
        assert (len(part.bars), len(part.decisions)) == (bars, 2 * bars)
        assert set(part.events["time"]) <= set(told.events["time"])


@pytest.mark.parametrize("text", ["now", "T", "", "nan", "2019-13-01", "2019-12-13T25", "20191213", "-001-01-01"])
def test_what_is_no_time_is_refused(text, capsys):
    for option in ("--from", "--to"):
        with pytest.raises(SystemExit):
            live_report.parser().parse_args(["live.log", f"{option}={text}"])
        assert "is no time as 2020-01-02" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--to=2020-01-02", "--to=9999-12-31", "--from=0001-01-01"])
def test_an_option_with_its_value_in_one_word_reports(option, log, tmp_path, monkeypatch):
    assert run(log, "--output", tmp_path / "out", option, monkeypatch=monkeypatch) == 0


def test_what_a_feed_or_a_person_said_is_shown_as_it_is(log, tmp_path, monkeypatch, capsys):
    """No markup of the terminal's, no escape sequence, no half character."""
    with Journal(log) as journal:
        close = (BEGIN + pd.Timedelta(minutes=BARS)).isoformat()
        silent = {"ticker": "TSLA", "close_utc": close, "reason": "see [/var/log/feed] [bold]"}
        journal.append(
            Entry("release", {"reason": "feed was wrong, see [/var/log/feed]"}),
            Entry("reject", {"finding": "rejected", "rule": "\x1b]0;title\x07 cut \ud83d [/]"}),
            Entry("no_signal", silent, ("TSLA", close, *MODEL)),
            Entry("bar", {"close_utc": close, "equity": 1.0, "book": {}}, ("bar", close, *MODEL)),
        )
    assert run(log, "--output", tmp_path, monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert "feed was wrong, see [/var/log/feed]" in said
    assert "[bold]" in said
    assert "�]0;title� cut � [/]" in said
    assert "\x1b" not in said
    page = (tmp_path / live_report.PAGE).read_text()
    assert "see [/var/log/feed]" in page
    assert "\x1b" not in page


def test_what_cannot_be_reported_is_refused_with_status_2(log, tmp_path, monkeypatch, capsys):
    assert run(tmp_path / "none.log", monkeypatch=monkeypatch) == 2
    assert run(log, "--from", "2021-01-01", monkeypatch=monkeypatch) == 2
    empty = tmp_path / "empty.log"
    with Journal(empty) as journal:
        journal.append(Entry("start", {}))
    assert run(empty, monkeypatch=monkeypatch) == 2
    said = capsys.readouterr().err
    for words in ("no such journal", "no bars from --from to --to", "no bar was dealt with"):
        assert words in said
    with pytest.raises(SystemExit):
        run(log, "--from", "yesterday or so", monkeypatch=monkeypatch)


def test_a_torn_end_is_left_out_and_named(log):
    content = log.read_bytes()
    log.write_bytes(content[:-9])
    told, (note,) = live_report.opened(log, readable=False)
    assert (len(told.bars), told.events["kind"].tolist()[-1]) == (BARS, "latch")
    assert re.fullmatch(r"\d+ bytes of a record that is not whole stand at the end; they are left out", note)
    assert log.read_bytes() == content[:-9]  # a report changes nothing


def flipped(content: bytes, line: int) -> bytes:
    lines = content.split(b"\n")
    lines[line] = lines[line].replace(b'"price":10', b'"price":90')
    return b"\n".join(lines)


def without(content: bytes, line: int) -> bytes:
    lines = content.split(b"\n")
    return b"\n".join(lines[:line] + lines[line + 1 :])


@pytest.mark.parametrize(
    ("damage", "rule", "problem"),
    [(flipped, "CRC-32", "not a whole record"), (without, "SHA-256 of the line before", "the chain is broken")],
)
def test_damage_is_refused_by_line_and_reported_only_up_to_there(
    damage, rule, problem, log, tmp_path, monkeypatch, capsys
):
    line = 1 + 3 * 3 + 1  # the second decision of the fourth bar
    log.write_bytes(damage(log.read_bytes(), line))
    output = tmp_path / "damaged"
    assert run(log, "--output", output, monkeypatch=monkeypatch) == live_report.DAMAGED == 65
    said = " ".join(capsys.readouterr().err.split())
    assert f"line {line + 1}" in said
    assert rule in said
    assert "--readable" in said
    assert not output.exists()
    told, (note,) = live_report.opened(log, readable=True)
    assert note.startswith("DAMAGED: ")
    assert note.endswith(f"line {line + 1}: {problem}; the report ends with record {line - 1}")
    assert len(told.bars) == 3
    assert note.split(":")[0] in live_report.html(told, [note])


def test_damage_in_the_first_line_leaves_nothing(log):
    log.write_bytes(b"x" + log.read_bytes())
    with pytest.raises(Damaged, match="line 1"):
        live_report.opened(log, readable=True)


def test_records_of_another_shape_are_no_crash(tmp_path):
    path = tmp_path / "odd.log"
    with Journal(path) as journal:
        for kind in ("start", "bar", "signal", "feed", "reject", "latch", "unknown"):
            journal.append(Entry(kind, {"close_utc": 7, "equity": "much"}, (kind, "x", "y", "z"), {"steps_s": 3}))
    with pytest.raises(InputError, match="no bar was dealt with"):
        account.tell(read(path))


def test_many_tickers_are_counted_and_the_first_are_drawn(tmp_path):
    names = tuple(f"T{number:02d}" for number in range(9))
    told = account.tell(read(write(tmp_path / "live.log", bars=3, tickers=names)))
    assert len(drawings.panels(told)) == 2 * drawings.SHOWN + 3
    assert live_report.title(told).startswith("SIMULATED: 9 tickers")
    assert f"first {drawings.SHOWN} tickers" in live_report.by_ticker(told).note
    assert drawings.sheet(told, "title", [("fact", "1")])


def test_the_help_teaches():
    done = subprocess.run([sys.executable, "-m", "fusion_alpha.live_report", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for words in ("live.log --from 2020-01-02T15:00", "--output DIR", "damaged journal", "fetches nothing"):
        assert words in " ".join(done.stdout.split())
