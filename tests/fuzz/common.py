"""What all modules of targets use."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A reader and inputs without a fault."""

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def scratch() -> Path:
    return Path(tempfile.mkdtemp(dir=_removed_at_the_end().name))


@cache
def _removed_at_the_end() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


@contextmanager
def environment(**changes: object) -> Iterator[None]:
    """Variables of the environment; None takes one out."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, object]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = str(value)
