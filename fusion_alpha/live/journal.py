"""The journal: what the router did, append-only, one JSON object a line, each line bound to the one before it.

    {"seq": 7, "prev": "<SHA-256 of line 6>", "kind": "signal", "key": [...], "data": {...}, "timing": {..}, "crc": ..}

`crc` is the CRC-32 of the line without it; `prev` of the first line is 64 zeros. `data` is what was decided and is
equal when the same bars are routed again; `timing` holds clocks and latencies. A record with a key is written once: the
same key again is a no-op, so that a router that was killed may repeat its last bar.

A write that never ended leaves less than a record at the end, which the next opening cuts off: its first bytes, or,
after a power cut, zeros where the file had grown already. Anything else that does not fit (a line with its end and a
wrong CRC, a broken chain, another kind of file) is damage, and the journal is not opened. Lines go to the disk by one
write and one fsync of our own, because the standard library's logging swallows a full disk.

A journal is read a record at a time: a month of minutes is gigabytes, and only a few records of it are needed again.
"""

import fcntl
import hashlib
import json
import logging
import os
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from fusion_alpha.errors import InputError

log = logging.getLogger(__name__)

START = "0" * 64  # `prev` of the first line
_CRC = len(',"crc":"00000000"}')
_LONGEST = 1 << 28  # bytes of a line; what is longer is no record
_SECTOR = 512  # bytes that a disk writes in one piece
_FEW = 16  # zeros in a row that a worn disk may leave by itself
_KEPT_KEYS = 500_000  # that a new record is compared with; the router's guards forget bars long before
_KEPT = {"start": "start", "bar": "bar", "latch": "latch", "release": "latch"}  # the last of each is kept
_REMEDY = "keep the file for inspection and start with another one: --log FILE"

Key = tuple[str, ...]


class Damaged(InputError):
    """A journal that does not hold together: it is not opened, and not changed."""


class JournalError(OSError):
    """The disk fails, or a record could not be made durable (disk full): nothing may be sent from here on."""


@dataclass(frozen=True)
class Entry:
    """A record to write. With a key it is written once, however often it is given."""

    kind: str
    data: dict[str, Any]
    key: Key | None = None
    timing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A record as it stands in the file."""

    seq: int
    prev: str
    kind: str
    key: Key | None
    data: dict[str, Any]
    timing: dict[str, Any]


class Reading:
    """The records of a journal, in order and once, from an open file; Damaged where it does not hold together.

    number: records so far; good: their bytes; prev: hash of the last line; torn: bytes after them that a write left
    which never ended, known at the end.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.number, self.good, self.prev, self.torn = 0, 0, START, 0

    def __iter__(self) -> Iterator[Record]:
        while line := self._file.readline(_LONGEST):
            record = _record(line[:-1]) if line.endswith(b"\n") else None
            if record is None:
                if not self._unfinished(line):
                    raise self._damaged("not a whole record", "JSON with its CRC-32")
                self.torn = os.fstat(self._file.fileno()).st_size - self.good
                return
            if (record.seq, record.prev) != (self.number, self.prev):
                rule = "every record names its number and the SHA-256 of the line before it"
                raise self._damaged("the chain is broken", rule)
            self.number, self.good = self.number + 1, self.good + len(line)
            self.prev = hashlib.sha256(line[:-1]).hexdigest()
            yield record

    def _unfinished(self, line: bytes) -> bool:
        """May a write that never ended have left this where the next record should be?

        A record holds no zeros, and a write goes on where the one before it was made durable. So zeros stand at the
        end of the file, or up to the end of the sector in which the write broke off. Where they begin with a sector
        and text follows, a disk may as well have lost records that were durable: that is damage.
        """
        text = line.partition(b"\0")[0]
        begun = (b'{"seq":%d,"prev":"%s","kind":"' % (self.number, self.prev.encode()))[: len(text)]
        if not text.startswith(begun):
            return False
        zeros = len(line) - len(text) - len(line[len(text) :].lstrip(b"\0"))
        if len(text) + zeros == len(line) < _LONGEST:  # the end; a whole record has its line break or nothing behind it
            return zeros > 0 or not (line.endswith(b"\n") or _record(line[:-1]))
        broke_off = self.good + len(text)
        return self.number > 0 and broke_off % _SECTOR > 0 and zeros >= max(-broke_off % _SECTOR, _FEW)

    def _damaged(self, problem: str, rule: str) -> Damaged:
        return Damaged(problem, file=self._path, line=self.number + 1, rule=rule, remedy=_REMEDY)


