"""Personal data ends here: placeholders in text, keyed hashes for identifiers, counts before and after.

Text keeps its meaning and loses its people: links become <url>, e-mail addresses <email>, telephone numbers
<phone>, handles @user. The order matters: a link may hold an address, a handle and digits; an address holds what
looks like a handle. Cashtags ($TSLA), prices (also "@ 120.50" and "@120.50"), percentages, dates and share counts
stay. A name without any such mark ("Tim Cook") is news and stays as well.

Identifiers (of items and of authors) become BLAKE2b keyed hashes [RFC 7693] of 32 hexadecimal digits. The key comes
from $FUSION_ALPHA_PII_KEY. For archives that are public anyway a documented public key stands in, so that results
reproduce; with it, whoever holds the archive can recompute the hashes, so it hides nothing from them.

Regular expressions rather than a named-entity model: every kind replaced here has a written form, and the four
patterns run over 100,000 tweets in a few seconds without a model, a download or a score to threshold.
"""

import hashlib
import os
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion_alpha.errors import InputError

KEY_VARIABLE = "FUSION_ALPHA_PII_KEY"
PUBLIC_KEY = "fusion-alpha public archive key 1"  # public on purpose, see above
MIN_KEY_CHARACTERS = 16

# What may follow the host of a link: printable ASCII but quotes and angle brackets, not ending in punctuation.
_TAIL = r"[!#-;=?-~]*[A-Za-z0-9/=_~%&+#-]"
_TOP_LEVEL = r"(?:com|net|org|co|ly|me|gl|it|io|us|tv|info|biz|to|cc|am|in|be|uk|de|fr)"
_LINK = re.compile(  # no IGNORECASE: with it the search could not skip to the next h or f
    rf"(?:[hH][tT][tT][pP][sS]?|[fF][tT][pP])://[\w.@:%-]+(?:[/?#](?:{_TAIL})?)?…?"
    r"|\b[hH][tT][tT][pP][sS]?(?::/{0,2})?…|\b[hH][tT][tT]…",  # cut off by a length limit
)
_BARE_LINK = re.compile(
    rf"\bwww\d?\.[\w-]+\.[\w.-]+(?:[/?#](?:{_TAIL})?)?"
    rf"|(?<![\w@.-])[a-z0-9](?:[a-z0-9-]*\.)+{_TOP_LEVEL}/[A-Za-z0-9]{_TAIL}",
    re.IGNORECASE,
)
_EMAIL = re.compile(
    r"[\w.%+-]+@[\w-]+(?:\.[\w-]+)*\.[^\W\d_]{2,}"
    r"|[\w.%+-]+ ?[\[(] ?at ?[\])] ?[\w-]+(?: ?(?:\.|[\[(] ?dot ?[\])]) ?[\w-]+)+"
    r"|[\w.%+-]+ at [\w-]+ dot (?:com|net|org|co|io|edu)\b",
    re.IGNORECASE,
)
_NANP = r"\(?[2-9]\d{2}\)?[ .-]?[2-9]\d{2}[ .-]?\d{4}"  # North America: area code, exchange, line
_END = r"(?![\w%]|[.,-]\d)"
_PHONE = re.compile(
    r"(?<![\w$€£#.,:/+-])"
    r"(?:(?:\+?1[ .-]?)?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}-)[2-9]\d{2}[ .-]\d{4}"
    r"|(?:\+?1\.)?[2-9]\d{2}\.[2-9]\d{2}\.\d{4}"
    rf"|\+1[ .-]?{_NANP}"
    r"|1[ -]8(?:00|33|44|55|66|77|88)[ -][2-9]\d{2}[ -]\d{4}"
    r"|\(\d{2,3}\) ?\d{4,5}-\d{4}"
    r"|0\d{9,10}|0[1-9]\d{1,3}[ -]\d{3,4}[ -]?\d{3,4}"  # no price or count starts with a zero
    rf"|\+[2-9](?=(?:[ ()-]{{0,2}}\d){{8}})\d{{0,2}}(?:[ -]?\(?\d{{1,4}}\)?){{2,6}}){_END}"  # fewer digits: a change
    # A bare run of digits is a telephone number only where a word says so.
    r"|(?P<word>(?:tel|phone|mobile|whatsapp|call|cell|text|sms|fax)"
    rf"(?:[.:]? ?(?:us|me|now|at|on|no\.?|number|#|-)){{0,2}}[.:]? ?)(?:\+?1[ .-]?)?{_NANP}{_END}",
    re.IGNORECASE,
)
_PRICE_LIKE = r"\d[\d.,]{0,9}(?:[kmbcx%]|am|pm)?(?![A-Za-z0-9_])"  # "@520", "@1.05", "@2pm"
_HANDLE = re.compile(
    rf"[@＠](?!user(?![A-Za-z0-9_]))(?!{_PRICE_LIKE})(?:[A-Za-z0-9_]{{1,30}}|[^\W\d_]\w{{0,29}})", re.IGNORECASE
)


