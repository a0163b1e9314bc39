"""One report on a strategy: the test rows of the last run, or a part of them, against any strategy as the baseline.

Pure but for `provenance`: tables come in, numbers go out. A part is traded afresh: it starts in cash at its first
open and ends in cash, so that its figures are those of a book that was run for that time with these tickers.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from fusion_alpha import evaluation, files, selection, statistics, tables, tracking, trading, trials
from fusion_alpha.config import Config, is_date
from fusion_alpha.errors import InputError
from fusion_alpha.statistics import Floats, rounded
from fusion_alpha.tables import BAR_KEY

MODEL = "model"
NO_CHOICE = ("oracle",)  # knows the planted answer: shown, but nobody could choose it
SAME = 1e-5  # returns that differ by less are one: recorded equity has six decimals
EXAMPLE_BARS = 120  # more markers would hide each other
READ = ("predictions", "panel", "contradiction", "technical")  # tables that a report depends on


@dataclass(frozen=True)
class View:
    """What a report is about; None or nothing means all that there is."""

    baseline: str = "buy_and_hold"
    first: str | None = None  # first and last session in which positions are opened, YYYY-MM-DD
    last: str | None = None
    tickers: tuple[str, ...] = ()
    cost_bps: float | None = None  # one side, in place of commission, half spread and slippage


@dataclass(frozen=True)
class Report:
    """What came out."""

    numbers: dict[str, Any]  # all figures, ready for JSON
    returns: pd.DataFrame  # net returns [session, strategy]
    exposure: pd.DataFrame  # [session]: exposure, net_exposure of the model, means over the session's intervals
    reliability: pd.DataFrame  # see statistics.reliability
    example: pd.DataFrame  # last bars of the ticker with the most contradictions: ticker, session, close, kind
    cfg: Config  # with the view's costs


def with_costs(cfg: Config, cost_bps: float | None) -> Config:
    """The configuration with one side cost; borrow, impact and tickers with costs of their own stay as they are."""
    if cost_bps is None:
        return cfg
    if not (np.isfinite(cost_bps) and cost_bps >= 0):
        raise InputError(f"argument --cost-bps {cost_bps:g}", rule="at least 0 (bps of traded value, one side)")
    strategy = replace(cfg.strategy, commission_bps=cost_bps, half_spread_bps=0.0, slippage_bps=0.0)
    return replace(cfg, strategy=strategy)


def decisions(frames: dict[str, pd.DataFrame], cfg: Config) -> pd.DataFrame:
    """`evaluation.decisions`, refusing an empty table by name."""
    if frames["predictions"].empty:
        path = tables.schema("predictions").path
        raise InputError("holds no predictions", file=path, remedy="run the predict stage again: `dvc repro`")
    return evaluation.decisions(frames["predictions"], frames["panel"], cfg)


def select(rows: pd.DataFrame, panel: pd.DataFrame, view: View, cfg: Config) -> pd.DataFrame:
    """The rows of `evaluation.decisions` that the view is about.

    Raises InputError for a ticker or a range that the predictions do not hold, and for too few sessions.
    """
    session = filled_in(rows, panel)
    have = sorted(rows["ticker"].unique())
    unknown = sorted(set(view.tickers) - set(have))
    if unknown:
        raise InputError(f"argument --ticker {' '.join(unknown)}: no test rows", rule=f"one of {', '.join(have)}")
    for name, value in (("--from", view.first), ("--to", view.last)):
        if value is not None and not is_date(value):
            raise InputError(f"argument {name} {value!r}", rule="a date as YYYY-MM-DD")
    span = f"{session.min():%Y-%m-%d} to {session.max():%Y-%m-%d}"
    first, last = pd.Timestamp(view.first or session.min()), pd.Timestamp(view.last or session.max())
    for name, day in (("--from", first), ("--to", last)):
        if not session.min() <= day <= session.max():
            raise InputError(f"argument {name} {day:%Y-%m-%d}: no test rows there", rule=f"a date in {span}")
    if first > last:
        raise InputError(f"arguments --from {first:%Y-%m-%d} --to {last:%Y-%m-%d}", rule="--from is before --to")
    chosen = session.between(first, last) & (rows["ticker"].isin(view.tickers) | (not view.tickers))
    n, least = session[chosen].nunique(), 2 * cfg.evaluate.block_sessions
    if n < least:
        raise InputError(
            f"{n} session{'s' if n != 1 else ''} to trade in from {first:%Y-%m-%d} to {last:%Y-%m-%d}",
            rule=f"at least {least}, two blocks of evaluate.block_sessions: intervals are drawn from blocks",
            remedy=f"a longer range inside {span}",
        )
    return rows[chosen]


def filled_in(rows: pd.DataFrame, panel: pd.DataFrame) -> pd.Series:
    """Session in which each row's order fills."""
    opens = panel.groupby("session")["session_open_utc"].min()
    place = np.searchsorted(opens.to_numpy(), rows["fill_utc"].to_numpy(), side="right") - 1
    return pd.Series(opens.index[place], rows.index)


