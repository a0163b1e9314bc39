"""What the book says of simulated markets with a known answer: metrics/lab_recovery.json and metrics/canaries.json."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import results
from exhibits import NOTHING, Paragraph, Table, decimal, share, text, words
from figures import CYCLE, FAINT, WIDTH, show
from optional import drawing, has, needs

RECOVERY, CANARIES = "lab_recovery.json", "canaries.json"
MARKETS = ("planted", "reversed", "null")
STAMP = "SIMULATED."


@needs(RECOVERY)
def recovered() -> Paragraph:
    """Whether what was planted was found, and nothing else, in words."""
    content = results.metrics("lab_recovery")
    said = []
    for kind in MARKETS:
        one = content[kind]
        failed = [words(key) for key, found in one["criteria"].items() if not found["passed"]]
        verdict = f"fails: {', '.join(failed)}" if failed else f"all {len(one['criteria'])} criteria hold"
        said.append(f"{kind} ({len(one['seeds'])} markets): {verdict}")
    return Paragraph(
        STAMP,
        f"{'; '.join(said)}. Markets of {content['n_tickers']} tickers, a model trained anew in each. This says that "
        "the machinery finds what is there, and never that a market is like this.",
    )


@needs(RECOVERY)
def criteria() -> Table:
    """Every criterion beside its value."""
    content = results.metrics("lab_recovery")
    rows = [
        (kind, words(name), text(one["value"]), f"{one['rule']} {text(one['criterion'])}", one["passed"])
        for kind in MARKETS
        for name, one in content[kind]["criteria"].items()
    ]
    return Table(rows, ["market", "measure", "value", "asked", "holds"], right=[2])


@needs(RECOVERY)
def systems() -> Table:
    """Information coefficient and Sharpe ratio of each system, with intervals, beside the oracle."""
    content = results.metrics("lab_recovery")
    rows = [
        (
            kind,
            words(name),
            decimal(row["ic"], 3),
            _interval(row, "ic", 3),
            share(row.get("ic_share")),
            decimal(row["sharpe_gross"]),
            _interval(row, "sharpe_gross", 2),
            share(row.get("sharpe_gross_share")),
        )
        for kind in MARKETS
        for name, row in content[kind]["systems"].items()
    ]
    head = ["market", "system", "IC", "interval", "of oracle", "Sharpe", "interval", "of oracle"]
    return Table(rows, head, right=range(2, len(head)))


@needs(RECOVERY)
def flags() -> Table:
    """Flagged contradictions against the planted ones, by rule."""
    content = results.metrics("lab_recovery")
    rows = [
        (
            kind,
            words(rule),
            row["n_flagged"],
            *(decimal(row[part], 3) for part in ("precision", "recall", "f1")),
            _interval(row, "f1", 3),
        )
        for kind in MARKETS
        for rule, row in content[kind]["flags"].items()
        if isinstance(row, dict) and "n_flagged" in row
    ]
    return Table(
        rows, ["market", "flagged by", "flags", "precision", "recall", "mean (F1)", "interval"], right=range(2, 7)
    )


def recovery_picture() -> Any:
    return drawing("lab_recovery.svg", _recovery_alt, of=RECOVERY)


def _recovery_alt() -> str:
    content = results.metrics("lab_recovery")
    said = [
        f"{kind}: " + ", ".join(f"{words(name)} {row['ic']:.3f}" for name, row in content[kind]["systems"].items())
        for kind in MARKETS
    ]
    return f"SIMULATED. Information coefficient by market and of all markets together. {'; '.join(said)}."


@needs(CANARIES)
def watched() -> Paragraph:
    """Whether every canary passed and every planted leak was caught."""
    content = results.metrics("canaries")
    failed = [words(name) for name, one in content["canaries"].items() if not one["passed"]]
    missed = [words(name) for name, one in content["mutants"].items() if not one["caught_by"]]
    said = f"All {len(content['canaries'])} canaries passed" if not failed else f"Failed canaries: {', '.join(failed)}"
    caught = (
        f"all {len(content['mutants'])} planted leaks were caught" if not missed else f"not caught: {', '.join(missed)}"
    )
    return Paragraph(STAMP, f"{said}; {caught}.")


@needs(CANARIES)
def canaries() -> Table:
    rows = [
        (words(name), text(one["value"]), one["criterion"], one["passed"])
        for name, one in results.metrics("canaries")["canaries"].items()
    ]
    return Table(rows, ["canary", "value", "asked", "passed"], right=[1])


@needs(CANARIES)
def leaks() -> Table:
    """Each planted leak with the kinds of canaries that caught it."""
    rows = [
        (
            words(name),
            len(one["caught_by"]),
            ", ".join(dict.fromkeys(words(by.split("/")[0]) for by in one["caught_by"])),
        )
        for name, one in results.metrics("canaries")["mutants"].items()
    ]
    return Table([(*row[:2], row[2] or "nothing") for row in rows], ["leak", "alarms", "caught by"], right=[1])


def canaries_picture() -> Any:
    """How much of what is allowed each canary used, and which kind of canary caught each planted leak."""
    if not has(CANARIES):
        return drawing("canaries.svg", str, of=CANARIES)
    used = pd.read_csv(results.METRICS / "canaries.csv").dropna(subset="used").iloc[::-1]
    caught = {
        name: dict.fromkeys(by.split("/")[0] for by in one["caught_by"])
        for name, one in results.metrics("canaries")["mutants"].items()
    }
    kinds = list(dict.fromkeys(kind for found in caught.values() for kind in found))
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 4.4), width_ratios=(1, 0.8))
    places = range(len(used))
    colours = [CYCLE[0] if passed else CYCLE[1] for passed in used["passed"]]
    left.hlines(places, 0, used["used"], color=colours, linewidth=1)
    left.scatter(used["used"], places, color=colours, s=14, zorder=3)
    left.axvline(1, color=FAINT, linestyle="--", linewidth=1)
    left.set_yticks(places, [words(name) for name in used["canary"]], fontsize=6.5)
    left.set(xlabel="share of what is allowed", title="used by each canary")
    for row, found in enumerate(caught.values()):
        right.scatter([kinds.index(kind) for kind in found], [row] * len(found), color=CYCLE[0], s=22)
    right.set_yticks(range(len(caught)), [words(name) for name in caught], fontsize=6.5)
    right.set_xticks(range(len(kinds)), [words(kind) for kind in kinds], rotation=40, ha="right", fontsize=6.5)
    right.set(xlim=(-0.6, len(kinds) - 0.4), ylim=(len(caught) - 0.5, -0.5), title="leaks, caught by")
    right.grid(color="#eceff2", linewidth=0.6)
    right.set_axisbelow(True)
    told = "; ".join(f"{words(name)}: {', '.join(map(words, found)) or 'nothing'}" for name, found in caught.items())
    most = used.loc[used["used"].idxmax()]
    return show(
        figure,
        f"{watched().start} {watched().rest} Left: share of what is allowed that each canary used; the largest is "
        f"{most['used']:.2f} ({words(most['canary'])}). Right, what caught each planted leak: {told}.",
    )


def _interval(row: dict[str, Any], name: str, places: int) -> str:
    low, high = row[f"{name}_lo"], row[f"{name}_hi"]
    return NOTHING if low is None or high is None else f"{decimal(low, places)}\u00a0to\u00a0{decimal(high, places)}"
