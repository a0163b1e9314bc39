"""What the executed chapters show: tables and sentences made of results, each for the site and for the PDF."""

import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import results
from results import flat, metrics, parameter

QUESTIONS = Path(__file__).parent / "questions.sql"
NOTHING = "–"
ROLES = ("train", "dev", "test", "none")
PLACED = ("model", "buy_and_hold", "shuffled", "oracle")  # strategies with a fixed place in the table
TESTED = {"mcc": "Matthews", "ic_rank": "rank IC", "strategies.model.sharpe": "Sharpe"}  # test metrics of a run


class Table:
    """A table that the site and the PDF can both set; numbers are flushed right."""

    def __init__(self, rows: Iterable[Sequence[Any]], head: Sequence[str], right: Iterable[int] | None = None) -> None:
        self.rows = [list(row) for row in rows]
        self.head = list(head)
        numbers = [
            column
            for column in range(len(self.head))
            if self.rows and all(isinstance(row[column], int | float | None) for row in self.rows)
        ]
        self.right = set(numbers if right is None else right)

    def _repr_html_(self) -> str:
        sides = [' align="right"' if column in self.right else "" for column in range(len(self.head))]
        head = "".join(
            f'<th scope="col"{side}>{escape(name)}</th>' for name, side in zip(self.head, sides, strict=True)
        )
        body = "".join(
            "<tr>" + "".join(f"<td{side}>{_cell(item)}</td>" for item, side in zip(row, sides, strict=True)) + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(item: Any) -> str:
    escaped = escape(text(item), quote=False)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)


