"""The router as a process of its own: killed, scraped, stopped and released as people and machines do it."""

import ipaddress
import os
import resource
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from fusion_alpha import checkpoint
from fusion_alpha.live import router, torture
from fusion_alpha.live.journal import Entry, Journal, Record, latched, read

REPLAY = ("--feed", "replay", "--from", torture.REPLAYED, "--speed", "max")
LIVE = ("--feed", "lab", "--speed", "60")
STEPS = ("features", "samples", "predict", "decide", "journal", "bar_to_journal")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return torture.world(tmp_path_factory.mktemp("world"))


@contextmanager
def running(world, log, *options, **more):
    """A router with its metrics, once it is up; whatever happens, it does not outlive the test."""
    port = torture.free_port()
    process = world.start(log, *LIVE, "--metrics-port", str(port), *options, **more)
    try:
        until(lambda: process.poll() is not None or metrics(port))
        yield process, port
    finally:
        process.kill()
        process.wait()


def until(happens, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)
    return found


def metrics(port: int) -> dict[str, float]:
    """Sample by its line's name; empty while nobody answers."""
    try:
        page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    except requests.ConnectionError:
        return {}
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def health(port: int) -> tuple[int, dict]:
    answer = requests.get(f"http://127.0.0.1:{port}/health", timeout=10)
    return answer.status_code, answer.json()


def listening(port: int) -> set[str]:
    """Addresses that the port is open on."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port]
    return {str(ipaddress.ip_address(bytes.fromhex(address)[::-1])) for address in ours}


def bars(port: int) -> float:
    return metrics(port).get('router_records_total{kind="bar"}', 0.0)


@pytest.mark.slow
def test_killed_routers_leave_the_journal_of_one_that_nobody_killed(world):
    """As many kills as TORTURE_KILLS says; `python -m fusion_alpha.live.torture kills` has two hundred."""
    n = int(os.environ.get("TORTURE_KILLS", "10"))
    found = torture.kills(world, n)
    assert found["equal"]
    assert found["book_equal"]
    assert (found["orders_twice"], found["signals_twice"]) == (0, 0)
    assert found["before_its_first_record"] + found["while_it_routed"] == n
    assert found["orders"] == found["bars"] == torture.LANES * torture.REPLAYED_BARS


def test_what_is_sent_twice_is_counted():
    """Under other keys too, and an order that comes back when it was filled, or twice in one book."""

    def bar(*decided: str) -> Record:
        return Record(0, "", "bar", None, {"book": {"orders": [{"decided_utc": one} for one in decided]}}, {})

    def signal_of(ticker: str, close: str, key: str) -> Record:
        return Record(0, "", "signal", (key,), {"ticker": ticker, "close_utc": close}, {})

    assert torture._orders([bar("1"), bar("1"), bar("1", "2"), bar()]) == ["1", "2"]
    assert torture._orders([bar("1"), bar("2"), bar("1"), bar("3", "3")]) == ["1", "2", "1", "3", "3"]
    signals = [signal_of("A", "1", "a"), signal_of("A", "2", "b"), signal_of("B", "1", "c")]
    assert torture._signals_twice(signals) == 0
    assert torture._signals_twice([*signals, signal_of("B", "1", "d"), signal_of("A", "1", "e")]) == 2


@pytest.mark.soak
def test_a_long_run_keeps_its_memory_and_loses_nothing(world):
    """As long as SOAK_MINUTES says, half an hour by itself."""
    found = torture.soak(world, float(os.environ.get("SOAK_MINUTES", "30")), 60.0)
    assert (found["rows_lost"], found["rows_extra"], found["status"]) == (0, 0, 0)
    assert found["bytes_a_bar"] <= torture.GROWTH_LIMIT_BYTES
    assert found["descriptors_most"] <= found["descriptors_after_warm_up"]
    assert found["stop_s"] <= torture.STOP_LIMIT_S


@pytest.mark.slow
def test_metrics_and_health_of_a_running_router_move_and_sigterm_ends_it_in_time(world, tmp_path):
    log = tmp_path / "live.log"
    with running(world, log) as (process, port):
        until(lambda: bars(port) >= 1)
        before = metrics(port)
        status, state = health(port)
        assert (status, state["ok"], state["simulated"], state["journal"]) == (200, True, True, "ok")
        until(lambda: bars(port) >= before['router_records_total{kind="bar"}'] + 2)
        after = metrics(port)
        moved = [f'router_step_seconds_count{{step="{step}"}}' for step in STEPS]
        moved += [f'router_step_seconds_bucket{{le="+Inf",step="{step}"}}' for step in STEPS]
        moved += ['router_bars_total{finding="good"}', 'router_records_total{kind="signal"}', "router_last_bar_seconds"]
        moved += ["process_cpu_seconds_total"]
        assert [name for name in moved if not after[name] > before[name]] == []
        assert after["router_equity"] != 1.0
        steady = {'router_feed_state{state="ok"}': 1, "router_killed": 0, "router_clock_skew_seconds": 0}
        assert {name: after[name] for name in steady} == steady
        assert {"router_texts_queued", "process_resident_memory_bytes", "process_open_fds"} <= set(after)
        assert listening(port) == {"127.0.0.1"}
        began = time.monotonic()
        process.terminate()
        assert process.wait() == router.OK
        assert time.monotonic() - began < torture.STOP_LIMIT_S
    records = read(log)
    assert records[-1].data == {"reason": "signal"}
    assert sum(one.kind == "bar" for one in records) >= 3


@pytest.mark.slow
def test_the_kill_switch_as_people_use_it(world, tmp_path):
    """SIGUSR1, a restart, a release that is too early, a release; then the file."""
    log, kill = tmp_path / "live.log", tmp_path / "kill"
    with running(world, log) as (process, port):
        until(lambda: bars(port) >= 1)
        process.send_signal(signal.SIGUSR1)
        until(lambda: metrics(port)["router_killed"])
        assert health(port) == (503, health(port)[1] | {"ok": False, "killed": "signal"})
        process.terminate()
        assert process.wait() == router.OK
    signals = len([one for one in read(log) if one.kind == "signal"])
    kill.touch()

    def start(*options):
        process = world.start(log, *LIVE, "--once", "--kill-file", str(kill), *options, stderr=subprocess.PIPE)
        return process.wait(), process.stderr.read().decode()

    status, said = start()
    assert (status, latched(read(log))) == (0, "signal")
    assert "no signals until --release" in said
    status, said = start("--release", "looked at it")
    assert status == 2
    assert "remove the file first" in said
    kill.unlink()
    assert start("--release", " ")[0] == 2
    assert len([one for one in read(log) if one.kind == "signal"]) == signals
    status, said = start("--release", "looked at it")
    assert (status, latched(read(log))) == (0, None)
    assert [one.data for one in read(log) if one.kind == "release"] == [{"reason": "looked at it", "latched": "signal"}]
    assert len([one for one in read(log) if one.kind == "signal"]) == signals + 3
    kill.touch()
    assert start()[0] == 0
    assert latched(read(log)) == f"{kill} exists"
    assert len([one for one in read(log) if one.kind == "signal"]) == signals + 3


@pytest.mark.slow
def test_a_disk_that_fills_ends_signals_shows_in_health_and_in_the_status(world, tmp_path):
    """The kernel refuses bytes beyond a size that the journal soon reaches."""
    log = tmp_path / "live.log"
    with running(world, log) as (process, port):
        until(lambda: bars(port) >= 1)
        limit = log.stat().st_size + 3000
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        state = until(lambda: (found := health(port))[0] == 503 and found[1])
        assert "File too large" in state["journal"]
        size, decided = log.stat().st_size, bars(port)
        time.sleep(3.0)
        assert (log.stat().st_size, bars(port)) == (size, decided)
        process.terminate()
        assert process.wait() == router.BROKEN == 74
    assert size <= limit
    read(log)


@pytest.mark.slow
def test_a_release_that_the_disk_does_not_take_ends_with_status_74(world, tmp_path):
    """The kernel refuses bytes beyond the journal's own; the switch stays latched."""
    log = tmp_path / "live.log"
    with Journal(log) as journal:
        journal.append(Entry("latch", {"reason": "signal"}))
    size = log.stat().st_size

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, size + 10))

    process = world.start(log, *REPLAY, "--release", "looked", stderr=subprocess.PIPE, preexec_fn=fill)
    said = process.stderr.read().decode()
    assert (process.wait(), "Traceback" in said) == (74, False)
    assert "the journal cannot be written" in said
    assert "File too large" in said
    assert log.stat().st_size == size
    assert latched(read(log)) == "signal"


