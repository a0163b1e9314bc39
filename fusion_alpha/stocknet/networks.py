"""FusionNet on the benchmark: the pipeline's own network and training, in folds, with the context of the market.

`training.start` and `training.run_epoch` do the work; the number of epochs is chosen by walk-forward, so that nothing
is stopped on the samples that are judged. With `context` the tokens of sessions also hold how the stock stood against
the others, the calendar (`features.prices`) and, where the network sees tweets, the number and tone of all of them
(`features.counts`, `features.sentiment`). A bar's news tokens are its weightiest tweets alone, so that the latest ones
of a busy day do not push out the days before.

Two controls: tweets dealt to other stocks of the same day, and answers of other days.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fusion_alpha import benchmark, contradiction, executor, samples, training
from fusion_alpha.config import Config
from fusion_alpha.samples import Samples
from fusion_alpha.stocknet import features
from fusion_alpha.stocknet.layers import Layers
from fusion_alpha.stocknet.walkforward import Fold
from fusion_alpha.tables import BAR_KEY

Floats = NDArray[np.float64]
Setting = Mapping[str, Any]

EPOCHS = (1, 2, 3, 4)  # after which learning may stop
NEWS_PER_BAR = 4
_TWEETS_KEY, _ANSWERS_KEY = 1 << 32, 1 << 33  # added to a seed, so that controls share no numbers with the training


@dataclass(frozen=True)
class Material:
    """The tables of the layers as FusionNet and its context need them; rows are those of the panel."""

    frames: dict[str, pd.DataFrame]  # samples.INPUTS
    session: pd.Series
    context: dict[str, pd.DataFrame]  # prices, tweets; float32
    asked: NDArray[np.int64]  # row of each sample


@lru_cache(maxsize=2)
def material(layers: Layers, dealt: int | None = None) -> Material:
    """The layers, read once in each process. dealt: seed with which tweets go to other stocks of their day."""
    frames = {name: layers.read(name, columns) for name, columns in samples.INPUTS.items()}
    bars = layers.read("panel", [*BAR_KEY, "session", "open", "high", "low", "close", "volume"])
    bars["sector"] = bars["ticker"].map(layers.sectors()).fillna(bars["ticker"])
    rows = features.read_tweets(layers).rows
    if dealt is not None:
        rows = deal(rows, bars, dealt)
        frames["contradiction"] = contradiction.build(
            bars, rows, frames["text"], layers.configuration().contradiction, executor.HERE
        )
    by_group = features.prices(bars)
    grid = by_group["own"]["ret_1"]
    tweets = features.counts(rows, grid)
    tweets |= features.sentiment(rows, bars.drop_duplicates("ticker").set_index("ticker")["sector"], grid)
    at = bars.rename(columns={"session": "row_session"})
    context = {
        "prices": features.take(by_group["relative"] | by_group["calendar"], at),
        "tweets": features.take(tweets, at),
    }
    frames["news_bars"] = weightiest(rows)[list(frames["news_bars"])]
    keys = features.samples(layers)[BAR_KEY]
    asked = pd.MultiIndex.from_frame(bars[BAR_KEY]).get_indexer(pd.MultiIndex.from_frame(keys))
    return Material(frames, bars["session"], context, asked)


def weightiest(rows: pd.DataFrame) -> pd.DataFrame:
    """The NEWS_PER_BAR tweets of most weight of each ticker and bar, each text once. rows: of `features.Tweets`."""
    ordered = rows.sort_values(["weight", "news_id"], ascending=[False, True])
    kept = ordered.drop_duplicates([*BAR_KEY, "text_hash"]).groupby(BAR_KEY).head(NEWS_PER_BAR)
    return kept.sort_values(["ticker", "news_id"], ignore_index=True)


def deal(rows: pd.DataFrame, bars: pd.DataFrame, seed: int) -> pd.DataFrame:
    """All tweets of a stock's day go to another stock of that day, drawn anew each day; a stock may get its own back.

    rows: of `features.Tweets`; bars: ticker, session, bar_close_utc of the panel.
    """
    days = {}
    for number, (session, tickers) in enumerate(bars.groupby("session")["ticker"]):
        order = training.permutation(len(tickers), seed + _TWEETS_KEY, number)
        days[session] = dict(zip(tickers, tickers.to_numpy()[order], strict=True))
    to = [days[session][ticker] for session, ticker in zip(rows["session"], rows["ticker"], strict=True)]
    return rows.assign(ticker=pd.Series(to, index=rows.index, dtype="str"))


def network(layers: Layers, setting: Setting, fold: Fold, seed: int) -> Floats:
    """P(up) [stops, judged samples] of a FusionNet after the epochs of setting["stops"].

    setting: model (a choice of conf/model), context (with the market's), lr, stops, and for the controls
    control = tweets or answers. Samples in a stock's warm-up are not learned from, and answered with one half.
    """
    cfg = layers.configuration(f"model={setting['model']}", f"train.seed={seed}", f"train.lr={setting['lr']}")
    cfg.train.threads = 1
    device = training.set_up(cfg.train)
    control = setting.get("control")
    found = material(layers, seed if control == "tweets" else None)
    data = build(found, cfg, fold, context=setting["context"])
    if control == "answers":
        data = answers_of_other_days(data, found, fold, seed)
        chosen = data.select("train", labelled=True)
    else:
        chosen = found.asked[fold.learn]
        chosen = chosen[data.usable[chosen]]
    judged = found.asked[fold.judge]
    state, answers = training.start(data, cfg, device), []
    for epoch in range(1, max(setting["stops"]) + 1):
        training.run_epoch(state, data, chosen, chosen[: cfg.train.batch_size], cfg.train, device)
        if epoch in setting["stops"]:
            answers.append(p_up(state.net, data, judged))
    return np.stack(answers)


def build(found: Material, cfg: Config, fold: Fold, *, context: bool) -> Samples:
    """Samples whose role train are the bars from the first to the last that fold.learn asks, labelled or not."""
    data = samples.build(found.frames, cfg)
    if context and cfg.model.use_technical:
        parts = [found.context["prices"]] + [found.context["tweets"]] * cfg.model.use_text
        more = pd.concat(parts, axis=1)
        data = replace(
            data,
            sessions=torch.cat([data.sessions, torch.from_numpy(more.to_numpy(np.float32, copy=True))], dim=1),
            feature_names=(*data.feature_names, *map(str, more)),
        )
    learned = found.session.iloc[found.asked[fold.learn]]
    inside = found.session.between(learned.min(), learned.max()).to_numpy()
    return replace(data, rows=data.rows.assign(split=np.where(inside, "train", "none")))


def answers_of_other_days(data: Samples, found: Material, fold: Fold, seed: int) -> Samples:
    """Every day that may be learned from gets the movements of another such day, stock by stock, and their labels.

    Stocks keep moving together within a day; what was known the day before has nothing to do with it.
    """
    panel = found.frames["panel"]
    wide = panel.assign(session=found.session).pivot(index="session", columns="ticker", values="target_ret")
    learned = found.session.iloc[found.asked[fold.learn]]
    days = wide.index[(wide.index >= learned.min()) & (wide.index <= learned.max())]
    moved = wide.loc[days].iloc[training.permutation(len(days), seed + _ANSWERS_KEY, 0)].set_axis(days)
    row, column = (
        index.get_indexer(pd.Index(values))
        for index, values in ((moved.index, found.session), (moved.columns, panel["ticker"]))
    )
    movement = pd.Series(np.where(row >= 0, moved.to_numpy()[row, column], np.nan))
    target = (movement.to_numpy() / data.volatility).clip(-samples.TARGET_CLIP, samples.TARGET_CLIP)
    label = benchmark.label(movement).to_numpy("float32", na_value=np.nan)
    return replace(data, label=torch.from_numpy(label), target=torch.from_numpy(target.astype("float32")))


@torch.no_grad()
def p_up(net: torch.nn.Module, data: Samples, rows: NDArray[np.int64]) -> Floats:
    """P(up) of panel rows without dropout; one half where a row is not usable."""
    net.eval()
    p = np.full(len(rows), 0.5)
    usable = np.flatnonzero(data.usable[rows])
    for begin in range(0, len(usable), training.EVALUATION_ROWS):
        part = usable[begin : begin + training.EVALUATION_ROWS]
        p[part] = torch.sigmoid(net(data.gather(rows[part])).logit.double()).numpy()
    return p
