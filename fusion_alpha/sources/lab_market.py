"""The laboratory's prices (SIMULATED): bit walks, jumps at publication, and a planted drift after contradictions.

Bars are numbered b = 0, 1, ..; a bar is the gap before it (overnight; nothing within a session) and its inside. All
variances below are of log returns and known before the bar. With sigma_s the volatility of session s,

    inside of bar b   h_b^2 = (1 - GAP_SHARE) sigma_s^2 w_b        w_b: the bar's share of a full session
    gap before bar b  g_b^2 = GAP_SHARE sigma_{s-1}^2
    target of bar b   inside of its fill bar F and the gap after it: sigma_target^2 = h_F^2 + g_{F+1}^2

A share NEWS_SHARE of every variance is jumps of stories (lab_news), the rest are bit walks; each step of a walk is
the market's with probability 1/2, else the ticker's own, so two tickers' steps have correlation 1/4. Every part has its
martingale correction: without the planted drift each simple return has mean exactly 0 given the past.

The rule. S is the sum of the latent sentiments of the bar's news (in [cutoff of the bar before, cutoff)), z the bar's
log return, close to close, over its standard deviation. S >= 1 and z <= -Z_MIN is overhype, S <= -1 and z >= Z_MIN is
underhype. The state d halves every half_life_bars and moves by +1 at overhype and -1 at underhype; the mean of
target_ret is -delta sigma_target d, spread over inside and gap by their variances. |d| is capped at STATE_MAX, which
binds for half-lives above 2.4 bars only. Where several bars fill at one open, the first of them sets the drift.

Everything about ticker i has Philox problem i + 1, the market has 0, and bars and sessions are counted from the first:
neither more tickers nor a later end change what is already there.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from fusion_alpha import sessions
from fusion_alpha.config import LabConfig, TargetConfig
from fusion_alpha.errors import InputError
from kernels import philox
from kernels.paths import byte_table, log_cosh

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

GAP_SHARE = 0.3  # of a session's variance, overnight
NEWS_SHARE = 0.75  # of all variance, jumps of stories
ALIGNED_RATE = 0.20  # ticker-bars with a story that the price follows
Z_MIN = 0.5  # |z| of a contradiction, in standard deviations
STATE_MAX = 4.0
OCTET_SECONDS = 300  # one byte of a walk (eight steps) covers five minutes, or a quarter of a shorter bar
GAP_STEPS = 32


class Stream(IntEnum):
    """Streams of the laboratory's draws; far from 0, which other users of the same seed have."""

    INSIDE = 0x1AB000
    INSIDE_MASK = 0x1AB001
    GAP = 0x1AB002
    GAP_MASK = 0x1AB003
    VOLATILITY = 0x1AB004
    VOLUME = 0x1AB005
    TICKER = 0x1AB006
    STORY = 0x1AB007
    HEADLINE = 0x1AB008
    NOISE = 0x1AB009
    REPOST = 0x1AB00A
    FILL = 0x1AB00B


@dataclass(frozen=True)
class Clock:
    """Bars, one entry each. Those from number `n` on lie after the last session and only complete earlier targets."""

    n: int
    session: NDArray[np.datetime64]
    session_number: Int64
    open_s: Int64  # seconds since 1970, UTC
    close_s: Int64
    cutoff_us: Int64
    weight: Float64  # w_b
    octets: Int64  # bytes of the walk inside the bar
    fill: Int64  # number of the bar whose open fills a decision of this bar; -1 where that lies beyond the table

    def __len__(self) -> int:
        return len(self.open_s)


@dataclass(frozen=True)
class Volatility:
    """Standard deviations of log returns, [tickers, bars]."""

    inside: Float64
    gap: Float64

    @cached_property
    def close_to_close(self) -> Float64:
        return np.hypot(self.gap, self.inside)

    @cached_property
    def target(self) -> Float64:
        """Of the period that a bar opens: its inside and the gap after it."""
        after = np.concatenate([self.gap[:, 1:], self.gap[:, -1:]], axis=1)
        return np.hypot(self.inside, after)


@dataclass(frozen=True)
class Jumps:
    """Log returns of the stories' first headlines with their martingale correction, [tickers, bars]."""

    gap: Float64
    inside: Float64
    octet: Int64  # byte of the bar at whose end `inside` happens


@dataclass(frozen=True)
class Market:
    """Adjusted prices and the truth about them, [tickers, bars]."""

    open: Float64
    high: Float64
    low: Float64
    close: Float64
    volume: Int64
    z_ret: Float64
    kind: NDArray[np.int8]  # +1 overhype, -1 underhype
    mean_ret: Float64  # of the period that the bar opens
    sigma: Float64  # of the period that the bar opens


