"""The figures of a report in words and tables, the same for the terminal, the page and the sheet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fusion_alpha.report import MODEL

NOTHING = "–"
WARNING = "SIMULATED data: it proves the machinery, never an alpha"


@dataclass(frozen=True)
class Fact:
    """One main figure."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Table:
    title: str
    heads: list[str]
    rows: list[list[str]]
    note: str = ""


def label(name: str) -> str:
    return name.replace("_", " ")


def number(value: float | None, form: str) -> str:
    if value is None:
        return NOTHING
    text = form.format(value)
    return text.replace("-", "\N{MINUS SIGN}" if set(text) & set("123456789") else "")


def interval(row: dict[str, Any], name: str, form: str) -> str:
    low, high = row[f"{name}_lo"], row[f"{name}_hi"]
    return NOTHING if low is None or high is None else f"{number(low, form)} to {number(high, form)}"


def p_value(value: float | None) -> str:
    return NOTHING if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def title(about: dict[str, Any], view: dict[str, Any]) -> str:
    mark = "SIMULATED: " if about["simulated"] else ""
    return f"{mark}model {about['model']} against {label(view['baseline'])}"


def period(view: dict[str, Any]) -> str:
    tickers = view["tickers"]
    names = ", ".join(tickers) if len(tickers) <= 12 else f"{len(tickers)} tickers"
    return (
        f"{view['first_session']} to {view['last_session']}, {view['sessions']:,} sessions, {names}, "
        f"{view['side_cost_bps']:g} bps a side"
    )


def headline_test(numbers: dict[str, Any]) -> dict[str, Any] | None:
    """Model less baseline, corrected for the number of strategies that the model is held against."""
    name = numbers["view"]["baseline"]
    return numbers["model_against"].get(name) or numbers["against_baseline"].get(MODEL)


def facts(numbers: dict[str, Any]) -> list[Fact]:
    """The main figures of the model."""
    own, view, chosen = numbers["strategies"][MODEL], numbers["view"], numbers["selection"]
    level, baseline = f"{view['confidence']:.0%}", label(view["baseline"])
    total, volatility = (number(own[name], "{:.1%}") for name in ("total_return", "volatility"))
    found = [
        Fact("Sharpe ratio", number(own["sharpe"], "{:.2f}"), f"{level}: {interval(own, 'sharpe', '{:.2f}')}"),
        Fact("Return a year", number(own["return_annual"], "{:.1%}"), f"{total} in all"),
    ]
    test = headline_test(numbers)
    if test:
        note = f"{level}: {interval(test, 'excess_annual', '{:.1%}')}; p {p_value(test['p_holm'])}"
        found.append(Fact(f"A year over {baseline}", number(test["excess_annual"], "{:+.1%}"), note))
    deflated, spa = chosen["deflated_sharpe"], chosen["spa"]
    threshold = number(deflated["sharpe_threshold"], "{:.2f}")
    trials = f"{counted(deflated['trials'], 'trial')}; the best of worthless ones: {threshold}"
    pbo = chosen["pbo_trials"] if chosen["pbo_trials"]["pbo"] is not None else chosen["pbo_strategies"]
    among = "trials" if pbo is chosen["pbo_trials"] else "strategies"
    return [
        *found,
        Fact("Max. drawdown", number(own["max_drawdown"], "{:.1%}"), f"volatility {volatility}"),
        Fact("Deflated Sharpe", number(deflated["probability"], "{:.3f}"), trials),
        Fact("PBO", number(pbo["pbo"], "{:.2f}"), f"choice among {pbo['configurations']} {among}; chance: 0.5"),
        Fact("SPA", p_value(spa["p"]), f"p: none of {spa['strategies']} beats {baseline}"),
        Fact("Better sessions", number(own["hit_rate"], "{:.1%}"), f"share of sessions above {baseline}"),
        Fact("Exposure", number(own["exposure"], "{:.0%}"), f"net {number(own['net_exposure'], '{:.0%}')}"),
        Fact(
            "Break-even cost",
            f"{number(own['break_even_bps'], '{:.1f}')} bps",
            f"turnover {number(own['turnover'], '{:.2f}')} a session",
        ),
    ]


