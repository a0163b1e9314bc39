"""The embedded market with a known answer (SIMULATED). It proves the machinery, never an alpha.

lab_market makes the prices and plants the drift, lab_news the stories, lab_headlines the words, lab_quotes splits and
dividends. This module writes them as a folder of the layout that source `csv` reads, and tells the truth:

    raw/prices/TICKER.csv   date,open,high,low,close,volume, or bar_close_utc,... for bars within the day; quoted
    raw/actions.csv         ticker,session,split,dividend
    raw/news/news.jsonl     id, tickers, published_utc, text, author, followers, lang, is_repost, repost_of
    raw/tickers.csv         ticker,company,sector
    raw/README.md           says that all of it is invented

With odd_rows, lab_odd adds rows and lines that cleaning must refuse.
"""

import json
import logging
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha.config import Config, LabConfig, TargetConfig
from fusion_alpha.files import write_atomic, write_text
from fusion_alpha.sources import RawFile, RawRows, csv_folder, lab_headlines, lab_market, lab_news, lab_odd, lab_quotes
from fusion_alpha.sources.lab_headlines import Company
from fusion_alpha.sources.lab_market import Clock, Float64, Market, Rates, Volatility

log = logging.getLogger(__name__)

_KIND_NAMES = {0: "none", 1: "overhype", -1: "underhype"}
_README = """# SIMULATED

Everything in this folder is invented: a market with a known answer, generated from a seed to prove the machinery.
Company names serve as labels; no price, headline, author or number says anything about a real company or person.
"""


@dataclass(frozen=True)
class Laboratory:
    """All that was generated; arrays are [tickers, bars]."""

    companies: list[Company]
    clock: Clock
    sd: Volatility
    rates: Rates
    told: list[lab_news.Stories]
    items: lab_news.Items
    sentiment: Float64
    market: Market


def fetch(cfg: Config, raw: Path) -> list[RawFile]:
    """Generate the laboratory's files below `raw`. InputError for parameters that allow no market."""
    made, lab = generate(cfg), _lab(cfg)
    log.info("SIMULATED: %d tickers, %d bars, %d news items", len(made.companies), made.clock.n, len(made.items))
    rows = [f"{company.ticker},{company.name},{company.sector}" for company in made.companies]
    texts = {
        "README.md": _README,
        "tickers.csv": "\n".join(["ticker,company,sector", *rows]) + "\n",
    }
    for name, text in texts.items():
        write_text(raw / name, text)
    names = [*texts, *_write_prices(cfg, made, lab, raw), _write_news(made, lab, raw)]
    return [RawFile(raw / name, f"lab:seed={lab.seed}") for name in names]


def read(cfg: Config, raw: Path) -> RawRows:
    """Parse the files that `fetch` wrote; adj_close accumulates forward from the actions."""
    return csv_folder.read(cfg, raw)


def truth(cfg: Config) -> pd.DataFrame:
    """What was planted, a row for each ticker and bar: columns of schemas/truth.yaml.

    sigma_target is the standard deviation of the log return over the target window; that of the simple return
    differs from it by less than a hundredth of itself.
    """
    made = generate(cfg)
    n, market = made.clock.n, made.market
    fill = made.clock.fill[:n]
    close = pd.to_datetime(made.clock.close_s[:n], unit="s", utc=True).as_unit("us")
    columns = {
        "sentiment": made.sentiment[:, :n],
        "z_ret": market.z_ret[:, :n],
        "sigma_target": market.sigma[:, fill],
        "oracle_mean_ret": market.mean_ret[:, fill] + 0.0,  # no negative zero
    }
    frame = pd.DataFrame({name: values.reshape(-1).round(10) for name, values in columns.items()})
    frame.insert(0, "ticker", np.repeat([company.ticker for company in made.companies], n))
    frame.insert(1, "bar_close_utc", np.tile(close, len(made.companies)))
    frame.insert(2, "kind", pd.Series(market.kind[:, :n].reshape(-1)).map(_KIND_NAMES))
    return frame


def generate(cfg: Config) -> Laboratory:
    """The laboratory of a configuration; the last one made is kept in the process."""
    return _generate(cfg.data.exchange, cfg.bar_minutes, astuple(cfg.target), astuple(_lab(cfg)))


@lru_cache(maxsize=1)
def _generate(exchange: str, minutes: int | None, target: tuple[Any, ...], parameters: tuple[Any, ...]) -> Laboratory:
    lab = LabConfig(*parameters)
    companies = lab_headlines.companies(lab.n_tickers)
    bars = lab_market.clock(exchange, minutes, TargetConfig(*target), lab)
    sd = lab_market.volatility(lab, bars, np.array([company.volatility for company in companies]))
    rates = lab_market.rates(lab)
    told = [lab_news.stories(lab, bars, sd, rates, ticker) for ticker in range(len(companies))]
    items = lab_news.items(lab, bars, told)
    sentiment = lab_news.sentiment(items, bars, len(companies))
    jumps = lab_news.jumps(told, bars, sd, rates)
    first_price = np.array([company.first_price for company in companies])
    market = lab_market.simulate(lab, bars, sd, jumps, sentiment, first_price)
    return Laboratory(companies, bars, sd, rates, told, items, sentiment, market)


