"""One target for each reader of outside bytes, and the contract that all of them keep.

The contract: any bytes give a result or an InputError that names the place and the rule or the remedy; never another
exception, never a hang, never memory out of proportion. A target is a function `read(content, folder)` that puts the
bytes where its reader looks, in an empty folder, and a function that makes inputs without a fault, to start from.
Where a reader checks a hash or a CRC first, a target of its own puts the right one in, so that what lies behind is
reached as well.
"""

import io
import json
import os
import re
import shutil
import sqlite3
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import requests
import source_inputs as inputs
import urllib3
from fusion_market import configuration, market

from fusion_alpha import checkpoint, config, costs, files, onnx_models, raw, samples, sql, tables, technical, training
from fusion_alpha.errors import InputError
from fusion_alpha.live import guards, http_feed, journal
from fusion_alpha.sources import csv_folder, stocknet, yahoo
from fusion_alpha.text import encoders
from fusion_alpha.text.cache import Embedded, EmbeddingCache

ROOT = Path(__file__).parents[2]
# What breaks parsers more often than random bytes do.
TOKENS = [
    *(b"", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b'"', b"'", b",", b"\n", b"\r\n", b"\t", b":", b"|"),
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b"- ",
        b"&a ",
        b"*a",
        b"${x}",
        b"!!python/object:os.system ",
        b"[" * 3000,
        b'{"a":' * 3000,
    ),
    *(
        b"null",
        b"true",
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1",
        b"0",
        b"1_0",
        b"0x10",
        b"\xd9\xa3",
        b"9" * 30,
        b"9" * 5000,
    ),
    *(b"0000-00-00", b"9999-12-31", b"0001-01-01T00:00:00Z", b"2015-01-05T25:61:61+99:99", b"NaT", b"inf"),
    *(b'"\\ud800"', b'{"a": 1, "a": 2}', b"ticker", b"session", b"__class__", b"../../x", b"/etc/passwd", b"%s%n"),
]


@dataclass(frozen=True)
class Target:
    """A reader and inputs without a fault."""

    read: Callable[[bytes, Path], object]
    seeds: Callable[[], list[bytes]]


class BrokenContract(AssertionError):
    """An InputError that does not say where or what to do."""


def check(name: str, content: bytes, folder: Path, *, refusal: bool = True) -> None:
    """Read `content` by the contract. Raises what breaks it; refusal: may it be refused?"""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        TARGETS[name].read(content, folder)
    except InputError as error:
        if not refusal:
            raise
        said = str(error)
        placed = re.match(r"file \S|(unknown |missing )?parameter \S|arguments? \S|no (bars|headlines) of \S", said)
        if not placed or not ("\n  rule: " in said or "\n  remedy: " in said):
            raise BrokenContract(said) from error


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- sources

_PRICES = "Date,Open,High,Low,Close,Adj Close,Volume\n" + "".join(inputs.bar(day) + "\n" for day in inputs.days(3))
_MINUTES = (
    "bar_close_utc,open,high,low,close,volume\n2015-01-02T14:31:00Z,1,1,1,1,5\n2015-01-02T09:32:00-05:00,1,1,1,1,5\n"
)