@dataclass(frozen=True)
class _Kind:
    name: str
    pattern: re.Pattern[str]
    placeholder: str
    hint: re.Pattern[str]  # cheap; where it is absent the pattern cannot match


_PATTERNS = (  # in this order
    _Kind("links", _LINK, "<url>", re.compile("://|…")),
    _Kind("links", _BARE_LINK, "<url>", re.compile(r"[wW]{3}\d?\.|\.[A-Za-z]{2,4}/")),
    _Kind("emails", _EMAIL, "<email>", re.compile(r"[\w.%+-]@[\w-]+\.|[aA][tT] ?[\])]| [dD][oO][tT] ")),
    _Kind("phones", _PHONE, r"\g<word><phone>", re.compile(r"(?:\d\D{0,3}){8}\d")),
    _Kind("handles", _HANDLE, "@user", re.compile("[@＠]")),
)
KINDS = tuple(dict.fromkeys(kind.name for kind in _PATTERNS))


def scrub(text: str) -> str:
    """`text` with links, e-mail addresses, telephone numbers and handles replaced by placeholders."""
    return scrub_counted(text)[0]


def scrub_counted(text: str) -> tuple[str, tuple[int, ...]]:
    """The scrubbed text and how many of each of KINDS it held; scrubbing the result again changes nothing."""
    totals = dict.fromkeys(KINDS, 0)
    replaced = 1
    while replaced:  # a placeholder may uncover what stood against it; every pass leaves less to replace
        replaced = 0
        for kind in _PATTERNS:
            if kind.hint.search(text):
                text, count = kind.pattern.subn(kind.placeholder, text)
                totals[kind.name] += count
                replaced += count
    return text, tuple(totals.values())


def scrub_all(texts: pd.Series) -> tuple[pd.Series, dict[str, int]]:
    """Scrub a column; each distinct text once. Returns it and the counts of KINDS over all rows."""
    codes, distinct = pd.factorize(texts)
    scrubbed = [scrub_counted(text) for text in distinct]
    counts = np.array([counts for _, counts in scrubbed], dtype=np.int64).reshape(len(distinct), len(KINDS))
    totals = np.bincount(codes, minlength=len(distinct)) @ counts
    column = pd.Series([text for text, _ in scrubbed], dtype="str").take(codes)
    return column.set_axis(texts.index), dict(zip(KINDS, totals.tolist(), strict=True))


@dataclass(frozen=True)
class Key:
    """A secret for keyed hashes; `private` is False for the documented public key."""

    secret: bytes
    private: bool

    @property
    def fingerprint(self) -> str:
        """Tells keys apart without giving them away: 16 hexadecimal digits."""
        return hashlib.blake2b(self.secret, digest_size=8, person=b"fingerprint").hexdigest()

    def hash(self, kind: str, values: pd.Series) -> pd.Series:
        """Keyed hashes of a column, nulls stay null; equal values of two kinds have different hashes."""
        codes, distinct = pd.factorize(values)
        person = kind.encode()
        hashes = [
            hashlib.blake2b(value.encode(), key=self.secret, digest_size=16, person=person).hexdigest()
            for value in distinct
        ]
        column = pd.Series([*hashes, None], dtype="str").take(codes)  # code -1, a null, takes the last
        return column.set_axis(values.index)


def key(public: bool, has_authors: bool) -> Key:
    """The key of $FUSION_ALPHA_PII_KEY, else the public one for public archives and for rows without authors.

    Raises InputError when authors of a source that is not public would be hashed with the public key, and for
    a key shorter than MIN_KEY_CHARACTERS.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given is None and has_authors and not public:
        raise InputError(
            f"${KEY_VARIABLE} is not set",
            rule="authors of a source with data.public=false are hashed with a secret key",
            remedy=f"export {KEY_VARIABLE}=$(python -c 'import secrets; print(secrets.token_hex(32))') and keep it",
        )
    if given is not None and len(given) < MIN_KEY_CHARACTERS:
        raise InputError(
            f"${KEY_VARIABLE} has {len(given)} characters",
            rule=f"at least {MIN_KEY_CHARACTERS}",
            remedy="make one with python -c 'import secrets; print(secrets.token_hex(32))'",
        )
    secret = hashlib.blake2b((given or PUBLIC_KEY).encode()).digest()  # any length of key -> the 64 bytes BLAKE2b takes
    return Key(secret, private=given is not None)
