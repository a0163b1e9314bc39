"""What the executed chapters read, and how they show it: no number in the book is typed by hand.

Sources: metrics/ (written by the stages), params.yaml and dvc.lock (what they were run with), schemas/ and the
tracking database. `check` refuses to build from results that are missing or that do not belong together.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
METRICS = ROOT / "metrics"
DATABASE = ROOT / "mlflow.db"
NOTHING = "–"
TESTED = {"mcc": "Matthews", "ic_rank": "rank IC", "strategies.model.sharpe": "Sharpe"}  # test metrics of a run


class ResultsError(Exception):
    """Results are missing or stale; the message names them and the remedy."""


def check() -> str:
    """Check that dvc.lock, params.yaml and metrics/ belong together; return a hash of all that chapters may show.

    Raises ResultsError when a stage has not run, or when a metrics file or a parameter is not the one of its last run.
    """
    if not (ROOT / "dvc.lock").exists():
        raise ResultsError("there are no results yet (no dvc.lock): run `make repro` first")
    recorded = _yaml("dvc.lock").get("stages", {})
    ran = {name.split("@")[0] for name in recorded}
    missing = sorted(set(_yaml("dvc.yaml")["stages"]) - ran)
    if missing:
        raise ResultsError(f"stages that have not run: {', '.join(missing)}: run `make repro` first")
    problems = []
    for name, stage in recorded.items():
        for out in stage.get("outs", []):
            if out["path"].startswith("metrics/"):
                problems += _trouble(name, ROOT / out["path"], out["md5"])
        problems += [
            f"{name}: parameter {key} has changed since it ran"
            for key, value in stage.get("params", {}).get("params.yaml", {}).items()
            if parameter(key, None) != value
        ]
    if problems:
        listed = "\n  ".join(problems)
        raise ResultsError(f"results are missing or stale; run `make repro` first:\n  {listed}")
    shown = [ROOT / "params.yaml", ROOT / "dvc.yaml", ROOT / "dvc.lock", DATABASE, Path(__file__)]
    shown += [path for folder in ("metrics", "schemas", "models") for path in sorted((ROOT / folder).rglob("*"))]
    state = hashlib.sha256()
    for path in shown:
        if path.is_file():
            state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def _trouble(stage: str, path: Path, md5: str) -> list[str]:
    name = path.relative_to(ROOT)
    if not path.exists():
        return [f"{stage}: {name} is missing"]
    if path.is_file() and hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != md5:
        return [f"{stage}: {name} is not what its last recorded run wrote"]
    return []


def _yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def metrics(name: str) -> dict[str, Any]:
    """Content of metrics/NAME.json."""
    path = METRICS / f"{name}.json"
    if not path.exists():
        raise ResultsError(f"metrics/{name}.json is missing: run `make repro` first")
    return json.loads(path.read_text())


def value(name: str, *keys: str) -> str:
    """One number of metrics/NAME.json, as text; KeyError when it is not there."""
    found: Any = metrics(name)
    for key in keys:
        found = found[key]
    return text(found)


def frame(name: str) -> pd.DataFrame:
    """Content of metrics/NAME.csv."""
    path = METRICS / f"{name}.csv"
    if not path.exists():
        raise ResultsError(f"metrics/{name}.csv is missing: run `make repro` first")
    return pd.read_csv(path)


def parameter(key: str, default: Any = ...) -> Any:
    """Value of a dotted key of params.yaml."""
    found = _yaml("params.yaml")
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            if default is ...:
                raise KeyError(f"params.yaml has no {key}")
            return default
        found = found[part]
    return found


def simulated() -> bool:
    return bool(parameter("data.simulated"))


def label() -> str:
    """What every caption of a result begins with: the source, and that it is simulated where it is."""
    source = parameter("data.source")
    return f"SIMULATED ({source})" if simulated() else f"Source {source}"


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


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested metrics as one level, keys joined by a slash; lists are left out."""
    leaves: dict[str, Any] = {}
    for key, item in content.items():
        name = f"{prefix}/{key}" if prefix else key
        if isinstance(item, Mapping):
            leaves |= flat(item, name)
        elif not isinstance(item, list):
            leaves[name] = item
    return leaves


