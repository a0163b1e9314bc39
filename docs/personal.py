"""What the book says of personal data: metrics/pii.json and metrics/pii_stocknet.json."""

from collections.abc import Mapping
from typing import Any

import results
from exhibits import NOTHING, Paragraph, Table, decimal, words
from optional import needs

FILE, TWEETS = "pii.json", "pii_stocknet.json"


def _interval(row: Mapping[str, Any], name: str) -> str:
    ends = [row[f"{name}{end}"] for end in ("_lo", "_hi")]
    return NOTHING if None in ends else "\u00a0to\u00a0".join(decimal(end, 0, 100) for end in ends)


@needs(FILE)
def found(half: str) -> Table:
    """Recall and precision of each kind of identifier, with intervals."""
    rows = [
        (
            words(kind) + ("" if row["sought"] else ", not sought"),
            f"{row['forms_found']} of {row['forms']}",
            decimal(row["recall"], 0, 100),
            _interval(row, "recall"),
            decimal(row["precision"], 0, 100),
            _interval(row, "precision"),
        )
        for kind, row in results.metrics("pii")[half]["kinds"].items()
    ]
    head = ["kind", "forms always found", "recall %", "interval", "precision %", "interval"]
    return Table(rows, head, right=range(1, len(head)))


@needs(FILE)
def missed() -> Table:
    """Held-out forms of what is sought that are not always found, and harmless ones that are touched."""
    half = results.metrics("pii")["held_out"]
    listed = {words(kind): row["missed"] for kind, row in half["kinds"].items() if row["sought"]}
    listed["harmless, but changed"] = half["harmless"]["changed"]
    rows = [(kind, f"`{form}`") for kind, forms in listed.items() for form in forms]
    return Table(rows, ["kind", "form; what should go is between the marks"])


@needs(FILE)
def harmless() -> Paragraph:
    """How much market language is touched, in words."""
    row = results.metrics("pii")["held_out"]["harmless"]
    return Paragraph(
        "Market language.",
        f"Of {row['forms']} held-out forms of harmless text (tickers, prices, dates, orders, levels, versions), "
        f"{row['forms_changed']} were changed in some text; {row['untouched']:.0%} of their texts stayed as they were "
        f"(interval {row['untouched_lo']:.0%} to {row['untouched_hi']:.0%}).",
    )


@needs(FILE)
def world() -> Table:
    """Recall on the example numbers of every region."""
    rows = [
        (way, row["regions"], row["numbers"], decimal(row["recall"], 1, 100), _interval(row, "recall"))
        for way, row in results.metrics("pii")["libphonenumber"]["ways"].items()
    ]
    return Table(rows, ["written", "regions", "numbers", "recall %", "interval"], right=range(1, 5))


@needs(TWEETS)
def tweets() -> Paragraph:
    """What was replaced in StockNet, in words."""
    content = results.metrics("pii_stocknet")
    replaced = ", ".join(f"{count:,} {words(kind)}" for kind, count in content["replaced"].items())
    return Paragraph(
        "StockNet.",
        f"In {content['texts']:,} tweets ({content['distinct_texts']:,} distinct texts) {replaced} were replaced; "
        f"{content['texts_changed']:,} tweets were changed.",
    )


@needs(TWEETS)
def marks() -> Table:
    """Tweets in which a crude mark of personal data stands, before and after."""
    content = results.metrics("pii_stocknet")
    before, after = content["texts_with_a_mark_before"], content["texts_with_a_mark_after"]
    return Table([(words(name), before[name], after[name]) for name in before], ["mark", "tweets before", "after"])
