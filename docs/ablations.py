"""What each part of FusionNet adds: ablations that were run on many markets or seeds, with intervals."""

from collections.abc import Sequence

import results
from exhibits import NOTHING, Paragraph, Table, decimal, words
from optional import COMMANDS, has

RECOVERY, STOCKNET = "lab_recovery.json", "stocknet.json"
VARIANTS = ("price_only", "text_only", "fused_concat")


def table() -> Table:
    """The whole and its variants, by study; the whole less the variant where the study has the pair."""
    rows: list[Sequence[str]] = []
    if has(RECOVERY):
        planted = results.metrics("lab_recovery")["planted"]
        for name in ("fused", *VARIANTS):
            if name in planted["systems"]:
                row = planted["systems"][name]
                less = planted["differences"].get(f"fused_less_{name}", {})
                own = _interval(row["ic"], row["ic_lo"], row["ic_hi"])
                lead = _interval(*(less.get(f"ic{end}") for end in ("", "_lo", "_hi")))
                rows.append(("planted markets", words(name), own, lead))
    if has(STOCKNET):
        content = results.metrics("stocknet")["B"]
        pairs = {(pair["system"], pair["against"]): pair for pair in content["paired"]}
        for name in ("fused", *VARIANTS):
            row, pair = content["systems"][name], pairs.get(("fused", name))
            lead = _interval(pair["mcc_difference"], *pair["mcc_difference_ci"]) if pair else NOTHING
            rows.append(("StockNet, set B", words(name), _interval(row["mcc"], *row["mcc_ci"]), lead))
    rows += [(f"not run yet: {COMMANDS[file]}", *[NOTHING] * 3) for file in (RECOVERY, STOCKNET) if not has(file)]
    return Table(rows, ["study", "variant", "measure", "whole less variant"], right=[2, 3])


def told() -> Paragraph:
    """Which studies tell the whole from a variant, by the intervals of the differences."""
    said = []
    for study in dict.fromkeys(row[0] for row in table().rows):
        leads = {row[1]: row[3] for row in table().rows if row[0] == study and row[3] != NOTHING}
        apart = [name for name, lead in leads.items() if _excludes(lead)]
        found = f"tell the whole from {' and '.join(apart)}" if apart else "tell the whole from no variant"
        said.append(f"{study}: the intervals {found}" + (f", of {len(leads)}" if leads else ""))
    return Paragraph("What the intervals say.", ". ".join(said) + ".")


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{decimal(value, 3)} ({decimal(low, 3)}\u00a0to\u00a0{decimal(high, 3)})"


def _excludes(shown: str) -> bool:
    low, high = (float(end) for end in shown.split("(")[1].rstrip(")").split("\u00a0to\u00a0"))
    return low > 0 or high < 0
