"""How much personal data the scrubber finds, and what it takes for such: recall and precision by kind of identifier.

The texts are our own: the forms of fusion_alpha.pii_forms, filled in from a named seed and put into tweets and
headlines. They measure what their author thought of. The held-out half was written before the scrubber was run on it,
and the scrubber is not corrected by its misses. Two measures are not our own: the example numbers of every region that
libphonenumber knows, as it writes them; and StockNet's tweets, where the archive is on this machine: how much is
replaced, and in how many texts a mark of personal data stands that knows nothing of the scrubber's patterns. Of those
tweets counts alone are written, never a text.

    recall       share of identifiers of which nothing is left but a placeholder; below three letters in a row and
                 four digits in all count as nothing
    precision    share of the texts with a kind's placeholder that held that kind
    harmless     forms of harmless text in which anything was replaced
    intervals    Wilson's, with forms (or regions) for trials: texts of one form are found, or missed, together

Run     python -m fusion_alpha.pii_check [--texts 20] [--archive stocknet.zip] [--output metrics/pii.json]
Writes  metrics/pii.json, and metrics/pii_stocknet.json where --archive or $STOCKNET_ARCHIVE names the zip
"""

import argparse
import logging
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from string import ascii_letters, ascii_uppercase, digits, hexdigits
from typing import Any

import pandas as pd

from fusion_alpha import cleaning, config, pii, pii_forms
from fusion_alpha.errors import InputError
from fusion_alpha.files import write_json
from fusion_alpha.sources import stocknet
from fusion_alpha.stage import console

log = logging.getLogger(__name__)

SEED = "labelled texts 1"
OUTPUT = Path("metrics/pii.json")
CONFIDENCE = 0.95
HALVES = {
    "held_out": (pii_forms.HELD_OUT, pii_forms.HELD_OUT_HARMLESS),
    "development": (pii_forms.DEVELOPMENT, pii_forms.DEVELOPMENT_HARMLESS),
}
HARMLESS = "harmless"

_FIRST = ("maria", "jonas", "aisha", "wei", "carlos", "emily", "rajesh", "olga", "pierre", "yuki", "kwame", "lena")
_LAST = ("keller", "okafor", "lindqvist", "ramirez", "tanaka", "osullivan", "petrova", "mehta", "dubois", "novak")
_WORD = ("brightmoor", "quantara", "helixon", "northvane", "calderis", "ostrava", "lumenfold", "pinecrest", "ardentis")
_TOKEN = re.compile(r"\{(\w+?)(\d*)(?::([A-Z]*)(?::?([ .-]?)))?\}")
_DRAWN = {"d": digits, "n": digits[2:], "w": digits + ascii_letters, "x": hexdigits[:16], "A": ascii_uppercase}
_IBAN = {"DE": "d18", "GB": "A4d14", "FR": "d23", "NL": "A4d10", "CH": "d17", "ES": "d20", "AT": "d16", "BE": "d12"}
_PLACEHOLDER = re.compile(r"<(?:url|email|phone|account)>|@user\b")
_MARKS = {  # what a reader would stop at; no pattern of the scrubber's
    "at_sign_before_a_letter": re.compile(r"@(?!user)[^\W\d_]"),
    "scheme": re.compile(r"\w://\w", re.IGNORECASE),
    "www": re.compile(r"\bwww\.\w", re.IGNORECASE),
    "domain_and_path": re.compile(r"\w\.(?:com|net|org|ly|co|me|tv|gl)/\w", re.IGNORECASE),
    "ten_digits_in_groups": re.compile(r"(?<![\d$.,])\(?\+?\d{1,4}\)?(?:[ -]\(?\d{2,4}\)?){2,4}(?![\d.,%])"),
    "ten_digits_or_more": re.compile(r"(?<![\d.,$])\d{10,}(?![\d.,%])"),
}


@dataclass(frozen=True)
class Labelled:
    """A text with one identifier of a kind, or without any; `form` is what it was made of."""

    kind: str
    form: str
    before: str
    value: str
    after: str

    @property
    def text(self) -> str:
        return f"{self.before}{self.value}{self.after}"


@dataclass
class _Tally:
    """Texts of each form, and those for which something held."""

    texts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    held: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, form: str, holds: bool) -> None:
        self.texts[form] += 1
        self.held[form] += holds

    def share(self, name: str) -> dict[str, Any]:
        """The share under `name` with its interval; all null without a text."""
        total = sum(self.texts.values())
        ends = (f"{name}_lo", f"{name}_hi")
        if not total:
            return dict.fromkeys((name, *ends))
        found = sum(self.held.values()) / total
        return {name: round(found, 6)} | dict(zip(ends, wilson(found, len(self.texts)), strict=True))

    def below(self) -> list[str]:
        """Forms for which it did not always hold."""
        return [form for form, texts in self.texts.items() if self.held[form] < texts]


