"""Calls over HTTP that end in time, whatever the server does.

Timeouts of requests are those of a single read: a server that sends a byte now and then, of its headers or of its body,
is never late. Here a timer shuts the sockets of a call that has taken too long, and the read that waits ends at once.
Looking up a name has the system's limit, which nothing here can shorten.
"""

import socket
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter


class Connections(HTTPAdapter):
    """Connections of a requests session, by proxies too, that can be cut; for one call at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()  # guards the sockets, and `_cut` with them
        self._cut = threading.Event()

    @contextmanager
    def ending_after(self, seconds: float) -> Iterator[threading.Event]:
        """Cut what is open `seconds` from now, unless the block is left before; gives an event that is set then."""
        self._cut = cut = threading.Event()
        timer = threading.Timer(seconds, self._end, [cut])
        timer.daemon = True
        timer.start()
        try:
            yield cut
        finally:
            timer.cancel()

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        """As requests has it; the pool's connections are watched from here on."""
        pool: Any = super().get_connection_with_tls_context(*arguments, **options)
        if not hasattr(pool.ConnectionCls, "watched"):
            pool.ConnectionCls = self._watched(pool.ConnectionCls)
        return pool

    def _watched(self, kind: Any) -> Any:
        watch = self._watch

        class Watched(kind):
            watched = True

            def connect(self) -> None:
                super().connect()
                opened: Any = self.sock
                watch(getattr(opened, "socket", opened))  # TLS within TLS has the socket inside

        return Watched

    def _watch(self, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.add(sock)
            if self._cut.is_set():  # while it was being connected
                _shut(sock)

    def _end(self, cut: threading.Event) -> None:
        with self._lock:
            cut.set()
            for sock in self._sockets:
                _shut(sock)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # closed already
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS's own would change what another thread reads from
