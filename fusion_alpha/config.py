"""Configuration: conf/ (people) -> params.yaml (stages) -> typed `Config` (code).

`make params` composes conf/ into params.yaml exactly as `dvc exp run` does; stages read params.yaml, take
`key=value` overrides when run by hand, and refuse a key, type or range that the classes below do not allow.

    python -m fusion_alpha.config             compose conf/ into params.yaml, and minute/params.yaml
    python -m fusion_alpha.config --check     exit 1 when they are not what conf/ composes to
"""

import argparse
import difflib
import re
import sys
import tempfile
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from fusion_alpha.errors import InputError

PARAMS = Path("params.yaml")
CONF = Path("conf")
MINUTE = Path("minute") / PARAMS  # of the small one-minute model that the router takes: conf/experiment/minute.yaml
_OPEN = "tune.space."  # a block whose keys are not fixed: an override adds one, or replaces it whole
_KEY = re.compile(r"\w+(\.\w+)*")
_REMEDY = "change it where it was set: conf/, -S or the command line; `make params` brings the defaults back"


def _require(ok: bool, name: str, value: object, rule: str) -> None:
    if not ok:
        raise InputError(f"parameter {name} = {value!r}", rule=rule, remedy=_REMEDY)


@dataclass
class LabConfig:
    seed: int
    first_session: str
    last_session: str
    n_tickers: int
    n_news: int
    delta: float
    half_life_bars: float
    contradiction_share: float
    odd_rows: bool

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 1 << 64, "data.lab.seed", self.seed, "in [0, 2^64)")
        for name in ("first_session", "last_session"):
            value = getattr(self, name)
            _require(is_date(value), f"data.lab.{name}", value, "a date as YYYY-MM-DD")
        _require(1 <= self.n_tickers < 1 << 16, "data.lab.n_tickers", self.n_tickers, "in [1, 65535]")
        _require(self.n_news >= 0, "data.lab.n_news", self.n_news, "at least 0")
        _require(abs(self.delta) <= 1, "data.lab.delta", self.delta, "in [-1, 1] (standard deviations)")
        _require(self.half_life_bars > 0, "data.lab.half_life_bars", self.half_life_bars, "positive (bars)")
        _require(
            0 < self.contradiction_share <= 0.3, "data.lab.contradiction_share", self.contradiction_share, "in (0, 0.3]"
        )


@dataclass
class StocknetConfig:
    archive: str | None
    url: str
    sha256: str | None
    price_sha256: str | None
    first_session: str
    last_session: str


@dataclass
class CsvConfig:
    folder: str


@dataclass
class YahooConfig:
    timeout_s: float
    tries: int

    def __post_init__(self) -> None:
        _require(self.timeout_s > 0, "data.yahoo.timeout_s", self.timeout_s, "positive (seconds)")
        _require(self.tries >= 1, "data.yahoo.tries", self.tries, "at least 1")


@dataclass
class DataConfig:
    """A source and the roles of its rows; exactly the block that `source` names is present.

    watched: file or folder that dvc.yaml names as a dependency of ingest: a user's own folder, else the source's code.
    """

    source: str
    simulated: bool
    exchange: str
    public: bool
    watched: str
    train_start: str
    dev_start: str
    test_start: str
    test_end: str
    lab: LabConfig | None = None
    stocknet: StocknetConfig | None = None
    csv: CsvConfig | None = None
    yahoo: YahooConfig | None = None

    def __post_init__(self) -> None:
        sources = ("lab", "stocknet", "csv", "yahoo")
        _require(self.source in sources, "data.source", self.source, f"one of {', '.join(sources)}")
        _require(
            getattr(self, self.source) is not None, f"data.{self.source}", None, "the source's own block is present"
        )
        for name in ("train_start", "dev_start", "test_start", "test_end"):
            _require(is_date(getattr(self, name)), f"data.{name}", getattr(self, name), "a date as YYYY-MM-DD")
        _require(
            self.train_start < self.dev_start < self.test_start < self.test_end,
            "data.train_start, dev_start, test_start, test_end",
            (self.train_start, self.dev_start, self.test_start, self.test_end),
            "ascending dates",
        )


