"""Personal data ends here: placeholders in text, keyed hashes for identifiers, counts before and after.

Text keeps its meaning and loses its people: links become <url>, e-mail addresses <email>, numbers of payment cards and
bank accounts (IBAN) <account>, telephone numbers <phone>, handles @user. The order matters: a link may hold an address,
a handle and digits; an address holds what looks like a handle; an account holds what looks like a telephone number.
Cards and accounts count only with their check digits right. Cashtags ($TSLA), prices (also "@ 120.50" and "@120.50"),
percentages, dates and share counts stay. A name without any such mark ("Tim Cook") is news and stays as well.

Identifiers (of items and of authors) become BLAKE2b keyed hashes [RFC 7693] of 32 hexadecimal digits. The key comes
from $FUSION_ALPHA_PII_KEY. For archives that are public anyway a documented public key stands in, so that results
reproduce; with it, whoever holds the archive can recompute the hashes, so it hides nothing from them.

Regular expressions rather than a named-entity model: every kind replaced here has a written form, and the patterns run
over 100,000 tweets in a few seconds without a model, a download or a score to threshold. What they find and what they
miss is measured: python -m fusion_alpha.pii_check.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusion_alpha.errors import InputError

KEY_VARIABLE = "FUSION_ALPHA_PII_KEY"
PUBLIC_KEY = "fusion-alpha public archive key 1"  # public on purpose, see above
MIN_KEY_CHARACTERS = 16

# What may follow the host of a link: printable ASCII but quotes and angle brackets, not ending in punctuation.
_TAIL = r"[!#-;=?-~]*[A-Za-z0-9/=_~%&+#-]"
_TOP_LEVEL = (
    r"(?:com|net|org|co|ly|me|gl|it|io|us|tv|info|biz|to|cc|am|in|be|uk|de|fr|ai|app|ch|club|dev|es|eu|fm|gd|gg|jp|li"
    r"|link|live|media|news|nl|online|page|pro|ru|se|shop|site|st|tech|vc|ws|xyz)"
)
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
    r"[\w.%+-]+[@＠][\w-]+(?:(?:\.|[\[({]dot[\])}])[\w-]+)*(?:\.|[\[({]dot[\])}])[^\W\d_]{2,}"
    r"|[\w.%+-]+ ?[\[({] ?at ?[\])}] ?[\w-]+(?: ?(?:\.|[\[({] ?dot ?[\])}]) ?[\w-]+)+"
    r"|[\w.%+-]+ at [\w-]+ dot (?:com|net|org|co|io|edu)\b",
    re.IGNORECASE,
)
_SPLIT = r"[ .-]?"
_CARD = re.compile(
    rf"(?<![\w$€£#.,-])(?:3[47]\d\d({_SPLIT})\d{{6}}\1\d{{5}}"
    rf"|(?:[4-6]\d\d\d|2[2-7]\d\d)({_SPLIT})\d{{4}}\2\d{{4}}\2\d{{4}})(?![\w%]|[.,-]\d)"
)
_IBAN_COUNTRIES = {  # by length, as the registry of SWIFT has them [ISO 13616]
    15: "NO", 16: "BE", 18: "DK|FI|FK|FO|GL|NL|SD", 19: "MK|SI", 20: "AT|BA|EE|KZ|LT|LU|MN|XK", 21: "CH|HR|LI|LV",
    22: "BG|BH|CR|DE|GB|GE|IE|ME|RS|VA", 23: "AE|GI|IL|IQ|OM|SO|TL", 24: "AD|CZ|ES|MD|PK|RO|SA|SE|SK|TN|VG",
    25: "LY|PT|ST", 26: "IS|TR", 27: "BI|DJ|FR|GR|IT|MC|MR|SM", 28: "AL|AZ|BY|CY|DO|GT|HN|HU|LB|NI|PL|SV",
    29: "BR|EG|PS|QA|UA", 30: "JO|KW|MU|YE", 31: "MT|SC", 32: "LC", 33: "RU",
}  # fmt: skip
_IBAN = re.compile(
    r"(?<![^\W_])(?:"
    + "|".join(
        rf"(?:{countries})\d\d(?:[ -]?[A-Z0-9]){{{length - 4}}}" for length, countries in _IBAN_COUNTRIES.items()
    )
    + r")(?![^\W_])",
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
    r"|\(\d{2,3}\) ?\d{4,5}-\d{4}|\(0\d{1,4}\)[ -]?\d{3,4}[ -]?\d{3,5}"
    r"|0\d{9,10}|0[1-9]\d{1,3}[ -]\d{3,4}[ -]?\d{3,4}"  # no price or count starts with a zero
    r"|0[1-9](?:[ .]\d\d){4}|0[1-9][ -]\d{4}[ -]\d{4}|0[1-9]\d{1,3}[ /-]\d{5,8}"
    r"|00[1-9]\d?(?=(?:[ ()-]{0,2}\d){7,13}(?!\d))(?:[ -]?\(?\d{1,8}\)?){2,5}"
    rf"|\+[2-9](?=(?:[ ()-]{{0,2}}\d){{8}})\d{{0,2}}(?:[ -]?\(?\d{{1,4}}\)?){{2,6}}){_END}"  # fewer digits: a change
    # A bare run of digits is a telephone number only where a word says so.
    r"|(?P<word>(?:tel|telephone|phone|mobile|whatsapp|call|cell|dial|text|sms|fax|hotline)"
    r"(?:[.:]? ?(?:us|me|now|at|on|in|is|no\.?|number|#|-)){0,2}[.:]? ?)"
    rf"(?:\+?1[ .-]?)?{_NANP}{_END}",
    re.IGNORECASE,
)
_NAMED_PHONE = re.compile(  # a clearer word: any country's way to write a number, but no date
    r"(?<![\w$€£#.,:/+-])(?P<word>(?:tel|telephone|phone|mobile|mob|cell|fax|hotline|whatsapp)[.:]{1,2} ?"
    r"|(?:tel|telephone|fax|whatsapp) )"
    rf"(?!(?:19|20)\d\d[ ./-]\d\d?\b)\+?\(?\d{{1,14}}(?:[ ()./-]{{1,2}}\d{{2,8}}){{0,6}}{_END}",
    re.IGNORECASE,
)
_PRICE_LIKE = r"\d[\d.,]{0,9}(?:[kmbcx%]|am|pm)?(?![A-Za-z0-9_])"  # "@520", "@1.05", "@2pm"
_HANDLE = re.compile(
    r"(?<![\w/.])/?(?-i:u)/[\w-]{3,20}(?![\w/])"  # of Reddit
    rf"|[@＠](?!user(?![A-Za-z0-9_]))(?!{_PRICE_LIKE})(?:[A-Za-z0-9_]{{1,30}}|[^\W\d_]\w{{0,29}})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Kind:
    name: str
    pattern: re.Pattern[str]
    placeholder: str
    hint: re.Pattern[str]  # cheap; where it is absent the pattern cannot match
    holds: Callable[[str], bool] | None = None  # what else must be true of what the pattern finds

    def replaced(self, text: str) -> tuple[str, int]:
        """`text` with placeholders, and how many."""
        if self.holds is None:
            return self.pattern.subn(self.placeholder, text)
        found = [match for match in self.pattern.finditer(text) if self.holds(match[0])]
        for match in reversed(found):
            text = text[: match.start()] + match.expand(self.placeholder) + text[match.end() :]
        return text, len(found)


def has_digits_of_a_phone(text: str) -> bool:
    """At most 15 [ITU-T E.164], and at least 7, as short as numbers of whole countries are."""
    return 7 <= sum(map(str.isdigit, text)) <= 15


def is_card(text: str) -> bool:
    """Do the digits end in the check digit of a payment card? [Luhn, ISO/IEC 7812-1]."""
    digits = [int(digit) for digit in text if digit.isdigit()]
    return sum(sum(divmod(digit * (1 + place % 2), 10)) for place, digit in enumerate(reversed(digits))) % 10 == 0


def is_iban(text: str) -> bool:
    """Are the two check digits of an international bank account number right? [ISO 13616, ISO/IEC 7064]."""
    letters = [letter for letter in text if letter.isalnum()]
    return int("".join(str(int(letter, 36)) for letter in letters[4:] + letters[:4])) % 97 == 1


_PATTERNS = (  # in this order
    _Kind("links", _LINK, "<url>", re.compile("://|…")),
    _Kind("links", _BARE_LINK, "<url>", re.compile(r"[wW]{3}\d?\.|\.[A-Za-z]{2,4}/")),
    _Kind("emails", _EMAIL, "<email>", re.compile(r"[\w.%+-][@＠][\w-]|[aA][tT] ?[\])}]| [dD][oO][tT] ")),
    _Kind("accounts", _IBAN, "<account>", re.compile(r"[A-Za-z]{2}\d\d(?:[ -]?\w){11}"), is_iban),
    _Kind("accounts", _CARD, "<account>", re.compile(r"(?:\d[ .-]?){14}\d"), is_card),
    _Kind("phones", _PHONE, r"\g<word><phone>", re.compile(r"(?:\d\D{0,3}){8}\d")),
    _Kind(
        "phones",
        _NAMED_PHONE,
        r"\g<word><phone>",
        re.compile(r"[A-Za-z][.: ]{1,3}[+(]{0,2}(?:\d\D{0,2}){6}\d"),
        has_digits_of_a_phone,
    ),
    _Kind("handles", _HANDLE, "@user", re.compile("[@＠]|u/")),
)
KINDS = tuple(dict.fromkeys(kind.name for kind in _PATTERNS))
RARE = ("accounts",)  # named in metrics where there are any


def scrub(text: str) -> str:
    """`text` with links, e-mail addresses, accounts, telephone numbers and handles replaced by placeholders."""
    return scrub_counted(text)[0]


def scrub_counted(text: str) -> tuple[str, tuple[int, ...]]:
    """The scrubbed text and how many of each of KINDS it held; scrubbing the result again changes nothing."""
    totals = dict.fromkeys(KINDS, 0)
    replaced = 1
    while replaced:  # a placeholder may uncover what stood against it; every pass leaves less to replace
        replaced = 0
        for kind in _PATTERNS:
            if kind.hint.search(text):
                text, count = kind.replaced(text)
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