def build(frames: dict[str, pd.DataFrame], view: View, cfg: Config, tried: trials.Trials | None = None) -> Report:
    """All figures of a view, from the tables of the evaluate stage; tried: None where nobody counted the trials.

    Raises InputError for what `evaluation.decisions` and `select` refuse, and for a baseline that does not exist.
    """
    cfg = with_costs(cfg, view.cost_bps)
    panel, contradiction = frames["panel"], frames["contradiction"]
    rows = select(decisions(frames, cfg), panel, view, cfg)
    measures, results = evaluation.evaluate(rows, panel, contradiction, frames["truth"], cfg, frames["technical"])
    if view.baseline not in results:
        raise InputError(f"argument --baseline {view.baseline!r}", rule=f"one of {', '.join(results)}")
    measures.pop("strategies")
    per_year, year = trading.bars_per_year(cfg), trading.bars_per_year(replace(cfg, interval="1d"))
    returns = selection.by_session(results)
    known = rows["target_label"].notna()
    truth = rows.loc[known, "target_label"].to_numpy(np.bool_)
    reliability = statistics.reliability(rows.loc[known, "p_up"].to_numpy(np.float64), truth)
    pairs = [(name, view.baseline) for name in results if name != view.baseline]
    rivals = [(MODEL, name) for name in results if name not in (MODEL, *NO_CHOICE)]
    numbers = {
        "view": _shown(view, rows, returns, cfg) | {"sessions_per_year": year},
        "strategies": statistics.strategies(results, view.baseline, per_year, cfg.evaluate),
        "against_baseline": _by_name(selection.paired_tests(returns, pairs, year, cfg.evaluate), "strategy"),
        "model_against": _by_name(selection.paired_tests(returns, rivals, year, cfg.evaluate), "against"),
        "selection": _selection(results, returns, view, tried, cfg),
        "forecast": measures,
        "calibration": reliability.map(rounded).to_dict("records"),
        "contradictions": after_contradictions(rows, cfg),
        "monthly": {
            name: {f"{month}": rounded(value) for month, value in monthly(returns[name]).items()}
            for name in dict.fromkeys((MODEL, view.baseline))
        },
    }
    exposure = results[MODEL].groupby("session")[["exposure", "net_exposure"]].mean()
    return Report(numbers, returns, exposure, reliability, _example(rows, panel), cfg)


def _example(rows: pd.DataFrame, panel: pd.DataFrame) -> pd.DataFrame:
    flagged = (rows["kind"] != "none").groupby(rows["ticker"]).sum()
    bars = rows[rows["ticker"] == flagged.idxmax()].tail(EXAMPLE_BARS)
    return bars[[*BAR_KEY, "session", "kind"]].merge(panel[[*BAR_KEY, "close"]], on=BAR_KEY)


