"""Sentences of our own for the sentiment head: what decides is the combination of words, not any one of them.

News alone teaches that "fell" is bad and "profit" is good, hence "debt fell" or "the loss narrowed" come out wrong.
The grammar below states such combinations with their labels; it is training material for a classifier and makes no
statement about any real company. Templates are filled by counting, so the same count gives the same sentences.
"""

from collections.abc import Iterator

_WHO = (
    "the company",
    "the group",
    "the bank",
    "the retailer",
    "the chipmaker",
    "Norvale",
    "Hartwell Foods",
    "Oskari Oyj",
)
_TAG = ("$NRVL", "$HWF", "$OSK", "$QXT", "$ZLM", "$BRDO")
_PERIOD = ("in the first quarter", "in the third quarter", "year on year", "in the six months to June", "last year", "")
_WANTED = (
    "operating profit", "net profit", "net sales", "revenue", "order intake", "gross profit", "free cash flow",
    "pre-tax profit", "operating income", "earnings", "order backlog", "online sales", "turnover", "same-store sales",
)  # fmt: skip
_UNWANTED = (
    "net loss", "operating loss", "pre-tax loss", "net debt", "debt", "operating costs", "expenses", "loan losses",
    "restructuring costs", "impairment charges", "borrowings", "bad loans", "overheads", "interest expense",
)  # fmt: skip
_UP = ("rose", "increased", "grew", "climbed", "went up")
_DOWN = ("fell", "decreased", "declined", "dropped", "went down", "shrank")

# label -> templates; {who} begins no sentence, so that letter case says nothing
_FIXED = {
    "positive": (
        "court dismisses the lawsuit against {who}", "a judge cleared {who} of all charges {period}",
        "the regulator approved the new drug of {who}", "{who} won a contract worth {a} million dollars",
        "{who} landed a large order from a railway operator", "production at {who} is ahead of schedule",
        "costs at {who} came in lower than forecast", "{wanted} of {who} came in above expectations",
        "the loss of {who} narrowed {period}", "{who} returned to profit {period}",
        "the probe into {who} was closed without a fine", "{who} repaid its loan early",
        "the operating margin of {who} improved {period}", "unit costs of {who} came down {period}",
        "claims at {who} were lower than feared", "fewer customers left {who} {period}",
        "long {tag} here, adding more", "loving the chart of {tag}, next stop new highs",
        "holding my {tag}, they keep delivering", "great numbers from {tag} tonight, ripping after hours",
    ),
    "negative": (
        "court upholds the fine against {who}", "a judge orders {who} to pay damages {period}",
        "the regulator rejected the new drug of {who}", "{who} lost a contract worth {a} million dollars",
        "the largest customer of {who} moves to a rival", "production at {who} is behind schedule",
        "costs at {who} came in higher than forecast", "{wanted} of {who} came in below expectations",
        "the loss of {who} widened {period}", "{who} slipped into the red {period}",
        "a new probe into {who} was opened", "{who} may breach the terms of its loan",
        "the operating margin of {who} weakened {period}", "unit costs of {who} went up {period}",
        "claims at {who} were higher than feared", "more customers left {who} {period}",
        "the chief executive of {who} resigned amid an investigation", "{who} will cut {a} jobs and close a plant",
        "out of {tag}, dumping everything", "the chart of {tag} looks awful, next stop new lows",
        "sold my {tag}, management has no clue", "terrible numbers from {tag} tonight, sinking after hours",
    ),
    "neutral": (
        "the hearing in the case of {who} is scheduled for May", "{who} will publish its results {period}",
        "{wanted} of {who} was EUR {a} mn {period}", "{unwanted} of {who} was EUR {a} mn {period}",
        "{wanted} of {who} was unchanged at EUR {a} mn", "production at {who} is on schedule",
        "{wanted} of {who} was in line with expectations", "{who} is headquartered in Lisbon",
        "{who} employs {a} people", "the transaction of {who} is expected to close {period}",
        "{who} appointed a new head of logistics", "the contract of {who} runs for {a} months",
        "{who} has {a} million shares in issue", "the loan of {who} matures in {a} months",
        "{who} makes pumps, valves and packaging", "the management of {who} hosts a conference call {period}",
        "what do you think of {tag}?", "anyone know when {tag} reports?", "watching {tag} today",
        "{tag} options activity ahead of earnings",
    ),
}  # fmt: skip


def sentences(n_moves: int = 900, n_each: int = 24) -> list[tuple[str, str]]:
    """(text, label) pairs, each text once: `n_moves` of figures that move, up to `n_each` fillings of each template."""
    pairs = dict(_moves(n_moves))
    for label, templates in _FIXED.items():
        for place, template in enumerate(templates):
            for number in range(n_each):
                pairs[_filled(template, 7 * place + number)] = label
    return list(pairs.items())


def _moves(n: int) -> Iterator[tuple[str, str]]:
    """Wanted and unwanted figures that rise and fall, with numbers that agree."""
    for number in range(n):
        wanted, rises, case = number % 2 == 0, number // 2 % 2 == 0, number // 4
        measure = (_WANTED if wanted else _UNWANTED)[case % len(_WANTED)]
        verbs = _UP if rises else _DOWN
        low = 3 + (case * 37 % 400) / 10
        high = round(low * (1.1 + case % 7 / 10), 1)
        before, after = (low, high) if rises else (high, low)
        tail = ("", f" to EUR {after} mn from EUR {before} mn", f" by {1 + case * 11 % 60}%")[case % 3]
        who, period = _WHO[case % len(_WHO)], _PERIOD[case // 3 % len(_PERIOD)]
        text = f"{measure} of {who} {verbs[case % len(verbs)]}{tail} {period}".strip()
        yield text, "positive" if wanted == rises else "negative"


def _filled(template: str, number: int) -> str:
    text = template.format(
        who=_WHO[number % len(_WHO)],
        tag=_TAG[number % len(_TAG)],
        period=_PERIOD[number // 2 % len(_PERIOD)],
        wanted=_WANTED[number % len(_WANTED)],
        unwanted=_UNWANTED[number % len(_UNWANTED)],
        a=5 + number * 13 % 900,
    )
    return text.strip()