@dataclass
class PrivacyConfig:
    """Sources whose raw files are age-encrypted, and the public keys that they are encrypted to."""

    sensitive: list[str]
    recipients: list[str]

    def __post_init__(self) -> None:
        known = ("csv", "stocknet", "yahoo")
        rule = f"of {', '.join(known)}; nobody is in the lab's data"
        _require(set(self.sensitive) <= set(known), "privacy.sensitive", self.sensitive, rule)
        keys = all(re.fullmatch(r"age1[0-9a-z]{58}", key) for key in self.recipients)
        _require(keys, "privacy.recipients", "...", "public keys as age1...; a secret one belongs in no configuration")
        needs = not self.sensitive or bool(self.recipients)
        rule = "at least one where privacy.sensitive names a source: python -m fusion_alpha.privacy key makes one"
        _require(needs, "privacy.recipients", self.recipients, rule)


@dataclass
class TextConfig:
    name: str
    path: str | None
    sha256: str | None
    head: str | None
    dim: int
    engine: str
    precision: str
    max_tokens: int
    batch_size: int
    threads: int

    def __post_init__(self) -> None:
        _require(self.name in ("minilm", "finbert", "stub"), "text.name", self.name, "minilm, finbert or stub")
        _require(8 <= self.max_tokens <= 512, "text.max_tokens", self.max_tokens, "in [8, 512]")
        for name in ("dim", "batch_size", "threads"):
            _require(getattr(self, name) >= 1, f"text.{name}", getattr(self, name), "at least 1")


@dataclass
class ModelConfig:
    name: str
    use_text: bool
    use_technical: bool
    use_contradiction: bool
    features: list[str]
    fusion: str
    severity_gate: bool
    width: int
    heads: int
    news_tokens: int
    sessions: int
    news_lookback_bars: int
    dropout: float
    mask: str
    sticky_p: float
    sticky_rho: float

    def __post_init__(self) -> None:
        _require(
            self.fusion in ("none", "concat", "attention"), "model.fusion", self.fusion, "none, concat or attention"
        )
        _require(self.use_text or self.use_technical, "model.use_text", False, "a model needs text or technical tokens")
        both = self.use_text and self.use_technical
        _require(
            (self.fusion != "none") == both, "model.fusion", self.fusion, "none for one kind of token, another for two"
        )
        _require(
            self.use_technical or not self.use_contradiction,
            "model.use_contradiction",
            True,
            "only with model.use_technical: contradiction features join the session tokens",
        )
        for name in ("width", "heads", "news_tokens", "sessions", "news_lookback_bars"):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        _require(self.width % self.heads == 0, "model.width", self.width, "a multiple of model.heads")
        _require(0 <= self.dropout < 1, "model.dropout", self.dropout, "in [0, 1)")
        _require(0 <= self.sticky_p < 1, "model.sticky_p", self.sticky_p, "in [0, 1)")
        _require(0 <= self.sticky_rho <= 1, "model.sticky_rho", self.sticky_rho, "in [0, 1]")
        _require(
            self.use_technical or self.sticky_p == 0,
            "model.sticky_p",
            self.sticky_p,
            "only with model.use_technical: it masks features of session tokens",
        )
        _require(self.mask in ("bicep", "torch"), "model.mask", self.mask, "bicep or torch")


@dataclass
class TargetConfig:
    name: str
    session_rule: str
    news_delay_s: float
    decision_delay_s: float

    def __post_init__(self) -> None:
        _require(self.name in ("next_open", "stocknet"), "target.name", self.name, "next_open or stocknet")
        _require(
            self.session_rule in ("cutoff", "utc_date"), "target.session_rule", self.session_rule, "cutoff or utc_date"
        )
        _require(self.news_delay_s >= 0, "target.news_delay_s", self.news_delay_s, "at least 0 (seconds)")
        _require(self.decision_delay_s >= 0, "target.decision_delay_s", self.decision_delay_s, "at least 0 (seconds)")


