"""Leaks planted in the pipeline's own functions: each must be caught, or the canaries prove nothing.

A mutant replaces one function of the pipeline inside this process, while the real stages run on the whole market and on
attacked ones; nothing else changes. They are leaks that people have had: in features, in the join of news to sessions,
in adjusted prices, in the scaling of a model's inputs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import ta

from fusion_alpha import panel, sessions, tables, technical, training, windows
from fusion_alpha.canaries import attacks, forecasts, layers, market, start_shift, time_machine, timestamps
from fusion_alpha.canaries.market import Cut
from fusion_alpha.canaries.tasks import Task
from fusion_alpha.fusionnet import FusionNet
from fusion_alpha.indicators import Indicator
from fusion_alpha.samples import Samples
from fusion_alpha.workspace import Workspace

_INDICATORS = ("clean", "process", "technical")
_NEWS = ("clean", "process", "text", "contradiction")


@dataclass(frozen=True)
class Mutant:
    """replaced: (module, name, what takes its place, from the original); cuts: the kinds that are meant to catch it."""

    name: str
    replaced: tuple[Any, str, Callable[[Any], Any]]
    stages: tuple[str, ...]
    cuts: tuple[str, ...]
    starts: bool = False  # start_shift is meant to catch it too
    clock: bool = False  # timestamps is
    early: bool = False  # it shows in warm-ups, or before splits and dividends
    learned: bool = False  # only what a walk-forward model learned shows it

    @contextmanager
    def planted(self) -> Iterator[None]:
        module, name, change = self.replaced
        with mock.patch.object(module, name, change(getattr(module, name))):
            yield


def _instead(name: str, compute: Callable[[pd.DataFrame], pd.Series]) -> tuple[Any, str, Callable[[Any], Any]]:
    """Another function of the indicator `name`, its warm-up kept."""

    def change(whitelist: tuple[Indicator, ...]) -> tuple[Indicator, ...]:
        return tuple(replace(item, compute=compute) if item.name == name else item for item in whitelist)

    return technical, "WHITELIST", change


def _afterwards(alter: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame]) -> tuple[Any, str, Callable[[Any], Any]]:
    """The indicators of a ticker, altered: alter(indicators, bars)."""

    def change(features: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
        def altered(bars: pd.DataFrame, warmup_bars: int) -> pd.DataFrame:
            return alter(features(bars, warmup_bars), bars)

        return altered

    return technical, "features", change


def _scaled_over_history(found: pd.DataFrame, _: pd.DataFrame) -> pd.DataFrame:
    """Features without bounds, by moments of the whole series; the table's schema would refuse the others."""
    columns = tables.schema("technical").columns
    free = [name for name in map(str, found) if not {"min", "max", "above"} & set(columns[name])]
    return found.assign(**((found[free] - found[free].mean()) / found[free].std()))


def _kst_of_ta(found: pd.DataFrame, bars: pd.DataFrame) -> pd.DataFrame:
    """That of `ta`, whose warm-up holds the mean of the whole series, and no warm-up dropped."""
    return found.assign(kst_30=ta.trend.KSTIndicator(bars["close"]).kst())


