"""The journal survives a death at any byte, refuses damage, and says nothing twice."""

import errno
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_alpha.errors import InputError
from fusion_alpha.live import journal as module
from fusion_alpha.live.journal import START, Damaged, Entry, Journal, JournalError, Record, latched, read, reading

values = st.dictionaries(
    st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


def entries(n: int) -> list[Entry]:
    return [
        Entry("signal", {"weight": 0.1 * i, "note": "é\n"}, ("TSLA", str(i), "m", "c"), {"ms": i}) for i in range(n)
    ]


def write(path, *made: Entry) -> None:
    with Journal(path) as journal:
        for entry in made:
            journal.append(entry)


def opened(path) -> tuple[list[Record], int]:
    """What a journal gives while it is opened, and what is cut off."""
    seen: list[Record] = []
    with Journal(path, seen.append) as journal:
        return seen, journal.torn_bytes


def test_records_come_back_with_number_and_chain(tmp_path):
    path = tmp_path / "live.log"
    write(path, *entries(3))
    records = read(path)
    assert [record.seq for record in records] == [0, 1, 2]
    assert records[0].prev == START
    assert records[2].data == {"weight": 0.2, "note": "é\n"}
    assert records[2].key == ("TSLA", "2", "m", "c")
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    write(path, Entry("stop", {}))
    assert [record.kind for record in read(path)] == ["signal"] * 3 + ["stop"]


def test_a_journal_cut_at_every_byte_opens_with_its_whole_records_and_goes_on(tmp_path):
    path, cut = tmp_path / "live.log", tmp_path / "cut.log"
    write(path, *entries(2))
    content, whole = path.read_bytes(), read(path)
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        cut.write_bytes(content[:length])
        n = sum(end <= length for end in ends)
        assert opened(cut) == (whole[:n], length - (ends[n - 1] if n else 0))
        write(cut, *entries(2))
        assert cut.read_bytes() == content, length


@settings(max_examples=100, deadline=None)
@given(made=st.lists(values, min_size=1, max_size=4), data=st.data())
def test_one_wrong_bit_is_damage_and_never_a_torn_record(tmp_path_factory, made, data):
    """Also in the last line and in its end: a latch stands last, when nothing comes after it."""
    path = tmp_path_factory.mktemp("journal") / "live.log"
    write(path, *(Entry("note", value) for value in made), Entry("latch", {"reason": "signal"}))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(max(len(content) - 300, 0), len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    for look in (read, opened):
        with pytest.raises(Damaged):
            look(path)
    assert path.read_bytes() == content


def test_the_last_line_and_its_end_may_have_no_wrong_bit(tmp_path):
    path = tmp_path / "live.log"
    write(path, *entries(1), Entry("latch", {"reason": "signal"}))
    content = path.read_bytes()
    for place in range(content.index(b"\n") + 1, len(content)):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            with pytest.raises(Damaged):
                read(path)


def test_a_missing_or_exchanged_line_breaks_the_chain(tmp_path):
    path = tmp_path / "live.log"
    write(path, *entries(3))
    first, second, third = path.read_bytes().splitlines(keepends=True)
    for content in (first + third, second + third, second + first + third):
        path.write_bytes(content)
        with pytest.raises(InputError, match="chain is broken"):
            read(path)


def test_damage_before_the_end_is_not_opened_and_not_changed(tmp_path):
    path = tmp_path / "live.log"
    write(path, *entries(3))
    content = path.read_bytes().replace(b'"ms":1', b'"ms":9')
    path.write_bytes(content)
    with pytest.raises(InputError, match="line 2: not a whole record"):
        Journal(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [
        *(b"one line, not ours", b'{"a": 1}\n', b"a,b\n1,2\n", b"SQLite\x00\x01"),
        *(b'{"seq":5}', b'{"seq":0,"prev":"1', b'{"seq":0' + b"\0" * 504 + b"more"),
        *(b"\0asm\1\0\0\0\1\7\1", b"\0\0\1\0\1\0  icon", b"\0" * 512 + b"text", b"\0\0\n"),
    ],
)
def test_a_file_that_is_no_journal_is_not_changed(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(Damaged, match="line 1: not a whole record"):
        Journal(path)
    assert path.read_bytes() == content


def test_room_that_a_power_cut_left_empty_is_cut_off(tmp_path):
    path = tmp_path / "live.log"
    write(path, *entries(2))
    content = path.read_bytes()
    path.write_bytes(content + b"\0" * 100)
    assert [count if isinstance(count, int) else len(count) for count in opened(path)] == [2, 100]
    assert path.read_bytes() == content


@pytest.mark.parametrize("sector", [512, 4096])
def test_zeros_in_a_write_are_cut_off_where_no_durable_record_can_have_stood_there(tmp_path, sector):
    """A power cut leaves any sector of the last write out: it reads as zeros, up to where the sector ends."""
    path = tmp_path / "live.log"
    write(path, *entries(3))
    before = path.stat().st_size
    with Journal(path) as journal:
        journal.append(*(Entry("bar", {"number": number, "book": "x" * 700}) for number in range(20)))
    content = path.read_bytes()
    assert len(content) > 3 * sector
    written = [place for place in range(0, len(content), sector) if place + sector > before]
    for place in written:
        end = min(place + sector, len(content))
        begin = max(place, before)
        damaged = content[:begin] + b"\0" * (end - begin) + content[end:]
        path.write_bytes(damaged)
        if begin % 512 or end == len(content):  # the sector has the end of what was durable, or is the last one
            assert len(opened(path)[0]) < 23
            assert content.startswith(path.read_bytes())
        else:  # as if the disk had lost it
            with pytest.raises(Damaged):
                opened(path)
            assert path.read_bytes() == damaged


def test_a_write_that_broke_off_in_a_record_is_cut_off_though_text_comes_after_it(tmp_path):
    path = tmp_path / "live.log"
    write(path, *entries(1))
    first = path.read_bytes()
    write(path, Entry("bar", {"book": "x" * 2000}))
    content = path.read_bytes()
    for broke_off in (700, 1000):
        end = broke_off + -broke_off % 512
        path.write_bytes(content[:broke_off] + b"\0" * (end - broke_off) + content[end:])
        assert opened(path)[1] == len(content) - len(first)
        assert path.read_bytes() == first
    for begin, end in ((700, 900), (1020, 1024), (1024, 1536)):  # not up to the end, too few, a sector of its own
        path.write_bytes(content[:begin] + b"\0" * (end - begin) + content[end:])
        with pytest.raises(Damaged, match="line 2"):
            opened(path)


def test_a_journal_is_read_a_record_at_a_time(tmp_path):
    """Of ten times the records, no more is in memory than keys and the last records need."""
    path, peaks = tmp_path / "live.log", []
    for bars in (20, 200):
        with Journal(path) as journal:
            for bar in range(bars):
                prices = {f"T{number}": float(bar + number) for number in range(50)}
                journal.append(*(Entry("bar", {"book": prices}, (str(bar), str(number))) for number in range(10)))
        tracemalloc.start()
        with Journal(path) as journal:
            assert [record.data["book"]["T0"] for record in journal.records] == [bars - 1.0]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 1_000_000
    assert peaks[1] < peaks[0] + 10 * 200 * 200  # bytes for a key


def test_the_last_start_the_last_bar_and_the_latch_are_kept(tmp_path):
    path = tmp_path / "live.log"
    bars = [Entry("bar", {"number": number}, ("bar", str(number))) for number in range(3)]
    start = Entry("start", {"feed": "lab"})
    write(path, start, bars[0], Entry("latch", {"reason": "signal"}), start, bars[1], *entries(2))
    with Journal(path) as journal:
        assert [(one.kind, one.seq) for one in journal.records] == [("latch", 2), ("start", 3), ("bar", 4)]
        journal.append(Entry("release", {"reason": "checked"}), bars[2], Entry("stop", {}))
        assert [(one.kind, one.seq) for one in journal.records] == [("start", 3), ("release", 7), ("bar", 8)]
        assert journal.records == [read(path)[number] for number in (3, 7, 8)]


def test_who_refuses_a_record_leaves_the_file_as_it_is_and_unlocked(tmp_path):
    def refuse(record: Record) -> None:
        raise InputError("another feed")

    path = tmp_path / "live.log"
    write(path, *entries(2))
    path.write_bytes(path.read_bytes() + b'{"seq"')
    content = path.read_bytes()
    with pytest.raises(InputError, match="another feed"):
        Journal(path, refuse)
    assert path.read_bytes() == content
    assert len(opened(path)[0]) == 2


def test_a_device_is_no_journal():
    with pytest.raises(InputError, match="/dev/zero: is a device"):
        Journal(Path("/dev/zero"))


def test_the_same_key_is_written_once_in_one_call_later_and_after_a_restart(tmp_path):
    path = tmp_path / "live.log"
    one = entries(1)[0]
    with Journal(path) as journal:
        assert len(journal.append(one, one)) == 1
        assert journal.append(one) == []
    with Journal(path) as journal:
        assert journal.knows(("TSLA", "0", "m", "c"))
        assert journal.append(one, *entries(2)) == read(path)[1:]
    assert len(read(path)) == 2


def test_keys_are_remembered_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_KEYS", 10)
    path, made = tmp_path / "live.log", entries(95)

    def check(journal) -> None:
        assert 10 <= len(journal._keys) <= 20
        assert all(journal.knows(one.key) for one in made[-10:])
        assert not journal.knows(made[0].key)
        assert journal.append(*made[-10:]) == []

    with Journal(path) as journal:
        journal.append(*made[:50])
        for one in made[50:]:
            journal.append(one)
        check(journal)
    with Journal(path) as journal:
        check(journal)


@pytest.fixture
def calls(monkeypatch):
    """Calls of the system that write, cut and sync, in order, with the inode that they are about."""
    made: list[tuple[str, int]] = []
    for name in ("write", "ftruncate", "fsync"):
        real = getattr(os, name)

        def call(file, *rest, name=name, real=real):
            made.append((name, os.fstat(file).st_ino))
            return real(file, *rest)

        monkeypatch.setattr(os, name, call)
    return made


def test_a_record_is_on_the_disk_before_append_returns_and_the_files_name_before_that(tmp_path, calls):
    path = tmp_path / "new" / "live.log"
    with Journal(path) as journal:
        file, folder = path.stat().st_ino, path.parent.stat().st_ino
        assert calls == [("fsync", folder)]
        calls.clear()
        for made in (entries(3), [Entry("latch", {"reason": "signal"})]):
            journal.append(*made)
            assert calls == [("write", file), ("fsync", file)]
            calls.clear()
        journal.append(*entries(3))
        assert calls == []
    path.write_bytes(path.read_bytes() + b'{"seq":4,')
    assert opened(path)[1] == 9
    assert calls == [("ftruncate", file), ("fsync", file), ("fsync", folder)]


def test_a_text_that_is_no_utf_8_comes_back(tmp_path):
    path, said = tmp_path / "live.log", {"rule": 'cut \ud83d "off" \udcff\x00\x1b[2J é'}
    write(path, Entry("reject", said, ("rejected", said["rule"])))
    path.read_text("utf-8")
    assert read(path)[0].data == said
    with Journal(path) as journal:
        assert journal.knows(("rejected", said["rule"]))


def test_nan_is_refused(tmp_path):
    with Journal(tmp_path / "live.log") as journal, pytest.raises(ValueError, match="JSON"):
        journal.append(Entry("signal", {"weight": float("nan")}))


def test_the_latch_holds_over_restarts_until_it_is_released(tmp_path):
    path = tmp_path / "live.log"
    assert latched([]) is None
    write(path, Entry("latch", {"reason": "kill file"}), *entries(2))
    assert latched(read(path)) == "kill file"
    write(path, Entry("release", {"reason": "checked"}))
    assert latched(read(path)) is None


def test_a_second_process_is_refused(tmp_path):
    path = tmp_path / "live.log"
    code = f"from pathlib import Path; from fusion_alpha.live.journal import Journal; Journal(Path({str(path)!r}))"
    with Journal(path):
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "another process writes it" in second.stderr


def test_a_full_disk_raises_leaves_whole_records_and_stays_refused(tmp_path):
    """The kernel says no in the middle of a record, as it does on a full disk."""
    path = tmp_path / "live.log"
    write(path, *entries(2))
    content = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 10, before[1]))
        try:
            with pytest.raises(JournalError) as caught:
                journal.append(Entry("signal", {}))
            assert caught.value.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == content
        with pytest.raises(JournalError, match="restart"):
            journal.append(Entry("signal", {}))
    assert len(read(path)) == 2


def test_a_device_without_space_is_an_error_too(tmp_path, monkeypatch):
    with Journal(tmp_path / "live.log") as journal:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, journal._file)
        with pytest.raises(JournalError) as caught:
            journal.append(Entry("signal", {}))
        assert caught.value.errno == errno.ENOSPC
        os.close(full)


def test_a_disk_that_fails_while_a_journal_is_opened_is_no_crash(tmp_path, monkeypatch):
    def fail(file):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(JournalError, match=r"live.log: Input/output error"):
        Journal(tmp_path / "live.log")


def test_an_absent_journal_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.log", tmp_path, Path("/dev/null")):
        with pytest.raises(InputError, match="no such journal"):
            read(path)


def test_a_journal_in_use_is_read_up_to_the_record_that_is_being_written(tmp_path):
    path = tmp_path / "live.log"
    write(path, *entries(3))
    path.write_bytes(path.read_bytes()[:-5])
    with reading(path) as records:
        assert [one.seq for one in records] == [0, 1]
        assert (records.number, records.torn) == (2, path.stat().st_size - records.good)