@dataclass
class StrategyConfig:
    name: str
    allow_short: bool
    edge_min: float
    severity_share: float
    vol_target: float
    correlation: float
    max_weight: float
    max_gross: float
    max_turnover: float | None
    commission_bps: float
    half_spread_bps: float
    slippage_bps: float
    impact_bps: float
    volume_bars: int
    capital: float
    borrow_bps: float
    costs: str | None

    def __post_init__(self) -> None:
        for name in ("vol_target", "max_weight", "max_gross", "capital"):
            _require(getattr(self, name) > 0, f"strategy.{name}", getattr(self, name), "positive")
        _require(self.edge_min >= 0, "strategy.edge_min", self.edge_min, "at least 0 (simple return)")
        for name in ("correlation", "severity_share"):
            _require(0 <= getattr(self, name) <= 1, f"strategy.{name}", getattr(self, name), "in [0, 1]")
        most = self.max_turnover
        _require(most is None or most > 0, "strategy.max_turnover", most, "positive, or null for no limit")
        _require(self.volume_bars >= 1, "strategy.volume_bars", self.volume_bars, "at least 1 (bars)")
        for name in ("commission_bps", "half_spread_bps", "slippage_bps", "impact_bps", "borrow_bps"):
            _require(getattr(self, name) >= 0, f"strategy.{name}", getattr(self, name), "at least 0 (bps)")

    @property
    def side_cost_bps(self) -> float:
        """Cost of trading one unit of value once, in bps."""
        return self.commission_bps + self.half_spread_bps + self.slippage_bps


@dataclass
class ExecutorConfig:
    """What spreads work over processes. Of all this only `ranks` can show in a result, so only it is DVC's to watch."""

    name: str
    workers: int
    ranks: int

    def __post_init__(self) -> None:
        _require(self.name in ("pool", "ray", "ddp"), "executor.name", self.name, "pool, ray or ddp")
        _require(self.workers >= 1, "executor.workers", self.workers, "at least 1")
        expected = self.workers if self.name == "ddp" else 1
        rule = f"{expected}: it follows from executor=ddp with executor.workers, and is 1 without"
        _require(self.ranks == expected, "executor.ranks", self.ranks, rule)


@dataclass
class CleanConfig:
    max_rejected_share: float
    news_after_end_days: int

    def __post_init__(self) -> None:
        _require(0 <= self.max_rejected_share <= 1, "clean.max_rejected_share", self.max_rejected_share, "in [0, 1]")


@dataclass
class TechnicalConfig:
    warmup_bars: int
    sectors: str

    def __post_init__(self) -> None:
        _require(
            self.warmup_bars >= 60, "technical.warmup_bars", self.warmup_bars, "at least 60, the longest window in bars"
        )


@dataclass
class ContradictionConfig:
    half_life_hours: float
    window_bars: int
    shrink_weight: float
    clip_z: float
    null_model: str
    null_sessions: int
    n_paths: int
    seed: int
    tau_over: float
    tau_under: float
    severity_bars: int

    def __post_init__(self) -> None:
        _require(
            self.null_model in ("signflip", "gaussian"),
            "contradiction.null_model",
            self.null_model,
            "signflip or gaussian",
        )
        _require(self.half_life_hours > 0, "contradiction.half_life_hours", self.half_life_hours, "positive (hours)")
        for name in ("tau_over", "tau_under"):
            _require(getattr(self, name) > 0, f"contradiction.{name}", getattr(self, name), "positive")
        for name in ("window_bars", "null_sessions", "severity_bars"):
            _require(getattr(self, name) >= 1, f"contradiction.{name}", getattr(self, name), "at least 1")
        _require(self.shrink_weight >= 0, "contradiction.shrink_weight", self.shrink_weight, "at least 0 (bars)")
        _require(0 < self.clip_z <= 6, "contradiction.clip_z", self.clip_z, "in (0, 6] (standard deviations)")
        even = self.n_paths >= 2 and self.n_paths % 2 == 0
        _require(even, "contradiction.n_paths", self.n_paths, "even, at least 2 (antithetic pairs)")
        _require(0 <= self.seed < 1 << 63, "contradiction.seed", self.seed, "in [0, 2^63)")


