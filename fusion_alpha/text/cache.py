"""Embeddings that were computed before, in any experiment: one SQLite file for each encoder, in one folder.

The file is chosen by all of the encoder's `Spec`, a row by the hash of its text, so nothing that changes a number can
meet an old row. Write-ahead logging lets processes read and write at once; every batch is one transaction, so that a
killed process loses the batch it was at and the next run goes on from there. A row whose checksum is wrong is
computed again, with a warning; a damaged file stops the run with the remedy, because another process may be using it.
"""

import fcntl
import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fusion_alpha.errors import InputError
from fusion_alpha.text.encoders import LABELS, Spec

FORMAT = 1  # of the rows, and of everything in the code that decides their numbers but is not in Spec
_WAIT_S = 60.0  # for another process's transaction
_AT_ONCE = 500  # rows of one query

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """Encoded texts as they are stored, n rows."""

    embeddings: NDArray[np.float16]  # (n, dim)
    probabilities: NDArray[np.float64]  # (n, 3), in the order of LABELS
    n_tokens: NDArray[np.int64]  # (n,) before truncation

    @classmethod
    def zeros(cls, n: int, dim: int) -> "Embedded":
        return cls(np.zeros((n, dim), np.float16), np.zeros((n, len(LABELS))), np.zeros(n, np.int64))


class EmbeddingCache:
    """The rows of one encoder below `folder`; use as a context manager."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self._spec = spec
        self._row = np.dtype(
            [("embedding", "<f2", (spec.dim,)), ("probabilities", "<f8", (len(LABELS),)), ("n_tokens", "<i8")]
        )
        described = json.dumps(asdict(spec) | {"format": FORMAT}, sort_keys=True)
        self.path = folder / f"{spec.name}-{blake2b(described.encode(), digest_size=8).hexdigest()}.sqlite"
        with self._clear_errors(), _opened_lock(folder) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # SQLite does not wait when two processes switch to WAL at once
            self._database = sqlite3.connect(self.path, timeout=_WAIT_S)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS spec (description TEXT PRIMARY KEY)")
                self._database.execute("INSERT OR IGNORE INTO spec VALUES (?)", (described,))
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS texts (text_hash TEXT PRIMARY KEY, row BLOB, checksum BLOB)"
                )

    def __enter__(self) -> "EmbeddingCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def get(self, hashes: Sequence[str]) -> tuple[NDArray[np.bool_], Embedded]:
        """Which of `hashes` are known, (n,), and their rows; rows of the others are zero."""
        known = np.zeros(len(hashes), bool)
        found = Embedded.zeros(len(hashes), self._spec.dim)
        place = {text_hash: number for number, text_hash in enumerate(hashes)}
        damaged = 0
        for start in range(0, len(hashes), _AT_ONCE):
            asked = hashes[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(asked))
            with self._clear_errors():
                rows = self._database.execute(
                    f"SELECT text_hash, row, checksum FROM texts WHERE text_hash IN ({marks})", asked
                ).fetchall()
            for text_hash, row, checksum in rows:
                if (
                    not isinstance(row, bytes)
                    or len(row) != self._row.itemsize
                    or _checksum(text_hash, row) != checksum
                ):
                    damaged += 1
                    continue
                number, value = place[text_hash], np.frombuffer(row, self._row)[0]
                known[number] = True
                found.embeddings[number] = value["embedding"]
                found.probabilities[number] = value["probabilities"]
                found.n_tokens[number] = value["n_tokens"]
        if damaged:
            log.warning("%s: %d damaged rows are computed again", self.path, damaged)
        return known, found

    def put(self, hashes: Sequence[str], rows: Embedded) -> None:
        """Store rows in one transaction; a row that is already there is replaced."""
        packed = np.zeros(len(hashes), self._row)
        packed["embedding"], packed["probabilities"] = rows.embeddings, rows.probabilities
        packed["n_tokens"] = rows.n_tokens
        blobs = [value.tobytes() for value in packed]
        records = [(name, blob, _checksum(name, blob)) for name, blob in zip(hashes, blobs, strict=True)]
        with self._clear_errors(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO texts VALUES (?, ?, ?)", records)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.DatabaseError, OSError, UnicodeDecodeError) as error:  # the last where its text is none
            raise InputError(
                f"the embedding cache cannot be used ({error})",
                file=self.path,
                rule="a SQLite file that this program wrote, on a disk with free space",
                remedy="when no other run is going, delete it and its -wal and -shm files; its rows are computed again",
            ) from None


def _opened_lock(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / ".lock").open("w")


def _checksum(text_hash: str, row: bytes) -> bytes:
    return blake2b(text_hash.encode() + row, digest_size=8).digest()