def _over_last_factor(adjust: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Prices that sources call adjusted: restated with every later split and dividend."""

    def restated(prices: pd.DataFrame) -> pd.DataFrame:
        table = adjust(prices)
        last = table.groupby("ticker")["adjustment"].transform("last")
        columns = {name: table[name] / last for name in ("open", "high", "low", "close", "adjustment")}
        return table.assign(**columns)

    return restated


def _day_of_publication(cutoff: Callable[..., pd.Series]) -> Callable[..., pd.Series]:
    def midnight(table: pd.DataFrame, rule: Any) -> pd.Series:
        return (table["session"] + pd.Timedelta(days=1)).dt.tz_localize("UTC").astype(cutoff(table, rule).dtype)

    return midnight


def _always_at_four(calendar: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """Every session closes at 16:00 of New York, half days too."""

    def full_days(exchange: str, first: Any, last: Any) -> pd.DataFrame:
        table = calendar(exchange, first, last)
        four = (table["session"] + pd.Timedelta(hours=16)).dt.tz_localize("America/New_York")
        return table.assign(session_close_utc=four.dt.tz_convert("UTC").astype(table["session_close_utc"].dtype))

    return full_days


def _scaled_by_all(fit: Callable[[FusionNet, Samples], None]) -> Callable[[FusionNet, Samples], None]:
    def on_every_row(net: FusionNet, samples: Samples) -> None:
        fit(net, replace(samples, rows=samples.rows.assign(split="train")))

    return on_every_row


MUTANTS = (
    Mutant(
        "shift_minus_1",
        _instead("ret_1", lambda bars: bars["close"].shift(-1) / bars["close"] - 1),
        _INDICATORS,
        (market.MONTH_END,),
        starts=True,
    ),
    Mutant(
        "global_scaler",
        _afterwards(_scaled_over_history),
        _INDICATORS,
        (market.RANDOM,),
        starts=True,
    ),
    Mutant("back_fill", _afterwards(lambda found, _: found.bfill()), _INDICATORS, (market.CLOCK_CHANGE,), early=True),
    Mutant(
        "centred_window",
        _instead("sma_ratio_20", lambda bars: bars["close"] / windows.mean(bars["close"], 20).shift(-10) - 1),
        _INDICATORS,
        (market.FOLD_EDGE,),
        starts=True,
    ),
    Mutant("kst_of_ta", _afterwards(_kst_of_ta), _INDICATORS, (market.CLOCK_CHANGE,), early=True),
    Mutant("restated_prices", (panel, "adjust", _over_last_factor), _INDICATORS, (market.CLOCK_CHANGE,), early=True),
    Mutant("date_only_join", (panel, "cutoff", _day_of_publication), _NEWS, (market.MONTH_END,), clock=True),
    Mutant("half_day_until_16", (sessions, "sessions", _always_at_four), _NEWS, (market.HALF_DAY,), clock=True),
    Mutant("scaler_of_all_rows", (training, "fit_scalers", _scaled_by_all), layers.FEATURES, (), learned=True),
)


def tasks(whole: Workspace, home: Path) -> list[Task]:
    """One for each mutant."""
    return [
        Task(f"mutant {mutant.name}", home / f"mutant-{mutant.name}.json", partial(caught_by, whole, mutant.name))
        for mutant in MUTANTS
    ]


def caught_by(whole: Workspace, name: str) -> list[str]:
    """What caught the mutant: canary, or time_machine/ATTACK/CUT, start_shift/SESSION."""
    mutant = next(one for one in MUTANTS if one.name == name)
    mirror = attacks.mirrored(whole.read("news"), whole.read("text"))
    caught = []
    with mutant.planted(), layers.copied(whole, f"{name}-whole", model=True) as mutated:
        mutated.once("ingest", lambda: None)
        mutated.run(*mutant.stages, quiet=True)
        for cut in cuts_for(mutant, whole):
            caught += [f"{canary}/{how}/{cut.name}" for canary, how in _at_cut(mutated, mutant, cut, mirror)]
        if mutant.starts:
            day = start_shift.sessions(whole.cfg)[0]
            answer = start_shift.at_session(mutated, day, mutant.stages)
            if start_shift.not_live_eligible({day: answer}):
                caught.append(f"start_shift/{day}")
        if mutant.clock and (timestamps.golden(whole.cfg) or timestamps.wrong(whole.cfg)):  # the quick ones first
            caught.append("timestamps")
    return caught


def cuts_for(mutant: Mutant, whole: Workspace) -> list[Cut]:
    """The last cut of each kind that is meant to catch it, the first one where it shows early.

    The last of those with a walk-forward model where only that can show it.
    """
    if mutant.learned:
        return market.forecast_cuts(whole.cfg)[-1:]
    among = market.cuts(whole.cfg) if mutant.early else market.cuts(whole.cfg)[::-1]
    return [next(cut for cut in among if cut.kind == kind) for kind in mutant.cuts]


def _at_cut(mutated: Workspace, mutant: Mutant, cut: Cut, mirror: dict[str, str]) -> list[tuple[str, str]]:
    """(canary, attack) that notice the mutant at the cut."""
    last = market.last_known(mutated.cfg, cut)
    before = forecasts.walk_forward(mutated, last) if mutant.learned else None
    noticed = []
    for how in attacks.ATTACKS:
        with layers.copied(mutated, how) as part:
            attacks.attack(part.folder / "data/raw", mutated.cfg, cut, how, mirror)
            part.once("ingest", lambda: None)
            part.run(*mutant.stages, quiet=True)
            if before is None:
                seen = layers.differences(mutated, part, mutant.stages, cut, last)["different"] > 0
                noticed += [("time_machine", how)] if seen else []
            elif layers.forecast_difference(before, forecasts.walk_forward(part, last)) > time_machine.TOLERANCE:
                noticed.append(("time_machine_walk_forward", how))
    return noticed