@dataclass
class TrainConfig:
    seed: int
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    beta: float
    patience: int
    augment_bridge: float
    threads: int
    device: str
    precision: str

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience", "threads"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        _require(0 <= self.seed < 1 << 63, "train.seed", self.seed, "in [0, 2^63)")
        _require(self.lr > 0, "train.lr", self.lr, "positive")
        for name in ("weight_decay", "beta", "augment_bridge"):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "at least 0")
        _require(self.device in ("cpu", "cuda"), "train.device", self.device, "cpu or cuda")
        known = ("float32", "bfloat16")
        _require(self.precision in known, "train.precision", self.precision, " or ".join(known))


@dataclass
class PredictConfig:
    mc_samples: int
    engine: str
    precision: str

    def __post_init__(self) -> None:
        even = self.mc_samples >= 2 and self.mc_samples % 2 == 0
        _require(even, "predict.mc_samples", self.mc_samples, "even, at least 2 (antithetic pairs)")
        _require(self.engine in ("torch", "onnx"), "predict.engine", self.engine, "torch or onnx")
        known = ("float32", "int8") if self.engine == "onnx" else ("float32",)
        rule = f"{' or '.join(known)} with predict.engine={self.engine}"
        _require(self.precision in known, "predict.precision", self.precision, rule)


@dataclass
class EvaluateConfig:
    seed: int
    bootstrap_samples: int
    block_sessions: int
    confidence: float
    momentum_bars: int
    volatility_bars: int

    def __post_init__(self) -> None:
        for name, least in (
            ("bootstrap_samples", 2),
            ("block_sessions", 1),
            ("momentum_bars", 1),
            ("volatility_bars", 2),
        ):
            _require(getattr(self, name) >= least, f"evaluate.{name}", getattr(self, name), f"at least {least}")
        _require(0 < self.confidence < 1, "evaluate.confidence", self.confidence, "in (0, 1)")


@dataclass
class ParityConfig:
    """The comparison of dropout masks; no part of the pipeline's own results."""

    steps: int
    margin_nats: float
    min_seeds: int
    max_seeds: int
    rounds: int

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("min_seeds", 2), ("rounds", 1)):
            _require(getattr(self, name) >= least, f"parity.{name}", getattr(self, name), f"at least {least}")
        _require(self.margin_nats > 0, "parity.margin_nats", self.margin_nats, "positive (nats)")
        _require(self.max_seeds >= self.min_seeds, "parity.max_seeds", self.max_seeds, "at least parity.min_seeds")


@dataclass
class RangeConfig:
    """Values that a search may give a parameter: from low to high, in steps or on a log scale, or one of choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: list[Any] | None = None


@dataclass
class SpaceConfig:
    """Parameters of train and model that a search may move; null takes one out. Others would need new features.

    Choices of model.name are those of conf/model: each brings the settings in which its file differs.
    """

    train: dict[str, RangeConfig | None]
    model: dict[str, RangeConfig | None]

    def __post_init__(self) -> None:
        for group, kind in (("train", TrainConfig), ("model", ModelConfig)):
            ranges = {name: item for name, item in getattr(self, group).items() if item is not None}
            hints = get_type_hints(kind)
            for name, item in ranges.items():
                _require_range(f"tune.space.{group}.{name}", item, hints.get(name))
            setattr(self, group, ranges)


def _require_range(key: str, item: RangeConfig, kind: type | None) -> None:
    name = key.removeprefix("tune.space.")
    known = kind is not None and name not in ("train.seed", "train.threads", "train.device")
    _require(known, key, name, "a parameter of train or model that changes what is learned")
    if item.choices is not None:
        _require(item.low is None and item.high is None, key, item, "choices, or low and high, not both")
        right = len(item.choices) >= 2 and all(_is_a(kind, value) for value in item.choices)
        _require(right, f"{key}.choices", item.choices, f"at least two values of the kind of {name}")
        return
    _require(kind in (int, float), key, name, "choices: the parameter is no number")
    if item.low is None or item.high is None or item.low >= item.high:
        _require(False, f"{key}.low, high", (item.low, item.high), "two numbers, ascending")
    elif kind is int:
        whole = all(value is None or value == int(value) for value in (item.low, item.high, item.step))
        _require(whole, key, (item.low, item.high, item.step), "whole numbers")
    _require(not item.log or (item.low or 0) > 0, f"{key}.low", item.low, "positive on a log scale")
    _require(item.step is None or not item.log, f"{key}.step", item.step, "none on a log scale")
    _require(item.step is None or item.step > 0, f"{key}.step", item.step, "positive")


def _is_a(kind: Any, value: Any) -> bool:
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_is_a(get_args(kind)[0], one) for one in value)
    return type(value) in ((int, float) if kind is float else (kind,))


@dataclass
class TuneConfig:
    """The search of tune_fusion.py; no part of the pipeline's own results."""

    seed: int
    folds: int
    score_share: float
    train_sessions: int | None
    embargo_sessions: int
    pruner: str
    grid_levels: int
    space: SpaceConfig

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 1 << 63, "tune.seed", self.seed, "in [0, 2^63)")
        _require(self.folds >= 1, "tune.folds", self.folds, "at least 1")
        _require(0 < self.score_share < 1, "tune.score_share", self.score_share, "in (0, 1)")
        sessions = self.train_sessions
        _require(sessions is None or sessions >= 2, "tune.train_sessions", sessions, "at least 2, or null")
        _require(self.embargo_sessions >= 0, "tune.embargo_sessions", self.embargo_sessions, "at least 0")
        _require(self.pruner in ("median", "asha", "none"), "tune.pruner", self.pruner, "median, asha or none")
        _require(self.grid_levels >= 2, "tune.grid_levels", self.grid_levels, "at least 2")


