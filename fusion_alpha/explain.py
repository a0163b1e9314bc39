"""Why a prediction is what it is: the forecast of one bar, the headlines and sessions behind it, where attention went.

    python -m fusion_alpha.explain --ticker TSLA --session 2019-05-03
    python -m fusion_alpha.explain --ticker TSLA --session 2019-05-03 --output explained

Reads the tables and the checkpoint that `dvc repro` made and predicts the bar again, so it says what the model does,
not what somebody wrote down. With --output it also writes TICKER-SESSION.json (all weights) and .svg (the map).
Attention shows what a part of the network mixed, not what caused a forecast.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.table import Table

from fusion_alpha import checkpoint, config, figures, prediction, samples, tables
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.files import write_bytes, write_json
from fusion_alpha.samples import Samples
from fusion_alpha.stage import console, set_up

CPU = torch.device("cpu")


def explain(cfg: Config, ticker: str, session: str) -> dict[str, Any]:
    """Forecast of the last bar of a session, its tokens and the attention between them, as plain values.

    Raises InputError for a ticker or session that is not predicted, and as `samples.build` and `checkpoint.load` do.
    """
    frames = {name: tables.read(name, columns=columns) for name, columns in samples.INPUTS.items()}
    data = samples.build(frames, cfg)
    net, model_id = checkpoint.load(checkpoint.FOLDER, data.feature_names, cfg)
    panel = tables.read("panel", columns=[*tables.BAR_KEY, "session"])
    row = _row(panel, data, ticker, session)
    forecast = prediction.predict(net, data, np.array([row]), mc_samples=cfg.predict.mc_samples, device=CPU).iloc[0]
    maps = {name: value[0].numpy() for name, value in net.attention_maps(data.gather(np.array([row]))).items()}
    begin = max(row + 1 - data.n_sessions, int(data.first[row]))
    sessions = [
        {
            "session": str(panel["session"].iloc[k].date()),
            "score": float(data.score[k]),
            "share": float(maps["session_pool"][k - row - 1]),
        }
        for k in range(begin, row + 1)
        if data.usable[k] and cfg.model.use_technical
    ]
    news = _headlines(data, frames, row, maps["news_pool"]) if cfg.model.use_text else []
    about = {"ticker": ticker, "session": session, "model_id": model_id, "simulated": cfg.data.simulated}
    return {
        **about,
        "forecast": {name: value if isinstance(value, str) else float(value) for name, value in forecast.items()},
        "sessions": sessions,
        "news": news,
        "attention": {name: np.round(value, 6).tolist() for name, value in maps.items()},
    }


def _row(panel: pd.DataFrame, data: Samples, ticker: str, session: str) -> int:
    of_ticker = panel["ticker"] == ticker
    if not of_ticker.any():
        raise InputError(
            f"no ticker {ticker!r}", file=tables.schema("panel").path, rule=", ".join(sorted(panel["ticker"].unique()))
        )
    if not config.is_date(session):
        raise InputError(f"--session {session!r}", rule="a date as YYYY-MM-DD")
    rows = np.flatnonzero(of_ticker & (panel["session"] == pd.Timestamp(session)).to_numpy() & data.usable)
    if not len(rows):
        known = panel["session"][of_ticker & data.usable]
        raise InputError(
            f"no prediction of {ticker} in session {session}",
            file=tables.schema("panel").path,
            rule=f"a session of the exchange from {known.min().date()} to {known.max().date()}",
        )
    return int(rows[-1])


def _headlines(
    data: Samples, frames: dict[str, pd.DataFrame], row: int, shares: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """The news tokens of a row, the earliest first, with the text that the interim layer has."""
    items, mask = data.news_window(torch.tensor([row]))
    texts = tables.read("news", columns=["ticker", "news_id", "published_utc", "text"])
    found = frames["news_bars"].merge(texts.drop(columns="published_utc"), on=["ticker", "news_id"])
    hashes = frames["text"]["text_hash"].to_numpy()
    out = []
    for place, (item, is_item) in enumerate(zip(items[0].tolist(), mask[0].tolist(), strict=True), start=1):
        if not is_item:
            continue
        key = data.rows.iloc[int(data.news_row[item])]
        same = found[
            (found["ticker"] == key["ticker"])
            & (found["bar_close_utc"] == key["bar_close_utc"])
            & (found["text_hash"] == hashes[int(data.news_text[item])])
        ].iloc[0]
        _, negative, neutral, positive = data.news_features[item].tolist()
        out.append(
            {"published_utc": same["published_utc"].isoformat(), "text": same["text"]}
            | {"p_negative": negative, "p_neutral": neutral, "p_positive": positive}
            | {"share": float(shares[place])}
        )
    return out


def show(found: dict[str, Any]) -> None:
    """The explanation as tables on the terminal."""
    forecast = found["forecast"]
    head = f"{found['ticker']}, {found['session']}, model {found['model_id']}"
    if found["simulated"]:
        head += ", SIMULATED"
    console.print(head, style="bold")
    console.print(
        f"p_up {forecast['p_up']:.3f}, mean return {forecast['mean_ret']:+.3%}, sd {forecast['sd_ret']:.3%}, "
        f"severity {forecast['severity']:.2f}, {forecast['kind']}"
    )
    news = Table("published (UTC)", "headline", "positive", "negative", "share of pooled news")
    for item in found["news"]:
        values = [f"{item[name]:.2f}" for name in ("p_positive", "p_negative")]
        news.add_row(item["published_utc"][:16], item["text"], *values, f"{item['share']:.0%}")
    console.print(news if found["news"] else "no news in the look-back window")
    if found["sessions"]:
        sessions = Table("session", "contradiction score", "share of pooled sessions")
        for item in found["sessions"]:
            sessions.add_row(item["session"], f"{item['score']:+.2f}", f"{item['share']:.0%}")
        console.print(sessions)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0, or 2 after an InputError."""
    description, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m fusion_alpha.explain",
        description=description,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ticker", required=True)
    parser.add_argument("--session", required=True, help="session of the bar, YYYY-MM-DD")
    parser.add_argument("--output", type=Path, help="folder for the JSON file and the figure")
    options = parser.parse_args(arguments)
    set_up("explain")
    try:
        found = explain(config.load(), options.ticker, options.session)
    except InputError as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    show(found)
    if options.output is not None:
        name = f"{options.ticker}-{options.session}"
        write_json(options.output / f"{name}.json", found)
        write_bytes(options.output / f"{name}.svg", figures.attention(found))
        console.print(f"written: {options.output / name}.json and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