class Journal:
    """The open journal at `path`, for one process at a time; use as a context manager.

    on_record: is given each record that the file holds, once and in order, while it is opened; what it raises leaves
    the file as it is. `torn_bytes` is what was cut off the end. Raises InputError where it cannot be opened or another
    process has it open, Damaged where the file is damaged, JournalError where the disk fails.
    """

    def __init__(self, path: Path, on_record: Callable[[Record], object] = lambda record: None) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            rule, remedy = "the journal is a file that can be written", "another file: --log FILE"
            raise InputError(f"cannot be opened ({error.strerror})", file=path, rule=rule, remedy=remedy) from None
        self.path = path
        self._keys, self._kept = dict[bytes, None](), dict[str, Record]()
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise InputError("is a device or a pipe", file=path, rule="a journal is a file", remedy="--log FILE")
            self._lock()
            found = self._read(on_record)
            _sync_folder(path.parent)
        except OSError as error:
            os.close(self._file)
            raise JournalError(error.errno, f"{path}: {error.strerror}") from error
        except BaseException:
            os.close(self._file)
            raise
        self._size, self._next, self._prev, self.torn_bytes = found.good, found.number, found.prev, found.torn
        self._broken = False

    @property
    def records(self) -> list[Record]:
        """The last `start`, the last `bar`, and the last that pulled or released the kill switch, in order.

        No others are kept: all of them are what `on_record` was given and `append` gave back, or what `read` has.
        """
        return sorted(self._kept.values(), key=lambda record: record.seq)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; every record is on the disk already."""
        os.close(self._file)

    def knows(self, key: Key) -> bool:
        """Has a record of this key been written?"""
        return _digest(key) in self._keys

    def append(self, *entries: Entry) -> list[Record]:
        """Write the entries whose key is new, in order, by one write and one fsync; returns their records.

        Raises JournalError when they cannot be made durable. None of them counts as written then, and neither does
        anything later: the journal refuses until it is opened again.
        """
        if self._broken:
            raise JournalError("the journal could not be written before; restart the router")
        lines, records, keys, prev = list[bytes](), list[Record](), dict[bytes, None](), self._prev
        for entry in entries:
            if entry.key is not None:
                digest = _digest(entry.key)
                if digest in self._keys or digest in keys:
                    continue
                keys[digest] = None
            record = Record(self._next + len(records), prev, entry.kind, entry.key, entry.data, entry.timing)
            line = _line(record)
            prev = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
            records.append(record)
        if records:
            self._write(b"".join(lines))
            self._prev, self._next = prev, self._next + len(records)
            for record in records:
                self._remember(record)
        return records

    def _read(self, on_record: Callable[[Record], object]) -> Reading:
        """Take in what the file holds, and cut off what is no record at its end."""
        with os.fdopen(os.dup(self._file), "rb") as handle:
            handle.seek(0)
            found = Reading(handle, self.path)
            for record in found:
                on_record(record)
                self._remember(record)
        if found.torn:
            log.warning("%s: %d bytes of a record that was never whole are dropped", self.path, found.torn)
            os.ftruncate(self._file, found.good)
            os.fsync(self._file)
        return found

    def _remember(self, record: Record) -> None:
        if record.kind in _KEPT:
            self._kept[_KEPT[record.kind]] = record
        if record.key is not None:
            self._keys[_digest(record.key)] = None
            if len(self._keys) > 2 * _KEPT_KEYS:
                self._keys = dict.fromkeys(islice(self._keys, _KEPT_KEYS, None))

    def _write(self, content: bytes) -> None:
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            self._broken = True
            self._take_back()
            raise JournalError(error.errno, f"{self.path}: {error.strerror}") from error
        self._size += len(content)

    def _take_back(self) -> None:
        """Cut off what a failed write left; where that fails too, the next opening does it."""
        try:
            os.ftruncate(self._file, self._size)
        except OSError as error:
            log.error("%s: cannot take back a partial record (%s)", self.path, error)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                "another process writes it", file=self.path, rule="one router a journal", remedy="--log FILE"
            ) from None


@contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """The records of a journal that may be in use; InputError where it is absent or cannot be read."""
    if not path.is_file():
        raise InputError("no such journal", file=path, remedy="give the file of --log")
    try:
        handle = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path, remedy="give the file of --log") from None
    with handle:
        yield Reading(handle, path)


def read(path: Path) -> list[Record]:
    """All whole records of a journal that may be in use; InputError where it is absent, Damaged where it is."""
    with reading(path) as records:
        return list(records)


def latched(records: Iterable[Record]) -> str | None:
    """Why trading is latched off, None where it is not: the last `latch` record decides, until a `release`."""
    reason = None
    for record in records:
        if record.kind == "latch":
            reason = str(record.data.get("reason"))
        elif record.kind == "release":
            reason = None
    return reason


def _digest(key: Key) -> bytes:
    """Sixteen bytes for a key: a router that runs for weeks writes millions."""
    return hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()


def _line(record: Record) -> bytes:
    body = {name: value for name, value in vars(record).items() if value is not None}
    text = json.dumps(body, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    content = text.encode(errors="backslashreplace")  # half a surrogate pair becomes its escape, as JSON has it
    return content[:-1] + b',"crc":"%08x"}' % zlib.crc32(content)


def _record(line: bytes) -> Record | None:
    """The record of a line, None where it is not whole."""
    text, crc = line[:-_CRC] + b"}", line[-_CRC:]
    if crc != b',"crc":"%08x"}' % zlib.crc32(text):
        return None
    try:
        body = json.loads(text)
        key = body.get("key")
        key = None if key is None else tuple(key)
        record = Record(body["seq"], body["prev"], body["kind"], key, body["data"], body["timing"])
        _digest(key or ())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # a right CRC, but not one of ours
    return record if isinstance(record.data, dict) and isinstance(record.kind, str) else None


def _sync_folder(folder: Path) -> None:
    """Make the file's name durable too."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