@dataclass
class BenchmarkConfig:
    """The StockNet benchmark of stages/stocknet.py; no part of the pipeline's own results."""

    seeds: int
    folds: int
    fold_sessions: int
    embargo_sessions: int
    block_sessions: int
    open_test: bool
    overrides: list[str]

    def __post_init__(self) -> None:
        for name in ("seeds", "folds", "fold_sessions", "block_sessions"):
            _require(getattr(self, name) >= 1, f"benchmark.{name}", getattr(self, name), "at least 1")
        _require(self.embargo_sessions >= 0, "benchmark.embargo_sessions", self.embargo_sessions, "at least 0")


@dataclass
class RecoveryMarketConfig:
    """Simulated markets of one kind."""

    delta: float
    first_seed: int
    seeds: int
    test_sessions: int
    variants: list[str]

    def __post_init__(self) -> None:
        _require(abs(self.delta) <= 1, "recovery.*.delta", self.delta, "in [-1, 1] (standard deviations)")
        _require(0 <= self.first_seed < 1 << 63, "recovery.*.first_seed", self.first_seed, "in [0, 2^63)")
        _require(self.seeds >= 2, "recovery.*.seeds", self.seeds, "at least 2: intervals need a spread")
        _require(self.test_sessions >= 20, "recovery.*.test_sessions", self.test_sessions, "at least 20")
        fused = "fused" in self.variants and len(set(self.variants)) == len(self.variants)
        _require(fused, "recovery.*.variants", self.variants, "choices of conf/model, fused among them, each once")


@dataclass
class RecoveryConfig:
    """The simulated markets of stages/lab_recovery.py; no part of the pipeline's own results."""

    n_tickers: int
    learn_sessions: int
    dev_sessions: int
    planted: RecoveryMarketConfig
    reversed: RecoveryMarketConfig
    null_market: RecoveryMarketConfig

    def __post_init__(self) -> None:
        _require(3 <= self.n_tickers < 1 << 16, "recovery.n_tickers", self.n_tickers, "in [3, 65535]")
        sessions = (self.dev_sessions, self.learn_sessions)
        _require(1 <= sessions[0] < sessions[1], "recovery.dev_sessions, learn_sessions", sessions, "ascending, from 1")
        _require(self.planted.delta > 0, "recovery.planted.delta", self.planted.delta, "positive")
        _require(self.reversed.delta < 0, "recovery.reversed.delta", self.reversed.delta, "negative")
        _require(self.null_market.delta == 0, "recovery.null_market.delta", self.null_market.delta, "0")