def wilson(share: float, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a share of so many trials, at CONFIDENCE.

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (share * (1 - share) / trials + z * z / (4 * trials * trials)) ** 0.5
    return round(max(0.0, middle - half), 6), round(min(1.0, middle + half), 6)


def labelled(forms: pii_forms.Forms, harmless: Sequence[str], texts: int) -> Iterator[Labelled]:
    """`texts` texts of every form, the same at every call."""
    for kind, form in [(kind, form) for kind, listed in (*forms.items(), (HARMLESS, harmless)) for form in listed]:
        draw = random.Random(f"{SEED}: {kind} {form}")
        for number in range(texts):
            carrier = pii_forms.CARRIERS[number % len(pii_forms.CARRIERS)]
            start, end = carrier.split("{}")
            before, value, after = form.partition("«")[0], *_marked(form)
            filled = [_filled(part, draw) for part in (start + before, value, after + end)]
            yield Labelled(kind, form, *filled)


def _marked(form: str) -> tuple[str, str]:
    """What is between the marks, and what follows them."""
    value, _, after = form.partition("«")[2].partition("»")
    return value, after


def _filled(part: str, draw: random.Random) -> str:
    person = {"first": draw.choice(_FIRST), "last": draw.choice(_LAST), "word": draw.choice(_WORD)}
    person["FIRST"], person["Last"] = person["first"].upper(), person["last"].title()
    person |= {"First": person["first"].title(), "LAST": person["last"].upper(), "WORD": person["word"].upper()}
    person |= {"Word": person["word"].title(), "open": "{", "close": "}"}

    def value(found: re.Match[str]) -> str:
        name, count, country, mark = found.groups()
        if name in person:
            return person[name]
        if name in _DRAWN:
            return "".join(draw.choice(_DRAWN[name]) for _ in range(int(count or 1)))
        return _account(name, country, mark or "", draw)

    return _TOKEN.sub(value, part)


def _account(name: str, country: str | None, mark: str, draw: random.Random) -> str:
    """A number of a card or an account with its check digits, in groups that `mark` keeps apart."""
    if name == "iban":
        assert country is not None
        runs = [(_DRAWN[kind], int(count)) for kind, count in re.findall(r"([dA])(\d+)", _IBAN[country])]
        body = "".join(draw.choice(characters) for characters, count in runs for _ in range(count))
        check = 98 - int("".join(str(int(letter, 36)) for letter in f"{body}{country}00")) % 97
        whole = f"{country}{check:02d}{body}"
        return mark.join(whole[start : start + 4] for start in range(0, len(whole), 4))
    first, length = (draw.choice(("34", "37")), 15) if name == "amex" else (draw.choice("45"), 16)
    number = first + "".join(draw.choice(digits) for _ in range(length - len(first) - 1))
    total = sum(sum(divmod(int(digit) * (2 - place % 2), 10)) for place, digit in enumerate(reversed(number)))
    number += str((-total + (name == "notcard")) % 10)
    cuts = (0, 4, 10, 15) if name == "amex" else (0, 4, 8, 12, 16)
    return mark.join(number[start:end] for start, end in pairwise(cuts))


def removed(case: Labelled, scrubbed: str) -> bool:
    """Is nothing of the identifier left? A word of three characters, or more than three digits in all, is something."""
    rest = _PLACEHOLDER.sub(" ", scrubbed)
    around = case.before + case.after
    words = re.findall(r"[^\W_]{3,}", case.value)
    figures = sum(map(str.isdigit, rest)) - sum(map(str.isdigit, around))
    return figures <= 3 and all(rest.count(word) <= around.count(word) for word in words)


def measure(forms: pii_forms.Forms, harmless: Sequence[str], texts: int) -> dict[str, Any]:
    """Recall and precision of each kind, and the harmless forms that were touched."""
    recalls: dict[str, _Tally] = defaultdict(_Tally)
    precisions: dict[str, _Tally] = defaultdict(_Tally)
    for case in labelled(forms, harmless, texts):
        scrubbed, counts = pii.scrub_counted(case.text)
        recalls[case.kind].add(case.form, removed(case, scrubbed) if case.kind != HARMLESS else scrubbed == case.text)
        for kind, count in zip(pii.KINDS, counts, strict=True):
            if count:
                precisions[kind].add(case.form, kind == case.kind)
    untouched = recalls.pop(HARMLESS)
    return {
        "kinds": {kind: _of_kind(tally, precisions[kind], kind in pii.KINDS) for kind, tally in recalls.items()},
        HARMLESS: {
            "forms": len(untouched.texts),
            "texts": sum(untouched.texts.values()),
            "forms_changed": len(untouched.below()),
            "changed": untouched.below(),
        }
        | untouched.share("untouched"),
    }


def _of_kind(found: _Tally, right: _Tally, sought: bool) -> dict[str, Any]:
    return {
        "sought": sought,
        "forms": len(found.texts),
        "texts": sum(found.texts.values()),
        "forms_found": len(found.texts) - len(found.below()),
        "missed": found.below(),
        **found.share("recall"),
        "replaced": sum(right.texts.values()),
        **right.share("precision"),
    }


def of_the_world() -> dict[str, Any]:
    """Recall on libphonenumber's example of a fixed and a mobile number of every region, by the way it writes them."""
    import phonenumbers as library

    ways = {
        "international": (library.PhoneNumberFormat.INTERNATIONAL, ""),
        "without spaces": (library.PhoneNumberFormat.E164, ""),
        "national, after Tel.": (library.PhoneNumberFormat.NATIONAL, "Tel. "),
        "national": (library.PhoneNumberFormat.NATIONAL, ""),
    }
    kinds = (library.PhoneNumberType.FIXED_LINE, library.PhoneNumberType.MOBILE)
    found: dict[str, Any] = {}
    for way, (form, word) in ways.items():
        tally = _Tally()
        for region in sorted(library.SUPPORTED_REGIONS):
            numbers = [library.example_number_for_type(region, kind) for kind in kinds]
            for text in (library.format_number(number, form) for number in numbers if number is not None):
                case = Labelled("phones", region, f"$TSLA up 3.2%, {word}", text, " for the desk")
                tally.add(region, removed(case, pii.scrub(case.text)))
        found[way] = {"regions": len(tally.texts), "numbers": sum(tally.texts.values())} | tally.share("recall")
    return {"version": library.__version__, "ways": found}


def counts(texts: pd.Series) -> dict[str, Any]:
    """What is replaced in a source's texts, and in how many of them a mark of personal data stands before and after."""
    tidy = cleaning.tidy(texts)
    scrubbed, replaced = pii.scrub_all(tidy)
    return {
        "texts": len(tidy),
        "distinct_texts": int(tidy.nunique()),
        "texts_changed": int((tidy != scrubbed).sum()),
        "replaced": replaced,
        "texts_with_a_mark_before": _marks(tidy),
        "texts_with_a_mark_after": _marks(scrubbed),
    }


def _marks(texts: pd.Series) -> dict[str, int]:
    return {
        name: int(texts.map(lambda text, mark=mark: mark.search(text) is not None).sum())
        for name, mark in _MARKS.items()
    }


def _row(name: str, row: dict[str, Any]) -> str:
    precision = f"{row['precision']:9.1%}" if row["precision"] is not None else f"{'-':>9}"
    found = f"{row['forms_found']}/{row['forms']}"
    return f"{name:14}{found:>8}{row['recall']:9.1%} [{row['recall_lo']:.0%}, {row['recall_hi']:.0%}]{precision}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20, help="of every form")
    parser.add_argument(
        "--archive", type=Path, help="StockNet's zip; default $STOCKNET_ARCHIVE, and without it no counts"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    chosen = parser.parse_args(arguments)
    found = {name: measure(forms, harmless, chosen.texts) for name, (forms, harmless) in HALVES.items()}
    try:
        world = of_the_world()
    except ImportError as error:
        console.print(f"{error}\n  remedy: pip install -r requirements.txt", markup=False, soft_wrap=True)
        return 2
    head = {"seed": SEED, "texts_of_a_form": chosen.texts, "confidence": CONFIDENCE, "libphonenumber": world}
    write_json(chosen.output, head | found)
    for name, half in found.items():
        sys.stdout.write(f"{name:14}{'forms':>8}{'recall':>9} {'interval':12}{'precision':>9}\n")
        sys.stdout.writelines(_row(kind, row) for kind, row in half["kinds"].items())
        touched = half[HARMLESS]
        sys.stdout.write(f"{HARMLESS:14}{touched['forms_changed']} of {touched['forms']} forms changed\n\n")
    for name, row in world["ways"].items():
        sys.stdout.write(f"phones, {name:22}{row['recall']:7.1%} of {row['numbers']} in {row['regions']} regions\n")
    try:
        cfg = config.StocknetConfig(str(chosen.archive) if chosen.archive else None, "", None, None, "", "")
        archive = stocknet.local_archive(cfg)
        if archive is None:
            log.info("no StockNet archive here: %s names it", stocknet.VARIABLE)
            return 0
        write_json(chosen.output.with_name(f"{chosen.output.stem}_stocknet.json"), counts(stocknet.texts(archive)))
    except InputError as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
