"""Attacks on the future in raw data: what comes after a cut is deleted, or made into something else.

Bars and actions of sessions that are not over at the cut, and news published at it or later. Poisoned, prices and
volumes are multiplied by factors in [0.5, 2), a bar in twenty has no close, splits double, a headline becomes the one
whose tone mirrors its own (the most positive text the most negative one), and one in twenty has no text.
"""

import json
from pathlib import Path

import pandas as pd

from fusion_alpha import raw
from fusion_alpha.canaries import market
from fusion_alpha.canaries.market import Cut
from fusion_alpha.config import Config
from fusion_alpha.files import read_json, write_text
from fusion_alpha.sources import RawFile
from fusion_alpha.text import text_hashes

ATTACKS = ("delete", "poison")
_NOTHING = 0.05  # share of poisoned rows that become unreadable
_PRICES, _VOLUMES, _TEXTS = 11, 12, 13  # streams of random numbers


def attack(folder: Path, cfg: Config, cut: Cut, how: str, mirror: dict[str, str]) -> int:
    """Change the raw data below `folder` and its manifest; returns the number of rows that were the future.

    mirror: text -> text of the opposite tone.
    """
    day, count = market.last_known(cfg, cut), 0
    for number, path in enumerate(sorted((folder / "prices").glob("*.csv"))):
        header, *lines = path.read_text().splitlines()
        later = [line for line in lines if line[:10] > day]
        known = [line for line in lines if line[:10] <= day]
        count += len(later)
        write_text(path, _lines([header, *known, *(_poisoned(later, cfg, number) if how == "poison" else [])]))
    _actions(folder / "actions.csv", day, how)
    count += _news(folder / "news/news.jsonl", cfg, cut, how, mirror)
    _new_manifest(folder)
    return count


def mirrored(news: pd.DataFrame, text: pd.DataFrame) -> dict[str, str]:
    """For each text of the news table the text whose tone has the opposite rank."""
    distinct = pd.Series(sorted(news["text"].unique()), dtype="str")
    tone = (text["p_positive"] - text["p_negative"]).set_axis(text["text_hash"])
    ranked = distinct.iloc[tone.reindex(text_hashes(distinct)).to_numpy().argsort(kind="stable")]
    return dict(zip(ranked, reversed(list(ranked)), strict=True))


def trim(folder: Path, first: str, last: str, end: pd.Timestamp) -> None:
    """Keep raw data of the sessions first .. last alone (YYYY-MM-DD), and news of those days before `end`."""
    for path in [*(folder / "prices").glob("*.csv"), folder / "actions.csv"]:
        header, *lines = path.read_text().splitlines()
        place = header.split(",").index("session" if path.name == "actions.csv" else "date")
        write_text(path, _lines([header, *(line for line in lines if first <= line.split(",")[place] <= last)]))
    path = folder / "news/news.jsonl"
    begin = pd.Timestamp(first, tz="UTC")
    times = [(line, _published(line)) for line in path.read_text().splitlines()]
    write_text(path, _lines([line for line, time in times if time is not None and begin <= time < end]))
    _new_manifest(folder)


def _poisoned(lines: list[str], cfg: Config, number: int) -> list[str]:
    seed = cfg.canaries.seed
    factors = 0.5 + 1.5 * market.uniforms(len(lines), seed, _PRICES, number)
    volumes = 0.5 + 1.5 * market.uniforms(len(lines), seed, _VOLUMES, number)
    out = []
    for line, factor, of_volume in zip(lines, factors, volumes, strict=True):
        time, *prices, volume = line.split(",")
        moved = [f"{factor * float(price):.4f}" if price else "" for price in prices]
        if factor < 0.5 + 1.5 * _NOTHING:
            moved[-1] = ""
        out.append(",".join([time, *moved, str(int(of_volume * float(volume)))]))
    return out


def _actions(path: Path, day: str, how: str) -> None:
    header, *lines = path.read_text().splitlines()
    kept = []
    for line in lines:
        ticker, session, split, dividend = line.split(",")
        if session <= day:
            kept.append(line)
        elif how == "poison":
            kept.append(f"{ticker},{session},{2 * float(split)},{dividend}")
    write_text(path, _lines([header, *kept]))


def _news(path: Path, cfg: Config, cut: Cut, how: str, mirror: dict[str, str]) -> int:
    lines = path.read_text().splitlines()
    extreme = next(iter(mirror.values()), "Nothing is left")
    chances = market.uniforms(len(lines), cfg.canaries.seed, _TEXTS)
    kept, count = [], 0
    for line, chance in zip(lines, chances, strict=True):
        time = _published(line)
        if time is None or time < cut.utc:  # a line without a time is refused in the whole history too
            kept.append(line)
            continue
        count += 1
        if how == "poison":
            item = json.loads(line)
            text = None if chance < _NOTHING else mirror.get(item["text"], extreme)
            kept.append(json.dumps(item | {"text": text}))
    write_text(path, _lines(kept))
    return count


def _published(line: str) -> pd.Timestamp | None:
    try:
        time = pd.Timestamp(json.loads(line)["published_utc"])
    except (ValueError, KeyError):
        return None
    return None if pd.isna(time) else time


def _lines(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _new_manifest(folder: Path) -> None:
    """Name the changed files as if they had been fetched so."""
    manifest = folder / raw.MANIFEST
    content = read_json(manifest)
    manifest.unlink()
    files = [RawFile(folder / entry["path"], entry["url"]) for entry in content["files"]]
    raw.write_manifest(folder, content["source"], files)
