"""Tables -> the tokens of each panel row, gathered batch by batch.

A row's tokens are the last `model.sessions` bars of its ticker up to its own, and the latest `model.news_tokens` news
items of its last `model.news_lookback_bars` bars. Nothing is copied per row: the arrays below are about as large as the
tables, and `gather` takes windows from them. Everything a row uses was public at its decided_utc; `build` refuses
tables that break this.

A row is usable when its trailing volatility, the unit of its target, is known, that is after the ticker's warm-up.
Other bars are masked in windows and never predicted, whatever the model's configuration, so that ablations see the
same rows. A single feature that is unknown in a usable row (a window without trades) counts as the train mean.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusion_alpha import tables
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.tables import BAR_KEY

# Tables that `build` takes, and the columns it needs of them (None = all).
INPUTS: dict[str, list[str] | None] = {
    "panel": [
        *("ticker", "bar_close_utc", "cutoff_utc", "decided_utc", "label_end_utc"),
        *("target_ret", "target_label", "split"),
    ],
    "news_bars": ["ticker", "news_id", "bar_close_utc", "published_utc", "text_hash", "is_repost"],
    "technical": None,
    "text": None,
    "contradiction": None,
}
VOLATILITY = "volatility_20"  # of the technical table: trailing sd of simple one-bar returns, the unit of targets
BASIC = (
    *("ret_1", "ret_5", "ret_20", "gap_1", "range_1", "sma_ratio_20", "sma_ratio_10_50", "aroon_25", "cci_20"),
    *("rsi_14", "stoch_14", "uo_7_14_28", "ao_ratio_5_34", VOLATILITY, "atr_ratio_14", "bollinger_position_20"),
    *("bollinger_width_20", "donchian_position_20", "volume_ratio_20", "cmf_20", "mfi_14", "vwap_ratio_20"),
)
NEWS_FEATURES = ("log1p_age_hours", "is_repost", "p_negative", "p_neutral", "p_positive")
CONTRADICTION_FEATURES = (
    *("s", "has_news", "log1p_n_news", "z_s", "z_r", "cs", "severity"),
    *("has_null", "p_touch_high", "p_touch_low", "null_drawdown_over_volatility"),
)
TARGET_CLIP = 5.0  # targets beyond so many sd count as this many: one crash must not outweigh a year


@dataclass(frozen=True)
class Batch:
    """Tokens of B rows, unscaled; L sessions, N news items, F and A features, D dimensions of an embedding."""

    sessions: Tensor  # f32 [B, L, F], NaN where unknown
    session_mask: Tensor  # bool [B, L], True for a token; the last one is the row's own bar
    score: Tensor  # f32 [B, L], contradiction score in standard deviations
    news: Tensor  # f32 [B, N, D]
    news_features: Tensor  # f32 [B, N, A], NEWS_FEATURES
    news_lag: Tensor  # i64 [B, N], bars between the item's bar and the row's
    news_mask: Tensor  # bool [B, N]
    label: Tensor  # f32 [B], 1 up, 0 down, NaN without a label
    target: Tensor  # f32 [B], target_ret over volatility, clipped; NaN without

    def to(self, device: torch.device) -> "Batch":
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Samples:
    """All n panel rows in key order and their m news items in the order of rows; see `Batch` for the dtypes."""

    rows: pd.DataFrame  # BAR_KEY, decided_utc, label_end_utc, split
    feature_names: tuple[str, ...]
    usable: NDArray[np.bool_]  # [n]
    volatility: NDArray[np.float64]  # [n], NaN in the warm-up
    sessions: Tensor  # [n, F]
    score: Tensor  # [n]
    label: Tensor  # [n]
    target: Tensor  # [n]
    first: Tensor  # i64 [n], first row of the row's ticker
    cutoff_hours: Tensor  # f64 [n], hours since an epoch of no meaning
    news_start: Tensor  # i64 [n + 1]: row i's own items are news_start[i] .. news_start[i + 1] - 1
    news_row: Tensor  # i64 [m]
    news_hours: Tensor  # f64 [m], publication, in the hours of cutoff_hours
    news_text: Tensor  # i64 [m], index into embeddings
    news_features: Tensor  # f32 [m, A - 1], NEWS_FEATURES without the age
    embeddings: NDArray[np.float16]  # [texts, D], a view of the text table
    n_sessions: int
    n_news: int
    lookback: int
    use_text: bool

    def select(self, role: str | None = None, *, labelled: bool = False) -> NDArray[np.int64]:
        """Usable rows of a role (None = all), with a label if asked for."""
        chosen = self.usable.copy()
        if role is not None:
            chosen &= (self.rows["split"] == role).to_numpy()
        if labelled:
            chosen &= ~torch.isnan(self.label).numpy()
        return np.flatnonzero(chosen)

    def gather(self, rows: NDArray[np.int64]) -> Batch:
        """Tokens of the given rows, in their order."""
        row = torch.from_numpy(rows)
        window = row[:, None] + torch.arange(1 - self.n_sessions, 1)  # [B, L]
        inside = window >= self.first[row][:, None]
        window = window.clamp(min=0)
        news, mask = self.news_window(row)
        age = (self.cutoff_hours[row][:, None] - self.news_hours[news]).clamp(min=0).log1p()
        return Batch(
            sessions=self.sessions[window],
            session_mask=inside & torch.from_numpy(self.usable)[window],
            score=self.score[window],
            news=torch.from_numpy(self.embeddings[self.news_text[news].numpy()]).float(),
            news_features=torch.cat([age.float()[..., None], self.news_features[news]], dim=-1),
            news_lag=(row[:, None] - self.news_row[news]).clamp(0, self.lookback - 1),
            news_mask=mask,
            label=self.label[row],
            target=self.target[row],
        )

    def news_window(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Items [B, N] of the look-back, the latest last, and which of them are items."""
        if not self.use_text:
            nothing = torch.zeros(len(row), 0, dtype=torch.int64)
            return nothing, nothing.bool()
        end = self.news_start[row + 1]
        start = self.news_start[torch.maximum(row - self.lookback + 1, self.first[row])]
        news = end[:, None] + torch.arange(-self.n_news, 0)
        return news.clamp(min=0), news >= start[:, None]

    def counts(self) -> dict[str, dict[str, int]]:
        """By role: rows of the panel, rows that are usable, and usable rows with a label."""
        return {
            role: {
                "rows": int((self.rows["split"] == role).sum()),
                "usable": len(self.select(role)),
                "labelled": len(self.select(role, labelled=True)),
            }
            for role in ("train", "dev", "test", "none")
        }


