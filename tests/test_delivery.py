"""Environments, container, workflows and hooks say the same things, and the checks refuse what they are there for."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
HOOKS = {
    hook["id"]: hook
    for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repo["hooks"]
}
WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
FIRST, LAST = "3.11", "3.13"

NOTEBOOK = {
    "cells": [
        {
            "cell_type": "code",
            "source": "1",
            "metadata": {},
            "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "private"}],
        }
    ],
    "metadata": {},
    "nbformat": 4,
    "nbformat_minor": 4,
}


def locked() -> dict[str, str]:
    """Version of each package in the lock."""
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if re.match(r"[A-Za-z0-9]", line)]
    pins = [Requirement(line) for line in lines]
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}


def refused(hook: str, *arguments: str, cwd: Path) -> str:
    """What a hook says about what it refuses; it must be installed and it must fail."""
    words = shlex.split(HOOKS[hook]["entry"])
    done = subprocess.run([str(BIN / words[0]), *words[1:], *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_lock_holds_a_fitting_version_of_all_that_is_asked_for():
    pins = locked()
    for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        assert name in pins, f"{name} is not in requirements.txt: run `make lock`"
        assert wanted.specifier.contains(pins[name]), f"{name} {pins[name]} is not {wanted.specifier}: run `make lock`"


@pytest.mark.parametrize("python", [f"{FIRST}.0", f"{LAST}.0"])
def test_no_package_of_the_lock_refuses_a_python_that_we_promise(python):
    asked = {
        canonicalize_name(one.metadata["Name"]): one.metadata.get("Requires-Python", "") for one in distributions()
    }
    refusing = [name for name in locked() if not SpecifierSet(asked.get(name, "")).contains(python)]
    assert refusing == []


def test_the_environment_of_conda_is_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *packages, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt"]}
    python = next(item for item in packages if item.startswith("python="))
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])


def test_everything_names_the_same_pythons():
    span = SpecifierSet(PROJECT["requires-python"])
    minors = [f"3.{minor}" for minor in range(9, 20) if f"3.{minor}" in span]
    assert (minors[0], minors[-1]) == (FIRST, LAST)
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tools["ruff"]["target-version"] == f"py{FIRST.replace('.', '')}"
    assert tools["mypy"]["python_version"] == FIRST
    assert f"Python {FIRST} to {LAST}" in (ROOT / "Makefile").read_text()
    assert f"Python {FIRST} to {LAST}" in (ROOT / "README.md").read_text()
    assert WORKFLOWS["checks.yml"]["jobs"]["test"]["strategy"]["matrix"]["python"] == minors
    built = re.search(r"^ARG PYTHON=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert built is not None
    assert built[1] in span


def test_workflows_run_nothing_but_make_targets_in_the_order_lint_test_image_book_deploy():
    for name, workflow in WORKFLOWS.items():
        for job in workflow["jobs"].values():
            runs = [step["run"] for step in job["steps"] if "run" in step]
            choices = job.get("strategy", {}).get("matrix", {}).get("run", [""])
            for words in (run.replace("${{ matrix.run }}", choice).split() for run in runs for choice in choices):
                assert words[0] == "make", f"{name}: {words}"
                assert {word for word in words[1:] if "=" not in word} <= TARGETS, f"{name}: {words}"
    jobs = WORKFLOWS["checks.yml"]["jobs"]
    assert [(job, body.get("needs")) for job, body in jobs.items()] == [
        ("lint", None), ("test", "lint"), ("image", "test"), ("book", "image"), ("deploy", "book")
    ]  # fmt: skip


def test_services_of_ours_run_what_is_here():
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), f"{name} is open to the network"
        if service["image"] != "nimbus-fusion":
            assert re.search(r":\d", service["image"]), f"{name}: the image has no version"
            continue
        tool, target = service["command"][:2]
        assert target in TARGETS if tool == "make" else (ROOT / target).exists(), f"{name}: {service['command']}"


def test_the_image_runs_as_nobody_special_and_holds_no_credentials():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert int(users[-1]) > 0


def test_the_image_holds_what_git_holds_and_nothing_that_git_ignores(tmp_path):
    held = set(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())
    rules = (ROOT / ".gitignore").read_text().split()
    left = {rule.replace("*", "x").strip("/") for rule in rules}  # a file for each rule, and for each output of a stage
    left |= {".env.local", "docs/.env", ".dvc/config.local", ".dvc/cache/x", ".dvc/tmp/x", "stages/x.pyc"}
    for pipeline in ("dvc.yaml", "minute/dvc.yaml"):
        for stage in yaml.safe_load((ROOT / pipeline).read_text())["stages"].values():
            outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage.get("outs", [])]
            left |= {out if Path(out).suffix else f"{out}/x" for out in outs}
    left |= {".git/config", ".git/config.worktree", ".git/credentials"}  # tokens in URLs of remotes
    held |= {".git/HEAD", ".git/index", ".git/objects/ab/x", ".git/refs/heads/main", ".git/packed-refs"}  # DVC's need
    for name in held | left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    context = {name for name in exclude_paths(str(tmp_path), patterns) if (tmp_path / name).is_file()}
    assert context - held <= {"Dockerfile", ".dockerignore"}
    assert held <= context


@pytest.mark.slow
def test_git_and_dvc_work_without_the_configuration_that_the_image_does_not_take(tmp_path):
    folder = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    (folder / ".git/config").unlink()
    (tmp_path / ".gitconfig").write_text("[user]\nname = quant\nemail = quant@localhost\n")  # as in the Dockerfile
    environment = os.environ | {"HOME": str(tmp_path)}
    for words in (
        ["git", "status", "--porcelain"],
        [BIN / "dvc", "status"],
        [BIN / "dvc", "repro", "ingest"],
        [BIN / "dvc", "exp", "run", "--name", "one", "-S", "data.lab.seed=8", "ingest"],
        [BIN / "dvc", "exp", "show", "--csv"],
    ):
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert ",one," in done.stdout or "\none," in done.stdout
    assert not (folder / ".git/config").exists()


@pytest.mark.parametrize("file", ["compose.yaml", "README.md"])
def test_the_services_run_as_the_user_whom_bash_names_in_the_way_that_is_written(file):
    users = re.findall(r"\$\{(\w+):-10001\}", (ROOT / "compose.yaml").read_text())
    assert len(users) == 2
    settings = re.findall(r"\w+=\$\(id -[ug]\)", (ROOT / file).read_text())
    done = subprocess.run(["bash", "-c", f"{' '.join(settings)} env"], capture_output=True, text=True, check=True)
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert [said.get(name) for name in users] == [str(os.getuid()), str(os.getgid())]


def test_the_linters_of_container_and_workflows_agree_and_see_mistakes(tmp_path):
    for tool, *arguments in (("hadolint", "Dockerfile"), ("actionlint",)):
        done = subprocess.run([str(BIN / tool), *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN cd /x && sudo make\n")
    assert "DL3007" in refused("dockerfile", "Dockerfile", cwd=tmp_path)
    workflow = (ROOT / ".github/workflows/checks.yml").read_text().replace("needs: lint", "needs: lnt")
    (tmp_path / "w.yml").write_text(workflow)
    assert "does not exist" in refused("workflows", "w.yml", cwd=tmp_path)


def test_hooks_need_nothing_that_the_environment_does_not_hold():
    for hook in HOOKS.values():
        assert hook["language"] in ("system", "pygrep")  # the second is a search that pre-commit does itself
        if hook["language"] == "system":
            assert shutil.which(hook["entry"].split()[0], path=str(BIN)), f"{hook['id']} is not in the environment"


def test_hook_and_target_look_for_the_same_secrets():
    makefile = (ROOT / "Makefile").read_text()
    secrets = HOOKS["secrets"]["entry"].replace("$", "$$")
    assert f"SECRETS := {secrets}\n" in makefile
    assert f"KEYS := {HOOKS['keys']['entry']}\n" in makefile


# What `make secrets` must find: the first four by detect-secrets, the rest, without quotes, by the pattern of the hook.
SECRETS = [
    'key = "' + "AKIA" + 'QWERTYUIOPASDFGH"',
    "password = " + '"correct-horse-battery"',
    "-----BEGIN RSA " + "PRIVATE KEY-----",
    'token = "' + "ghp_" + "a1B2c3D4e5F6" * 3 + '"',
    "secret_access_key" + " = " + "wJalrXUtnFEMI/K7MDENG",
    "export AWS_SECRET_ACCESS_KEY" + "=" + "wJalrXUtnFEMIK7MDENGb",
    "AGE-SECRET-" + "KEY-1" + "QPZRY9X8GF" * 6,
]


@pytest.fixture
def history(tmp_path) -> Path:
    """A repository of one commit, with our Makefile."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".gitignore").write_text("/.cache/\n")
    for command in ("init --quiet", "config user.name a", "config user.email a@b", "add .", "commit --quiet -m one"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    return tmp_path


def make_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "secrets", "READY=", f"VENV={BIN.parent}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("line", SECRETS)
def test_a_secret_that_was_committed_and_removed_is_found_in_the_history(history, line):
    (history / "planted.txt").write_text(f"{line}\n")
    for command in ("add .", "commit --quiet -m planted", "rm --quiet planted.txt", "commit --quiet -m removed"):
        subprocess.run(["git", *command.split()], cwd=history, check=True)
    done = make_secrets(history)
    assert done.returncode == 2
    assert ".cache/history.patch:" in done.stdout or line in done.stdout


KEY = "AGE-SECRET-" + "KEY-1" + "QPZRY9X8GF" * 6


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize("line", [SECRETS[0], KEY])
def test_a_secret_that_came_with_a_merge_and_went_with_the_next_is_found(history, line):
    planted = history / "planted.txt"
    for change in (lambda: planted.write_text(f"{line}\n"), planted.unlink):
        git(history, "checkout", "-B", "other")
        git(history, "commit", "--allow-empty", "-m", "side")
        git(history, "checkout", "-")
        git(history, "merge", "--no-ff", "--no-commit", "other")
        change()
        git(history, "add", "--all")
        git(history, "commit", "-m", "merge")
    done = make_secrets(history)
    assert done.returncode == 2, done.stdout + done.stderr


@pytest.mark.parametrize("line", [SECRETS[0], KEY])
@pytest.mark.parametrize(
    "stored",
    [
        lambda line: b"\x00\xff\x80 picture\n" + line.encode() + b"\n",
        lambda line: f"{line}\n".encode("utf-16"),
        lambda line: "grün\n".encode("latin-1") + line.encode() + b"\n",
    ],
    ids=["NUL", "UTF-16", "latin-1"],
)
def test_a_secret_in_a_file_that_is_no_text_is_found_in_the_history(history, line, stored):
    (history / ".gitattributes").write_text("*.bin binary\n")
    (history / "planted.bin").write_bytes(stored(line))
    git(history, "add", ".")
    git(history, "commit", "-m", "planted")
    git(history, "rm", "--quiet", "planted.bin")
    git(history, "commit", "-m", "removed")
    done = make_secrets(history)
    assert done.returncode == 2, done.stdout + done.stderr


def test_locks_of_npm_hold_no_secret_and_hide_none(history):
    whole = (ROOT / "docs/theme/package-lock.json").read_text()
    (history / "package-lock.json").write_text(whole)
    git(history, "add", ".")
    git(history, "commit", "-m", "lock")
    done = make_secrets(history)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"integrity": "sha512-' in (history / ".cache/history.patch").read_text()
    for hidden in (f"{SECRETS[0]}  # integrity", f'"integrity": "sha512-{"A" * 86}==", {SECRETS[0]}'):
        (history / "planted.py").write_text(f"{hidden}\n")
        git(history, "add", ".")
        assert "planted.py:1" in make_secrets(history).stdout


def test_a_history_without_a_secret_passes(history):
    done = make_secrets(history)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_neither_the_files_nor_the_history_hold_a_secret():
    done = make_secrets(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("line", SECRETS[:4])
def test_secrets_are_refused(tmp_path, line):
    (tmp_path / "planted.py").write_text(line + "\n")
    assert "planted.py:1" in refused("secrets", "planted.py", cwd=tmp_path)


@pytest.mark.parametrize(("message", "good"), [("feat(fusion): a gate", True), ("fixed stuff", False)])
def test_messages_that_say_no_kind_are_refused(tmp_path, message, good):
    (tmp_path / "message").write_text(message + "\n")
    if good:
        done = subprocess.run([str(BIN / "conventional-pre-commit"), "message"], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0
    else:
        assert "Conventional Commit" in refused("message", "message", cwd=tmp_path)


def test_notebooks_lose_their_outputs(tmp_path):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps(NOTEBOOK))
    subprocess.run([str(BIN / HOOKS["notebooks"]["entry"]), str(path)], check=True)
    assert "private" not in path.read_text()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", ".github/pull_request_template.md"])
def test_targets_that_people_are_told_to_make_exist(name):
    named = re.findall(r"(?:`|^)make ([a-z0-9-]+)", (ROOT / name).read_text(), re.MULTILINE)
    assert named
    assert set(named) <= TARGETS


def test_issue_forms_ask_for_something_and_mark_what_is_needed():
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert {path.stem for path in forms} == {"bug", "experiment", "task"}
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= set(form)
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))
        assert any(field.get("validations", {}).get("required") for field in form["body"])
        for field in form["body"]:
            assert field["type"] in ("textarea", "input", "dropdown")
            assert field["attributes"]["label"]
            assert all(isinstance(option, str) for option in field["attributes"].get("options", [])), (
                f"{path}: quote it"
            )


