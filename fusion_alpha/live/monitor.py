"""Metrics for Prometheus and a page of health, on the loopback interface only."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from fusion_alpha.errors import InputError

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
FEED_STATES = ("ok", "degraded", "down")


class Metrics:
    """All that is counted. A registry of its own, so that two routers of one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.latency = Histogram(
            "router_step_seconds", "Wall time of a step", ["step"], buckets=_SECONDS, registry=self.registry
        )
        self.bars = Counter("router_bars", "Bars by what the guards found", ["finding"], registry=self.registry)
        self.problems = Counter("router_feed_problems", "What the feed could not do", ["kind"], registry=self.registry)
        self.records = Counter("router_records", "Records in the journal", ["kind"], registry=self.registry)
        self.feed = Gauge("router_feed_state", "1 for the feed's state", ["state"], registry=self.registry)
        self.killed = Gauge("router_killed", "1 while the kill switch is latched", registry=self.registry)
        self.queue = Gauge("router_texts_queued", "Texts that wait for the encoder", registry=self.registry)
        self.skew = Gauge("router_clock_skew_seconds", "Our clock less the server's", registry=self.registry)
        self.equity = Gauge("router_equity", "Equity on paper, 1 at the start", registry=self.registry)
        self.last_bar = Gauge("router_last_bar_seconds", "Unix time of the latest decided bar", registry=self.registry)
        ProcessCollector(registry=self.registry)  # memory, descriptors and processor time, by their usual names
        self.feed_is("ok")

    def feed_is(self, state: str) -> None:
        for name in FEED_STATES:
            self.feed.labels(name).set(name == state)


class Monitor:
    """Serves /metrics and /health on 127.0.0.1; port 0 takes a free one. Use as a context manager.

    health: what /health says; status 200 where its `ok` is true, else 503.
    """

    def __init__(self, port: int, metrics: Metrics, health: Callable[[], dict[str, Any]]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._send(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                elif self.path == "/health":
                    state = health()
                    self._send(200 if state["ok"] else 503, "application/json", json.dumps(state).encode())
                else:
                    self._send(404, "text/plain", b"/metrics or /health\n")

            def _send(self, status: int, kind: str, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """The terminal belongs to the live table."""

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            rule, remedy = "the port is free", "choose another --metrics-port; 0 takes a free one"
            raise InputError(f"127.0.0.1:{port}: {error.strerror}", rule=rule, remedy=remedy) from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="monitor", daemon=True)
        self.port = self._server.server_port

    def __enter__(self) -> "Monitor":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