def performance(numbers: dict[str, Any]) -> Table:
    heads = ["strategy", "Sharpe", "interval", "return/yr", "volatility", "drawdown", "hits", "turnover"]
    heads += ["gross", "net", "b/e bps"]
    rows = []
    for name, row in numbers["strategies"].items():
        cells = [label(name), number(row["sharpe"], "{:.2f}"), interval(row, "sharpe", "{:.2f}")]
        cells += [number(row[key], "{:.1%}") for key in ("return_annual", "volatility", "max_drawdown", "hit_rate")]
        cells += [number(row["turnover"], "{:.2f}")]
        cells += [number(row[key], "{:.0%}") for key in ("exposure", "net_exposure")]
        rows.append([*cells, number(row["break_even_bps"], "{:.1f}")])
    note = (
        f"hits: share of sessions above {label(numbers['view']['baseline'])}; turnover: of equity, a session; gross, "
        "net: mean exposure; b/e: cost of one side at which nothing is left."
    )
    note += " oracle: knows what was planted; the most that could be had." if "oracle" in numbers["strategies"] else ""
    return Table("Strategies, net of costs", heads, rows, note)


def differences(numbers: dict[str, Any]) -> Table:
    """Every strategy less the baseline."""
    return Table(
        f"Less {label(numbers['view']['baseline'])}, on the same sessions",
        _TEST_HEADS,
        _tests(numbers["against_baseline"]),
        _TEST_NOTE,
    )


def rivals(numbers: dict[str, Any]) -> Table:
    """The model less every other strategy."""
    return Table("Model less each other strategy", _TEST_HEADS, _tests(numbers["model_against"]), _TEST_NOTE)


_TEST_HEADS = ["strategy", "excess/yr", "interval", "p", "p (Holm)", "Sharpe", "interval"]
_TEST_NOTE = "Stationary bootstrap of sessions, the same blocks on both sides; Holm: corrected for the number of rows."


def _tests(tests: dict[str, dict[str, Any]]) -> list[list[str]]:
    return [
        [
            label(name),
            number(test["excess_annual"], "{:+.1%}"),
            interval(test, "excess_annual", "{:+.1%}"),
            p_value(test["p"]),
            p_value(test["p_holm"]),
            number(test["sharpe_difference"], "{:+.2f}"),
            interval(test, "sharpe_difference", "{:+.2f}"),
        ]
        for name, test in tests.items()
    ]


def forecast(numbers: dict[str, Any]) -> Table:
    found = numbers["forecast"]
    row = [
        f"{found['n']:,}",
        number(found["accuracy"], "{:.1%}"),
        number(found["mcc"], "{:.3f}"),
        interval(found, "mcc", "{:.3f}"),
        number(found["auc"], "{:.3f}"),
        number(found["brier"], "{:.4f}"),
        number(found["ece"], "{:.3f}"),
        number(found["ic"], "{:.3f}"),
    ]
    heads = ["forecasts", "accuracy", "MCC", "interval", "AUC", "Brier", "calibration error", "IC"]
    return Table("Forecasts", heads, [row])


def reading(numbers: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """What the figures say, and what they cannot, in sentences."""
    view, test = numbers["view"], headline_test(numbers)
    said: list[str] = []
    if numbers["forecast"].get("forecast_window", "traded") != "traded":
        said.append("The model forecasts another window than the one traded: its strategy says little.")
    if test:
        sure = test["p_holm"] <= 1 - view["confidence"]
        more = "more" if test["excess_annual"] > 0 else "less"
        said.append(
            f"The model earned {more} than {label(view['baseline'])}"
            + (", by more than luck explains." if sure else ", by no more than luck explains.")
        )
    tests = numbers["model_against"].items()
    weak = [label(name) for name, row in tests if row["p_holm"] > 1 - view["confidence"]]
    if weak:
        said.append(f"Luck may be all that parts the model from {_listed(weak)}.")
    if not about["trials"]["this_one_recorded"]:
        said.append("MLflow here does not know the training of this checkpoint: trials made elsewhere do not count.")
    if not view["whole_test"]:
        said.append("Part of the test period, other tickers or other costs: to look at many of these is a search too.")
    return said


def origin(about: dict[str, Any]) -> str:
    """Commit, data, seeds and trials in one line each."""
    commit = about["commit"][:12] + (" with uncommitted changes" if about["uncommitted_changes"] else "")
    data = ", ".join(f"{name} {digest[:12]}" for name, digest in about["data_sha256"].items())
    seeds = ", ".join(f"{name} {seed}" for name, seed in about["seeds"].items())
    counts = (("trial", "count"), ("tested", "with_sharpe"), ("earlier report", "reports_before"))
    trials = ", ".join(counted(about["trials"][key], word) for word, key in counts)
    return f"commit {commit} | checkpoint {about['model_id']}\ndata {data}\nseeds {seeds} | {trials}"


def counted(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' if n != 1 and word != 'tested' else ''}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