def quantities(content: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Table:
    """Nested metrics as a table of name and value; `names` selects, orders and describes them."""
    leaves = flat(content)
    chosen = names or {key: words(key) for key in leaves}
    return Table([(name, leaves[key]) for key, name in chosen.items()], ["quantity", "value"])


def by_row(content: Mapping[str, Mapping[str, Any]], first: str, names: Mapping[str, str]) -> Table:
    """{row: {column: number}} as a table with one row each; `names` selects, orders and describes the columns."""
    rows = [[words(row), *(values.get(key) for key in names)] for row, values in content.items()]
    return Table(rows, [first, *names.values()])


def strategies() -> Table:
    """The strategies of the evaluation; shares in percent, the Sharpe ratio with its interval."""
    rows = []
    for name, row in metrics("evaluate")["strategies"].items():
        interval = " to ".join(decimal(row[key]) for key in ("sharpe_lo", "sharpe_hi"))
        percent = [decimal(row[key], 1, 100) for key in ("total_return", "max_drawdown", "hit_rate", "exposure")]
        rows.append((words(name), decimal(row["sharpe"]), interval, *percent, decimal(row["turnover"])))
    head = ["strategy", "Sharpe", "interval", "return %", "drawdown %", "hit rate %", "exposure %", "turnover"]
    return Table(rows, head, right=range(1, len(head)))


def decimal(item: float | None, places: int = 2, scale: float = 1.0) -> str:
    return NOTHING if item is None else f"{item * scale:.{places}f}"


def interval(low: str, high: str) -> str:
    """Two keys of the evaluation as an interval at the configured confidence."""
    content = metrics("evaluate")
    share = f"{parameter('evaluate.confidence'):.0%}"
    return f"[{text(content[low])}, {text(content[high])}] ({share})"


def parameters(*groups: str) -> Table:
    """The parameters of some groups of params.yaml, as they stood when the results were made."""
    leaves = flat({group: parameter(group) for group in groups})
    return Table([(f"`{key.replace('/', '.')}`", item) for key, item in leaves.items()], ["parameter", "value"])


def schemas() -> list[dict[str, Any]]:
    """The definitions of all tables, in the order of the layers."""
    layers = ["raw", "truth", "interim", "processed", "features", "predictions"]
    found = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "schemas").glob("*.yaml"))]
    return sorted(found, key=lambda schema: (layers.index(schema["layer"]), schema["table"]))


def tables() -> Table:
    """One row per table of the pipeline."""
    rows = [
        (f"`{schema['table']}`", schema["layer"], ", ".join(schema["key"]), schema["description"])
        for schema in schemas()
    ]
    return Table(rows, ["table", "layer", "key", "content"])


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


def runs(limit: int = 20) -> "Table | Paragraph":
    """The latest finished runs on the present source in the tracking database: hypothesis, variant and metrics."""
    if not DATABASE.exists():
        return Paragraph(
            "No tracking database.", "mlflow.db is not part of the repository; runs on this machine make it."
        )
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{DATABASE}")
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
    return Table(rows, head)


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
        for role, part in ((role, content[role]) for role in ("train", "dev", "test", "none") if role in content)
    ]
    return Table(rows, ["role", "bars", "labelled", "up", "up %"], right=range(1, 5))


def kinds() -> Table:
    """Bars by kind of contradiction."""
    content = metrics("contradiction")
    rows = [(kind, count, percent(count, content["bars"])) for kind, count in content["kind"].items()]
    return Table(rows, ["kind", "bars", "share %"], right=[1, 2])


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


def predicted() -> Table:
    """Means of the predictions by role."""
    content = metrics("predict")["split"]
    rows = [
        (role, part["rows"], part["p_up"], part["sd_ret"], part["severity"])
        for role, part in ((role, content[role]) for role in ("train", "dev", "test", "none") if role in content)
    ]
    return Table(rows, ["role", "rows", "mean p_up", "mean sd_ret", "mean severity gate"])


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else NOTHING


class Paragraph:
    """Text of a cell, with its beginning set off."""

    def __init__(self, start: str, rest: str) -> None:
        self.start, self.rest = start, rest

    def _repr_html_(self) -> str:
        return f"<p><strong>{escape(self.start)}</strong> {escape(self.rest)}</p>"


def banner() -> Paragraph:
    """The source of all results, and that it is simulated where it is."""
    source = parameter("data.source")
    if simulated():
        rest = "They show whether the machinery finds what was planted. They say nothing about a market."
        return Paragraph(
            "SIMULATED.", f"All results on this page come from the simulated market of the {source}. {rest}"
        )
    return Paragraph("Source:", f"{source}. All results on this page come from it.")


def detections() -> Table | Paragraph:
    """Flagged contradictions beside the planted ones, where the source has a truth."""
    found = metrics("evaluate").get("contradiction")
    if found is None:
        return Paragraph("No planted truth.", "This source does not say which bars are contradictions.")
    rules = {"score": "score and threshold", "learned": "learned thresholds", "naive": "opposite signs"}
    rows = [
        (name, *(found[key][column] for column in ("n_flagged", "precision", "recall", "auc")))
        for key, name in rules.items()
    ]
    return Table(rows, ["rule", "flagged bars", "precision", "recall", "area under ROC"])


def endings() -> str:
    """Where each strategy's growth of 1 ended, in words."""
    last = frame("equity").iloc[-1]
    grown = (f"{words(str(name))} {float(last[name]):.3f}" for name in last.index[1:])
    return f"At the end: {', '.join(grown)}."