def _lab(cfg: Config) -> LabConfig:
    assert cfg.data.lab is not None  # DataConfig requires the block of its source
    return cfg.data.lab


def _write_prices(cfg: Config, made: Laboratory, lab: LabConfig, raw: Path) -> list[str]:
    """Price files and actions; returns their names below `raw`."""
    n, bars, market = made.clock.n, made.clock, made.market
    number = bars.session_number[:n]
    first_bar = np.flatnonzero(np.diff(number, prepend=-1))
    factor, split, dividend = lab_quotes.plan(market.close[:, first_bar])
    tickers = [company.ticker for company in made.companies]
    actions = lab_quotes.table(tickers, bars.session[first_bar], split, dividend)
    write_text(raw / "actions.csv", actions.to_csv(index=False, lineterminator="\n", date_format="%Y-%m-%d"))
    days = _days(bars.session[:n])
    header, times = ("date", days) if cfg.bar_minutes is None else ("bar_close_utc", _instants(bars.close_s[:n]))
    holidays = lab_odd.holidays(cfg.data.exchange, days)
    closed = [f"{holiday}{time[10:]}" for holiday, time in zip(holidays, times, strict=True)]
    names = []
    for i, ticker in enumerate(tickers):
        quotes = [
            lab_quotes.quoted(values[i, :n], factor[i, number])
            for values in (market.open, market.high, market.low, market.close)
        ]
        columns = [*(values.tolist() for values in quotes), market.volume[i, :n].tolist()]
        rows: list[lab_odd.Row] = [
            (time, f"{o:.4f}", f"{h:.4f}", f"{low:.4f}", f"{c:.4f}", str(volume))
            for time, o, h, low, c, volume in zip(times, *columns, strict=True)
        ]
        if lab.odd_rows:
            rows = lab_odd.with_odd_prices(rows, closed, i)
        lines = [f"{header},open,high,low,close,volume", *map(",".join, rows)]
        names.append(f"prices/{ticker}.csv")
        write_text(raw / names[-1], "\n".join(lines) + "\n")
    return ["actions.csv", *names]


def _write_news(made: Laboratory, lab: LabConfig, raw: Path) -> str:
    """The feed as JSON lines, in the order of arrival; returns its name below `raw`."""
    pools = [[json.dumps(text) for text in lab_headlines.pool(i)] for i in range(len(made.companies))]
    tickers = [json.dumps(company.ticker) for company in made.companies]
    items = made.items
    lines = []
    for code, i, partner, time, text, author, original in zip(
        items.code.tolist(),
        items.ticker.tolist(),
        items.partner.tolist(),
        _instants(items.published_s),
        items.pool_text.tolist(),
        items.author.tolist(),
        items.repost_of.tolist(),
        strict=True,
    ):
        both = tickers[i] if partner < 0 else f"{tickers[i]}, {tickers[partner]}"
        repost = (
            '"is_repost": false, "repost_of": null'
            if original < 0
            else f'"is_repost": true, "repost_of": "{original:013x}"'
        )
        lines.append(
            f'{{"id": "{code:013x}", "tickers": [{both}], "published_utc": "{time}", "text": {pools[i][text]}, '
            f'"author": "sim_author_{author:03d}", "followers": {_followers(author)}, "lang": "en", {repost}}}'
        )
    if lab.odd_rows:
        lines = lab_odd.with_odd_news(lines)
    name = "news/news.jsonl"
    write_atomic(raw / name, lambda partial: _write_lines(partial, lines))
    return name


def _write_lines(path: Path, lines: list[str]) -> None:
    """Line after line: a feed of a million items need not stand in memory twice."""
    with path.open("w", encoding="utf-8", newline="") as handle:
        handle.writelines(f"{line}\n" for line in lines)


def _followers(author: int) -> int:
    """Between 50 and about 100,000, most of them few."""
    return round(50 * 2000 ** (author * 97 % lab_news.AUTHORS / lab_news.AUTHORS))


def _days(days: Any) -> list[str]:
    return np.datetime_as_string(np.asarray(days).astype("datetime64[D]")).tolist()


def _instants(seconds: Any) -> list[str]:
    return np.char.add(np.datetime_as_string(np.asarray(seconds).astype("datetime64[s]")), "Z").tolist()