@dataclass
class LiveConfig:
    """What the live router demands of bars, feeds and clocks; no part of the pipeline's own results."""

    window_bars: int
    settle_s: float
    grace_s: float
    stale_s: float
    jump_sd: float
    clean_bars: int
    silent_bars: int
    skew_warn_s: float
    skew_halt_s: float
    connect_timeout_s: float
    read_timeout_s: float
    tries: int
    requests_per_minute: float
    breaker_failures: int
    breaker_rest_s: float

    def __post_init__(self) -> None:
        for name in ("clean_bars", "silent_bars", "tries", "breaker_failures"):
            _require(getattr(self, name) >= 1, f"live.{name}", getattr(self, name), "at least 1")
        for name in ("settle_s", "grace_s"):
            _require(getattr(self, name) >= 0, f"live.{name}", getattr(self, name), "at least 0 (seconds)")
        for name in ("stale_s", "jump_sd", "skew_warn_s", "connect_timeout_s", "read_timeout_s", "breaker_rest_s"):
            _require(getattr(self, name) > 0, f"live.{name}", getattr(self, name), "positive")
        _require(self.requests_per_minute > 0, "live.requests_per_minute", self.requests_per_minute, "positive")
        rule = "more than live.skew_warn_s"
        _require(self.skew_halt_s > self.skew_warn_s, "live.skew_halt_s", self.skew_halt_s, rule)
        _require(self.window_bars >= 120, "live.window_bars", self.window_bars, "at least 120")


@dataclass
class CanariesConfig:
    """The canaries of stages/canaries.py; no part of the pipeline's own results."""

    seed: int
    n_tickers: int
    first_session: str
    last_session: str
    learn_sessions: int
    fold_sessions: int
    random_cuts: int
    cuts_of_a_kind: int
    forecast_cuts: int
    start_sessions: int
    shuffles: int
    shuffle_block_sessions: int
    trials: int
    configurations: int
    blocks: int

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 1 << 32, "canaries.seed", self.seed, "in [0, 2^32)")
        _require(3 <= self.n_tickers < 1 << 16, "canaries.n_tickers", self.n_tickers, "in [3, 65535]")
        for name in ("first_session", "last_session"):
            value = getattr(self, name)
            _require(is_date(value), f"canaries.{name}", value, "a date as YYYY-MM-DD")
        for name in ("random_cuts", "forecast_cuts", "start_sessions", "fold_sessions"):
            _require(getattr(self, name) >= 1, f"canaries.{name}", getattr(self, name), "at least 1")
        kinds = self.cuts_of_a_kind
        _require(kinds >= 2, "canaries.cuts_of_a_kind", kinds, "at least 2: leaks show in warm-ups, or only after them")
        learn, least = self.learn_sessions, self.fold_sessions + 62
        _require(learn >= least, "canaries.learn_sessions", learn, f"at least {least}: a warm-up and a fold to stop on")
        _require(self.shuffles >= 2, "canaries.shuffles", self.shuffles, "at least 2")
        length = self.shuffle_block_sessions
        _require(length >= 21, "canaries.shuffle_block_sessions", length, "at least 21: what moves together stays so")
        _require(self.trials >= 2, "canaries.trials", self.trials, "at least 2")
        several = 2 <= self.configurations <= self.trials
        _require(several, "canaries.configurations", self.configurations, "in [2, canaries.trials]")
        even = self.blocks >= 4 and self.blocks % 2 == 0
        _require(even, "canaries.blocks", self.blocks, "even, at least 4")