class Described:
    """A table's definition: its name, what it holds, and its columns."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema

    def _repr_html_(self) -> str:
        schema = self.schema
        name = f"{schema['layer']}/{schema['table']}"
        key = ", ".join(schema["key"])
        rows = [
            (
                f"`{column}`",
                field["dtype"],
                field["unit"] + (", nullable" if field.get("nullable") else ""),
                field["description"],
            )
            for column, field in schema["columns"].items()
        ]
        table = Table(rows, ["column", "type", "unit", "content"])
        about = f"{escape(schema['description'].rstrip('.'))}. Key: {escape(key)}."
        return f"<h2>{escape(name)}</h2><p>{about}</p>{table._repr_html_()}"


class Paragraph:
    """Text of a cell, with its beginning set off."""

    def __init__(self, start: str, rest: str) -> None:
        self.start, self.rest = start, rest

    def _repr_html_(self) -> str:
        return f"<p><strong>{escape(self.start)}</strong> {_cell(self.rest)}</p>"


def banner() -> Paragraph:
    """The source of all results, and that it is simulated where it is."""
    source = parameter("data.source")
    if results.simulated():
        rest = "They show whether the machinery finds what was planted. They say nothing about a market."
        return Paragraph(
            "SIMULATED.", f"All results on this page come from the simulated market of the {source}. {rest}"
        )
    return Paragraph("Source:", f"{source}. All results on this page come from it.")


def label() -> str:
    """What every caption of a result begins with: the source, and that it is simulated where it is."""
    source = parameter("data.source")
    return f"SIMULATED ({source})" if results.simulated() else f"Source {source}"


def quantities(content: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Table:
    """Nested metrics as a table of name and value; `names` selects, orders and describes them."""
    leaves = flat(content)
    chosen = names or {key: words(key) for key in leaves}
    return Table([(name, leaves[key]) for key, name in chosen.items()], ["quantity", "value"])


def parameters(*groups: str) -> Table:
    """The parameters of some groups of params.yaml, as they stood when the results were made."""
    leaves = flat({group: parameter(group) for group in groups})
    return Table([(f"`{key.replace('/', '.')}`", item) for key, item in leaves.items()], ["parameter", "value"])


def tables() -> Table:
    """One row per table of the pipeline."""
    rows = [
        (f"`{schema['table']}`", schema["layer"], ", ".join(schema["key"]), schema["description"])
        for schema in results.schemas()
    ]
    return Table(rows, ["table", "layer", "key", "content"])


def features() -> Table:
    """Technical features by family."""
    schema = next(schema for schema in results.schemas() if schema["table"] == "technical")
    families: dict[str, list[str]] = {}
    for name, column in schema["columns"].items():
        if "family" in column:
            families.setdefault(column["family"], []).append(f"`{name}`")
    return Table(
        [(family, len(names), ", ".join(names)) for family, names in families.items()], ["family", "number", "features"]
    )


def cleaning() -> Table:
    """Rows that the cleaning stage read, by what became of them."""
    content = metrics("clean")
    rows = [
        (name, part["rows"], part["kept"], part["rejected"], sum(part["left_out"].values()))
        for name, part in ((name, content[name]) for name in ("prices", "news"))
    ]
    return Table(rows, ["rows of", "read", "kept", "rejected", "left out by choice"])


def refused() -> Table:
    """Rejected rows by the rule that they broke."""
    rows = [(rule, count) for rule, count in metrics("clean")["rejected_by_rule"].items()]
    return Table(rows, ["column and rule", "rows"], right=[1])


def personal() -> Table:
    """Personal data in the news rows before and after cleaning."""
    content = metrics("clean")["pii"]
    rows = [(words(kind), count, content["after"][kind]) for kind, count in content["before"].items()]
    return Table(rows, ["kind", "in raw", "in interim"])


def roles() -> Table:
    """Bars and labels by role."""
    content = metrics("process")["split"]
    rows = [
        (role, part["bars"], part["labels"], part["up"], percent(part["up"], part["labels"]))
        for role, part in ((role, content[role]) for role in ROLES if role in content)
    ]
    return Table(rows, ["role", "bars", "labelled", "up", "up %"], right=range(1, 5))


def kinds() -> Table:
    """Bars by kind of contradiction."""
    content = metrics("contradiction")
    rows = [(kind, count, percent(count, content["bars"])) for kind, count in content["kind"].items()]
    return Table(rows, ["kind", "bars", "share %"], right=[1, 2])


DETECTORS = {
    "score": "score and threshold",
    "learned": "learned thresholds",
    "naive": "opposite signs",
    "unscaled": "opposite signs, ranked by size",
}


def detections() -> Table | Paragraph:
    """Flagged contradictions beside the planted ones, with intervals, where the source has a truth."""
    found = metrics("evaluate").get("contradiction")
    if found is None:
        return Paragraph("No planted truth.", "This source does not say which bars are contradictions.")
    rows = [
        (name, found[key]["n_flagged"], *(bounded(found[key], column, 3) for column in ("precision", "recall", "auc")))
        for key, name in DETECTORS.items()
    ]
    return Table(rows, ["rule", "flagged bars", "precision", "recall", "area under ROC"], right=range(1, 5))


def advantage() -> str:
    """What the score adds to the rule of opposite signs, with intervals, in words; nothing without a truth."""
    found = metrics("evaluate").get("contradiction")
    if found is None:
        return ""
    names = {"precision": "precision", "recall": "recall", "f1": "their harmonic mean", "auc": "area under the ROC"}
    parts = [f"{name} {bounded(found['score_less_naive'], key, 3)}" for key, name in names.items()]
    return f"The score less the rule of opposite signs: {', '.join(parts)}."


def bounded(content: Mapping[str, Any], name: str, places: int) -> str:
    """A measure with its interval: 0.57 [0.55, 0.60]."""
    value, low, high = (decimal(content[f"{name}{end}"], places) for end in ("", "_lo", "_hi"))
    return value if low == high == NOTHING else f"{value} [{low}, {high}]"


def training() -> Table:
    """Losses and skill of the weights that were kept, with the learned thresholds where the model has them."""
    content = metrics("train")
    names = {"loss": "loss (nats)", "bce": "cross-entropy of p_up (nats)", "nll": "Gaussian NLL of the return (nats)"}
    names |= {key: words(key) for key in content["dev"] if key not in names}
    rows: list[Sequence[Any]] = [
        (name, content["train"].get(key), content["dev"].get(key)) for key, name in names.items()
    ]
    rows += [(f"learned {words(key)}", tau, None) for key, tau in (content["thresholds"] or {}).items()]
    rows.append(("weights of the network", content["parameters"], None))
    return Table(rows, ["quantity", "train", "dev"])


def card() -> Table:
    """The last checkpoint in figures: what it learned from, how large it is, how it does on test."""
    trained, tested = metrics("train"), metrics("evaluate")
    rows = [
        ("source of its data", parameter("data.source") + (" (SIMULATED)" if results.simulated() else "")),
        ("variant", parameter("model.name")),
        ("target", parameter("target.name")),
        ("weights", text(trained["parameters"])),
        ("epoch whose weights were kept", text(trained["best_epoch"])),
        ("Monte-Carlo samples of a prediction", text(parameter("predict.mc_samples"))),
        ("test rows, sessions", f"{text(tested['n'])}, {text(tested['n_sessions'])}"),
        ("Matthews correlation on test", bounded(tested, "mcc", 3)),
        ("expected calibration error on test", text(tested["ece"])),
    ]
    return Table(rows, ["what", "value"], right=[])


def predicted() -> Table:
    """Means of the predictions by role."""
    content = metrics("predict")["split"]
    rows = [
        (role, part["rows"], part["p_up"], part["sd_ret"], part["severity"])
        for role, part in ((role, content[role]) for role in ROLES if role in content)
    ]
    return Table(rows, ["role", "rows", "mean p_up", "mean sd_ret", "mean severity gate"])


def oracle() -> Paragraph:
    """The model's information coefficient beside that of the oracle, where the source has one."""
    found = metrics("evaluate").get("oracle")
    if found is None:
        return Paragraph("No oracle.", "This source has no known conditional mean to compare with.")
    return Paragraph(
        "Beside the oracle.",
        f"The linear information coefficient of the model's expected return is {text(found['ic_model'])}; that of the "
        f"true conditional mean, which no other forecast exceeds on average, is {text(found['ic_oracle'])}.",
    )


