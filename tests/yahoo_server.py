"""What Yahoo answers, on loopback: a proxy that takes HTTPS connections to Yahoo's hosts and answers them itself.

yfinance keeps the addresses of Yahoo's servers in its code. So nothing of it is patched: the client's own environment
(HTTPS_PROXY, and a certificate authority of this process) leads its real TLS connections here.
"""

import datetime
import functools
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from feed_server import Answer, send

HOSTS = ["*.yahoo.com", "*.finance.yahoo.com"]
COOKIE = "A3=yes; Domain=.yahoo.com; Path=/; Max-Age=31536000; Secure"
PEM = serialization.Encoding.PEM


@dataclass
class Asked:
    path: str
    query: dict[str, str]
    symbol: str


@dataclass
class YahooServer:
    """Answers by what is asked for: `charts` and `news` by symbol, in turn, the last one for ever."""

    charts: dict[str, list[Answer]] = field(default_factory=dict)
    news: dict[str, list[Answer]] = field(default_factory=dict)
    crumb: Answer = field(default_factory=lambda: Answer(b"crumb"))
    asked: list[Asked] = field(default_factory=list)

    def count(self, symbol: str, path: str = "/v8/finance/chart/") -> int:
        """Requests for bars of a ticker (or its headlines), without the one for its time zone."""
        return sum(one.symbol == symbol and path in one.path and "range" not in one.query for one in self.asked)

    def answer(self, path: str, query: dict[str, str], body: bytes) -> Answer:
        symbol = path.rsplit("/", 1)[-1]
        if "xhr/ncp" in path:
            symbol = json.loads(body)["serviceConfig"]["s"][0]
        self.asked.append(Asked(path, query, symbol))
        if "range" in query:  # yfinance asks for the time zone first
            return chart(symbol, [])
        known = self.news if "xhr/ncp" in path else self.charts if "/v8/finance/chart/" in path else None
        if known is None:
            return self.crumb if "getcrumb" in path else Answer(b"", headers={"Set-Cookie": COOKIE})
        answers = known.get(symbol) or [stories() if "xhr/ncp" in path else missing(symbol)]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    @contextmanager
    def running(self, folder: Path) -> Iterator[dict[str, str]]:
        """Serve; gives the environment that leads a client here."""
        authority, chain = certificates(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        yahoo = self

        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                self.wfile.write(b"HTTP/1.1 200 -\r\n\r\n")
                try:
                    with context.wrap_socket(self.connection, server_side=True) as secure:
                        yahoo._serve(secure)
                except OSError:
                    return  # the client went away, which it may

            def log_message(self, format: str, *args: object) -> None:
                """Tests read `asked`."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        proxy, bundle = f"http://127.0.0.1:{server.server_port}", str(authority)
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
        try:
            yield dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy) | dict.fromkeys(names, bundle)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def _serve(self, secure: ssl.SSLSocket) -> None:
        """One request of one connection."""
        stream = secure.makefile("rb")
        target = stream.readline().split()[1].decode()
        length = 0
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        answer = self.answer(parts.path, query, stream.read(length))
        send(answer, secure.sendall)


@functools.cache
def certificates(folder: Path) -> tuple[Path, Path]:
    """An authority, and key with certificate for Yahoo's hosts that it signed; as PEM files."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)

    def made(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, root: bool):
        return (
            x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
            .add_extension(x509.BasicConstraints(root, None), True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), False)
        )

    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "loopback")]
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in names]
    root = made(names[0], names[0], keys[0], True).sign(keys[0], hashes.SHA256())
    leaf = made(names[1], names[0], keys[1], False).sign(keys[0], hashes.SHA256())
    secret = keys[1].private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "authority.pem").write_bytes(root.public_bytes(PEM))
    (folder / "chain.pem").write_bytes(secret + leaf.public_bytes(PEM))
    return folder / "authority.pem", folder / "chain.pem"


def chart(
    symbol: str, rows: list[tuple], *, until: str | None = None, interval: str = "1m", **changed: object
) -> Answer:
    """Yahoo's answer for bars; until: its own clock.

    rows: (opening, open, high, low, close, volume), with an adjusted close behind them for bars of a day.
    """
    times = [int(pd.Timestamp(row[0]).timestamp()) for row in rows]
    names = ("open", "high", "low", "close", "volume")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(names, 1)}
    newest = int(pd.Timestamp(until).timestamp()) if until else (times[-1] if times else 0)
    days = sorted({pd.Timestamp(row[0]).tz_convert("America/New_York").normalize() for row in rows})
    meta = {
        "currency": "USD",
        "symbol": symbol,
        "instrumentType": "EQUITY",
        "exchangeTimezoneName": "America/New_York",
        "regularMarketTime": newest,
        "dataGranularity": interval,
        "validRanges": ["1d", "5d"],
        "tradingPeriods": [[period(day)] for day in days],
    }
    indicators: dict[str, object] = {"quote": [columns if rows else {}]}
    if interval == "1d":
        indicators["adjclose"] = [{"adjclose": [row[6] for row in rows]}]
    result = {"meta": meta, "timestamp": times, "indicators": indicators} | changed
    return Answer(json.dumps({"chart": {"result": [result], "error": None}}).encode())


def period(day: pd.Timestamp) -> dict[str, object]:
    """The hours of a session, as Yahoo names them."""
    edges = {"start": "09:30", "end": "16:00"}
    times = {name: pd.Timestamp(f"{day:%Y-%m-%d} {hour}", tz="America/New_York") for name, hour in edges.items()}
    return {"timezone": "EST", "gmtoffset": -18000} | {name: int(time.timestamp()) for name, time in times.items()}


def missing(symbol: str) -> Answer:
    said = {"code": "Not Found", "description": f"No data found, symbol {symbol} may be delisted"}
    return Answer(json.dumps({"chart": {"result": None, "error": said}}).encode(), status=404)


def stories(*items: dict[str, object]) -> Answer:
    return Answer(json.dumps({"data": {"tickerStream": {"stream": list(items)}}}).encode())


def story(number: int, published: str | None, title: str | None = "news") -> dict[str, object]:
    return {"id": f"id-{number}", "content": {"title": title, "pubDate": published}}
