"""One target for each reader of outside bytes, and the contract that all of them keep.

The contract: any bytes give a result or an InputError that names the place and the rule or the remedy; never another
exception, never a hang, never memory out of proportion. A target is a function `read(content, folder)` that puts the
bytes where its reader looks, in an empty folder, and a function that makes inputs without a fault, to start from.
Where a reader checks a hash or a CRC first, a target of its own puts the right one in, so that what lies behind is
reached as well.
"""

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyrage
import source_inputs as inputs

from fusion_alpha import config, costs, privacy, raw, sealed, sql, tables, technical, trials
from fusion_alpha.canaries import tasks
from fusion_alpha.errors import InputError
from fusion_alpha.sources import csv_folder, stocknet, yahoo
from fusion_alpha.stocknet import looks
from fusion_alpha.text import train_sentiment
from fuzz import live, models
from fuzz.common import Target, environment, scratch, write

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


# --- sources

_PRICES = "Date,Open,High,Low,Close,Adj Close,Volume\n" + "".join(inputs.bar(day) + "\n" for day in inputs.days(3))
_MINUTES = (
    "bar_close_utc,open,high,low,close,volume\n2015-01-02T14:31:00Z,1,1,1,1,5\n2015-01-02T09:32:00-05:00,1,1,1,1,5\n"
)


