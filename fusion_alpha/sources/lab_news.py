"""The laboratory's news (SIMULATED): stories that move prices, noise that does not, reposts, and late deliveries.

A story belongs to one ticker and one bar. It has a direction (good or bad news), 1 to 4 headlines of graded latent
sentiment with that sign, and a response of the price: aligned with the direction, or opposed to it, which plants a
contradiction. The price jumps once, when the first headline is published (a later one tells nothing new): in the gap
when that is overnight, inside the bar otherwise. Direction and response are fair coins, so a jump has no mean.

Noise is neutral (latent sentiment 0): calendars, opinions, explainers; some name a second ticker as well. A repost is
the same text by another author, up to half an hour later in the same bar. The feed stands in the order of arrival;
some noise arrives up to three days after its publication ("late news"): out of order in the file, its published_utc
still true, so nothing that moves a price is ever late.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_alpha.config import LabConfig
from fusion_alpha.sources import lab_headlines
from fusion_alpha.sources.lab_market import Clock, Float64, Int64, Jumps, Rates, Stream, Volatility, draws
from kernels.paths import log_cosh

HEADLINES_UP_TO = (0.30, 0.65, 0.85, 1.0)  # probability of at most 1, 2, 3, 4 headlines
STRONG = 0.5  # probability that a headline's latent sentiment is +-2 rather than +-1
NOISE_RATE = 0.28  # noise items a ticker-bar
PAIR_RATE = 0.12  # of the noise names two tickers
REPOST_RATE = 0.08
LATE_RATE = 0.03  # of the noise
AUTHORS = 240
_HOUR = 3600
_NOISE_SLOT, _REPOST_SLOT, _FILL_TICKER = 4, 5, 0xFFFF  # slots 0 .. 3 are headlines; a repost adds 5 to its original's


@dataclass(frozen=True)
class Stories:
    """One ticker's stories, an entry a bar; `published_s` is the first headline's time and also defined without one."""

    present: NDArray[np.bool_]
    direction: Int64  # +1 good news, -1 bad news
    response: Int64  # sign of the jump
    overnight: NDArray[np.bool_]
    published_s: Int64
    headlines: Int64


@dataclass
class Items:
    """News items in the order of arrival, one entry each."""

    code: Int64  # identifies the item: (ticker << 32 | bar) << 4 | slot
    ticker: Int64
    partner: Int64  # second ticker, -1 without one
    published_s: Int64
    arrival_s: Int64
    pool_text: Int64  # number of the text in the ticker's pool
    latent: Int64
    author: Int64
    repost_of: Int64  # code of the original, -1 without one

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, rows: Int64 | NDArray[np.bool_]) -> "Items":
        return Items(*(values[rows] for values in vars(self).values()))


def stories(lab: LabConfig, bars: Clock, sd: Volatility, rate: Rates, ticker: int) -> Stories:
    """The stories of one ticker."""
    u = draws(lab.seed, Stream.STORY, ticker + 1, len(bars), 7)
    direction = np.where(u[:, 1] < 0.5, 1, -1)
    overnight = u[:, 3] < (sd.gap[ticker] / sd.close_to_close[ticker]) ** 2
    inside_s = bars.open_s + np.floor(u[:, 5] * (bars.close_s - bars.open_s)).astype(np.int64)
    return Stories(
        present=u[:, 0] < rate.story,
        direction=direction,
        response=np.where(u[:, 2] < rate.opposed / rate.story, -direction, direction),
        overnight=overnight,
        published_s=np.where(overnight, _overnight(bars, u[:, 6], u[:, 5], early=0.25, before_open=0.70), inside_s),
        headlines=1 + np.searchsorted(HEADLINES_UP_TO, u[:, 4]),
    )


def jumps(told: list[Stories], bars: Clock, sd: Volatility, rate: Rates) -> Jumps:
    """What the stories of all tickers do to the prices."""
    response, present, overnight, published = (
        np.stack([getattr(story, name) for story in told])
        for name in ("response", "present", "overnight", "published_s")
    )
    size = rate.jump * sd.close_to_close
    move = np.where(present, response * size - log_cosh(size), 0.0)
    since_open = np.maximum(published - bars.open_s, 0)
    octet = since_open * bars.octets // (bars.close_s - bars.open_s)
    return Jumps(gap=np.where(overnight, move, 0.0), inside=np.where(overnight, 0.0, move), octet=octet)


def items(lab: LabConfig, bars: Clock, told: list[Stories]) -> Items:
    """All news of the bars up to the last session."""
    parts = [part for ticker, story in enumerate(told) for part in _of_ticker(lab, bars, story, ticker)]
    made = _join(parts)
    made.partner = np.where(made.partner < len(told), made.partner, -1)
    missing = lab.n_news - len(made)
    if missing > 0:
        made = _join([made, _fill(lab, bars, len(told), missing)])
    return made[np.lexsort((made.code, made.arrival_s))]


def sentiment(made: Items, bars: Clock, n_tickers: int) -> Float64:
    """S: sum of the latent sentiments in [cutoff of the bar before, cutoff) of each ticker and bar."""
    total = np.zeros((n_tickers, len(bars)))
    bar = np.searchsorted(bars.cutoff_us, made.published_s * 1_000_000, side="right")
    np.add.at(total, (made.ticker, bar), made.latent)
    paired = made.partner >= 0
    np.add.at(total, (made.partner[paired], bar[paired]), made.latent[paired])
    return total


def _of_ticker(lab: LabConfig, bars: Clock, story: Stories, ticker: int) -> list[Items]:
    """Headlines, noise and their reposts; bars after the last session have none."""
    u = draws(lab.seed, Stream.HEADLINE, ticker + 1, bars.n, 16)
    last_s = bars.close_s[: bars.n] - 1
    first_s = story.published_s[: bars.n]
    made = []
    for slot in range(4):
        told = story.present[: bars.n] & (story.headlines[: bars.n] > slot)
        strength, choice, author, pause = u[:, 4 * slot : 4 * slot + 4].T
        grade = story.direction[: bars.n] * np.where(strength < STRONG, 2, 1)
        start, count = lab_headlines.START[grade], lab_headlines.COUNT[grade]
        later_s = first_s + np.floor((last_s - first_s) * pause**2).astype(np.int64)
        made.append(
            _new(
                bars,
                ticker,
                slot,
                told,
                published_s=later_s if slot else first_s,
                pool_text=start + np.floor(choice * count).astype(np.int64),
                latent=grade,
                author=np.floor(author * AUTHORS).astype(np.int64),
            )
        )
    made.append(_noise(lab, bars, ticker))
    reposts = draws(lab.seed, Stream.REPOST, ticker + 1, bars.n, 16)
    return made + [_repost(part, reposts[:, 3 * slot : 3 * slot + 3], last_s) for slot, part in enumerate(made)]


def _noise(lab: LabConfig, bars: Clock, ticker: int) -> Items:
    u = draws(lab.seed, Stream.NOISE, ticker + 1, bars.n, 9)
    gap = np.concatenate([[False], bars.open_s[1:] > bars.close_s[:-1]])[: bars.n]
    inside_s = bars.open_s[: bars.n] + np.floor(u[:, 1] * (bars.close_s - bars.open_s)[: bars.n]).astype(np.int64)
    overnight_s = _overnight(bars, u[:, 2], u[:, 1], early=0.4, before_open=0.4)
    pair = u[:, 3] < PAIR_RATE
    text = np.where(
        pair,
        lab_headlines.PAIR_START + np.floor(u[:, 4] * lab_headlines.PAIR_COUNT),
        lab_headlines.START[0] + np.floor(u[:, 4] * lab_headlines.COUNT[0]),
    )
    made = _new(
        bars,
        ticker,
        _NOISE_SLOT,
        u[:, 0] < NOISE_RATE,
        published_s=np.where(gap & (u[:, 5] < 0.5), overnight_s, inside_s),
        pool_text=text.astype(np.int64),
        latent=np.zeros(bars.n, np.int64),
        author=np.floor(u[:, 6] * AUTHORS).astype(np.int64),
        partner=np.where(pair, ticker ^ 1, -1),
    )
    u = u[_bar(made)]
    late = u[:, 7] < LATE_RATE
    made.arrival_s = made.published_s + np.where(late, _HOUR + np.floor(u[:, 8] * 71 * _HOUR), 0).astype(np.int64)
    return made


def _repost(made: Items, u: Float64, last_s: Int64) -> Items:
    """Some of one ticker's items again. u: [bars, 3]; last_s: last second of each bar."""
    bar = _bar(made)
    u = u[bar]
    pause = np.minimum(last_s[bar] - made.published_s, 1800)
    again = made[np.arange(len(made))]
    again.repost_of = made.code
    again.code = made.code + _REPOST_SLOT
    again.published_s = made.published_s + 1 + np.floor(u[:, 1] * pause).astype(np.int64)
    again.arrival_s = again.published_s
    again.author = (made.author + 1 + np.floor(u[:, 2] * (AUTHORS - 1)).astype(np.int64)) % AUTHORS
    on_time = (made.arrival_s == made.published_s) & (again.published_s <= last_s[bar])
    return again[(u[:, 0] < REPOST_RATE) & on_time]


