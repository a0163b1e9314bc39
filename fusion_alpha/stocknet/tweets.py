"""Tweets as the benchmark's systems read them: what is said, without links, handles and lists of other tickers.

The interim text of a tweet becomes, for the ticker in whose folder it lies:

    <url> <email> <phone> @user RT via    out
    two and more cashtags in a row        out (which tickers they name is counted, not read)
    the ticker's own cashtag              "the company"
    another cashtag within a sentence     "another company"
    hashtags at the end                   out; elsewhere they lose their mark

A tweet is written about many tickers more often than about one, so the same tweet may read differently for two.
Its weight is a product of what is known when it is published.
"""

import html
import re

import numpy as np
import pandas as pd

OWN, OTHER = "the company", "another company"
_PLACEHOLDER = re.compile(r"<(?:url|email|phone)>|\b(?:RT|[vV]ia) @user:?|@user:?")
_TAG = r"\$[A-Za-z][A-Za-z]{0,9}(?:[._-][A-Za-z]{1,2})?(?![\w$])"
_CASHTAG = re.compile(rf"(?<![\w$]){_TAG}")
_LIST = re.compile(rf"(?<![\w$]){_TAG}(?:(?:\s*(?:[,;/|&+]|and\b)\s*|\s+){_TAG})+")
_LAST_HASHTAGS = re.compile(r"(?:[\s.,;:|-]*#\w+)+[\s….]*$")
RECENT_DAYS = 5
_HALF_LIFE_HOURS = 24.0
_EDGES = " -–—|:;,>»→~*…"


def plain(text: str, ticker: str) -> str:
    """What the tweet says to a reader who is interested in `ticker`; "" where it says nothing."""
    text = _PLACEHOLDER.sub(" ", html.unescape(text))  # once more: some come encoded twice
    text = _LIST.sub(" ", text)
    text = _CASHTAG.sub(lambda tag: f" {OWN} " if root(tag[0][1:]) == root(ticker) else f" {OTHER} ", text)
    text = _LAST_HASHTAGS.sub("", text).replace("#", "")
    return " ".join(text.split()).strip(_EDGES)


def root(symbol: str) -> str:
    """Symbol without its share class: BRK-A, BRK.B and brk are one company."""
    return re.split(r"[._-]", symbol)[0].upper()


def tags(text: str) -> set[str]:
    """Tickers that a text names by cashtag."""
    return {root(tag[1:]) for tag in _CASHTAG.findall(text)}


def named(news: pd.DataFrame) -> pd.Series:
    """Which tweets name the ticker in whose folder they lie. news: text, ticker."""
    found = [root(ticker) in tags(text) for text, ticker in zip(news["text"], news["ticker"], strict=True)]
    return pd.Series(found, index=news.index, dtype=bool)


def weigh(news: pd.DataFrame, repeats: pd.Series) -> pd.Series:
    """Weight of each tweet among those of its bar, from it and from earlier tweets.

    news: published_utc, author_key, followers, n_tags (tickers named), age_hours (at the end of its bar's tweets);
    repeats: equal texts about its ticker in the five days before. The product of

        novelty    1 / (1 + repeats): reposts and the templates of machines
        focus      1 / sqrt(n_tags): a list of twenty tickers says little about each
        author     1 / sqrt(1 + the author's tweets in the five days before): machines that write all day
        audience   log(10 + followers) / log(1000)
        recency    2^(-age_hours / 24)
    """
    volume = earlier(news["author_key"].fillna(""), news["published_utc"])
    audience = np.log(10 + news["followers"].fillna(0).astype("float64")) / np.log(1000)
    recency = np.exp2(-news["age_hours"] / _HALF_LIFE_HOURS)
    return recency * audience / (1 + repeats) / np.sqrt(news["n_tags"].clip(lower=1) * (1 + volume))


def earlier(key: pd.Series, when: pd.Series) -> pd.Series:
    """Rows of the same key in the five days before each row; itself and what came at the same time do not count."""
    if key.empty:
        return pd.Series(0, key.index)
    codes, _ = pd.factorize(key)
    seconds = ((when - when.min()) // pd.Timedelta(seconds=1)).to_numpy(np.int64)
    window = 86_400 * RECENT_DAYS
    place = codes * (seconds.max() + window + 1) + seconds  # one axis; two keys are farther apart than the window
    ordered = np.sort(place)
    return pd.Series(np.searchsorted(ordered, place) - np.searchsorted(ordered, place - window), key.index)
