"""`dvc repro` that is killed or started twice ends, run again, with the bytes of one that nothing disturbed.

More kills, and others: `make kills KILLS=50 SEED=7`.
"""

import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml
from test_pipeline import SMALL, STAGES, hashes

from fusion_alpha import config

log = logging.getLogger(__name__)
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
KILLS, SEED = int(os.environ.get("KILLS", "4")), int(os.environ.get("SEED", "0"))
DVC = [sys.executable, "-m", "dvc"]
AGAIN = ["repro", "--no-run-cache", "evaluate"]  # what a user types, but nothing comes from DVC's cache of runs
_PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Finished:
    """A checkout in which the small pipeline has run: its files, and how long DVC and each stage took."""

    folder: Path
    files: dict[str, object]
    seconds: dict[str, float]  # of each stage, and of DVC's own start under ""


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("kills") / "checkout"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config.compose(folder / "params.yaml", [item for item in SMALL if "conf/" not in item])
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        patch.setenv("DVC_NO_ANALYTICS", "true")
        patch.setenv("PYTHONUNBUFFERED", "1")
        subprocess.run(["git", "init", "-q"], check=True)
        times = {"": time.monotonic()}
        with started(*AGAIN) as run:
            assert run.stdout is not None
            for line in run.stdout:
                if found := re.match(r"Running stage '(\w+)'", line):
                    times[found[1]] = time.monotonic()
        assert run.wait() == 0
        assert set(STAGES) <= set(times)
        ends = [*list(times.values())[1:], time.monotonic()]
        spans = {name: end - begin for (name, begin), end in zip(times.items(), ends, strict=True)}
        yield Finished(folder, contents(), spans)


@pytest.fixture(autouse=True)
def _inside(finished, monkeypatch):
    monkeypatch.chdir(finished.folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")


def contents() -> dict[str, object]:
    """Hashes of all that the pipeline made, and what DVC wrote down about it; no torn file that a kill left."""
    found = {name: digest for name, digest in hashes().items() if not name.endswith(".partial")}
    return found | {"dvc.lock": yaml.safe_load(Path("dvc.lock").read_text())}


def forget(stage: str) -> None:
    """Take the stage out of dvc.lock: DVC has to run it, and cannot bring its outputs back instead."""
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    del lock["stages"][stage]
    Path("dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def started(*arguments: str) -> subprocess.Popen[str]:
    """DVC in a process group of its own."""
    return subprocess.Popen(
        [*DVC, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def run_again(finished: Finished) -> None:
    """`dvc repro`, which must end well with the bytes of the run that nothing disturbed."""
    done = started(*AGAIN)
    said, _ = done.communicate(timeout=_PATIENCE_S)
    assert done.returncode == 0, said
    log.info("then ran: %s", ", ".join(re.findall(r"Running stage '(\w+)'", said)) or "nothing")
    assert contents() == finished.files


def is_stage(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return any(word.startswith("stages.") for word in process.cmdline())
    return False


def kill(run: subprocess.Popen[str], victim: str) -> str:
    """SIGKILL to the whole group (a power cut), to DVC alone (its stage goes on), or to the stage (out of memory)."""
    children = [] if run.poll() is not None else psutil.Process(run.pid).children(recursive=True)
    stages = [process for process in children if is_stage(process)]
    with suppress(ProcessLookupError):
        if victim == "stage" and stages:
            stages[0].kill()
        elif victim == "dvc":
            os.kill(run.pid, signal.SIGKILL)
        else:
            os.killpg(run.pid, signal.SIGKILL)
    return f"{victim}, {'a stage was running' if stages else 'no stage was running'}"


def wait_for(group: int) -> None:
    """Until no process of the group is left; one that is dead and that nobody asked for does not count."""
    deadline = time.monotonic() + _PATIENCE_S
    while any(alive(process, group) for process in psutil.process_iter()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"group {group} does not end")
        time.sleep(0.2)


def alive(process: psutil.Process, group: int) -> bool:
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_repro_ends_as_an_undisturbed_one_when_it_is_run_again(finished, number):
    """Of a stage that has to run, at a moment between DVC's own start and a little after the stage's end."""
    draw = random.Random(f"{SEED} {number}")
    stage, victim = draw.choice(sorted(set(finished.seconds) - {""})), draw.choice(["group", "dvc", "stage"])
    delay = draw.uniform(0, finished.seconds[""] + 1.2 * finished.seconds[stage])
    forget(stage)
    run = started("repro", "--no-run-cache", "--single-item", stage)
    try:
        run.wait(delay)
    except subprocess.TimeoutExpired:
        said = kill(run, victim)
    else:
        said = "it had ended"
    run.wait()  # DVC takes a dead process that nobody asked for to be alive
    log.info("%s after %.1f s: %s", stage, delay, said)
    if victim != "dvc":  # an orphan goes on beside what is run again
        wait_for(run.pid)
    try:
        run_again(finished)
    finally:
        wait_for(run.pid)
        run.communicate()
    assert contents() == finished.files


def test_two_at_once_end_alike_or_the_second_is_told_who_is_in_its_way(finished):
    both = [started("repro", "--force", "--no-run-cache", "technical") for _ in range(2)]
    answers = [run.communicate(timeout=_PATIENCE_S)[0] for run in both]
    assert 0 in {run.returncode for run in both}, answers
    for run, said in zip(both, answers, strict=True):
        assert run.returncode == 0 or re.search(r"is busy, it is being blocked by:\s+\(PID \d+\)|acquire lock", said), (
            said
        )
    run_again(finished)


@pytest.mark.parametrize(
    ("file", "torn", "remedy"),
    [
        ("dvc.lock", lambda lock: lock[: lock.index("- path: ", len(lock) // 2) + 6], Path.write_text),
        (".dvc/tmp/rwlock", lambda _: '{"write": {"data/raw": {"pid": 1', lambda path, _: path.unlink()),
    ],
)
def test_a_file_of_dvcs_own_that_a_kill_cut_is_named_and_can_be_put_right(finished, file, torn, remedy):
    """DVC writes these two in place: `git checkout dvc.lock`, `rm .dvc/tmp/rwlock`."""
    path, lock = Path(file), Path("dvc.lock").read_text()
    path.write_text(torn(lock))
    run = started(*AGAIN)
    said, _ = run.communicate(timeout=_PATIENCE_S)
    assert run.returncode != 0
    assert path.name in said
    remedy(path, lock)
    run_again(finished)