def build(frames: dict[str, pd.DataFrame], cfg: Config) -> Samples:
    """Samples from the tables of `INPUTS`, each as `tables.read` returns it.

    Raises InputError when the tables do not belong together, an item is newer than its row's decision, a text has
    no embedding, or no row is usable.
    """
    panel, technical, contradiction = (frames[name] for name in ("panel", "technical", "contradiction"))
    for name in ("technical", "contradiction"):
        _require_same_rows(panel, frames[name], name)
    features = technical[technical_features(cfg.model.features)].astype("float32")
    volatility = technical[VOLATILITY].to_numpy("float64")
    usable = _usable(volatility)
    if cfg.model.use_contradiction:
        features = pd.concat([features, contradiction_features(contradiction, volatility)], axis=1)
    codes = panel["ticker"].ne(panel["ticker"].shift()).cumsum().to_numpy() - 1
    first = np.searchsorted(codes, codes)
    target = (panel["target_ret"].to_numpy("float64") / volatility).clip(-TARGET_CLIP, TARGET_CLIP)
    return Samples(
        rows=panel[[*BAR_KEY, "decided_utc", "label_end_utc", "split"]],
        feature_names=tuple(features.columns),
        usable=usable,
        volatility=volatility,
        sessions=torch.from_numpy(features.to_numpy("float32")),
        score=torch.from_numpy(contradiction["cs"].to_numpy("float32")),
        label=torch.from_numpy(panel["target_label"].to_numpy("float32", na_value=np.nan)),
        target=torch.from_numpy(target.astype("float32")),
        first=torch.from_numpy(first),
        cutoff_hours=torch.from_numpy(_hours(panel["cutoff_utc"])),
        **_news(panel, frames["news_bars"], frames["text"], cfg.text.dim),
        n_sessions=cfg.model.sessions,
        n_news=cfg.model.news_tokens,
        lookback=cfg.model.news_lookback_bars,
        use_text=cfg.model.use_text,
    )


def technical_features(chosen: list[str]) -> list[str]:
    """Columns of the technical table that `model.features` names, in its order; the unit of targets always.

    chosen: `all`, `basic` (BASIC), families and names. Raises InputError for anything else.
    """
    columns = {name: item["family"] for name, item in tables.schema("technical").columns.items() if name not in BAR_KEY}
    families = dict.fromkeys(columns.values())
    for entry in chosen:
        if entry not in {"all", "basic", *families, *columns}:
            raise InputError(
                f"parameter model.features has {entry!r}",
                rule=f"all, basic, a family ({', '.join(families)}) or a name of schemas/technical.yaml",
            )
    wanted = {*chosen, VOLATILITY, *(BASIC if "basic" in chosen else ())}
    return [name for name, family in columns.items() if "all" in wanted or {name, family} & wanted]


