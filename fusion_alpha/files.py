"""Files and folders that are whole or absent: atomic writes, hashes, JSON in one form."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusion_alpha.errors import InputError

# A disk or a folder that does not take what is written; a file where a folder should be.
_REFUSES = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
}


class NotWritten(InputError, OSError):
    """A file that the disk did not take: no mistake in the input, but it ends as clearly as one."""

    def __init__(self, path: Path, number: int) -> None:
        super().__init__(
            f"cannot be written ({os.strerror(number)})",
            file=path,
            rule="a folder that may be written, on a disk with free space",
            remedy="nothing of it was changed: make room, or allow writing, and run the same again",
        )
        self.errno, self.strerror = number, os.strerror(number)

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def _refused_by_name(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, NotWritten) or error.errno not in _REFUSES:
            raise
        raise NotWritten(path, error.errno) from error


def write_atomic(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a temporary neighbour of `path`, then rename it into place.

    A reader, or the next run after a kill, sees the old file or the new one, never half of it. Raises NotWritten.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with _refused_by_name(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(partial)
            with partial.open("rb") as handle:
                os.fsync(handle.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def replace_folder(target: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a temporary neighbour of `target`, then rename it into place with all that is in it.

    Interrupted, it leaves the old folder or none, never half of the new one. What an earlier interruption left
    beside it is removed first. Raises NotWritten.
    """
    with _refused_by_name(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for leftover in target.parent.glob(f".{target.name}.*.partial"):
            shutil.rmtree(leftover)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        old = target.with_name(f".{target.name}.{os.getpid()}.old.partial")
        partial.mkdir()
        try:
            fill(partial)
            if target.exists():
                target.rename(old)
            partial.rename(target)
        finally:
            if old.exists() and not target.exists():
                old.rename(target)
            for folder in (partial, old):
                if folder.exists():
                    shutil.rmtree(folder)


def replace_files(target: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write several files of the folder `target` elsewhere; rename them into it when all are whole.

    Files of other names stay. Interrupted while they are written, it leaves the old ones. Raises NotWritten.
    """
    with _refused_by_name(target):
        target.mkdir(parents=True, exist_ok=True)
        for leftover in target.glob(".new.*.partial"):
            shutil.rmtree(leftover)
        partial = target / f".new.{os.getpid()}.partial"
        partial.mkdir()
        try:
            fill(partial)
            for path in sorted(partial.iterdir()):
                path.replace(target / path.name)
        finally:
            shutil.rmtree(partial)


def write_bytes(path: Path, content: bytes) -> None:
    write_atomic(path, lambda partial: partial.write_bytes(content))


def write_text(path: Path, content: str) -> None:
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write `content` as `to_json` gives it."""
    write_text(path, to_json(content))


def to_json(content: Any) -> str:
    """`content` with sorted keys and a final newline; NaN and Infinity are refused."""
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path, remedy: str = "run `dvc checkout`, or the stage that writes it") -> Any:
    """What a JSON file holds; InputError with `remedy` where it is damaged."""
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:  # also bytes that are no text, and numbers too long for Python
        raise InputError(f"not JSON ({error})", file=path, rule="a whole JSON file", remedy=remedy) from None


def read_object(path: Path, *keys: str, remedy: str = "run `dvc checkout`, or the stage that writes it") -> Any:
    """The JSON object of a file; InputError with `remedy` where it is damaged, no object or without one of `keys`."""
    content = read_json(path, remedy)
    missing = [key for key in keys if key not in content] if isinstance(content, dict) else list(keys)
    if missing or not isinstance(content, dict):
        wrong = f"without {', '.join(missing)}" if missing else "no JSON object"
        raise InputError(wrong, file=path, rule="as this program writes it", remedy=remedy)
    return content


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