def _by_name(tests: list[dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    return {test[name]: {key: value for key, value in test.items() if not isinstance(value, str)} for test in tests}


def _shown(view: View, rows: pd.DataFrame, returns: pd.DataFrame, cfg: Config) -> dict[str, Any]:
    days = returns.index
    return {
        "baseline": view.baseline,
        "first_session": f"{days[0]:%Y-%m-%d}",
        "last_session": f"{days[-1]:%Y-%m-%d}",
        "sessions": len(days),
        "decisions": len(rows),
        "tickers": sorted(rows["ticker"].unique()),
        "side_cost_bps": cfg.strategy.side_cost_bps,
        "whole_test": view.first is None and view.last is None and not view.tickers and view.cost_bps is None,
        "confidence": cfg.evaluate.confidence,
    }


def _selection(
    results: dict[str, pd.DataFrame], returns: pd.DataFrame, view: View, tried: trials.Trials | None, cfg: Config
) -> dict[str, Any]:
    """Deflated Sharpe, PBO and SPA. Other trials count where they were recorded on these very sessions."""
    tried = tried or trials.Trials(count=1)
    others = trials.returns(tried, returns.index)
    open_to_choice = returns.drop(columns=list(NO_CHOICE), errors="ignore")
    beside = open_to_choice.assign(**{view.baseline: returns[view.baseline]})
    comparable = not view.tickers and view.cost_bps is None
    others = others if comparable else others.iloc[:, :0]
    itself = others.sub(returns[MODEL], axis=0).abs().max() < SAME
    per_year = trading.bars_per_year(cfg)
    net = results[MODEL]["net_ret"].to_numpy(np.float64)
    return {
        "deflated_sharpe": selection.deflated_sharpe(net, tried.sharpe, tried.count, per_year),
        "pbo_trials": selection.overfitting(others),
        "pbo_strategies": selection.overfitting(open_to_choice),
        "spa": selection.superior(beside.join(others.loc[:, ~itself]), view.baseline, cfg.evaluate),
    }


def after_contradictions(rows: pd.DataFrame, cfg: Config) -> dict[str, dict[str, Any]]:
    """Mean return of the target window by the kind that the checkpoint sees, in bps, with an interval by sessions."""
    known = rows[rows["target_ret"].notna()]
    found = {}
    for kind in ("overhype", "underhype", "none"):
        here = known.assign(one=(known["kind"] == kind).astype(np.float64))
        here["ret"] = here["one"] * here["target_ret"]
        sums = here.groupby("session")[["ret", "one"]].sum().to_numpy(np.float64)

        def mean(sample: Floats) -> Floats:
            total = sample.sum(0)
            return np.array([total[0] / total[1] * 1e4 if total[1] else np.nan])

        low, high = statistics.bootstrap_interval(mean, sums, cfg.evaluate.block_sessions, cfg.evaluate)
        n = int(here["one"].sum())
        value = {"mean_bps": mean(sums)[0], "mean_bps_lo": low[0], "mean_bps_hi": high[0]}
        found[kind] = {"bars": n, "share": rounded(n / max(len(known), 1))}
        found[kind] |= {name: rounded(float(number)) for name, number in value.items()}
    return found


def monthly(returns: pd.Series) -> pd.Series:
    """Compound return of each calendar month, index YYYY-MM."""
    return (1 + returns).groupby(pd.DatetimeIndex(returns.index).strftime("%Y-%m")).prod() - 1


def provenance(cfg: Config, model_id: str, tried: trials.Trials) -> dict[str, Any]:
    """Where numbers come from: commit, data, seeds, trials, checkpoint and configuration."""
    commit, dirty = tracking.git_state()
    seeds = {"train": cfg.train.seed, "evaluate": cfg.evaluate.seed, "contradiction": cfg.contradiction.seed}
    seeds |= {"market": cfg.data.lab.seed} if cfg.data.lab is not None else {}
    return {
        "commit": commit,
        "uncommitted_changes": {"true": True, "false": False}.get(dirty),
        "data_sha256": {name: files.sha256(tables.schema(name).path) for name in READ},
        "model_id": model_id,
        "model": cfg.model.name,
        "source": cfg.data.source,
        "simulated": cfg.data.simulated,
        "seeds": seeds,
        "settings": asdict(cfg.strategy),
        "trials": {
            "count": tried.count,
            "with_sharpe": len(tried.sharpe),
            "with_equity": len(tried.equity),
            "this_one_recorded": tried.known,
            "reports_before": tried.views,
        },
    }