def strategies() -> Table:
    """The strategies of the evaluation, the model first and the oracle last; the Sharpe ratio with its interval."""
    content = metrics("evaluate")["strategies"]
    order = ["model", "buy_and_hold", *(name for name in content if name not in PLACED), "shuffled", "oracle"]
    rows = []
    for name in (name for name in order if name in content):
        row = content[name]
        interval = "\u00a0to\u00a0".join(decimal(row[key]) for key in ("sharpe_lo", "sharpe_hi"))
        shares = [decimal(row[key], 1, 100) for key in ("total_return", "max_drawdown", "hit_rate", "exposure")]
        rows.append((words(name), decimal(row["sharpe"]), interval, *shares, decimal(row["turnover"])))
    head = ["strategy", "Sharpe", "interval", "return %", "drawdown %", "hit rate %", "exposure %", "turnover"]
    return Table(rows, head, right=range(1, len(head)))


def interval(low: str, high: str) -> str:
    """Two keys of the evaluation as an interval at the configured confidence."""
    content = metrics("evaluate")
    share = f"{parameter('evaluate.confidence'):.0%}"
    return f"[{text(content[low])}, {text(content[high])}] ({share})"


def endings() -> str:
    """Where each strategy's growth of 1 ended, in words."""
    last = results.frame("equity").iloc[-1]
    grown = (f"{words(str(name))} {float(last[name]):.3f}" for name in last.index[1:])
    return f"At the end: {', '.join(grown)}."


def answer(question: str) -> "Table | Paragraph":
    """What the tables on this machine say to one of docs/questions.sql."""
    if not (results.ROOT / "data" / "features" / "contradiction.parquet").exists():
        return Paragraph("No tables here.", "`dvc repro` makes them, `dvc pull` fetches those of the last run.")
    sys.path.append(str(results.ROOT))
    from fusion_alpha import sql

    found = sql.connect(results.ROOT).execute(sql.questions(QUESTIONS)[question][1])
    head = [words(column[0]) for column in found.description]
    rows = [
        [str(item) if name == "year" else item for name, item in zip(head, row, strict=True)]
        for row in found.fetchall()
    ]
    return Table(rows, head)


def runs(limit: int = 20) -> "Table | Paragraph":
    """The latest finished runs on the present source in the tracking database: hypothesis, variant and metrics."""
    if not results.DATABASE.exists():
        return Paragraph(
            "No tracking database.", "mlflow.db is not part of the repository; runs on this machine make it."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm in a kernel without widgets
        from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{results.DATABASE}")
    experiment = client.get_experiment_by_name(parameter("data.source"))
    head = ["run", "started (UTC)", "model", "hypothesis", "dev loss", *TESTED.values()]
    if experiment is None:
        return Table([], head)
    found = client.search_runs(
        [experiment.experiment_id],
        "attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=limit,
    )
    rows = [
        [
            run.info.run_name,
            pd.Timestamp(run.info.start_time, unit="ms").strftime("%Y-%m-%d %H:%M"),
            run.data.params.get("model.name"),
            run.data.tags.get("hypothesis") or None,
            run.data.metrics.get("dev/loss"),
            *(run.data.metrics.get(f"test/{name}") for name in TESTED),
        ]
        for run in found
    ]
    return Table(rows, head, right=[1, *range(4, len(head))])


def value(name: str, *keys: str) -> str:
    """One number of metrics/NAME.json, as text; KeyError when it is not there."""
    found: Any = metrics(name)
    for key in keys:
        found = found[key]
    return text(found)


def text(item: Any) -> str:
    """A number as a reader wants it: counts grouped, four significant digits, a dash for nothing."""
    if item is None:
        return NOTHING
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int):
        return f"{item:,}"
    if isinstance(item, float):
        if item != 0 and not 1e-4 <= abs(item) < 1e6:
            return f"{item:.2e}"
        return f"{item:,.4g}" if abs(item) < 1000 else f"{item:,.0f}"
    return str(item)


def words(name: str) -> str:
    """A key as a reader wants it: mean_ret -> mean ret."""
    return name.replace("_", " ")


def decimal(item: float | None, places: int = 2, scale: float = 1.0) -> str:
    return NOTHING if item is None else f"{item * scale:.{places}f}"


def share(item: float | None) -> str:
    return NOTHING if item is None else f"{item:.0%}"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else NOTHING