def contradiction_features(table: pd.DataFrame, volatility: NDArray[np.float64]) -> pd.DataFrame:
    """CONTRADICTION_FEATURES of each row, float32; a session without news has sentiment 0 and has_news 0."""
    features = pd.DataFrame(
        {
            "s": table["s"].fillna(0.0),
            "has_news": table["s"].notna(),
            "log1p_n_news": np.log1p(table["n_news"].to_numpy("float64")),
            "z_s": table["z_s"].fillna(0.0),
            "z_r": table["z_r"],
            "cs": table["cs"],
            "severity": table["severity"],
            "has_null": table["z_r"].notna(),
            "p_touch_high": table["p_touch_high"],
            "p_touch_low": table["p_touch_low"],
            "null_drawdown_over_volatility": table["null_drawdown"] / volatility,
        }
    )
    return features[list(CONTRADICTION_FEATURES)].astype("float32")


def _usable(volatility: NDArray[np.float64]) -> NDArray[np.bool_]:
    usable = volatility > 0  # False for NaN
    if not usable.any():
        raise InputError(
            "no row has a trailing volatility",
            file=tables.schema("technical").path,
            column=VOLATILITY,
            rule="a row can be used after its ticker's warm-up",
            remedy="take more history (start, end) or lower technical.warmup_bars",
        )
    return usable


def _news(panel: pd.DataFrame, news_bars: pd.DataFrame, text: pd.DataFrame, dim: int) -> dict[str, Any]:
    """The news arrays of `Samples`."""
    number = panel[[*BAR_KEY, "decided_utc"]].assign(row=np.arange(len(panel)))
    news = news_bars.merge(number, on=BAR_KEY, how="left", validate="many_to_one")
    _require_public(news)
    news = news.sort_values(["row", "published_utc", "news_id"], ignore_index=True)
    row = news["row"].to_numpy("int64")
    position = pd.Index(text["text_hash"]).get_indexer(news["text_hash"])
    if (position < 0).any():
        raise InputError(
            f"no embedding of text {news['text_hash'].iloc[int((position < 0).argmax())]}",
            file=tables.schema("text").path,
            rule="every text of news_bars is in the text table",
            remedy="run `dvc repro text`",
        )
    vectors = tables.vectors(text["embedding"]) if len(text) else np.zeros((1, dim), np.float16)
    if vectors.shape[1] != dim:
        raise InputError(
            f"embeddings have {vectors.shape[1]} dimensions, text.dim is {dim}",
            file=tables.schema("text").path,
            rule="the text table is made by the encoder of the configuration",
            remedy="run `dvc repro text`",
        )
    flags = pd.DataFrame({"is_repost": news["is_repost"].to_numpy("float32")})
    for name in NEWS_FEATURES[2:]:
        flags[name] = text[name].to_numpy("float32")[position]
    return {
        "news_start": torch.from_numpy(np.searchsorted(row, np.arange(len(panel) + 1))),
        "news_row": _at_least_one(torch.from_numpy(row.copy())),
        "news_hours": _at_least_one(torch.from_numpy(_hours(news["published_utc"]))),
        "news_text": _at_least_one(torch.from_numpy(position.astype(np.int64))),
        "news_features": _at_least_one(torch.from_numpy(flags.to_numpy("float32"))),
        "embeddings": vectors,
    }


def _require_same_rows(panel: pd.DataFrame, table: pd.DataFrame, name: str) -> None:
    if not panel[BAR_KEY].equals(table[BAR_KEY]):
        raise InputError(
            f"its {len(table)} rows are not the {len(panel)} rows of the panel",
            file=tables.schema(name).path,
            rule="one row for each row of data/processed/panel.parquet",
            remedy=f"run `dvc repro {name}`",
        )


def _require_public(news: pd.DataFrame) -> None:
    """Every item belongs to a row of the panel and was public when that row was decided."""
    wrong = news["row"].isna() | (news["published_utc"] > news["decided_utc"])
    if wrong.any():
        item = news[wrong].iloc[0]
        raise InputError(
            f"news {item['news_id']} of {item['ticker']}, published {item['published_utc']}, "
            f"is given to the bar of {item['bar_close_utc']}, decided {item['decided_utc']}",
            file=tables.schema("news_bars").path,
            rule="a bar of the panel that was decided after the publication",
            remedy="run `dvc repro process`",
        )


def _at_least_one(values: Tensor) -> Tensor:
    """A market without news still needs an item that masked tokens can point at."""
    return values if len(values) else torch.zeros(1, *values.shape[1:], dtype=values.dtype)


def _hours(times: pd.Series) -> NDArray[np.float64]:
    return times.to_numpy("datetime64[us]").astype("int64") / 3.6e9