@dataclass
class Config:
    """Everything that a stage may read; see the comments in conf/ for units and meaning."""

    interval: str
    tickers: list[str]
    start: str | None
    end: str | None
    hypothesis: str
    data: DataConfig
    privacy: PrivacyConfig
    text: TextConfig
    model: ModelConfig
    target: TargetConfig
    strategy: StrategyConfig
    executor: ExecutorConfig
    clean: CleanConfig
    technical: TechnicalConfig
    contradiction: ContradictionConfig
    train: TrainConfig
    predict: PredictConfig
    evaluate: EvaluateConfig
    parity: ParityConfig
    tune: TuneConfig
    benchmark: BenchmarkConfig
    recovery: RecoveryConfig
    live: LiveConfig
    canaries: CanariesConfig

    def __post_init__(self) -> None:
        pattern = re.fullmatch(r"1d|[1-9]\d*m", self.interval)
        _require(pattern is not None, "interval", self.interval, "1d, or minutes as 1m, 5m")
        for name in ("start", "end"):
            value = getattr(self, name)
            _require(value is None or is_date(value), name, value, "a date as YYYY-MM-DD, or null")
        _require(
            self.model.use_technical or self.train.augment_bridge == 0,
            "train.augment_bridge",
            self.train.augment_bridge,
            "only with model.use_technical: it moves returns of session tokens",
        )

    @property
    def bar_minutes(self) -> int | None:
        """Minutes of one bar; None for daily bars."""
        return None if self.interval == "1d" else int(self.interval[:-1])


def is_date(value: str) -> bool:
    try:
        return date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def load(overrides: list[str] | None = None, params: Path = PARAMS) -> Config:
    """Read params.yaml, apply overrides, check keys, types and ranges.

    An override is `key=value`, or `group=choice` for a file of conf/ that is one block: executor=ddp, model=concat.
    Choices come first, wherever they stand.
    Raises InputError for a missing file, an unknown or missing key, a wrong type or a value out of range.
    """
    if not params.exists():
        raise InputError("no such file", file=params, remedy="run `make params` in the repository's root")
    plain = _block(params, remedy="run `make params`: conf/ is what people edit")
    return typed(_overridden(plain, overrides or [], str(params)), source=str(params))


def _block(path: Path, remedy: str) -> DictConfig:
    """The YAML file as a block; InputError names the line where it is none."""
    try:
        plain = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        line = mark.line + 1 if mark else None
        raise InputError(f"not YAML ({said})", file=path, line=line, rule="a YAML block", remedy=remedy) from None
    if not isinstance(plain, DictConfig):
        raise InputError("no keys with values", file=path, rule="a YAML block", remedy=remedy)
    return plain


def changed(cfg: Config, overrides: list[str]) -> Config:
    """Another configuration, with overrides as `load` takes them, and its errors; choices are those of conf/ here."""
    plain = OmegaConf.create(asdict(cfg))
    return typed(_overridden(plain, overrides, str(PARAMS)))


def _overridden(plain: DictConfig, overrides: list[str], source: str) -> DictConfig:
    OmegaConf.set_struct(plain, True)
    for override in sorted(overrides, key=lambda text: "." in text.split("=")[0]):
        key, found, value = override.partition("=")
        if not (_KEY.fullmatch(key) and found):
            raise InputError(f"argument {override!r}", rule="overrides look like train.epochs=3")
        try:
            if key.startswith(_OPEN):
                OmegaConf.update(plain, key, _value(key, value), merge=False, force_add=True)
            elif OmegaConf.select(plain, key, throw_on_missing=False) is None and not _has(plain, key):
                raise InputError(f"unknown parameter {key!r}", rule=f"a key of {source}", remedy=_nearest(key, plain))
            elif (CONF / key).is_dir():
                OmegaConf.update(plain, key, _choice(key, value), merge=False)
            else:
                OmegaConf.update(plain, key, _value(key, value))
        except OmegaConfBaseException as error:
            said = str(error).partition("\n")[0]
            raise InputError(f"argument {override!r} ({said})", rule=f"keys of {source}", remedy=_REMEDY) from None
    return plain


def _value(key: str, text: str) -> Any:
    """What follows the = of an override."""
    try:
        return OmegaConf.from_dotlist([f"value={text}"]).value
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        said = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"argument '{key}={text[:80]}' ({said})", rule="a value as in YAML", remedy=_REMEDY) from None


