"""What the book reads: metrics/, params.yaml, dvc.lock, schemas/. No number in the book is typed by hand.

metrics/ is written by the stages; params.yaml and dvc.lock say what they were run with. `check` refuses to build from
results that are missing or that do not belong together.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
METRICS = ROOT / "metrics"
DATABASE = ROOT / "mlflow.db"
BESIDE = ("kernels", "stages")  # folders with stages of their own: their results may be absent, but not wrong


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
    problems += _beside()
    if problems:
        listed = "\n  ".join(problems)
        raise ResultsError(f"results are missing or stale; run `make repro` first:\n  {listed}")
    shown = [
        ROOT / "params.yaml",
        ROOT / "dvc.yaml",
        ROOT / "dvc.lock",
        DATABASE,
        *(ROOT / folder / "dvc.lock" for folder in BESIDE),
        *sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".bib", ".py", ".yaml")),
    ]
    folders = ("metrics", "schemas", "models", "kernels")
    shown += [path for folder in folders for path in sorted((ROOT / folder).rglob("*")) if path.suffix != ".pyc"]
    state = hashlib.sha256()
    for path in shown:
        if path.is_file():
            state.update(path.name.encode() + path.read_bytes())
    return state.hexdigest()


def _beside() -> list[str]:
    """What is wrong with results of the stages beside the pipeline. Absent ones are not: their pages say so."""
    problems = []
    for folder in BESIDE:
        if not (ROOT / folder / "dvc.yaml").exists():
            continue
        recorded = _recorded(folder)
        for name, stage in _yaml(f"{folder}/dvc.yaml")["stages"].items():
            locked = {out["path"]: out["md5"] for out in recorded.get(name, {}).get("outs", [])}
            for path in _outs(stage):
                if path.startswith("metrics/") and (ROOT / path).exists():
                    problems += (
                        _trouble(name, ROOT / path, locked[path])
                        if path in locked
                        else [f"{name}: {path} was written by no recorded run: `dvc repro {folder}/dvc.yaml:{name}`"]
                    )
    return problems


def changed_since(file: str) -> list[str]:
    """Groups of parameters that are not what they were when a stage beside the pipeline wrote metrics/FILE."""
    for folder in BESIDE:
        for stage in _recorded(folder).values():
            if f"metrics/{file}" in (out["path"] for out in stage.get("outs", [])):
                known = stage.get("params", {}).get("params.yaml", {})
                return [key for key, value in known.items() if parameter(key, None) != value]
    return []


def _recorded(folder: str) -> dict[str, Any]:
    return _yaml(f"{folder}/dvc.lock").get("stages", {}) if (ROOT / folder / "dvc.lock").exists() else {}


def _outs(stage: Mapping[str, Any]) -> list[str]:
    listed = [out for part in ("outs", "metrics", "plots") for out in stage.get(part, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in listed]


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


def schemas() -> list[dict[str, Any]]:
    """The definitions of all tables, in the order of the layers."""
    layers = ["raw", "truth", "interim", "processed", "features", "predictions"]
    found = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "schemas").glob("*.yaml"))]
    return sorted(found, key=lambda schema: (layers.index(schema["layer"]), schema["table"]))
