"""A disk that is full or may not be written: the error names the file, nothing is half written, and it works again.

The disks are real ones: small file systems in memory, mounted in a name space of their own.
"""

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusion_alpha import config, tables
from fusion_alpha.errors import InputError
from fusion_alpha.files import NotWritten, replace_files, replace_folder, write_bytes, write_json
from fusion_alpha.text.cache import Embedded, EmbeddingCache
from fusion_alpha.text.encoders import Spec

ROOT = Path(__file__).parents[1]
NOISE = np.random.default_rng(0).bytes(400_000)  # does not shrink
N = 20_000


def truth(n: int) -> pd.DataFrame:
    frame = tables.empty("benchmark").reindex(range(n))
    noise = np.frombuffer(NOISE, np.uint8)[:n] / 255.0
    days = pd.date_range("1900-01-01", periods=n).as_unit("us")
    return frame.assign(ticker="TSLA", session=days, movement=noise, set_a=pd.array([True] * n, "boolean"))


def write_table(path: Path) -> None:
    tables.write("benchmark", truth(N), path)


def write_numbers(path: Path) -> None:
    write_json(path, list(NOISE[:80_000]))


def write_folder(path: Path) -> None:
    replace_folder(path, lambda folder: write_bytes(folder / "a", NOISE))


def write_several(path: Path) -> None:
    replace_files(path, lambda folder: [write_bytes(folder / name, NOISE) for name in "ab"])


WRITERS = {"table": write_table, "json": write_numbers, "folder": write_folder, "files": write_several}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill(path: Path) -> None:
    """A file that takes all the room there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("name", WRITERS)
def test_a_writer_that_runs_out_of_room_names_the_file_and_leaves_the_old_one(name, tmp_path):
    target = tmp_path / "layer" / name
    WRITERS[name](target)
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            NotWritten, match=r"(?s)file .*layer/.*cannot be written \(File too large\)\n  rule.*remedy"
        ):
            WRITERS[name](target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before
    WRITERS[name](target)
    assert contents(tmp_path) == before


def on_small_disk(script: str, folder: Path, kilobytes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `script` with `folder` on a file system of that size; skips where this user may not make one."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed: nothing was tried on a full or read-only disk")
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    refused = subprocess.run(probe, capture_output=True, text=True)
    if refused.returncode:
        pytest.skip(
            f"user namespaces are forbidden here ({refused.stderr.strip()}): nothing was tried on a full or read-only "
            "disk; `make namespaces` allows them where AppArmor forbids them"
        )
    command = f'mount -t tmpfs -o size={kilobytes}k tmpfs "$1" && shift && exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", command, "-", str(folder), sys.executable, "-c", script, *arguments]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "DISK": str(folder)}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)


FULL = """
import json, os, subprocess, sys
from pathlib import Path
from test_faults import WRITERS, contents, fill
from fusion_alpha.files import NotWritten
disk, said = Path(os.environ["DISK"]), {}
for name, write in WRITERS.items():
    layer = disk / "layer"
    write(layer / name)
    before, filler = contents(layer), disk / "filler"
    if sys.argv[1] == "full":
        fill(filler)
    else:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        write(layer / name)
        said[name] = "was written"
    except NotWritten as error:
        said[name] = str(error)
    assert contents(layer) == before, name
    if sys.argv[1] == "full":
        filler.unlink()
    else:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    write(layer / name)
    assert contents(layer) == before, name
    subprocess.run(["rm", "-r", layer], check=True)
print(json.dumps(said))
"""


@pytest.mark.parametrize(
    ("fault", "reason"), [("full", "No space left on device"), ("read-only", "Read-only file system")]
)
def test_a_full_and_a_read_only_disk_are_named_by_every_writer(fault, reason, tmp_path):
    done = on_small_disk(FULL, tmp_path, 3000, fault)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == set(WRITERS)
    assert all(f"cannot be written ({reason})" in text and str(tmp_path / "layer") in text for text in said.values()), (
        said
    )


def test_a_file_where_a_folder_should_be_is_named(tmp_path):
    (tmp_path / "report").write_text("mine")
    with pytest.raises(InputError, match=r"report.*\n  rule:   a folder"):
        write_bytes(tmp_path / "report/page.html", b"x")
    assert (tmp_path / "report").read_text() == "mine"


def test_an_embedding_cache_that_cannot_grow_is_named(tmp_path):
    spec = Spec("stub", 4096, "0" * 64, None, 16, "torch", "float32", 2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EmbeddingCache(tmp_path, spec) as cache:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(InputError, match=r"(?s)sqlite: the embedding cache cannot be used.*free space"):
                cache.put([str(number) for number in range(20)], Embedded.zeros(20, 4096))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        cache.put(["a"], Embedded.zeros(1, 4096))
        assert cache.get(["a", "0"])[0].tolist() == [True, False]


STAGE = """
import os, shutil, subprocess, sys
from pathlib import Path
from test_faults import contents, fill
prepared, disk = Path(sys.argv[1]), Path(os.environ["DISK"])
shutil.copytree(prepared, disk / "work")
os.chdir(disk / "work")
before = contents(Path("data"))
filler = disk / "filler"
fill(filler)
stage = [sys.executable, "-m", "stages.clean"]
full = subprocess.run(stage, capture_output=True, text=True)
assert contents(Path("data")) == before
filler.unlink()
again = subprocess.run(stage, capture_output=True, text=True)
print(full.returncode, again.returncode)
print(full.stderr, file=sys.stderr)
"""


@pytest.mark.slow
def test_a_stage_on_a_full_disk_stops_with_2_without_a_traceback_and_runs_when_there_is_room(tmp_path):
    prepared, disk = tmp_path / "prepared", tmp_path / "disk"
    disk.mkdir()
    prepared.mkdir()
    market = ["data.lab.n_tickers=2", "data.lab.last_session='2016-06-30'", "data.dev_start='2016-01-04'"]
    config.compose(prepared / "params.yaml", [*market, "data.test_start='2016-03-01'", "text=stub"])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DVC_ROOT": str(prepared)}
    subprocess.run([sys.executable, "-m", "stages.ingest"], cwd=prepared, env=environment, check=True)
    done = on_small_disk(STAGE, disk, 4000, str(prepared))
    assert done.stdout.split() == ["2", "0"], done.stderr
    assert "clean stopped" in done.stderr
    assert "cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
