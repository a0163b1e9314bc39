"""The layout keeps its promises: names, imports, dependencies, configuration."""

import ast
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from fusion_alpha import config, lab_runs, tables

ROOT = Path(__file__).parents[1]
PACKAGES = ("stages", "fusion_alpha", "kernels")
PIPELINES = ("dvc.yaml", "kernels/dvc.yaml", "stages/dvc.yaml", "minute/dvc.yaml")  # the book's: with the book
STAGES = {
    name: stage for file in PIPELINES for name, stage in yaml.safe_load((ROOT / file).read_text())["stages"].items()
}
ORDER = ["ingest", "clean", "process", "technical", "text", "contradiction", "train", "export", "predict", "evaluate"]
BESIDE = ["train_bicep", "stocknet", "lab_recovery", "canaries", "minute"]  # not in the pipeline's `dvc repro`


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> frozenset[Path]:
    """Files of ours that `path` imports, inside functions too."""
    found = set()
    for node in ast.walk(tree(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.split(".")[0] in PACKAGES:
                found |= {file for file in (file_of(name),) if file is not None}
    return frozenset(found)


def file_of(module: str) -> Path | None:
    path = ROOT / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def reached(path: Path) -> set[Path]:
    """All files of ours that importing `path` reaches. A source is chosen by name at run time: all of them count."""
    todo, seen = [path], set()
    while todo:
        file = todo.pop()
        for other in imported(file):
            if other.name == "__init__.py" and other.parent.name == "sources":
                todo += [module for module in other.parent.glob("*.py") if module not in seen]
            todo += [other] if other not in seen else []
        seen.add(file)
    return seen


def covered(path: Path, deps: list[str]) -> bool:
    return any(path == ROOT / dep or (ROOT / dep) in path.parents for dep in deps)


def declared(stage: dict) -> tuple[list[str], list[str]]:
    """(deps, outs) of a stage; outs with options are one-key mappings."""
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
    return stage.get("deps", []), outs


def params(stage: dict) -> list[str]:
    """Groups of parameters, whatever file they are in."""
    found = stage.get("params", [])
    return [name for item in found for name in (next(iter(item.values())) if isinstance(item, dict) else [item])]


def group(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_stages_are_the_modules_of_the_same_name_in_the_order_of_the_data_layers():
    assert list(STAGES) == ORDER + BESIDE
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(STAGES)
    for name, stage in STAGES.items():
        assert stage["cmd"] == f"python -m stages.{name}"
        assert stage["deps"][0] == f"stages/{name}.py"
        assert stage.get("wdir") == (".." if name in BESIDE else None)


def test_the_pipeline_waits_for_no_stage_beside_it():
    written = {out for name in BESIDE for out in declared(STAGES[name])[1]}
    written |= {
        next(iter(out)) for name in BESIDE for kind in ("metrics", "plots") for out in STAGES[name].get(kind, [])
    }
    for name in ORDER:
        for out in written:
            assert not covered(ROOT / out, STAGES[name]["deps"]), f"{name} depends on {out}"


def test_imports_point_one_way():
    allowed = {
        "stages": {"fusion_alpha", "kernels"},
        "fusion_alpha": {"fusion_alpha", "kernels"},
        "kernels": {"kernels"},
    }
    for path in modules():
        for other in imported(path):
            assert group(other) in allowed[group(path)], f"{path.name} imports {other.relative_to(ROOT)}"


@pytest.mark.parametrize("name", STAGES)
def test_deps_name_every_imported_module(name):
    deps, _ = declared(STAGES[name])
    files = {file for file in reached(ROOT / f"stages/{name}.py") if file.stat().st_size}
    missing = sorted(str(file.relative_to(ROOT)) for file in files if not covered(file, deps))
    assert not missing, f"stage {name} imports modules that its deps do not name"


@pytest.mark.parametrize("name", STAGES)
def test_tables_that_a_stage_reads_and_writes_are_its_deps_and_outs(name):
    deps, outs = declared(STAGES[name])
    for node in ast.walk(tree(ROOT / f"stages/{name}.py")):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "tables"):
            continue
        table = node.args[0]
        if not isinstance(table, ast.Constant) or node.func.attr not in ("read", "write"):
            continue
        layer = yaml.safe_load((ROOT / f"schemas/{table.value}.yaml").read_text())["layer"]
        stored = ROOT / f"data/{layer}/{table.value}.parquet"
        assert covered(ROOT / f"schemas/{table.value}.yaml", deps), f"{name}: schemas/{table.value}.yaml is no dep"
        assert covered(stored, deps if node.func.attr == "read" else outs), f"{name}: {stored} is no {node.func.attr}"


@pytest.mark.parametrize("name", STAGES)
def test_params_name_every_group_that_a_stage_may_read(name):
    if covered(ROOT / "conf/config.yaml", STAGES[name]["deps"]):  # it composes a configuration of its own
        assert STAGES[name]["params"] == ["benchmark", "evaluate"]
        return
    groups = set()
    for path in reached(ROOT / f"stages/{name}.py"):
        if path.name in ("config.py", "stage.py", "tracking.py"):  # these hand on or record all of it
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cfg":
                groups.add({"bar_minutes": "interval"}.get(node.attr, node.attr))
    groups &= {field.name for field in fields(config.Config)}  # a part of the configuration may be called cfg too
    groups.discard("executor")  # spreads work; see below
    assert groups <= set(params(STAGES[name])), f"stage {name} reads parameters that its params do not name"


@pytest.mark.parametrize(
    ("name", "others"), [("lab_recovery", (*lab_runs.LAYERS, "train", "predict")), ("minute", lab_runs.LAYERS)]
)
def test_a_stage_that_runs_others_by_name_depends_on_what_they_depend_on(name, others):
    deps, _ = declared(STAGES[name])
    written = {out for other in ORDER for out in declared(STAGES[other])[1]}
    sets_itself = {"tickers", "start", "end"} if name == "lab_recovery" else set()
    for other in others:
        own = {dep for dep in STAGES[other]["deps"] if not dep.startswith("$") and dep not in written}
        own -= {f"stages/{other}.py"} if other not in lab_runs.LAYERS else set()
        assert all(covered(ROOT / dep, deps) for dep in own), f"{name} runs {other}: {sorted(own - set(deps))}"
        groups = {param for param in params(STAGES[other]) if param in {item.name for item in fields(config.Config)}}
        assert groups - sets_itself <= set(params(STAGES[name]))


def test_another_executor_repeats_no_stage_whose_outputs_do_not_depend_on_it():
    named = {name: [param for param in params(stage) if param.startswith("executor")] for name, stage in STAGES.items()}
    assert {name: params for name, params in named.items() if params} == {"train": ["executor.ranks"]}


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.yaml")), ids=lambda path: path.name)
def test_every_schema_is_whole(path):
    table = tables.schema(path.stem)
    assert table.table == path.stem
    assert set(table.key) <= set(table.columns)
    for name, column in table.columns.items():
        assert {"dtype", "unit", "description"} <= set(column), name
        others = set(column) - {"dtype", "unit", "description", "nullable", "family"}
        assert others <= {"min", "above", "max", "pattern", "allowed"}, f"{name}: a typing error, or a comma unquoted"
        assert column["dtype"] in tables._DTYPES or re.fullmatch(r"vector\[\w+\]", column["dtype"]), name


@pytest.mark.parametrize("path", [config.PARAMS, config.MINUTE])
def test_params_are_what_conf_composes_to(path, tmp_path):
    config.compose(tmp_path / "params.yaml", [] if path == config.PARAMS else ["+experiment=minute"])
    assert (tmp_path / "params.yaml").read_text() == (ROOT / path).read_text(), "run `make params`"


def test_every_choice_in_conf_is_a_valid_configuration(tmp_path):
    for path in sorted((ROOT / "conf").glob("*/*.yaml")):
        plus = "+" if path.parent.name == "experiment" else ""
        config.compose(tmp_path / "params.yaml", [f"{plus}{path.parent.name}={path.stem}"])
        config.load(params=tmp_path / "params.yaml")


def test_importing_needs_no_gpu_and_writes_nothing(tmp_path):
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in modules() if path.name != "__init__.py"]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "assert 'cupy' not in sys.modules and 'mlflow' not in sys.modules\n"
    )
    env = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    declared = {re.split(r"[<>=\[]", name)[0] for name in named}
    providers = {"cupy": ["cupy-cuda13x"], "ray": ["ray"]} | packages_distributions()  # extras may not be installed
    book = [*(ROOT / "docs").glob("*.py"), *(ROOT / "docs/theme").glob("*.py"), *(ROOT / "docs/pdf").glob("*.py")]
    ours = {*PACKAGES, *(path.stem for path in book)} | set(sys.stdlib_module_names)
    for path in [*modules(), *book, ROOT / "run_pipeline.py"]:
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.split(".")[0] for name in names} - ours:
                found = {item.lower().replace("_", "-") for item in providers.get(name, [name])}
                assert found & declared, f"{path.name} imports {name}, which pyproject.toml does not name"


def test_readme_table_names_files_that_exist():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) >= 20
    for row in rows:
        for word in row.split("|")[2].split("`")[1::2]:
            if "/" in word and " " not in word:
                assert list(ROOT.glob(word.rstrip("/"))), f"README names {word}, which is not there"


def test_only_evaluation_reads_the_planted_truth():
    readers = {
        name for name, stage in STAGES.items() if any("truth" in dep for dep in stage["deps"] if dep.startswith("data"))
    }
    assert readers == {"evaluate"}