@dataclass(frozen=True)
class Rates:
    """How often stories happen, and how far they move a price."""

    opposed: float  # share of ticker-bars
    aligned: float
    jump: float  # in standard deviations of the bar

    @property
    def story(self) -> float:
        return self.opposed + self.aligned


def draws(seed: int, stream: Stream, problem: int, rows: int, count: int) -> Float64:
    """Uniforms in (0, 1), [rows, count]; row r is the same whatever `rows` is."""
    counter = philox.normal_counter(
        np.arange(0, count, 4), np.arange(rows)[:, None], problem, stream, op=philox.Op.UNIFORMS
    )
    return philox.uniforms(counter, seed).reshape(rows, -1)[:, :count]


def clock(exchange: str, minutes: int | None, target: TargetConfig, lab: LabConfig) -> Clock:
    """Bars of the laboratory, `minutes` long (None: sessions).

    InputError when there are none, and for a target that is not the traded one.
    """
    if target.name != "next_open" or target.session_rule != "cutoff":
        raise InputError(
            f"parameters target.name = {target.name!r}, target.session_rule = {target.session_rule!r}",
            rule="the laboratory plants its drift in the traded target: next_open with session_rule=cutoff",
            remedy="use target=next_open",
        )
    last = pd.Timestamp(lab.last_session)
    table = sessions.bars(exchange, lab.first_session, last + pd.Timedelta(days=14), minutes)
    n = int((table["session"] <= last).sum())
    if n == 0:
        raise InputError(
            f"parameters data.lab.first_session = {lab.first_session!r}, last_session = {lab.last_session!r}",
            rule=f"at least one session of {exchange} between them",
        )
    open_us, close_us = (table[f"bar_{edge}_utc"].array.asi8 for edge in ("open", "close"))
    decided_us = close_us + round(target.decision_delay_s * 1e6)
    fill = np.searchsorted(open_us, decided_us)
    size = min(int(fill[n - 1]) + 2, len(table))
    fill = np.where(fill < size - 1, fill, -1)
    hours = table["session_close_utc"].array.asi8 - table["session_open_utc"].array.asi8
    length = close_us - open_us
    middle = (open_us + length // 2 - table["session_open_utc"].array.asi8) / hours.max()
    shape = np.ones(len(table)) if minutes is None else 0.6 + 1.2 * (2.0 * middle - 1.0) ** 2
    octets = np.maximum(1, np.rint(length / (1e6 * _octet_seconds(minutes))))
    return Clock(
        n=n,
        session=table["session"].to_numpy()[:size],
        session_number=table["session"].factorize()[0][:size].astype(np.int64),
        open_s=open_us[:size] // 1_000_000,
        close_s=close_us[:size] // 1_000_000,
        cutoff_us=close_us[:size] - round(target.news_delay_s * 1e6),
        weight=(length / hours.max() * shape)[:size],
        octets=octets.astype(np.int64)[:size],
        fill=fill[:size],
    )


def volatility(lab: LabConfig, bars: Clock, base: Float64) -> Volatility:
    """Clustered volatility: log sigma_s is the sum of a market AR(1) and the ticker's own, around `base` [tickers]."""
    n_sessions = int(bars.session_number[-1]) + 1
    market = _autoregression(lab.seed, 0, n_sessions, persistence=0.98, spread=0.25)
    variance = 0.25**2 + 0.35**2
    gap = np.concatenate([[False], bars.open_s[1:] > bars.close_s[:-1]])
    before = np.maximum(bars.session_number - 1, 0)
    inside, overnight = np.empty((2, len(base), len(bars)))
    for i, level in enumerate(base):
        own = _autoregression(lab.seed, i + 1, n_sessions, persistence=0.95, spread=0.35)
        sigma = level * np.exp(np.clip(market + own, -1.2, 1.2) - variance)
        inside[i] = sigma[bars.session_number] * np.sqrt((1 - GAP_SHARE) * bars.weight)
        overnight[i] = np.where(gap, sigma[before] * np.sqrt(GAP_SHARE), 0.0)
    return Volatility(inside, overnight)


def rates(lab: LabConfig) -> Rates:
    """Rates at which the expected share of contradictions is `contradiction_share`.

    Jumps carry NEWS_SHARE of the variance, so their size and their rate determine each other; an opposed story is a
    contradiction unless noise and drift hide it, an aligned one is where they overturn it.
    """
    decay = 2.0 ** (-1.0 / lab.half_life_bars)
    drift = lab.delta**2 * min(lab.contradiction_share / (1 - decay**2), STATE_MAX**2)
    normal = NormalDist(0.0, (1 - NEWS_SHARE + drift) ** 0.5)
    opposed = lab.contradiction_share
    for _ in range(50):
        jump = (NEWS_SHARE / (opposed + ALIGNED_RATE)) ** 0.5
        seen, overturned = normal.cdf(jump - Z_MIN), normal.cdf(-jump - Z_MIN)
        opposed = (lab.contradiction_share - ALIGNED_RATE * overturned) / seen
    return Rates(opposed, ALIGNED_RATE, (NEWS_SHARE / (opposed + ALIGNED_RATE)) ** 0.5)


def simulate(
    lab: LabConfig, bars: Clock, sd: Volatility, jumps: Jumps, sentiment: Float64, first_price: Float64
) -> Market:
    """The market that the stories and the rule make. sentiment: S of each ticker and bar, [tickers, bars]."""
    walks = _Walks(lab.seed, bars)
    gap, inside = jumps.gap.copy(), jumps.inside.copy()
    for i in range(len(first_price)):
        gap[i] += walks.gap(i, sd.gap[i])
        inside[i] += walks.inside(i, sd.inside[i])
    z, kind, mean = _rule(lab, bars, sd, gap, inside, sentiment)
    drift_inside, drift_gap = _split_drift(sd, mean)
    gap += drift_gap
    inside += drift_inside
    end = np.cumsum(gap + inside, axis=1)  # log close over the first open
    start = end - inside
    high, low = np.empty_like(start), np.empty_like(start)
    for i in range(len(first_price)):
        high[i], low[i] = walks.extremes(i, sd.inside[i], jumps.inside[i], jumps.octet[i], drift_inside[i])
    opening, closing = (first_price[:, None] * np.exp(value) for value in (start, end))
    return Market(
        open=opening,
        high=np.maximum(opening * np.exp(high), np.maximum(opening, closing)),
        low=np.minimum(opening * np.exp(low), np.minimum(opening, closing)),
        close=closing,
        volume=_volume(lab, bars, z),
        z_ret=z,
        kind=kind,
        mean_ret=mean,
        sigma=sd.target,
    )


def _rule(
    lab: LabConfig, bars: Clock, sd: Volatility, gap: Float64, inside: Float64, sentiment: Float64
) -> tuple[Float64, NDArray[np.int8], Float64]:
    """z and kind of each bar, and the mean of the simple return of each period, bar after bar."""
    n_tickers, n_bars = gap.shape
    decay = 2.0 ** (-1.0 / lab.half_life_bars)
    part_inside, part_gap = _variance_parts(sd)
    mean, log_mean = np.zeros((2, n_tickers, n_bars))
    z, kind, state = np.empty((n_tickers, n_bars)), np.zeros((n_tickers, n_bars), np.int8), np.zeros(n_tickers)
    total_sd, target_sd = sd.close_to_close, sd.target
    for b in range(n_bars):
        drift = log_mean[:, b] * part_inside[:, b]
        if b:
            drift = drift + log_mean[:, b - 1] * part_gap[:, b - 1]
        z[:, b] = (gap[:, b] + inside[:, b] + drift) / total_sd[:, b]
        overhype = (sentiment[:, b] >= 1) & (z[:, b] <= -Z_MIN)
        underhype = (sentiment[:, b] <= -1) & (z[:, b] >= Z_MIN)
        kind[:, b] = overhype.astype(np.int8) - underhype.astype(np.int8)
        state = np.clip(state * decay + kind[:, b], -STATE_MAX, STATE_MAX)
        period = bars.fill[b]
        if period >= 0 and (b == 0 or bars.fill[b - 1] != period):
            mean[:, period] = -lab.delta * target_sd[:, period] * state
            log_mean[:, period] = np.log1p(mean[:, period])
    return z, kind, mean


def _variance_parts(sd: Volatility) -> tuple[Float64, Float64]:
    """Shares of a period's variance inside its bar and in the gap after it."""
    part = (sd.inside / sd.target) ** 2
    return part, 1.0 - part


def _split_drift(sd: Volatility, mean: Float64) -> tuple[Float64, Float64]:
    """Log drift inside each bar and in the gap before it."""
    part_inside, part_gap = _variance_parts(sd)
    log_mean = np.log1p(mean)
    before = np.zeros_like(log_mean)
    before[:, 1:] = (log_mean * part_gap)[:, :-1]
    return log_mean * part_inside, before


def _volume(lab: LabConfig, bars: Clock, z: Float64) -> Int64:
    """Shares traded: more on days with a large move, noise on top."""
    volume = np.empty(z.shape, np.int64)
    for i in range(len(z)):
        steps = np.arange(0, len(bars), 4)
        noise = philox.normals(philox.normal_counter(steps, 0, i + 1, Stream.VOLUME), lab.seed).reshape(-1)
        size = 1e6 * (1 + i * 7 % 5) * bars.weight * np.exp(0.3 * noise[: len(bars)])
        volume[i] = np.rint(size * (1.0 + 0.8 * np.abs(z[i])))
    return volume


def _autoregression(seed: int, problem: int, size: int, *, persistence: float, spread: float) -> Float64:
    """Stationary Gaussian AR(1) with standard deviation `spread`, [size]."""
    noise = philox.normals(philox.normal_counter(np.arange(0, size, 4), 0, problem, Stream.VOLATILITY), seed)
    noise = noise.reshape(-1)[:size].copy()
    noise[1:] *= np.sqrt(1 - persistence**2)
    return spread * lfilter([1.0], [1.0, -persistence], noise)


def _octet_seconds(bar_minutes: int | None) -> float:
    return OCTET_SECONDS if bar_minutes is None else min(OCTET_SECONDS, 60 * bar_minutes / 4)


class _Walks:
    """Bit walks of the tickers, addressed by bar; log returns with their martingale correction."""

    def __init__(self, seed: int, bars: Clock) -> None:
        self.seed, self.octets = seed, bars.octets
        self.path = np.arange(len(bars))
        self.width = int(bars.octets.max())
        self.used = np.arange(self.width) < bars.octets[:, None]  # [bars, width]
        self.table = byte_table()
        self.market_inside = self._words(0, Stream.INSIDE, 8 * self.width)
        self.market_gap = self._words(0, Stream.GAP, GAP_STEPS)

    def gap(self, ticker: int, sd: Float64) -> Float64:
        """Log return of the gap before each bar, [bars]."""
        own, mask = (self._words(ticker + 1, stream, GAP_STEPS) for stream in (Stream.GAP, Stream.GAP_MASK))
        word = (self.market_gap & mask) | (own & ~mask)
        step = sd * np.sqrt((1 - NEWS_SHARE) / GAP_STEPS)
        return step * (2.0 * np.bitwise_count(word[:, 0]) - GAP_STEPS) - GAP_STEPS * log_cosh(step)

    def inside(self, ticker: int, sd: Float64) -> Float64:
        """Log return inside each bar, [bars]."""
        net = np.where(self.used, self.table.net[self._bytes(ticker)], 0).sum(axis=1)
        step = self._step(sd)
        return step * net - 8 * self.octets * log_cosh(step)

    def extremes(
        self, ticker: int, sd: Float64, jump: Float64, octet: Int64, drift: Float64
    ) -> tuple[Float64, Float64]:
        """Highest and lowest log price inside each bar over its open; jump and drift included, [bars] each."""
        octets = self._bytes(ticker)
        step = self._step(sd)[:, None]
        net = np.where(self.used, self.table.net[octets], 0)
        slope = drift[:, None] / self.octets[:, None] - 8 * log_cosh(step)
        number = np.minimum(np.arange(1, self.width + 1), self.octets[:, None])
        end = step * np.cumsum(net, axis=1) + slope * number
        end += np.where(np.arange(self.width) >= octet[:, None], jump[:, None], 0.0)
        start = np.concatenate([np.zeros((len(end), 1)), end[:, :-1]], axis=1)
        high = np.maximum(start + step * np.where(self.used, self.table.high[octets], 0), end)
        low = np.minimum(start + step * np.where(self.used, self.table.low[octets], 0), end)
        return high.max(axis=1), low.min(axis=1)

    def _step(self, sd: Float64) -> Float64:
        return sd * np.sqrt((1 - NEWS_SHARE) / (8 * self.octets))

    def _bytes(self, ticker: int) -> NDArray[np.uint8]:
        bits = 8 * self.width
        own, mask = (self._words(ticker + 1, stream, bits) for stream in (Stream.INSIDE, Stream.INSIDE_MASK))
        words = (self.market_inside & mask) | (own & ~mask)
        return np.ascontiguousarray(words, "<u4").view(np.uint8)[:, : self.width]

    def _words(self, problem: int, stream: Stream, n_bits: int) -> NDArray[np.uint32]:
        return philox.walk_words(self.path, n_bits, seed=self.seed, problem=problem, stream=stream)