def _csv(file: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        write(folder / "prices/TSLA.csv", _PRICES.encode())
        write(folder / file, content)
        return csv_folder.read(inputs.configuration("csv"), folder)

    return read


def _archive(content: bytes, folder: Path) -> object:
    cfg = inputs.configuration("stocknet", {"archive": str(write(folder / "given.zip", content))})
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
    write(folder / "prices/TSLA.csv", _PRICES.encode())
    write(folder / "news/TSLA.jsonl", content)
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
    write(folder / ".cache/yahoo/news/TSLA.jsonl", content)
    return _fetched(_Asset(_ANSWER), folder)


def _fetched(asset: _Asset, folder: Path) -> object:
    with environment(DVC_ROOT=folder):
        (folder / "raw").mkdir()
        cfg = inputs.configuration("yahoo", {"tries": 1}, tickers=["TSLA"])
        yahoo.fetch(cfg, folder / "raw", lambda _: asset)
        return yahoo.read(cfg, folder / "raw")


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
    write(folder / "a.csv", b"1")
    write(folder / raw.MANIFEST, content)
    raw.verify(folder, "csv")
    return raw.note_retrieval(folder, folder)


def _sidecar(content: bytes, folder: Path) -> object:
    write(folder / "raw" / raw.MANIFEST, b'{"source": "csv", "files": []}')
    write(folder / ".cache/retrieved.json", content)
    return raw.note_retrieval(folder / "raw", folder)


# --- sealed files

_IDENTITY = "AGE-SECRET-KEY-1" + "GFPYYSJZ" * 6 + "GFPQ4EGAEX"  # of 32 bytes 0x42
_PUBLIC = str(pyrage.x25519.Identity.from_str(_IDENTITY).to_public())


def _sealed(content: bytes, folder: Path) -> object:
    with environment(**{sealed.IDENTITY: _IDENTITY}):
        return sealed.unseal(content, str(write(folder / "a.csv.age", content)))


def _identities(content: bytes, folder: Path) -> object:
    """As what opens files and as what a new key joins."""
    path = write(folder / "identity.txt", content)
    with environment(**{sealed.IDENTITY: None, sealed.IDENTITY_FILE: path}):
        return sealed.identities(), privacy.make_key(path, another=True)


def _rotation(content: bytes, folder: Path) -> object:
    """The journal of a rotation of keys that goes on."""
    (entry,) = json.loads(_sealed_manifest())["files"]
    write(folder / "raw" / entry["path"], _sealed_file())
    write(folder / "raw" / raw.MANIFEST, _sealed_manifest())
    return _rotate(write(folder / privacy.JOURNAL, content).parents[1])


def _rotation_manifest(content: bytes, folder: Path) -> object:
    (entry,) = json.loads(_sealed_manifest())["files"]
    write(folder / "raw" / entry["path"], _sealed_file())
    write(folder / "raw" / raw.MANIFEST, content)
    return _rotate(folder)


def _rotate(folder: Path) -> object:
    cfg = inputs.configuration("yahoo")
    cfg.privacy = config.PrivacyConfig(sensitive=["yahoo"], recipients=[_PUBLIC])
    with environment(DVC_ROOT=folder, **{sealed.IDENTITY: _IDENTITY}):
        return privacy.rotate(cfg, folder / "raw")


@cache
def _sealed_file() -> bytes:
    return sealed.seal(b"Date,Open\n", [_PUBLIC])


def _sealed_manifest() -> bytes:
    entry = {"path": "a.csv.age", "sha256": sha256(_sealed_file()).hexdigest(), "bytes": len(_sealed_file())}
    return json.dumps({"source": "yahoo", "files": [entry], "recipients": ["another"]}).encode()


def _journal_of_rotation() -> bytes:
    return json.dumps({"a.csv.age": {"sha256": [sha256(_sealed_file()).hexdigest()], "recipients": []}}).encode()


# --- parameters and small files


def _params(content: bytes, folder: Path) -> object:
    return config.load(params=write(folder / "params.yaml", content))


def _override(content: bytes, folder: Path) -> object:
    return config.changed(inputs.defaults(), content.decode("utf-8", "replace").split("\n"))


def _choice(content: bytes, folder: Path) -> object:
    write(folder / "conf/executor/mine.yaml", content)
    before, config.CONF = config.CONF, folder / "conf"
    try:
        return config.changed(inputs.defaults(), ["executor=mine"])
    finally:
        config.CONF = before


def _schema(content: bytes, folder: Path) -> object:
    write(folder / "mine.yaml", content)
    before, tables.SCHEMAS = tables.SCHEMAS, folder
    tables.schema.cache_clear()
    try:
        return tables.schema("mine")
    finally:
        tables.SCHEMAS = before
        tables.schema.cache_clear()


def _labelled(content: bytes, folder: Path) -> object:
    write(folder / "labelled.csv", content)
    rows = train_sentiment.read(folder, "labelled.csv")
    return train_sentiment.split(rows, rows.head(1))


def _equity(content: bytes, folder: Path) -> object:
    write(folder / trials.EQUITY, content)
    run = SimpleNamespace(info=SimpleNamespace(artifact_uri=folder.as_uri()))
    curves = {str(number): curve for number, curve in enumerate(trials._equity(run))}
    return trials.returns(trials.Trials(equity=curves), pd.DatetimeIndex(["2020-01-02", "2020-01-03"]))


def _answer(content: bytes, folder: Path) -> object:
    task = tasks.Task("one", write(folder / "one.json", content), work=dict)
    return tasks.run([task], inputs.defaults().executor, "answers")


# --- tables


def _table(name: str) -> Callable[[bytes, Path], object]:
    def read(content: bytes, folder: Path) -> object:
        return tables.read(name, write(folder / f"{name}.parquet", content))

    return read


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
    return [tables.write(name, pd.DataFrame(columns), scratch() / f"{name}.parquet").read_bytes()]


def _names(pattern: str) -> list[str]:
    ways = (["AAPL", "TSLA"], ["0" * 32, "f" * 32])
    return next(way for way in ways if all(re.fullmatch(pattern, name) for name in way))


_NEWS = [f"{inputs.item(1)}\n{inputs.item(2, ticker=None, tickers=['A', 'b'], author=7, followers=3)}\n".encode()]

TARGETS = (
    {
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
        "sealed": Target(_sealed, lambda: [_sealed_file()]),
        "identities": Target(_identities, lambda: [f"# public key: {_PUBLIC}\n{_IDENTITY}\n".encode()]),
        "rotation": Target(_rotation, lambda: [_journal_of_rotation(), b"{}"]),
        "rotation_manifest": Target(_rotation_manifest, lambda: [_sealed_manifest()]),
        "raw_manifest": Target(
            _raw_manifest,
            lambda: [
                json.dumps(
                    {
                        "source": "csv",
                        "files": [
                            {"path": "a.csv", "url": "file:a.csv", "bytes": 1, "sha256": sha256(b"1").hexdigest()}
                        ],
                    }
                ).encode()
            ],
        ),
        "raw_times": Target(
            _sidecar, lambda: [b'{"a": {"source": "csv", "retrieved_utc": "2024-01-01T00:00:00+00:00"}}']
        ),
        "params": Target(_params, lambda: [(ROOT / "params.yaml").read_bytes()]),
        "params_override": Target(
            _override,
            lambda: [b"train.epochs=3", b"model=concat\ntickers=[TSLA,AAPL]", b"tune.space.train.lr={low: 1, high: 2}"],
        ),
        "params_choice": Target(_choice, lambda: [b"name: pool\nworkers: 2\nranks: 1\n"]),
        "schema": Target(_schema, lambda: [(ROOT / "schemas/benchmark.yaml").read_bytes()]),
        "costs": Target(
            lambda content, folder: costs.read(write(folder / "costs.csv", content)),
            lambda: [b"ticker,commission_bps,borrow_bps\nTSLA,1,50\nAAPL,,\n"],
        ),
        "sectors": Target(
            lambda content, folder: technical.read_sectors(write(folder / "sectors.csv", content)),
            lambda: [b"ticker,sector\nTSLA,autos\nAAPL,chips\n"],
        ),
        "questions": Target(
            lambda content, folder: sql.questions(write(folder / "mine.sql", content)),
            lambda: [b"-- one: first\nselect 1;\n-- two: second\nselect 2;\n"],
        ),
        "labelled_text": Target(
            _labelled,
            lambda: [b'text,label,source\nup,positive,SEntFiN-1.0\ndown,negative,tfns\n"flat, yes",neutral,tfns\n'],
        ),
        "equity": Target(_equity, lambda: [b"session,model\n2020-01-01,1.0\n2020-01-02,1.01\n2020-01-03,0.99\n"]),
        "looks": Target(
            lambda content, folder: looks.read(write(folder / "looks.csv", content)),
            lambda: [",".join(looks.COLUMNS).encode() + b"\n2024-01-02,abc+,0123,a b,5\n"],
        ),
        "canary_answer": Target(_answer, lambda: [b'{"p": 0.5}\n']),
        "table_benchmark": Target(_table("benchmark"), lambda: _parquet("benchmark")),
        "table_predictions": Target(_table("predictions"), lambda: _parquet("predictions")),
        "table_text": Target(_table("text"), lambda: _parquet("text")),
    }
    | models.TARGETS
    | live.TARGETS
)
