"""A feed server on loopback that misbehaves on request: real sockets, no patched function."""

import email.utils
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pandas as pd


@dataclass
class Answer:
    """What the server does with one request."""

    body: bytes = b'{"bars": []}'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0  # before the first byte
    cut: int | None = None  # bytes after which the connection is closed
    drip_s: float = 0.0  # between two bytes
    slow_head: bool = False  # drip the headers too
    skew_s: float = 0.0  # of the Date header
    date_utc: pd.Timestamp | None = None  # of the server's clock, where it is not ours


class FeedServer:
    """Answers with `answers` in turn, the last one for ever; `asked` are the queries that came, and `at` when."""

    def __init__(self, *answers: Answer | Callable[[dict[str, str]], Answer]) -> None:
        self.answers, self.asked = list(answers), list[dict[str, str]]()
        self.at = list[float]()
        self._lock = threading.Lock()
        feed = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                send(feed._next(query), self.wfile.write)

            def log_message(self, format: str, *args: object) -> None:
                """Tests read `asked`."""

            def handle(self) -> None:
                try:
                    super().handle()
                except (BrokenPipeError, ConnectionResetError):
                    return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/feed"

    def _next(self, query: dict[str, str]) -> Answer:
        with self._lock:
            self.asked.append(query)
            self.at.append(time.monotonic())
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return answer(query) if callable(answer) else answer

    @contextmanager
    def running(self) -> Iterator["FeedServer"]:
        thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            thread.join()


def send(answer: Answer, write: Callable[[bytes], object]) -> None:
    """The answer, in time; write: puts bytes on the wire at once."""
    time.sleep(answer.delay_s)
    first, rest = head(answer), answer.body[: answer.cut]
    if answer.slow_head:
        first, rest = b"", first + rest
    write(first)
    for number in range(0, len(rest), 1 if answer.drip_s else max(len(rest), 1)):
        write(rest[number : number + (1 if answer.drip_s else len(rest))])
        time.sleep(answer.drip_s)


def head(answer: Answer) -> bytes:
    clock = time.time() if answer.date_utc is None else answer.date_utc.timestamp()
    date = email.utils.formatdate(clock + answer.skew_s, usegmt=True)
    headers = {"Date": date, "Content-Length": str(len(answer.body)), "Connection": "close"} | answer.headers
    lines = [f"HTTP/1.1 {answer.status} -", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def bar(ticker: str, close: str, price: float = 100.0, **changed: object) -> dict[str, object]:
    quotes = {"open": price, "high": price * 1.001, "low": price * 0.999, "close": price, "volume": 1000}
    return {"ticker": ticker, "bar_close_utc": close} | quotes | changed


def said(*bars: dict[str, object], **more: object) -> Answer:
    return Answer(json.dumps({"bars": list(bars)} | more).encode())