def _csv(file: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        _write(folder / "prices/TSLA.csv", _PRICES.encode())
        _write(folder / file, content)
        return csv_folder.read(inputs.configuration("csv"), folder)

    return read


def _archive(content: bytes, folder: Path) -> object:
    cfg = inputs.configuration("stocknet", {"archive": str(_write(folder / "given.zip", content))})
    (folder / "raw").mkdir()
    stocknet.fetch(cfg, folder / "raw")
    return stocknet.read(cfg, folder / "raw")


def _member(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        return _archive(_zip({name: content}), folder)

    return read


def _zip(changed: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, text in {**inputs.stocknet_files(4), **changed}.items():
            target.writestr(f"top/{name}", text)
    return buffer.getvalue()


def _yahoo_files(content: bytes, folder: Path) -> object:
    _write(folder / "prices/TSLA.csv", _PRICES.encode())
    _write(folder / "news/TSLA.jsonl", content)
    return yahoo.read(inputs.configuration("yahoo"), folder)


class _Asset:
    """What yfinance gives for the JSON in `content`: {"index": [...], "columns": {...}, "news": [...]}."""

    def __init__(self, answer: object) -> None:
        self._answer = answer if isinstance(answer, dict) else {"news": answer}

    def history(self, **_: object) -> pd.DataFrame:
        index, columns = self._answer.get("index", []), self._answer.get("columns", {})
        try:
            times = pd.DatetimeIndex(pd.to_datetime(index, utc=True)).tz_convert("America/New_York")
            return pd.DataFrame(columns, index=times)
        except (TypeError, ValueError, OverflowError, AttributeError) as error:  # as pandas inside yfinance
            raise ValueError(str(error)) from None

    def get_news(self, count: int) -> object:
        return self._answer.get("news", [])


def _yahoo_answer(content: bytes, folder: Path) -> object:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return _fetched(_Asset(answer), folder)


def _yahoo_store(content: bytes, folder: Path) -> object:
    _write(folder / ".cache/yahoo/news/TSLA.jsonl", content)
    return _fetched(_Asset(_ANSWER), folder)


def _fetched(asset: _Asset, folder: Path) -> object:
    before, os.environ["DVC_ROOT"] = os.environ.get("DVC_ROOT"), str(folder)
    try:
        (folder / "raw").mkdir()
        cfg = inputs.configuration("yahoo", {"tries": 1}, tickers=["TSLA"])
        yahoo.fetch(cfg, folder / "raw", lambda _: asset)
        return yahoo.read(cfg, folder / "raw")
    finally:
        os.environ.pop("DVC_ROOT")
        os.environ.update({} if before is None else {"DVC_ROOT": before})


_STORY = {"id": "id-1", "content": {"title": "story", "pubDate": "2024-03-05T15:00:00Z"}}
_ANSWER = {
    "index": ["2024-03-04T05:00:00Z", "2024-03-05T05:00:00Z"],
    "columns": {
        "Open": [1.0, 2.0],
        "High": [1, 2],
        "Low": [1, 2],
        "Close": [1, 2],
        "Adj Close": [1, 2],
        "Volume": [1, 2],
    },
    "news": [_STORY, {"uuid": "old", "title": "t", "providerPublishTime": 1709650800}],
}


def _raw_manifest(content: bytes, folder: Path) -> object:
    _write(folder / "a.csv", b"1")
    _write(folder / raw.MANIFEST, content)
    raw.verify(folder, "csv")
    return raw.note_retrieval(folder, folder)


def _sidecar(content: bytes, folder: Path) -> object:
    _write(folder / "raw" / raw.MANIFEST, b'{"source": "csv", "files": []}')
    _write(folder / ".cache/retrieved.json", content)
    return raw.note_retrieval(folder / "raw", folder)


# --- parameters and small files


def _params(content: bytes, folder: Path) -> object:
    return config.load(params=_write(folder / "params.yaml", content))


def _override(content: bytes, folder: Path) -> object:
    return config.changed(inputs.defaults(), content.decode("utf-8", "replace").split("\n"))


def _choice(content: bytes, folder: Path) -> object:
    _write(folder / "conf/executor/mine.yaml", content)
    before, config.CONF = config.CONF, folder / "conf"
    try:
        return config.changed(inputs.defaults(), ["executor=mine"])
    finally:
        config.CONF = before


def _schema(content: bytes, folder: Path) -> object:
    _write(folder / "mine.yaml", content)
    before, tables.SCHEMAS = tables.SCHEMAS, folder
    tables.schema.cache_clear()
    try:
        return tables.schema("mine")
    finally:
        tables.SCHEMAS = before
        tables.schema.cache_clear()


# --- tables


def _table(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        return tables.read(name, _write(folder / f"{name}.parquet", content))

    return read


@cache
def _market() -> tuple[config.Config, dict[str, pd.DataFrame], samples.Samples]:
    cfg, frames = configuration(width=4, heads=1), market(1, 40)
    return cfg, frames, samples.build(frames, cfg)


def _parquet(name: str) -> list[bytes]:
    """A table of two rows that the schema allows."""
    examples = {"float64": [0.25, 0.5], "float32": [0.25, 0.5], "int64": [1, 2], "boolean": [True, False]}
    times = ["2015-01-05", "2015-01-06"]
    columns: dict[str, object] = {}
    for column, rules in tables.schema(name).columns.items():
        kind = rules["dtype"]
        if kind.startswith("vector"):
            columns[column] = tables.vector_series(np.ones((2, 4), np.float16))
        elif kind == "string":
            columns[column] = [rules["allowed"][0]] * 2 if "allowed" in rules else _names(rules.get("pattern", ".*"))
        else:
            columns[column] = examples.get(kind) or pd.to_datetime(times, utc=kind == "timestamp")
    return [tables.write(name, pd.DataFrame(columns), _scratch() / f"{name}.parquet").read_bytes()]


def _names(pattern: str) -> list[str]:
    ways = (["AAPL", "TSLA"], ["0" * 32, "f" * 32])
    return next(way for way in ways if all(re.fullmatch(pattern, name) for name in way))


# --- models


@cache
def _checkpoint() -> dict[str, bytes]:
    cfg, _, data = _market()
    net = training.start(data, cfg, training.set_up(cfg.train)).net.eval()
    folder = _scratch() / "fusionnet"
    checkpoint.save(folder, net, data, cfg, {"loss": 1.5})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@cache
def _state() -> bytes:
    cfg, _, data = _market()
    return training.start(data, cfg, training.set_up(cfg.train)).dump()


def _scratch() -> Path:
    return Path(tempfile.mkdtemp(dir=_removed_at_the_end().name))


@cache
def _removed_at_the_end() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def _checkpoint_config(content: bytes, folder: Path) -> object:
    return _load(_checkpoint() | {checkpoint.CONFIG: content}, folder)


def _checkpoint_weights(content: bytes, folder: Path) -> object:
    description = json.loads(_checkpoint()[checkpoint.CONFIG]) | {"weights_sha256": sha256(content).hexdigest()}
    return _load({checkpoint.WEIGHTS: content, checkpoint.CONFIG: json.dumps(description).encode()}, folder)


def _load(files: dict[str, bytes], folder: Path) -> object:
    for name, content in files.items():
        _write(folder / name, content)
    cfg, _, data = _market()
    return checkpoint.load(folder, data.feature_names, cfg)


def _train_state(content: bytes, folder: Path) -> object:
    cfg, _, data = _market()
    return training.start(data, cfg, training.set_up(cfg.train)).load(_write(folder / "state.safetensors", content))


def _onnx_manifest(content: bytes, folder: Path) -> object:
    _write(folder / "model.onnx", b"")
    _write(folder / onnx_models.MANIFEST, content)
    return onnx_models.verified(folder, 1, "export it again")


def _onnx_manifest_with_digest(content: bytes, folder: Path) -> object:
    """The same behind its digest."""
    try:
        manifest = json.loads(content)
        manifest["digest"] = onnx_models.digest(manifest)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return _onnx_manifest(files.to_json(manifest).encode(), folder)


def _manifest() -> list[bytes]:
    manifest = {"format": 1, "name": "minilm", "files": {"model.onnx": sha256(b"").hexdigest()}}
    return [files.to_json(manifest | {"digest": onnx_models.digest(manifest)}).encode()]


_SPEC = encoders.Spec("stub", 4, "0" * 64, "0" * 64, 16, "torch", "float32", 2)


def _embedding_cache(content: bytes, folder: Path) -> object:
    with EmbeddingCache(folder, _SPEC) as made:
        path = made.path
    for leftover in folder.iterdir():
        leftover.unlink()
    _write(path, content)
    with EmbeddingCache(folder, _SPEC) as opened:
        opened.put(["b"], Embedded.zeros(1, 4))
        return opened.get(["a", "b"])


def _embedding_file() -> list[bytes]:
    folder = _scratch()
    with EmbeddingCache(folder, _SPEC) as made:
        made.put(["a"], Embedded.zeros(1, 4))
    with sqlite3.connect(made.path) as database:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("VACUUM")
    database.close()
    return [made.path.read_bytes()]


# --- live


def _journal(content: bytes, folder: Path) -> object:
    path = _write(folder / "live.log", content)
    records = journal.read(path)
    with journal.Journal(path) as opened:
        assert opened.records == records
        opened.append(journal.Entry("stop", {}))
    return journal.latched(records)


def _journal_with_crc(content: bytes, folder: Path) -> object:
    """Lines of any JSON with the right CRC, number and chain."""
    lines, prev = list[bytes](), journal.START
    for number, line in enumerate(content.split(b"\n")):
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(body, dict):
            body |= {name: value for name, value in (("seq", number), ("prev", prev)) if name in body}
        text = json.dumps(body).encode()
        lines.append(text[:-1] + b',"crc":"%08x"}' % zlib.crc32(text))
        prev = sha256(lines[-1]).hexdigest()
    return _journal(b"".join(line + b"\n" for line in lines), folder)


def _records() -> list[bytes]:
    folder = _scratch()
    with journal.Journal(folder / "live.log") as made:
        made.append(
            journal.Entry("signal", {"weight": 0.5}, ("TSLA", "1"), {"ms": 1}), journal.Entry("latch", {"reason": "x"})
        )
    return [(folder / "live.log").read_bytes()]


class _Server:
    """A requests.Session whose every answer is one of these bytes; its first line holds three headers."""

    def __init__(self, content: bytes) -> None:
        head, _, self._body = content.partition(b"\n")
        names = ("Date", "Retry-After", "Content-Encoding")
        values = [part.decode("latin-1").strip() for part in head.split(b"|")]
        self._headers = {name: value for name, value in zip(names, values, strict=False) if value}

    def get(self, url: str, **_: object) -> requests.Response:
        response = requests.Response()
        response.status_code = 429 if "Retry-After" in self._headers else 200
        response.headers.update(self._headers)
        response.raw = urllib3.HTTPResponse(io.BytesIO(self._body), self._headers, preload_content=False)
        return response


def _feed(content: bytes, folder: Path) -> object:
    settings = replace(inputs.defaults().live, tries=1)
    feed = http_feed.HttpFeed("http://x/", ["TSLA"], "1m", settings, guards.Quarantine(folder / "kept"))
    feed._session = _Server(content)  # type: ignore[assignment]
    polled = feed.poll(pd.Timestamp("2024-07-01T13:31:02Z"))
    guards.SkewGuard(settings).judge(polled.server_utc, polled.received_utc)
    return [guards.impossible(bar) for bar in polled.bars]


_FEED = {
    "bars": [
        {"ticker": "TSLA", "bar_close_utc": "2024-07-01T13:31:00Z", "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0}
        | {"volume": 100, "adj_close": 1.0}
    ],
    "headlines": [
        {"id": "7", "ticker": "TSLA", "published_utc": "2024-07-01T13:30:10Z", "text": "up", "is_repost": False}
    ],
}

_NEWS = [f"{inputs.item(1)}\n{inputs.item(2, ticker=None, tickers=['A', 'b'], author=7, followers=3)}\n".encode()]

TARGETS = {
    "csv_prices": Target(_csv("prices/TSLA.csv"), lambda: [_PRICES.encode(), _MINUTES.encode()]),
    "csv_actions": Target(
        _csv("actions.csv"),
        lambda: [f"ticker,session,split,dividend\nTSLA,{inputs.days(2)[1]},2,\nTSLA,2015-01-06,,0.5\n".encode()],
    ),
    "csv_news": Target(_csv("news/a.jsonl"), lambda: _NEWS),
    "stocknet_zip": Target(_archive, lambda: [_zip({})]),
    "stocknet_prices": Target(_member("price/raw/AAPL.csv"), lambda: [_PRICES.encode()]),
    "stocknet_movements": Target(
        _member("price/preprocessed/AAPL.txt"),
        lambda: [inputs.stocknet_files(4)["price/preprocessed/AAPL.txt"].encode()],
    ),
    "stocknet_tweets": Target(
        _member("tweet/raw/AAPL/2015-01-05"), lambda: [f"{inputs.tweet(1)}\n{inputs.tweet(2)}\n".encode()]
    ),
    "yahoo_answer": Target(_yahoo_answer, lambda: [json.dumps(_ANSWER).encode()]),
    "yahoo_news": Target(_yahoo_files, lambda: [f"{json.dumps(item)}\n".encode() for item in _ANSWER["news"]]),
    "yahoo_store": Target(_yahoo_store, lambda: [f"{json.dumps(_STORY)}\n".encode()]),
    "raw_manifest": Target(
        _raw_manifest,
        lambda: [
            json.dumps(
                {
                    "source": "csv",
                    "files": [{"path": "a.csv", "url": "file:a.csv", "bytes": 1, "sha256": sha256(b"1").hexdigest()}],
                }
            ).encode()
        ],
    ),
    "raw_times": Target(_sidecar, lambda: [b'{"a": {"source": "csv", "retrieved_utc": "2024-01-01T00:00:00+00:00"}}']),
    "params": Target(_params, lambda: [(ROOT / "params.yaml").read_bytes()]),
    "params_override": Target(
        _override,
        lambda: [b"train.epochs=3", b"model=concat\ntickers=[TSLA,AAPL]", b"tune.space.train.lr={low: 1, high: 2}"],
    ),
    "params_choice": Target(_choice, lambda: [b"name: pool\nworkers: 2\nranks: 1\n"]),
    "schema": Target(_schema, lambda: [(ROOT / "schemas/benchmark.yaml").read_bytes()]),
    "costs": Target(
        lambda content, folder: costs.read(_write(folder / "costs.csv", content)),
        lambda: [b"ticker,commission_bps,borrow_bps\nTSLA,1,50\nAAPL,,\n"],
    ),
    "sectors": Target(
        lambda content, folder: technical.read_sectors(_write(folder / "sectors.csv", content)),
        lambda: [b"ticker,sector\nTSLA,autos\nAAPL,chips\n"],
    ),
    "questions": Target(
        lambda content, folder: sql.questions(_write(folder / "mine.sql", content)),
        lambda: [b"-- one: first\nselect 1;\n-- two: second\nselect 2;\n"],
    ),
    "table_benchmark": Target(_table("benchmark"), lambda: _parquet("benchmark")),
    "table_predictions": Target(_table("predictions"), lambda: _parquet("predictions")),
    "table_text": Target(_table("text"), lambda: _parquet("text")),
    "checkpoint_config": Target(_checkpoint_config, lambda: [_checkpoint()[checkpoint.CONFIG]]),
    "checkpoint_weights": Target(_checkpoint_weights, lambda: [_checkpoint()[checkpoint.WEIGHTS]]),
    "train_state": Target(_train_state, lambda: [_state()]),
    "onnx_manifest": Target(_onnx_manifest, _manifest),
    "onnx_manifest_content": Target(_onnx_manifest_with_digest, _manifest),
    "embedding_cache": Target(_embedding_cache, _embedding_file),
    "journal": Target(_journal, _records),
    "journal_content": Target(_journal_with_crc, _records),
    "feed": Target(
        _feed,
        lambda: [
            b"Mon, 01 Jul 2024 13:31:02 GMT\n" + json.dumps(_FEED).encode(),
            b"Mon, 01 Jul 2024 13:31:02 GMT|7\n{}",
            b"||deflate\n" + zlib.compress(json.dumps(_FEED).encode()),
        ],
    ),
}
