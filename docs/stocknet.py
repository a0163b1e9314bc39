"""What the book says of metrics/stocknet.json: tables, and verdicts in words that follow from the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import library
import pandas as pd
import results
import yaml
from exhibits import NOTHING, Paragraph, Table, decimal, text, words
from optional import drawing, needs

FILE, LOG = "stocknet.json", "stocknet_test_runs.csv"
KINDS = ("rule", "baseline", "fused", "control")
LEVEL = 0.05  # of the paired tests, corrected for their number


def _content() -> dict[str, Any]:
    return results.metrics("stocknet")


def _systems(letter: str) -> dict[str, dict[str, Any]]:
    """Systems of a set, by kind: rules, baselines, fused, controls."""
    found = _content()[letter]["systems"]
    return {name: row for kind in KINDS for name, row in found.items() if row["kind"] == kind}


def _interval(pair: Sequence[float] | None, places: int = 3, scale: float = 1.0) -> str:
    return NOTHING if pair is None else "\u00a0to\u00a0".join(decimal(end, places, scale) for end in pair)


def _name(name: str, row: Mapping[str, Any]) -> str:
    return words(name) + ("*" if row["later_text"] else "")


@needs(FILE)
def protocol() -> Paragraph:
    """How it was chosen and scored, with the numbers of the run."""
    content = _content()
    setting, sets = content["settings"], {letter: content[letter] for letter in "AB"}
    sizes = "; ".join(
        f"set {letter} has {one['n']:,} test samples of {one['n_days']} days, {one['n_up'] / one['n']:.1%} of them up"
        for letter, one in sets.items()
    )
    return Paragraph(
        "This run:",
        f"{setting['folds']} walk-forward blocks of {setting['fold_sessions']} sessions, {setting['embargo_sessions']} "
        "sessions purged before each; "
        f"{setting['seeds']} seeds of every system that draws random numbers; intervals "
        f"from blocks of {setting['block_sessions']} sessions. {sizes[0].upper()}{sizes[1:]}.",
    )


@needs(FILE)
def table(letter: str) -> Table:
    """Every system on the test samples of a set."""
    rows = [
        (
            _name(name, row),
            row["kind"],
            decimal(row["mcc"], 3),
            _interval(row["mcc_ci"]),
            decimal(row["mcc_sd"], 3),
            decimal(row["accuracy"], 1, 100),
            decimal(row["balanced_accuracy"], 1, 100),
            decimal(row["share_up"], 0, 100),
            decimal(row["ic_daily"], 3),
        )
        for name, row in _systems(letter).items()
    ]
    head = ["system", "kind", "MCC", "interval", "sd", "acc. %", "bal. %", "up %", "IC"]
    return Table(rows, head, right=range(2, len(head)))


@needs(FILE)
def verdict() -> Paragraph:
    """Whether anything on test differs from chance, by the intervals and by the paired tests."""
    content = _content()
    said = []
    for letter in "BA":
        rows = _systems(letter)
        asked = {name: row["mcc_ci"] for name, row in rows.items() if row["kind"] != "control" and row["mcc_ci"]}
        real = {name: pair for name, pair in asked.items() if pair[0] != pair[1]}
        apart = [words(name) for name, (low, high) in real.items() if low > 0 or high < 0]
        best = max(real, key=lambda name: rows[name]["mcc"])
        found = f"excludes 0 for {_listed(apart)}" if apart else "excludes 0 for none"
        said.append(
            f"On set {letter}, of {len(real)} systems that answer both ways, the interval of the MCC {found}; the "
            f"largest MCC is {rows[best]['mcc']:.3f} ({words(best)}, interval {_interval(real[best])})."
        )
        controls = [
            words(name)
            for name, row in rows.items()
            if row["kind"] == "control" and (row["mcc_ci"][0] > 0 or row["mcc_ci"][1] < 0)
        ]
        if controls:
            said.append(f"Controls that should find nothing and do: {_listed(controls)}.")
        pairs = content[letter]["paired"]
        better = [f"{words(pair['system'])} from {words(pair['against'])}" for pair in pairs if pair["p_holm"] <= LEVEL]
        least = min(pair["p_holm"] for pair in pairs)
        told = f"tell apart {_listed(better)}" if better else "tell nothing apart"
        said.append(f"Its {len(pairs)} paired tests {told} (smallest corrected p: {least:.2g}).")
    return Paragraph("Verdict.", " ".join(said))


@needs(FILE)
def paired(letter: str) -> Table:
    """Each fused system less its rivals on the same samples, p corrected for the number of tests."""
    rows = [
        (
            words(pair["system"]),
            words(pair["against"]),
            decimal(pair["accuracy_difference"], 1, 100),
            _interval(pair["accuracy_difference_ci"], 1, 100),
            decimal(pair["mcc_difference"], 3),
            _interval(pair["mcc_difference_ci"]),
            decimal(pair["p"], 3),
            decimal(pair["p_holm"], 3),
        )
        for pair in _content()[letter]["paired"]
    ]
    head = ["system", "against", "accuracy", "interval", "MCC", "interval", "p", "p (Holm)"]
    return Table(rows, head, right=range(2, len(head)))


@needs(FILE)
def months(letter: str) -> Table:
    """MCC by month of test; the first row counts samples and ups."""
    rows = _systems(letter)
    first = next(iter(rows.values()))["by_month"]
    counts = ("samples (up)", *(f"{row['n']:,} ({row['n_up'] / row['n']:.0%})" for row in first.values()))
    body = [
        (_name(name, row), *(decimal(month["mcc"], 3) for month in row["by_month"].values()))
        for name, row in rows.items()
    ]
    return Table([counts, *body], ["system", *first], right=range(1, len(first) + 1))


@needs(FILE)
def walk_forward() -> Table:
    """What choosing saw beside what test said."""
    content = _content()
    rows = []
    for name, row in _systems("B").items():
        if name in content["walk_forward"]:
            seen, choice = content["walk_forward"][name], content["choices"][name]
            cells = [text(choice.get("tried")), decimal(choice.get("wf_loss"), 4)]
            for letter in "BA":
                cells += [decimal(seen[letter]["mcc"], 3), _interval(seen[letter]["mcc_ci"])]
                cells += [decimal(content[letter]["systems"][name]["mcc"], 3)]
            rows.append((_name(name, row), *cells))
    head = [
        "system",
        "tried",
        "loss",
        *(f"{letter}: {part}" for letter in "BA" for part in ("seen", "interval", "test")),
    ]
    return Table(rows, head, right=range(1, len(head)))


@needs(FILE)
def shrinkage() -> Paragraph:
    """How much of what walk-forward promised is left on test, of the systems chosen there."""
    content = _content()
    pairs = {
        name: (seen["B"]["mcc"], content["B"]["systems"][name]["mcc"])
        for name, seen in content["walk_forward"].items()
        if content["B"]["systems"][name]["kind"] in ("baseline", "fused")
    }
    lower = sum(test < seen for seen, test in pairs.values())
    leader = max(pairs, key=lambda name: pairs[name][0])
    seen, test = pairs[leader]
    return Paragraph(
        "Seen and found.",
        f"Of {len(pairs)} systems with settings, {lower} have a lower MCC on test (set B) than in walk-forward. The "
        f"best of walk-forward, {words(leader)}, goes from {seen:.3f} to {test:.3f}. The best baseline there, which "
        f"the others are tested against, was {words(content['best_baseline'])}.",
    )


@needs(LOG)
def looks() -> Table:
    """Every time that test was opened."""
    rows = [
        (row.date, f"`{row.commit}`", f"`{row.configuration}`", len(row.systems.split()), int(row.samples))
        for row in pd.read_csv(results.METRICS / LOG, dtype={"commit": str, "configuration": str}).itertuples()
    ]
    return Table(rows, ["date", "commit", "configuration", "systems", "samples"])


@needs(FILE)
def published() -> Table:
    """Published figures and ours, by set of samples; an interval is known of ours alone."""
    listed = _published()["systems"]
    rows: list[Sequence[Any]] = []
    for letter in ("A", "B", None):
        for one in (one for one in listed if one["set"] == letter):
            name = one["name"] + (f" ({library.named(one['cite'])})" if "cite" in one else "")
            rows.append((letter or "not stated", name, f"{one['accuracy']:.1f}", decimal(one["mcc"], 3), NOTHING))
        for name, row in _systems(letter).items() if letter else ():
            if row["kind"] == "fused":
                cells = (f"{row['accuracy']:.1%}".rstrip("%"), decimal(row["mcc"], 3), _interval(row["mcc_ci"]))
                rows.append((letter, f"{words(name)} (here)", *cells))
    return Table(rows, ["set", "system", "accuracy %", "MCC", "interval"], right=[2, 3, 4])


def caveats() -> Table:
    """What stands behind each published figure."""
    rows = [(one["name"], one["inputs"], one["caveat"]) for one in _published()["systems"]]
    return Table(rows, ["system", "inputs", "what to know"])


def of_all() -> Paragraph:
    return Paragraph("Of all of them:", " ".join(_published()["of_all"]))


def picture() -> Any:
    return drawing("stocknet.svg", _alt, of=FILE)


def _alt() -> str:
    rows = _systems("B")
    said = "; ".join(
        f"{words(name)} {decimal(row['mcc'], 3)} ({_interval(row['mcc_ci'])})" for name, row in rows.items()
    )
    return f"Matthews correlation of every system on test with its interval. Set B: {said}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _published() -> dict[str, Any]:
    return yaml.safe_load((results.ROOT / "docs" / "stocknet_published.yaml").read_text())
