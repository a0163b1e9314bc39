"""The laboratory's companies and the grammar of its headlines (SIMULATED; no statement about any real company).

A ticker has a pool of POOL_SIZE distinct texts in a fixed order: COUNT[grade] from START[grade] on for each grade of
latent sentiment (-2 very bad .. +2 very good, 0 neutral), then PAIR_COUNT neutral ones that name a second company as
well. Templates are filled by counting through the words of their slots, so the pool of ticker i is the same whatever
else exists. Every twelfth text carries what must be scrubbed from real feeds: a handle, a link, an address or a phone
number, all of reserved, fictitious ranges.
"""

import re
from dataclasses import dataclass
from itertools import product

import numpy as np

GRADES = (0, 1, 2, -2, -1)  # numpy arrays below are indexed by the grade itself: -1 and -2 count from the end
COUNT = np.array([110, 42, 42, 42, 42])
START = np.cumsum(COUNT) - COUNT  # of a grade's texts in the pool
PAIR_START, PAIR_COUNT = int(COUNT.sum()), 20
POOL_SIZE = PAIR_START + PAIR_COUNT
_PERSONAL_EVERY = 12


@dataclass(frozen=True)
class Company:
    ticker: str
    name: str
    sector: str
    volatility: float  # of a session's log return, about
    first_price: float


NAMED = (
    Company("TSLA", "Tesla", "Automobiles", 0.030, 214.0),
    Company("AAPL", "Apple", "Technology", 0.016, 109.0),
    Company("NVDA", "Nvidia", "Semiconductors", 0.026, 48.0),
    Company("MSFT", "Microsoft", "Technology", 0.015, 46.5),
    Company("AMZN", "Amazon", "Retail", 0.019, 312.0),
    Company("JPM", "JPMorgan", "Banks", 0.014, 62.0),
    Company("XOM", "Exxon Mobil", "Energy", 0.013, 92.0),
    Company("PFE", "Pfizer", "Pharmaceuticals", 0.012, 31.0),
    Company("BA", "Boeing", "Aerospace", 0.016, 130.0),
)
_FIRST = (
    "Alder", "Birch", "Copper", "Dover", "Elm", "Fern", "Granite", "Harbor", "Iris", "Juniper", "Kestrel", "Linden",
    "Maple", "North", "Ochre", "Pine", "Quartz", "River", "Slate", "Timber", "Umber", "Vale", "Willow", "Yarrow",
    "Zephyr",
)  # fmt: skip
_SECOND = (
    "field Systems", "gate Energy", "ton Foods", "wick Motors", "brook Health", "mont Capital", "ridge Mining",
    "stone Software", "well Retail", "port Shipping", "dale Optics", "ford Steel", "haven Media", "point Robotics",
    "way Airlines", "crest Chemicals", "side Homes", "land Telecom", "view Instruments", "bury Textiles",
)  # fmt: skip