def _fill(lab: LabConfig, bars: Clock, n_tickers: int, count: int) -> Items:
    """Noise at any time, tickers in turn: makes the feed as long as a test of scale wants it."""
    u = draws(lab.seed, Stream.FILL, 0, count, 3)
    number = np.arange(count)
    published = bars.open_s[0] + np.floor(u[:, 0] * (bars.close_s[bars.n - 1] - bars.open_s[0])).astype(np.int64)
    nothing = np.full(count, -1)
    return Items(
        code=(_FILL_TICKER << 32 | number) << 4,
        ticker=number % n_tickers,
        partner=nothing,
        published_s=published,
        arrival_s=published,
        pool_text=lab_headlines.START[0] + np.floor(u[:, 1] * lab_headlines.COUNT[0]).astype(np.int64),
        latent=np.zeros(count, np.int64),
        author=np.floor(u[:, 2] * AUTHORS).astype(np.int64),
        repost_of=nothing,
    )


def _new(
    bars: Clock,
    ticker: int,
    slot: int,
    present: NDArray[np.bool_],
    *,
    published_s: Int64,
    pool_text: Int64,
    latent: Int64,
    author: Int64,
    partner: Int64 | None = None,
) -> Items:
    """Items of one ticker and slot in the bars where `present` holds; arrays have an entry a bar."""
    bar = np.flatnonzero(present)
    nothing = np.full(bars.n, -1)
    return Items(
        code=(ticker << 32 | bar) << 4 | slot,
        ticker=np.full(len(bar), ticker),
        partner=(nothing if partner is None else partner)[bar],
        published_s=published_s[bar],
        arrival_s=published_s[bar],
        pool_text=pool_text[bar],
        latent=latent[bar],
        author=author[bar],
        repost_of=nothing[bar],
    )


def _bar(made: Items) -> Int64:
    return made.code >> 4 & 0xFFFFFFFF


def _overnight(bars: Clock, where: Float64, position: Float64, *, early: float, before_open: float) -> Int64:
    """A second in the gap before each bar: soon after the close, in the hours before the open, or any."""
    rows = len(where)
    close, opening = np.concatenate([bars.open_s[:1], bars.close_s[:-1]])[:rows], bars.open_s[:rows]
    length = opening - close
    after_close = position * np.minimum(length, 3 * _HOUR)
    morning = length - (1 - position) * np.minimum(length, 3.5 * _HOUR)
    offset = np.select([where < early, where < early + before_open], [after_close, morning], position * length)
    return close + np.floor(np.minimum(offset, np.maximum(length - 1, 0))).astype(np.int64)


def _join(parts: list[Items]) -> Items:
    return Items(*(np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])))
