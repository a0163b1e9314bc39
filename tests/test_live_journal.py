"""The journal survives a death at any byte, refuses damage, and says nothing twice."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_alpha.errors import InputError
from fusion_alpha.live.journal import START, Damaged, Entry, Journal, JournalError, latched, read

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
        with Journal(cut) as journal:
            n = sum(end <= length for end in ends)
            assert journal.records == whole[:n], length
            assert journal.torn_bytes == length - (ends[n - 1] if n else 0)
            journal.append(*entries(2))
        assert cut.read_bytes() == content, length


@settings(max_examples=40, deadline=None)
@given(made=st.lists(values, min_size=1, max_size=4), data=st.data())
def test_one_wrong_bit_is_never_read_as_a_record(tmp_path_factory, made, data):
    path = tmp_path_factory.mktemp("journal") / "live.log"
    write(path, *(Entry("note", value) for value in made))
    content, whole = bytearray(path.read_bytes()), read(path)
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        records = read(path)
        assert records == whole[: len(records)]
        assert len(records) < len(whole)


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


@pytest.mark.parametrize("content", [b"one line, not ours", b'{"a": 1}\n', b"a,b\n1,2\n", b"SQLite\x00\x01"])
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
    with Journal(path) as journal:
        assert (len(journal.records), journal.torn_bytes) == (2, 100)
    assert path.read_bytes() == content


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


def test_an_absent_journal_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="no such journal"):
        read(tmp_path / "absent.log")
