"""Simulated markets, each from its own seed, learned from and forecast by FusionNet in several variants (SIMULATED).

A market runs through the pipeline's own stages in a workspace (fusion_alpha/workspace.py): its first
`recovery.learn_sessions` sessions are to learn from, the last of these to stop on, and those after them are tested.
Each variant is trained once and its forecasts of the tested rows are one file, so that an interrupted series goes on
where it was. The file's name holds a hash of all that they depend on. The workspace goes when every variant is there.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from fusion_alpha import (
    config,
    evaluation,
    executor,
    prediction,
    samples,
    sessions,
    stage,
    trading,
    training,
    workspace,
)
from fusion_alpha.config import Config, ExecutorConfig, RecoveryMarketConfig
from fusion_alpha.errors import InputError
from fusion_alpha.files import sha256, write_atomic
from fusion_alpha.tables import BAR_KEY
from fusion_alpha.workspace import Workspace

log = logging.getLogger(__name__)

LAYERS = ("ingest", "clean", "process", "technical", "text", "contradiction")
_FORECAST = (*LAYERS, "train", "predict")  # whose code and parameters the forecasts depend on, beside these modules
OWN = ("backtest", "costs", "decision", "engine", "evaluation", "lab_runs", "market")
_MODULES = [Path(__file__).with_name(f"{name}.py") for name in OWN]
_FIRST_DAY, _LAST_DAY = "2015-01-01", "2030-12-01"  # of the simulation at most
SINGLE = ("data=lab", "target=next_open", "interval=1d", "tickers=[]", "start=null", "end=null")


@dataclass(frozen=True)
class Market:
    """One market and where the forecasts of each variant go."""

    kind: str
    seed: int
    folder: Path  # of its workspace while that is needed
    variants: dict[str, tuple[Config, Path]]

    def missing(self) -> list[str]:
        return [name for name, (_, path) in self.variants.items() if not path.exists()]

    def read(self, variant: str) -> pd.DataFrame:
        """A row for each tested ticker and session, in key order; columns as in `forecast`."""
        return pd.read_parquet(self.variants[variant][1])


def markets(base: Config, kind: str, settings: RecoveryMarketConfig) -> list[Market]:
    """The markets of one kind, one a seed; `base` gives all that the simulation does not decide."""
    home = stage.root() / ".cache" / "recovery"
    also = [f"torch {torch.__version__}", repr(base.strategy), *map(sha256, _MODULES)]
    found = []
    for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
        variants = {}
        for variant in settings.variants:
            cfg = configuration(base, settings, seed, variant)
            name = f"{kind}-{seed}-{variant}-{workspace.key(cfg, _FORECAST, also)}.parquet"
            variants[variant] = (cfg, home / name)
        layers = workspace.key(variants[settings.variants[0]][0], LAYERS)
        found.append(Market(kind, seed, home / f"{kind}-{seed}-{layers}", variants))
    return found


def configuration(base: Config, settings: RecoveryMarketConfig, seed: int, variant: str) -> Config:
    """Of one variant on one market. Data and target are those of conf/data/lab.yaml and conf/target/next_open.yaml.

    The model is `base`'s where it has the variant's name, else the choice of conf/model; all else is `base`'s. No odd
    rows: what cleaning leaves out would differ from seed to seed.
    """
    learn, own = base.recovery.learn_sessions, base.model
    days = _sessions(base.data.exchange, learn + settings.test_sessions)
    overrides = [
        *SINGLE,
        f"data.lab.seed={seed}",
        f"data.lab.delta={settings.delta}",
        f"data.lab.n_tickers={base.recovery.n_tickers}",
        "data.lab.odd_rows=false",
        f"data.lab.first_session='{days[0]}'",
        f"data.lab.last_session='{days[-1]}'",
        f"data.train_start='{days[0]}'",
        f"data.dev_start='{days[learn - base.recovery.dev_sessions]}'",
        f"data.test_start='{days[learn]}'",
        f"data.test_end='{_LAST_DAY}'",
    ]
    overrides += [f"model={variant}"] if variant != own.name else []
    return replace(config.changed(base, overrides), executor=executor.HERE)


def run(every: Sequence[Market], settings: ExecutorConfig) -> None:
    """Fill in the forecasts that are missing, one market after the other or several at once."""
    todo = [market for market in every if market.missing()]
    known = len(every) - len(todo)
    if known:
        log.info("%d of %d markets are known from before", known, len(every))
    results = executor.in_order(fill_in, todo, settings, label=f"{len(todo)} markets")
    for market, _ in zip(todo, results, strict=True):
        log.info("%s market %d: %s", market.kind, market.seed, ", ".join(market.variants))


def fill_in(market: Market) -> None:
    """The forecasts of one market that are missing, in whatever process."""
    first, _ = next(iter(market.variants.values()))
    with workspace.opened(market.folder, first, LAYERS) as layers:
        if missing := market.missing():  # another process may have been here
            layers.run(*LAYERS, quiet=True)
            frames = {name: layers.read(name, columns) for name, columns in samples.INPUTS.items()}
            for variant in missing:
                cfg, path = market.variants[variant]
                table = forecast(frames, layers, cfg)
                write_atomic(path, table.to_parquet)
        shutil.rmtree(market.folder)


def forecast(frames: dict[str, pd.DataFrame], layers: Workspace, cfg: Config) -> pd.DataFrame:
    """Train one variant and let it forecast the tested rows; what came true and what was planted beside it.

    Columns: of evaluation.decisions, kind being that of the learned thresholds; of the contradiction table s, cs and
    kind as kind_score, of the panel ret; of the truth kind as kind_true, sigma_target and oracle_mean_ret;
    gross_ret and oracle_gross_ret: return before costs of the book that opens at the row's fill_utc, the same in all
    rows of a session, null where that book cannot be held to a next open.
    """
    device = training.set_up(cfg.train)
    data = samples.build(frames, cfg)
    state = training.train(data, cfg, device)
    chosen = data.select("test")
    predictions = prediction.predict(state.net, data, chosen, mc_samples=cfg.predict.mc_samples, device=device)
    keys = data.rows.iloc[chosen].drop(columns="label_end_utc").reset_index(drop=True)
    predictions = pd.concat([keys, predictions], axis=1).assign(model_id=cfg.model.name, fold="holdout")
    panel, contradiction, truth = (layers.read(name) for name in ("panel", "contradiction", "truth"))
    rows = evaluation.decisions(predictions, panel, cfg).drop(columns=["model_id", "fold"])
    score = contradiction[[*BAR_KEY, "s", "cs", "kind"]].rename(columns={"kind": "kind_score"})
    planted = truth[[*BAR_KEY, "kind", "sigma_target", "oracle_mean_ret"]].rename(columns={"kind": "kind_true"})
    for table in (score, panel[[*BAR_KEY, "ret"]], planted):
        rows = rows.merge(table, on=BAR_KEY, how="left", validate="one_to_one")
    return rows.merge(_books(rows, panel, cfg), on="fill_utc", how="left", validate="many_to_one")


def without_costs(cfg: Config) -> Config:
    """Nothing costs anything, so that every forecast is traded, however small."""
    nothing = replace(cfg.strategy, commission_bps=0.0, half_spread_bps=0.0, slippage_bps=0.0, impact_bps=0.0)
    return replace(cfg, strategy=replace(nothing, borrow_bps=0.0, edge_min=0.0, max_turnover=None, costs=None))


def _books(rows: pd.DataFrame, panel: pd.DataFrame, cfg: Config) -> pd.DataFrame:
    """Returns before costs by fill_utc, of the forecasts and of the oracle: columns gross_ret, oracle_gross_ret."""
    free = without_costs(cfg)
    oracle = rows.assign(mean_ret=rows["oracle_mean_ret"], sd_ret=rows["sigma_target"], severity=1.0)
    weights = pd.DataFrame({"gross_ret": trading.decide(rows, free), "oracle_gross_ret": trading.decide(oracle, free)})
    books = evaluation.simulate(weights, rows, panel, free)
    opens = next(iter(books.values()))["opens_utc"]
    return pd.DataFrame({"fill_utc": opens} | {name: book["gross_ret"] for name, book in books.items()})


def _sessions(exchange: str, count: int) -> list[str]:
    """The first sessions of a simulation, as YYYY-MM-DD; InputError where the calendar ends before."""
    days = sessions.sessions(exchange, _FIRST_DAY, _LAST_DAY)["session"]
    if len(days) < count:
        raise InputError(
            f"parameters recovery.learn_sessions and test_sessions ask for {count} sessions",
            rule=f"at most {len(days)}: {exchange} from {_FIRST_DAY} to {_LAST_DAY}",
        )
    return [f"{day:%Y-%m-%d}" for day in days.iloc[:count]]