def _choice(group: str, name: str) -> DictConfig:
    """The block of conf/GROUP/NAME.yaml; InputError where there is none, or where the file sets more than its block."""
    choices = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    if name not in choices:
        raise InputError(f"parameter {group} = {name!r}", rule=f"one of {', '.join(choices)}")
    path = CONF / group / f"{name}.yaml"
    if path.read_bytes().startswith(b"# @package"):
        raise InputError(
            f"argument '{group}={name}'",
            file=path,
            rule="a choice on a stage's command line sets one block; this file sets others too",
            remedy=f"`python -m fusion_alpha.config {group}={name}`, or `dvc exp run -S {group}={name}`",
        )
    return _block(path, remedy=f"correct it, or git checkout {path}")


def typed(plain: DictConfig, source: str = "params") -> Config:
    """Turn a composed configuration into `Config`; InputError names the key that does not fit."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), plain)
        missing = OmegaConf.missing_keys(merged)
        if missing:
            raise InputError(f"missing parameter {sorted(missing)[0]!r}", file=source, remedy="run `make params`")
        return cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or getattr(error, "key", None))
        if isinstance(error, ConfigKeyError):
            remedy = f"{_nearest(key, plain)}; {_REMEDY}"
            raise InputError(f"unknown parameter {key!r}", file=source, remedy=remedy) from None
        value = OmegaConf.select(plain, key, throw_on_resolution_failure=False)
        raise InputError(f"parameter {key} = {value!r}", rule=_kind(key), remedy=_REMEDY) from None


def _has(plain: DictConfig, key: str) -> bool:
    node: Any = plain
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            return False
        node = node._get_node(part)
    return True


def _nearest(key: str, plain: DictConfig) -> str:
    close = difflib.get_close_matches(key, [name for name in leaves(plain) if name != key], n=1)
    return f"did you mean {close[0]}?" if close else "see params.yaml for the keys that exist"


def _kind(key: str) -> str:
    """What the classes above allow for a dotted key, in words."""
    kinds: tuple[Any, ...] = (Config,)
    for part in key.split("."):
        if kinds and get_origin(kinds[0]) is dict:
            kinds = get_args(kinds[0])[1:]
        else:
            hints = get_type_hints(next((kind for kind in kinds if is_dataclass(kind)), object))
            kinds = (hints[part],) if part in hints else ()
        if kinds and get_origin(kinds[0]) not in (list, dict):
            kinds = get_args(kinds[0]) or kinds
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    words |= {list[str]: "a list, as [TSLA,AAPL]", list[Any]: "a list, as [16,32]"}
    return " or ".join(words.get(kind, f"a block of {key}.* parameters") for kind in kinds)


def leaves(node: Any, prefix: str = "") -> list[str]:
    """Dotted names of all leaves of a configuration."""
    if is_dataclass(node):
        node = {item.name: getattr(node, item.name) for item in fields(node)}
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node)
    if not isinstance(node, dict):
        return [prefix]
    return [leaf for name, child in node.items() for leaf in leaves(child, f"{prefix}.{name}" if prefix else str(name))]


def variant(model: ModelConfig, name: str) -> dict[str, Any]:
    """Settings that make the model that choice of conf/model: those in which the two files differ."""
    was, now = (_choice("model", choice) for choice in (model.name, name))
    return {str(key): value for key, value in now.items() if was.get(key) != value} | {"name": name}


def compose(into: Path, overrides: list[str] | None = None) -> None:
    """Write what conf/ composes to, through the function that `dvc exp run` itself calls."""
    from dvc.utils.hydra import compose_and_dump

    into.parent.mkdir(parents=True, exist_ok=True)
    compose_and_dump(into, str(CONF.resolve()), None, "config", str(Path.cwd()), overrides or [])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fusion_alpha.config", description="Compose conf/ into params.yaml and minute/params.yaml."
    )
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when they differ")
    parser.add_argument("overrides", nargs="*", help="of params.yaml, as for -S: data=stocknet train.epochs=3")
    arguments = parser.parse_args()
    chosen = {PARAMS: arguments.overrides, MINUTE: ["+experiment=minute"]}
    with tempfile.TemporaryDirectory() as folder:
        for path, overrides in chosen.items():
            composed = Path(folder) / path if arguments.check else path
            compose(composed, overrides)
            if not path.exists() or composed.read_bytes() != path.read_bytes():
                sys.stderr.write(f"{path} is not what conf/ composes to; run `make params` and commit both\n")
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
