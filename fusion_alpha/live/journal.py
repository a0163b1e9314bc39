"""The journal: what the router did, append-only, one JSON object a line, each line bound to the one before it.

    {"seq": 7, "prev": "<SHA-256 of line 6>", "kind": "signal", "key": [...], "data": {...}, "timing": {..}, "crc": ..}

`crc` is the CRC-32 of the line without it; `prev` of the first line is 64 zeros. `data` is what was decided and is
equal when the same bars are routed again; `timing` holds clocks and latencies. A record with a key is written once: the
same key again is a no-op, so that a router that was killed may repeat its last bar.

A process that dies in a write leaves a torn last line, which the next opening cuts off where it begins as a record
does. Anything else that does not fit (a wrong CRC before the end, a broken chain, another kind of file) is damage, and
the journal is not opened. Lines go to the disk by one
write and one fsync of our own, because the standard library's logging swallows a full disk.
"""

import fcntl
import hashlib
import json
import logging
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from fusion_alpha.errors import InputError

log = logging.getLogger(__name__)

START = "0" * 64  # `prev` of the first line
_HEAD = b'{"seq":'  # of every line
_CRC = len(',"crc":"00000000"}')
_KEPT_KEYS = 500_000  # that a new record is compared with; the router's guards forget bars long before
_REMEDY = "keep the file for inspection and start with another one: --log FILE"

Key = tuple[str, ...]


class Damaged(InputError):
    """A journal that does not hold together: it is not opened, and not changed. records: those before the damage."""

    records: "tuple[Record, ...]" = ()


class JournalError(OSError):
    """A record could not be made durable (disk full, file system gone): nothing may be sent from here on."""


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


class Journal:
    """The open journal at `path`, for one process at a time; use as a context manager.

    `records` has what the file held when it was opened; `torn_bytes` what was cut off its end. Raises InputError where
    it cannot be opened or another process has it open, Damaged where the file is damaged before its end.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            rule, remedy = "the journal is a file that can be written", "another file: --log FILE"
            raise InputError(f"cannot be opened ({error.strerror})", file=path, rule=rule, remedy=remedy) from None
        self.path = path
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise InputError("is a device or a pipe", file=path, rule="a journal is a file", remedy="--log FILE")
            self._lock()
            content = _content(self._file)
            self.records, good, self._prev = _parse(content, path)
            self.torn_bytes = len(content) - good
            if self.torn_bytes:
                log.warning("%s: %d bytes of a record that was never whole are dropped", path, self.torn_bytes)
                os.ftruncate(self._file, good)
                os.fsync(self._file)
            _sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise
        self._size = good
        self._next = len(self.records)
        self._keys = dict.fromkeys(_digest(record.key) for record in self.records if record.key is not None)
        self._broken = False

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
            self._keys |= keys
            if len(self._keys) > 2 * _KEPT_KEYS:
                self._keys = dict.fromkeys(list(self._keys)[-_KEPT_KEYS:])
        return records

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


def read(path: Path) -> list[Record]:
    """The whole records of a journal that may be in use; InputError where it is absent, Damaged where it is."""
    return read_torn(path)[0]


def read_torn(path: Path) -> tuple[list[Record], int]:
    """The same, and how many bytes of a record that is not whole stand at its end: of a crash, or being written."""
    if not path.is_file():
        raise InputError("no such journal", file=path, remedy="give the file of --log")
    content = path.read_bytes()
    records, good, _ = _parse(content, path)
    return records, len(content) - good


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
    text = json.dumps(body, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()
    return text[:-1] + b',"crc":"%08x"}' % zlib.crc32(text)


def _content(file: int) -> bytes:
    with os.fdopen(os.dup(file), "rb") as handle:
        handle.seek(0)
        return handle.read()


def _parse(content: bytes, path: Path) -> tuple[list[Record], int, str]:
    """Records of `content`, the length of the part that they are (a torn last line follows it), and its last hash."""
    records, good, prev = list[Record](), 0, START
    for number, (line, end) in enumerate(_lines(content)):
        record = _record(line) if end else None
        last = good + len(line) + end == len(content)
        if record is None:
            if last and _begun(line):
                break
            raise _damaged("not a whole record", path, number + 1, "JSON with its CRC-32", records)
        if (record.seq, record.prev) != (number, prev):
            rule = "every record names its number and the SHA-256 of the line before it"
            raise _damaged("the chain is broken", path, number + 1, rule, records)
        records.append(record)
        prev = hashlib.sha256(line).hexdigest()
        good += len(line) + 1
    return records, good, prev


def _begun(line: bytes) -> bool:
    """May a write that was cut off have left this? The first bytes of a record, or room on the disk still empty."""
    return line.startswith(b"\0") or line[: len(_HEAD)] == _HEAD[: len(line)]


def _damaged(problem: str, path: Path, line: int, rule: str, before: list[Record]) -> Damaged:
    error = Damaged(problem, file=path, line=line, rule=rule, remedy=_REMEDY)
    error.records = tuple(before)
    return error


def _lines(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Lines without their end, and whether they have one."""
    *whole, rest = content.split(b"\n")
    yield from ((line, True) for line in whole)
    if rest:
        yield rest, False


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
