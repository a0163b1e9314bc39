"""StockNet: daily bars of 88 US stocks and the tweets about 87 of them [Xu and Cohen, ACL 2018; MIT licence].

Raw is the archive itself, one zip. Read from it, under whatever name its top folder has:

    price/raw/TICKER.csv               Date,Open,High,Low,Close,Adj Close,Volume
    price/preprocessed/TICKER.txt      columns 0 and 1 only: day and movement of the adjusted close, for the benchmark's
                                       label. The others mix prices with later splits and dividends
    tweet/raw/TICKER/YYYY-MM-DD        one tweet a line, as Twitter's API gave it; unknown fields are ignored

A tweet in the folders of two tickers is two rows. Its time is created_at (UTC); the day in the file name is up to a
day ahead of UTC and serves the benchmark's set A alone. Rows outside first_session .. last_session are left out.
Rejected rows name their place as ARCHIVE!MEMBER, the member without the archive's top folder.
"""

import hashlib
import io
import logging
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from fusion_alpha import benchmark, sealed
from fusion_alpha.config import Config, StocknetConfig
from fusion_alpha.errors import InputError
from fusion_alpha.sources import PRICE_COLUMNS, RawFile, RawRows, download, parsing

log = logging.getLogger(__name__)

ARCHIVE = "stocknet.zip"
ARCHIVE_NAME = "stocknet-dataset-master.zip"  # inside a folder given instead of a file
VARIABLE = "STOCKNET_ARCHIVE"
CREATED_AT = "%a %b %d %H:%M:%S %z %Y"
_REPOST = re.compile(r"RT @\w")
_BARS = re.compile(r"price/raw/[^/]+\.csv")
_MOVEMENTS = re.compile(r"price/preprocessed/([^/]+)\.txt")
_TWEETS = re.compile(r"tweet/raw/([^/]+)/(\d{4}-\d\d-\d\d)")

# What zipfile raises over bytes that are no whole zip.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError),
    *(NotImplementedError, RuntimeError, ValueError, OverflowError),
)
_LARGEST_BYTES = 64 << 20  # of a member; the archive's own are below 1 MiB

Members = dict[str, zipfile.ZipInfo]  # by name without the top folder, in order of name


def fetch(cfg: Config, raw: Path) -> list[RawFile]:
    """Put the archive below `raw`: from the parameter, from $STOCKNET_ARCHIVE, or from its URL; check it whole.

    Raises InputError for a missing, damaged or wrong archive, and where it cannot be downloaded.
    """
    block = cfg.data.stocknet
    assert block is not None
    local = local_archive(block)
    if local is None:
        content = download.content(block.url, remedy=f"download it by hand and set ${VARIABLE} to the file")
        url = block.url
    else:
        content, url = local.read_bytes(), f"file:{local.name}"
    verify(content, block, named=str(local or block.url))
    return [RawFile(sealed.writer(cfg)(raw / ARCHIVE, content), url)]


def local_archive(block: StocknetConfig) -> Path | None:
    """The archive that the parameter or $STOCKNET_ARCHIVE names (a file, or a folder that holds it)."""
    given, origin = block.archive, "data.stocknet.archive"
    if given is None:
        given, origin = os.environ.get(VARIABLE) or None, f"${VARIABLE}"
    if given is None:
        return None
    path = Path(given).expanduser()
    path = path / ARCHIVE_NAME if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            "no such file", file=path, rule=f"{origin} names the zip or its folder", remedy=f"correct or unset {origin}"
        )
    return path