@pytest.mark.slow
def test_a_dry_run_orders_nothing_and_its_journal_is_no_book(world, tmp_path):
    log = tmp_path / "live.log"
    assert world.start(log, *REPLAY, "--once", "--dry-run").wait() == 0
    records = read(log)
    assert records[0].data["orders"] == "dry run"
    assert [one.data["book"]["orders"] for one in records if one.kind == "bar"] == [[]]
    assert sum(one.kind == "signal" for one in records) == 3
    process = world.start(log, *REPLAY, "--once", stderr=subprocess.PIPE)
    assert (process.wait(), "orders 'dry run'" in process.stderr.read().decode()) == (2, True)


@pytest.mark.slow
def test_each_way_to_end_has_its_status(world, tmp_path):
    log = tmp_path / "live.log"
    assert world.start(log, *REPLAY, "--once").wait() == 0
    content = log.read_bytes()
    log.write_bytes(content.replace(b'"equity":1.0', b'"equity":2.0', 1))
    assert world.start(log, *REPLAY, "--once").wait() == 65
    assert b'"equity":2.0' in log.read_bytes()
    rng = np.random.default_rng(0)
    damaged = tmp_path / "model"
    damaged.mkdir()
    for path in (world.folder / checkpoint.FOLDER).iterdir():
        (damaged / path.name).write_bytes(path.read_bytes())
    flipped = bytearray((damaged / checkpoint.WEIGHTS).read_bytes())
    place = int(rng.integers(0, 8 * len(flipped)))
    flipped[place // 8] ^= 1 << place % 8
    (damaged / checkpoint.WEIGHTS).write_bytes(flipped)
    assert world.start(tmp_path / "other.log", *REPLAY, "--model", str(damaged)).wait() == 78
    assert not (tmp_path / "other.log").exists()
    assert world.start(tmp_path, *REPLAY).wait() == 2
    early = world.start(tmp_path / "early.log", *REPLAY)
    time.sleep(1.0)
    early.terminate()
    assert early.wait() in (0, -signal.SIGTERM)  # the latter before its first line of code
