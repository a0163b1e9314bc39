"""The kill switch: a file, a signal, and a latch that only a person releases. And how a signal stops a router.

The switch fails closed: a place that cannot be looked at counts as pulled.

A signal's handler runs in the main thread, between any two of its steps. threading.Event is not made for that: its
`set` waits for a lock, which this very thread may hold, in `wait` or in another handler. Nothing here takes a lock that
it could wait for.
"""

import queue
from contextlib import suppress
from pathlib import Path


class KillSwitch:
    """Asked before every emission. file: pulls while it exists; `pull`: from a signal's handler."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._signalled = file, False

    def pull(self) -> None:
        self._signalled = True

    def pulled(self) -> str | None:
        """Why nothing may be sent; None while everything may."""
        if self._signalled:
            return "signal"
        if self._file is None:
            return None
        try:
            self._file.parent.stat()
            self._file.lstat()
        except FileNotFoundError:
            return None if self._file.parent.is_dir() else f"the folder of {self._file} is gone"
        except OSError as error:
            return f"{self._file} cannot be looked at ({error.strerror})"
        return f"{self._file} exists"


class Stop:
    """As threading.Event, but a signal's handler may set it, whatever its thread is doing. One thread waits for it."""

    def __init__(self) -> None:
        self._set, self._bell = False, queue.SimpleQueue[None]()  # whose put is reentrant, by its documentation

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True
        self._bell.put(None)

    def wait(self, seconds: float) -> bool:
        """Until it is set, `seconds` at most; is it?"""
        if not self._set:
            with suppress(queue.Empty):
                self._bell.get(timeout=seconds)
        return self._set