def verify(content: bytes, block: StocknetConfig, named: str) -> None:
    """Check every member's CRC and both checksums; InputError names the archive as `named`."""
    again = "fetch the archive again; its content may have changed upstream"
    whole = hashlib.sha256(content).hexdigest()
    if block.sha256 is not None and whole != block.sha256:
        raise InputError(
            f"SHA-256 is {whole}",
            file=named,
            rule=f"data.stocknet.sha256 = {block.sha256}",
            remedy=f"{again}; null accepts any packing, data.stocknet.price_sha256 still checks the prices",
        )
    with opened(io.BytesIO(content), named) as source:
        try:
            broken = source.testzip()
        except _DAMAGED as error:
            raise InputError(f"a damaged archive ({error})", file=named, rule="a whole zip", remedy=again) from None
        if broken is not None:
            raise InputError(f"member {broken} is damaged", file=named, rule="CRC-32 as in the zip", remedy=again)
        prices = price_sha256(source, members(source, named))
    if block.price_sha256 is not None and prices != block.price_sha256:
        raise InputError(
            f"SHA-256 of the price files is {prices}",
            file=named,
            rule=f"data.stocknet.price_sha256 = {block.price_sha256}",
            remedy=again,
        )


def opened(archive: Path | BinaryIO, named: str) -> zipfile.ZipFile:
    again = "fetch the archive again"
    try:
        source = zipfile.ZipFile(archive)
    except _DAMAGED as error:
        raise InputError(f"not a readable zip ({error})", file=named, rule="a whole zip", remedy=again) from None
    large = [item for item in source.infolist() if item.file_size > _LARGEST_BYTES]
    if large:
        source.close()
        size = f"member {large[0].filename} has {large[0].file_size} bytes"
        raise InputError(size, file=named, rule=f"at most {_LARGEST_BYTES} bytes a member", remedy=again)
    return source


def members(source: zipfile.ZipFile, named: str) -> Members:
    """Files of the archive by their name without its top folder, whatever that is called."""
    entries = [item for item in source.infolist() if not item.is_dir() and not item.filename.startswith("__MACOSX/")]
    tops = [match[1] for item in entries if (match := re.fullmatch(r"(.*?)price/raw/[^/]+\.csv", item.filename))]
    top = tops[0] if tops else ""
    inside = {item.filename[len(top) :]: item for item in entries if item.filename.startswith(top)}
    for layout, pattern in (("price/raw/TICKER.csv", _BARS), ("price/preprocessed/TICKER.txt", _MOVEMENTS)):
        if not any(map(pattern.fullmatch, inside)):
            raise InputError(
                f"no {layout} inside",
                file=named,
                rule="the layout of the repository yumoxu/stocknet-dataset",
                remedy=f"set ${VARIABLE} to that repository's archive",
            )
    return {name: inside[name] for name in sorted(inside)}


def price_sha256(source: zipfile.ZipFile, inside: Members) -> str:
    """SHA-256 of "NAME SHA-256-OF-CONTENT\\n" of every file below price/, by name: the same in every packing."""
    total = hashlib.sha256()
    for name, member in inside.items():
        if name.startswith("price/"):
            total.update(f"{name} {hashlib.sha256(source.read(member)).hexdigest()}\n".encode())
    return total.hexdigest()


def read(cfg: Config, raw: Path) -> RawRows:
    """Bars, tweets and the benchmark's movements of the archive below `raw`."""
    block = cfg.data.stocknet
    assert block is not None
    archive = raw / ARCHIVE
    refused = parsing.Refusals()
    with sealed.stream(archive) as content, opened(content, str(archive)) as source:
        inside = members(source, str(archive))
        prices = _prices(source, inside, refused)
        news = _tweets(source, inside, refused)
        asked = movements(source, inside, tweet_days(inside))
    first, last = pd.Timestamp(block.first_session), pd.Timestamp(block.last_session)
    bars = prices["session"].between(first, last)
    items = news["published_utc"].dt.tz_localize(None).dt.normalize().between(first, last)
    log.info("stocknet: %d bars, %d tweets in the archive", len(prices), len(news))
    return RawRows(
        prices=prices[bars].reset_index(drop=True),
        news=news[items].reset_index(drop=True),
        rejected=refused.frame(),
        benchmark=asked[asked["session"].between(first, last)].reset_index(drop=True),
        left_out={"prices": int((~bars).sum()), "news": int((~items).sum())},
    )


