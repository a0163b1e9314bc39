"""Small inputs for the sources and the first two stages: a csv folder, a StockNet archive, configurations."""

import io
import json
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from fusion_alpha import config, sessions

ROOT = Path(__file__).parents[1]
BLOCKS = {
    "csv": config.CsvConfig(folder="data/own"),
    "yahoo": config.YahooConfig(timeout_s=1.0, tries=2),
    "stocknet": config.StocknetConfig(
        archive=None,
        url="http://127.0.0.1:9/none.zip",
        sha256=None,
        price_sha256=None,
        first_session="2012-09-04",
        last_session="2015-12-31",
    ),
}


def configuration(source: str, block: dict | None = None, **top: object) -> config.Config:
    """The committed defaults with this source; `block` changes its parameters, `top` the top level's."""
    cfg = defaults()
    block = replace(BLOCKS[source], **(block or {}))
    data = replace(cfg.data, source=source, simulated=False, public=True, lab=None, **{source: block})
    return replace(cfg, **({"data": data} | top))


@cache
def defaults() -> config.Config:
    return config.load(params=ROOT / "params.yaml")


def days(n: int) -> list[str]:
    """The first n sessions of 2015 in New York."""
    return [str(day.date()) for day in sessions.sessions("XNYS", "2015-01-02", "2015-12-31")["session"][:n]]


def bar(day: str, level: float = 100.0) -> str:
    return f"{day},{level},{level + 2},{level - 2},{level + 1},{level + 0.5},1000"


def item(number: int, published: str = "2015-01-05T15:00:00Z", **fields: object) -> str:
    content = {"id": number, "ticker": "TSLA", "published_utc": published, "text": f"headline {number}"}
    return json.dumps(content | fields)


def csv_folder(folder: Path, n: int = 60, tickers: tuple[str, ...] = ("TSLA", "AAPL")) -> Path:
    """A folder without a fault: n sessions of each ticker and 60 items."""
    (folder / "prices").mkdir(parents=True)
    (folder / "news").mkdir()
    for ticker in tickers:
        rows = ["Date,Open,High,Low,Close,Adj Close,Volume", *(bar(day) for day in days(n))]
        (folder / f"prices/{ticker}.csv").write_text("\n".join(rows) + "\n")
    (folder / "news/2015.jsonl").write_text("".join(item(number) + "\n" for number in range(60)))
    return folder


def set_line(path: Path, line: int, text: str) -> None:
    """Replace one line of a text file; the first is 1."""
    lines = path.read_text().split("\n")
    lines[line - 1] = text
    path.write_text("\n".join(lines))


def tweet(number: int, created: str = "Mon Jan 05 15:00:00 +0000 2015", **fields: object) -> str:
    user = {"id_str": f"77{number}", "name": "Jane Doe", "screen_name": "janedoe", "followers_count": 5}
    content = {"created_at": created, "id_str": f"9{number}", "text": f"tweet {number}", "lang": "en", "user": user}
    return json.dumps(content | {"favorite_count": 3, "entities": {"urls": []}} | fields)


def stocknet_files(n: int = 12) -> dict[str, str]:
    """Files of a tiny archive, by name without the top folder."""
    header = "Date,Open,High,Low,Close,Adj Close,Volume\n"
    movements = "".join(f"{day}\t0.010000\t9\t9\t9\t9\t9\n" for day in reversed(days(n)[1:]))
    return {
        "README.md": "about",
        "price/raw/AAPL.csv": header + "".join(bar(day) + "\n" for day in days(n)),
        "price/preprocessed/AAPL.txt": movements,
        "tweet/raw/AAPL/2015-01-05": tweet(1) + "\n" + tweet(2, text="RT @a: b &amp; c", retweeted_status={}) + "\n",
        "tweet/raw/AAPL/2015-01-06": tweet(3, created="Mon Jan 05 23:30:00 +0000 2015") + "\n",
    }


def archive(path: Path, contents: dict[str, str | bytes], top: str = "stocknet-dataset-master/") -> Path:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in contents.items():
            target.writestr(top + name, content)
    path.write_bytes(buffer.getvalue())
    return path