def test_licences_that_somebody_looked_at_are_explained():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pip-licenses"]
    notice = (ROOT / "NOTICE").read_text().lower()
    assert [name for name in tool["ignore-packages"] if name not in notice] == []
    assert set(tool["ignore-packages"]) <= set(locked())


def test_packages_of_the_lock_that_ask_for_their_source_are_named():
    """Copyleft of any strength, by what the installed packages say of themselves."""
    named, asking = (ROOT / "NOTICE").read_text().lower(), set()
    for one in distributions():
        said = [one.metadata.get("License-Expression") or one.metadata.get("License") or ""]
        said += [text for text in one.metadata.get_all("Classifier") or [] if text.startswith("License")]
        if re.search(r"\b(MPL|EPL|[AL]?GPL|Mozilla|Eclipse|General Public)", "\n".join(line[:200] for line in said)):
            asking.add(canonicalize_name(one.metadata["Name"]))
    assert "tqdm" in asking
    assert sorted(name for name in asking & set(locked()) if name not in named) == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A clone in which `make hooks` was run."""
    folder = tmp_path_factory.mktemp("hooks") / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    shutil.copy(ROOT / ".pre-commit-config.yaml", folder)
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "config", name, "a@b"], cwd=folder, check=True)
    subprocess.run([BIN / "pre-commit", "install"], cwd=folder, check=True, capture_output=True)
    return folder


def commit(folder: Path, name: str, text: str, message: str = "chore(pipeline): a change") -> tuple[bool, str]:
    """Commit `text` as the file `name` the way people do; whether git took it, and what it said. Leaves no trace."""
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    before = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout
    (folder / name).write_text(text)
    subprocess.run(["git", "add", "--", name], cwd=folder, check=True)
    done = subprocess.run(
        ["git", "commit", "--message", message], cwd=folder, env=environment, capture_output=True, text=True
    )
    after = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout
    assert (done.returncode == 0) == (before != after)
    subprocess.run(["git", "reset", "--quiet", "--hard", before.strip()], cwd=folder, check=True)
    return done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_git_takes_a_commit_that_the_hooks_pass(checkout):
    taken, said = commit(checkout, "tests/test_hooked.py", "def test_one() -> None:\n    assert 1\n")
    assert taken, said
    assert "Passed" in said
    for hook in ("ruff", "no secrets", "conventional"):
        assert hook in said


BAD = {
    "ruff": ("tests/test_hooked.py", "import os\n"),
    "ruff-format": ("tests/test_hooked.py", "x = [1,\n  2]\n"),
    "mypy": ("stages/hooked.py", 'number: int = "text"\n'),
    "params": ("params.yaml", "data: {}\n"),
    "schemas": ("schemas/hooked.yaml", "table: hooked\n"),
    "notebooks": ("docs/hooked.ipynb", json.dumps(NOTEBOOK)),
    "secrets": ("hooked.txt", "password = " + '"correct-horse-battery"\n'),
    "keys": ("hooked.env", "export AWS_SECRET_ACCESS_KEY" + "=" + "wJalrXUtnFEMIK7MDENGb\n"),
    "dockerfile": ("Dockerfile", "FROM python:latest\n"),
    "workflows": (".github/workflows/hooked.yml", "on: push\njobs: {a: {runs-on: here, steps: [{run: a, uses: b}]}}\n"),
}


@pytest.mark.slow
@pytest.mark.parametrize("hook", BAD)
def test_git_refuses_a_commit_that_a_hook_fails(checkout, hook):
    name, text = BAD[hook]
    taken, said = commit(checkout, name, text)
    assert not taken
    assert f"- hook id: {hook}\n" in said, said


@pytest.mark.slow
def test_git_refuses_a_message_without_a_kind(checkout):
    taken, said = commit(checkout, "notes.txt", "text\n", "fixed stuff")
    assert not taken
    assert "- hook id: message\n" in said


def test_every_hook_is_seen_to_refuse_something():
    assert set(BAD) | {"message"} == set(HOOKS)
