"""The kill switch: a file, a signal, and a latch that only a person releases.

It fails closed: a place that cannot be looked at counts as pulled.
"""

import threading
from pathlib import Path


class KillSwitch:
    """Asked before every emission. file: pulls while it exists; `pull`: from a signal's handler."""

    def __init__(self, file: Path | None) -> None:
        self._file, self._signal = file, threading.Event()

    def pull(self) -> None:
        self._signal.set()

    def pulled(self) -> str | None:
        """Why nothing may be sent; None while everything may."""
        if self._signal.is_set():
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