# Slots of the templates. {company}, {ticker} and {other} come from the tickers themselves.
_SLOTS = {
    "period": ("first-quarter", "second-quarter", "third-quarter", "fourth-quarter", "full-year"),
    "metric": ("profit", "revenue", "earnings", "sales", "cash flow"),
    "driver": ("demand", "orders", "bookings", "pricing", "volume", "margins"),
    "broker": (
        "Larkfield",
        "Osmund & Co",
        "Tarn Securities",
        "Bellweather Research",
        "Hightor Partners",
        "Quay Street",
    ),
    "crush": ("crushes", "smashes", "easily beats", "blows past", "trounces"),
    "soar": ("soared", "surged", "skyrocketed", "rocketed", "jumped"),
    "plunge": ("plunged", "collapsed", "tumbled", "nosedived", "cratered"),
    "top": ("tops", "beats", "edges past", "comes in ahead of"),
    "miss": ("misses", "falls short of", "comes in below", "lags"),
    "billion": ("2.1", "3.4", "4.8", "6.5", "9.2"),
    "area": ("Europe", "Asia", "North America", "Latin America", "its home market"),
    "product": ("flagship product", "new platform", "main product line", "latest model", "core service"),
    "conference": (
        "the Harbor City conference",
        "an industry forum",
        "the Lakeside investor day",
        "the Meadow conference",
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday"),
    "month": ("January", "March", "May", "July", "September", "November"),
    "function": ("investor relations", "facilities", "procurement", "internal audit", "data policy"),
    "hour": ("8 am", "9 am", "2 pm", "5 pm"),
}

_TEMPLATES: dict[int, tuple[str, ...]] = {
    2: (
        "{company} {crush} {period} {metric} estimates and raises its outlook",
        "{company} {metric} {soar} to a record, well above all forecasts",
        "{company} raises full-year guidance sharply as {driver} {soar}",
        "{company} wins record ${billion} billion contract in {area}",
        "{broker} upgrades {company} to strong buy after stellar {period} results",
        "${ticker} blowout quarter, record {metric} and very strong outlook, great news for holders",
        "{company} stock tipped to rally as {product} becomes a huge success in {area}",
        "Outstanding {period} at {company}: {metric} doubled, dividend raised",
        "${ticker} to the moon, {metric} {soar} and the {product} is a massive hit",
        "{company} boosts buyback by ${billion} billion after best ever {period} {metric}",
        "{company} shares set to surge after breakthrough with its {product}",
        "{company} triumphs in {area} as {metric} hits all-time high",
        "Analysts cheer {company}: {driver} much stronger than anyone expected",
        "{company} wins ${billion} billion court case and lifts {metric} forecast",
    ),
    1: (
        "{company} {period} {metric} {top} estimates",
        "{broker} raises price target on {company}, citing better {driver}",
        "{company} signs profitable supply agreement in {area}, shares seen higher",
        "{company} reports growth in {metric} on better {driver}",
        "{company} gains market share in {area} on healthy {driver}",
        "${ticker} looks good here, {driver} improving, bullish",
        "{broker} upgrades {company} on improving {driver}",
        "{company} wins approval to sell its {product} in {area}",
        "{company} sees higher {metric} on solid {driver}",
        "${ticker} nice {period} beat, adding on strength",
        "{company} extends profitable partnership in {area}, lifting {metric} hopes",
        "Upbeat tone from {company} on {driver} in {area}",
        "{company} {product} draws positive reviews in {area}",
        "{company} lifts dividend slightly after good {period} {metric}",
    ),
    -1: (
        "{company} {period} {metric} {miss} estimates",
        "{broker} cuts price target on {company}, citing weaker {driver}",
        "{company} faces delays to its {product} in {area}, shares seen lower",
        "{company} reports decline in {metric} on weaker {driver}",
        "{company} loses market share in {area} on soft {driver}",
        "${ticker} looks weak here, {driver} slipping, bearish",
        "{broker} downgrades {company} on worsening {driver}",
        "{company} is denied approval to sell its {product} in {area}",
        "{company} warns of lower {metric} on sluggish {driver}",
        "${ticker} disappointing {period} numbers, trimming into weakness",
        "{company} loses supply agreement in {area}, hurting {metric} hopes",
        "Downbeat tone from {company} on {driver} in {area}",
        "{company} {product} draws negative reviews in {area}",
        "{company} trims dividend after poor {period} {metric}",
    ),
    -2: (
        "{company} badly {miss} {period} {metric} estimates and cuts its outlook",
        "{company} {metric} {plunge}, far below all forecasts",
        "{company} slashes full-year guidance as {driver} {plunge}",
        "Regulators open fraud investigation into {company} over {metric} in {area}",
        "{broker} downgrades {company} to strong sell after dismal {period} results",
        "${ticker} terrible quarter, huge loss and profit warning, awful news for holders",
        "{company} recalls its {product} in {area} after safety failures, shares seen sliding",
        "{company} hit by ${billion} billion lawsuit over defects in its {product}",
        "${ticker} is crashing, {metric} {plunge} and the {product} is a disaster",
        "{company} swings to ${billion} billion {period} loss, suspends dividend and cuts jobs",
        "{company} shares set to plunge after failure of its {product}",
        "{company} in crisis in {area} as {metric} sinks to new low",
        "Analysts alarmed about {company}: {driver} much weaker than anyone feared",
        "{company} loses ${billion} billion court case and withdraws {metric} forecast",
    ),
    0: (
        "{company} to present at {conference} on {day}",
        "{company} schedules {period} results for {day} at {hour}",
        "{company} to hold annual meeting in {month}",
        "{company} files {period} report with the regulator",
        "{company} names new head of {function}",
        "Calendar: {company} conference call on {day} at {hour}",
        "Opinion: how to read the {period} accounts of {company}",
        "${ticker} options calendar for {day}, nothing unusual",
        "What the {month} agenda of {company} says about {function}",
        "Explainer: how {company} reports {metric} by region",
        "{company} keeps its {function} team unchanged",
        "Anyone know what time the ${ticker} call is on {day}?",
        "{company} publishes {month} newsletter on {function}",
        "Transcript: {company} at {conference}",
        "{company} moves its {function} office to another building in {month}",
    ),
}
_PAIR_TEMPLATES = (
    "{company} and {other} both to present at {conference} on {day}",
    "Explainer: how {company} and {other} report {metric} by region",
    "Calendar: {company} and {other} conference calls on {day}",
    "{company} and {other} stay in the index at the {month} review",
    "Opinion: reading the {period} accounts of {company} and {other}",
)


def companies(n: int) -> list[Company]:
    """The first n companies: nine that everybody knows by name, then numbered ones."""
    return [NAMED[i] if i < len(NAMED) else _numbered(i) for i in range(n)]


def company(i: int) -> Company:
    return companies(i + 1)[i] if i < len(NAMED) else _numbered(i)


def pool(i: int) -> list[str]:
    """The POOL_SIZE texts of ticker i: grade after grade in the order of GRADES, then those that name i ^ 1 as well."""
    own, other = company(i), company(i ^ 1)
    texts = [text for grade in GRADES for text in _fill(_TEMPLATES[grade], COUNT[grade], i, own, other)]
    texts += _fill(_PAIR_TEMPLATES, PAIR_COUNT, i, own, other)
    return [
        _with_personal_data(text, k) if k % _PERSONAL_EVERY == i % _PERSONAL_EVERY else text
        for k, text in enumerate(texts)
    ]


def _fill(templates: tuple[str, ...], count: int, i: int, own: Company, other: Company) -> list[str]:
    """`count` distinct texts, template after template in turn, each time with the next words of its slots."""
    names = {"company": own.name, "ticker": own.ticker, "other": other.name}
    choices = [_choices(template) for template in templates]
    texts: dict[str, None] = {}
    turn = 0
    while len(texts) < count:
        template, words = templates[turn % len(templates)], choices[turn % len(templates)]
        # steps of a golden share of the choices walk through all of them, far apart from each other
        number = turn // len(templates) + 13 * i
        texts[template.format(**names, **words[round(number * 0.6180339887 * len(words)) % len(words)])] = None
        turn += 1
    return list(texts)


def _choices(template: str) -> list[dict[str, str]]:
    slots = [name for name in re.findall(r"{(\w+)}", template) if name in _SLOTS]
    return [dict(zip(slots, words, strict=True)) for words in product(*(_SLOTS[name] for name in slots))]


def _with_personal_data(text: str, k: int) -> str:
    number = k // _PERSONAL_EVERY
    endings = (
        f"via @tape_reader_{number:02d}",
        f"https://news.example.com/a/{number:04d}",
        f"(desk{number:02d}@example.com)",
        f"tel. +1 202-555-01{number:02d}",
    )
    return f"{text} {endings[number % len(endings)]}"


def _numbered(i: int) -> Company:
    first, second = _FIRST[i % len(_FIRST)], _SECOND[i // len(_FIRST) % len(_SECOND)]
    series = i // (len(_FIRST) * len(_SECOND))
    name = f"{first}{second}" + (f" {series + 1}" if series else "")
    sector = second.split(" ")[1]
    return Company(f"T{i:04d}", name, sector, 0.012 + 0.02 * (i * 37 % 101) / 100, 20.0 + i * 53 % 180)