def _prices(source: zipfile.ZipFile, inside: Members, refused: parsing.Refusals) -> pd.DataFrame:
    frames = [
        parsing.price_file(source.read(member), f"{ARCHIVE}!{name}", Path(name).stem.upper(), refused)
        for name, member in inside.items()
        if _BARS.fullmatch(name)
    ]
    return pd.concat(frames, ignore_index=True).astype(PRICE_COLUMNS)


def tweet_days(inside: Members) -> dict[str, list[str]]:
    """By ticker, the days (YYYY-MM-DD) for which the archive holds a file of tweets."""
    days: dict[str, list[str]] = defaultdict(list)
    for name in inside:
        if match := _TWEETS.fullmatch(name):
            days[match[1].upper()].append(match[2])
    return days


def _tweets(source: zipfile.ZipFile, inside: Members, refused: parsing.Refusals) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for name, member in inside.items():
        if match := _TWEETS.fullmatch(name):
            rows += _tweet_rows(source.read(member), f"{ARCHIVE}!{name}", match[1].upper(), refused)
    return parsing.published(rows, refused, "created_at", "a time as Wed Jan 01 03:59:03 +0000 2014", _created)


def texts(archive: Path) -> pd.Series:
    """The text of every tweet of the archive that can be read, as published."""
    with opened(archive, str(archive)) as source:
        return _tweets(source, members(source, str(archive)), parsing.Refusals())["text"]


def _created(texts: pd.Series) -> pd.Series:
    times = pd.to_datetime(texts, format=CREATED_AT, utc=True, errors="coerce")
    return times.astype("datetime64[us, UTC]")


def _tweet_rows(content: bytes, file: str, ticker: str, refused: parsing.Refusals) -> Iterator[tuple[Any, ...]]:
    """Values in the order of NEWS_COLUMNS, but created_at as text where published_utc belongs."""
    for line, tweet in parsing.json_lines(content, file, refused):
        missing = [name for name in ("created_at", "id_str", "text") if not isinstance(tweet.get(name), str)]
        if missing:
            refused.add("news", file, line, missing[0], "present, as text")
            continue
        user = tweet.get("user")
        user = user if isinstance(user, dict) else {}
        text = tweet["text"]
        repost = tweet.get("retweeted_status") is not None or _REPOST.match(text) is not None
        followers = user.get("followers_count")
        followers = followers if isinstance(followers, int) and 0 <= followers < 1 << 63 else None
        author, lang = user.get("id_str"), tweet.get("lang")
        yield file, line, ticker, tweet["id_str"], tweet["created_at"], text, lang, repost, author, followers


def movements(source: zipfile.ZipFile, inside: Members, days: dict[str, list[str]]) -> pd.DataFrame:
    """The benchmark's table (schemas/benchmark.yaml) from columns 0 and 1 of price/preprocessed."""
    frames = []
    for name, member in inside.items():
        match = _MOVEMENTS.fullmatch(name)
        if match is None:
            continue
        ticker = match[1].upper()
        lines = parsing.decode(source.read(member), name).splitlines()
        cells = [line.split("\t") for line in lines]
        sessions = parsing.days(pd.Series([cell[0] for cell in cells], dtype="str"))
        numbers = pd.to_numeric(pd.Series([cell[1] if len(cell) > 1 else "" for cell in cells]), errors="coerce")
        bad = np.flatnonzero(sessions.isna() | numbers.isna())
        if len(bad):
            raise InputError(
                "no day and movement in columns 0 and 1",
                file=f"{ARCHIVE}!{name}",
                line=int(bad[0]) + 1,
                rule="tab-separated, as the authors published it",
                remedy="fetch the archive again",
            )
        frame = pd.DataFrame({"ticker": ticker, "session": sessions, "movement": numbers})
        frame = frame.sort_values("session", ignore_index=True)
        tweet_days = np.array(days.get(ticker, []), "datetime64[D]")
        covered = benchmark.lag_is_covered(frame["session"].to_numpy(), tweet_days)
        frames.append(frame.assign(set_a=pd.array(covered, dtype="boolean")))
    return pd.concat(frames, ignore_index=True)
