"""Sensitive sources: sealed at rest, opened in memory, and never in the clear on a disk, whatever goes wrong."""

import importlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyrage import x25519
from source_inputs import ROOT, archive, configuration, csv_folder, item, stocknet_files

from fusion_alpha import config, files, pii, pii_check, pii_forms, privacy, raw, sealed, tables
from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json
from fusion_alpha.sources import yahoo
from stages import clean, ingest

OLD, NEW = x25519.Identity.generate(), x25519.Identity.generate()
PII_KEY = "canary-key-of-the-hashes"
CANARIES = {  # nowhere on disk but in the user's own folder
    "id": "canary-id-4711",
    "author": "canary_author_77",
    "note": "canary note that no stage reads",
    "address": "canary.person@leak.example",
    "handle": "@canary_person",
    "phone": "(212) 555-0199",
    "column": "canary of a column",
    "hash key": PII_KEY,
    "identity": str(OLD),
    "new identity": str(NEW),
}


@pytest.fixture(autouse=True)
def _workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.setenv(pii.KEY_VARIABLE, PII_KEY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    monkeypatch.delenv(sealed.IDENTITY_FILE, raising=False)
    monkeypatch.setenv(sealed.IDENTITY, str(OLD))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def folder(tmp_path):
    """A csv folder with canaries in every item and in a price file."""
    made = csv_folder(tmp_path / "mine")
    text = f"TSLA up {{}}%, ask {CANARIES['address']} or {CANARIES['handle']}, {CANARIES['phone']}"
    lines = [
        item(n, id=f"{CANARIES['id']}-{n}", author=CANARIES["author"], note=CANARIES["note"], text=text.format(n))
        for n in range(60)
    ]
    (made / "news/2015.jsonl").write_text("\n".join(lines) + "\n")
    rows = (made / "prices/TSLA.csv").read_text().splitlines()
    rows = [f"{rows[0]},Note", *(f"{row},{CANARIES['column']}" for row in rows[1:])]
    (made / "prices/TSLA.csv").write_text("\n".join(rows) + "\n")
    return made


def sensitive(source="csv", block=None, to=(OLD,), **top):
    keys = [str(one.to_public()) for one in to]
    return configuration(source, block, privacy=config.PrivacyConfig([source], keys), **top)


def csv(folder, to=(OLD,)):
    return sensitive("csv", {"folder": str(folder)}, to)


def content(*folders):
    found = {}
    for where in folders:
        found |= {str(path): path.read_bytes() for path in sorted(Path(where).rglob("*")) if path.is_file()}
    return found


def in_the_clear(*folders):
    """(file, canary) for every canary that a file holds, also inside Parquet's compression."""
    found = []
    for path in (path for where in folders for path in Path(where).rglob("*") if path.is_file()):
        held = path.read_bytes()
        if path.suffix == ".parquet":
            held += pq.read_table(path).to_pandas().to_csv().encode()
        found += [(str(path), word) for word in CANARIES.values() if word.encode() in held]
    return found


# ---- configuration and identities


def test_sealing_needs_a_public_key_and_never_shows_a_secret_one():
    with pytest.raises(InputError, match=r"privacy\.recipients") as error:
        config.PrivacyConfig(["csv"], [])
    assert sealed.COMMAND in str(error.value)
    with pytest.raises(InputError) as error:
        config.PrivacyConfig(["csv"], [str(OLD)])
    assert str(OLD) not in str(error.value)
    with pytest.raises(InputError, match="nobody is in the lab"):
        config.PrivacyConfig(["lab"], [str(OLD.to_public())])
    with pytest.raises(InputError, match="a key cannot be used"):
        sealed.seal(b"", ["age1" + 58 * "q"])


def test_what_is_sealed_opens_for_every_recipient_and_nobody_else(monkeypatch):
    shut = sealed.seal(b"text", [str(OLD.to_public()), str(NEW.to_public())])
    assert b"text" not in shut
    for one in (OLD, NEW):
        monkeypatch.setenv(sealed.IDENTITY, str(one))
        assert sealed.unseal(shut, "a") == b"text"
    monkeypatch.setenv(sealed.IDENTITY, str(x25519.Identity.generate()))
    with pytest.raises(InputError, match="none of the identities given opens it") as error:
        sealed.unseal(shut, "news/a.age")
    for word in ("news/a.age", "remedy", sealed.IDENTITY_FILE):
        assert word in str(error.value)
    assert os.environ[sealed.IDENTITY] not in str(error.value)


def test_a_changed_byte_is_damage_not_a_wrong_key():
    shut = bytearray(sealed.seal(b"text", [str(OLD.to_public())]))
    shut[-1] ^= 1
    with pytest.raises(InputError, match="a damaged file"):
        sealed.unseal(bytes(shut), "a.age")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, ["no identity", "fusion-alpha/identity.txt", sealed.IDENTITY_FILE, f"{sealed.COMMAND} key"]),
        ("missing", ["names no file", "remedy"]),
        ("# nothing\n", ["no identity in it"]),
        (f"{OLD}\nAGE-SECRET-KEY-1CANARY\n", ["line 2", "not an identity"]),
    ],
    ids=["none", "missing", "empty", "damaged"],  # a key is another one in every process
)
def test_without_an_identity_the_message_says_what_to_do(tmp_path, monkeypatch, given, words):
    monkeypatch.delenv(sealed.IDENTITY)
    if given is not None:
        monkeypatch.setenv(sealed.IDENTITY_FILE, str(tmp_path / "key.txt"))
        if given != "missing":
            (tmp_path / "key.txt").write_text(given)
    with pytest.raises(InputError) as error:
        sealed.unseal(sealed.seal(b"x", [str(OLD.to_public())]), "a.age")
    for word in words:
        assert word in str(error.value)
    assert "SECRET-KEY-1CANARY" not in str(error.value)


def test_a_file_of_identities_may_hold_several_and_is_for_its_owner(tmp_path, monkeypatch, caplog):
    path = tmp_path / "keys" / "mine.txt"
    first = privacy.make_key(path)
    both = privacy.make_key(path, another=True)
    assert both[:1] == first
    assert len(both) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="never overwritten"):
        privacy.make_key(path)
    with pytest.raises(InputError, match="inside the repository"):
        privacy.make_key(Path("data/key.txt"))
    monkeypatch.delenv(sealed.IDENTITY)
    monkeypatch.setenv(sealed.IDENTITY_FILE, str(path))
    for key in both:
        assert sealed.unseal(sealed.seal(b"x", [key]), "a") == b"x"
    assert not caplog.records
    path.chmod(0o644)
    sealed.identities()
    assert "chmod 600" in caplog.text


def test_a_new_key_leaves_the_one_before_it_whole(tmp_path):
    path = tmp_path / "key.txt"
    path.write_text(str(OLD))  # as an editor without a last line break leaves it
    assert privacy.make_key(path, another=True)[0] == str(OLD.to_public())
    for damaged in (b"nothing of the kind\n", b"\xff\n"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="line 1"):
            privacy.make_key(path, another=True)
        assert path.read_bytes() == damaged


# ---- the raw layer


def test_raw_is_sealed_and_the_tables_are_those_of_a_plain_run(folder):
    ingest.main(configuration("csv", {"folder": str(folder)}))
    clean.main(configuration("csv", {"folder": str(folder)}))
    plain = content("data/interim", "metrics")
    shutil.rmtree("data")
    ingest.main(csv(folder))
    clean.main(csv(folder))
    manifest = read_json(ingest.RAW / raw.MANIFEST)
    assert [entry["path"] for entry in manifest["files"]] == [
        f"{name}.age" for name in ("news/2015.jsonl", "prices/AAPL.csv", "prices/TSLA.csv")
    ]
    assert manifest["recipients"] == [str(OLD.to_public())]
    assert content("data/interim", "metrics") == plain


def test_ingest_again_changes_the_files_that_changed_and_no_other(folder):
    ingest.main(csv(folder))
    before = content("data")
    ingest.main(csv(folder))
    assert content("data") == before
    with (folder / "news/2015.jsonl").open("a") as handle:
        handle.write(item(99) + "\n")
    ingest.main(csv(folder))
    changed = {path for path, held in content("data").items() if before.get(path) != held}
    assert changed == {"data/raw/manifest.json", "data/raw/news/2015.jsonl.age"}


def test_other_recipients_seal_anew_and_need_no_old_identity(folder, monkeypatch):
    ingest.main(csv(folder))
    before = content("data/raw")
    monkeypatch.delenv(sealed.IDENTITY)
    ingest.main(csv(folder, to=(NEW,)))
    assert not set(before.values()) & set(content("data/raw").values())
    monkeypatch.setenv(sealed.IDENTITY, str(NEW))
    clean.main(csv(folder, to=(NEW,)))


@pytest.mark.parametrize("identity", [None, str(NEW)], ids=["none", "another"])
def test_no_identity_or_a_wrong_one_stops_and_leaves_all_as_it_was(folder, monkeypatch, identity):
    ingest.main(csv(folder))
    clean.main(csv(folder))
    before = content("data", "metrics")
    monkeypatch.delenv(sealed.IDENTITY)
    if identity:
        monkeypatch.setenv(sealed.IDENTITY, identity)
    for stage in (ingest, clean):
        with pytest.raises(InputError, match="remedy"):
            stage.main(csv(folder))
        assert content("data", "metrics") == before


def test_from_plain_to_sealed_and_back_leaves_one_form(folder):
    ingest.main(configuration("csv", {"folder": str(folder)}))
    ingest.main(csv(folder))
    assert all(sealed.is_sealed(Path(path)) or path.endswith("manifest.json") for path in content("data/raw"))
    ingest.main(configuration("csv", {"folder": str(folder)}))
    assert not any(sealed.is_sealed(Path(path)) for path in content("data/raw"))


def test_both_forms_of_a_file_are_refused(folder):
    ingest.main(csv(folder))
    (ingest.RAW / "prices/AAPL.csv").write_text("Date\n")
    with pytest.raises(InputError, match="a plain and a sealed file"):
        sealed.listed(ingest.RAW / "prices")


def test_a_sealed_folder_of_the_users_own(folder):
    ingest.main(csv(folder))
    clean.main(csv(folder))
    before = content("data", "metrics")
    privacy.seal_files(sorted(folder.rglob("*.csv")) + sorted(folder.rglob("*.jsonl")), csv(folder))
    assert all(path.endswith(".age") for path in content(folder))
    assert in_the_clear(folder) == []
    ingest.main(csv(folder))
    clean.main(csv(folder))
    after = content("data", "metrics")
    assert {path for path in after if after[path] != before[path]} == {"data/raw/manifest.json"}  # where it came from
    with pytest.raises(InputError, match="what is sealed stays so"):
        ingest.main(configuration("csv", {"folder": str(folder)}))


def test_sealing_a_file_that_nobody_here_could_open_again_keeps_it(folder):
    before = content(folder)
    with pytest.raises(InputError, match="none of the identities"):
        privacy.seal_files([folder / "news/2015.jsonl"], csv(folder, to=(NEW,)))
    assert content(folder) == before


def test_a_sealed_file_of_somebody_else_is_never_overwritten(folder, capsys, monkeypatch):
    path = folder / "prices/AAPL.csv"
    beside = path.with_name("AAPL.csv.age")
    mine = (str(OLD.to_public()),)
    others = {
        "of somebody else": sealed.seal(path.read_bytes(), [str(NEW.to_public())]),
        "of other content": sealed.seal(b"the only copy", mine),
        "damaged": b"age-encryption.org/v1 and no more",
    }
    monkeypatch.setattr(config, "load", lambda: csv(folder))
    for held in others.values():
        beside.write_bytes(held)
        before = content(folder)
        status, out = command(capsys, "seal", str(folder / "prices/TSLA.csv"), str(path))
        assert status == 2
        for word in (str(beside), "never overwritten", "remedy"):
            assert word in out
        assert content(folder) == before
    beside.write_bytes(sealed.seal(path.read_bytes(), mine))  # of a run that was killed before it removed the plain one
    assert privacy.seal_files([path], csv(folder)) == 1
    assert not path.exists()
    assert sealed.read(path).startswith(b"Date")


def test_a_file_named_twice_is_sealed_once_and_a_link_not_at_all(folder):
    path, link = folder / "prices/AAPL.csv", folder / "prices/MSFT.csv"
    assert privacy.seal_files([path, path], csv(folder)) == 1
    link.symlink_to(folder / "prices/TSLA.csv")
    with pytest.raises(InputError, match="no links"):
        privacy.seal_files([link], csv(folder))
    assert link.is_symlink()


def test_stocknet_archive(tmp_path):
    block = {"archive": str(archive(tmp_path / "a.zip", stocknet_files()))}
    cfg = sensitive("stocknet", block)
    ingest.main(cfg)
    assert sorted(content(ingest.RAW)) == ["data/raw/manifest.json", "data/raw/stocknet.zip.age"]
    clean.main(cfg)
    assert len(tables.read("news")) == 3


def test_yahoo_and_its_store_of_headlines(tmp_path):
    day = pd.DatetimeIndex(["2024-03-04"]).tz_localize("America/New_York").rename("Date")
    columns = ["Open", "High", "Low", "Close", "Adj Close", "Volume", "Dividends", "Stock Splits"]
    bars = pd.DataFrame([[100.0, 102, 99, 101, 50, 1000, 0, 0]], columns=columns, index=day)

    def market(number):
        news = [{"id": f"id-{number}", "content": {"title": CANARIES["note"], "pubDate": "2024-03-05T15:00:00Z"}}]
        asset = type("Asset", (), {"history": lambda self, **_: bars, "get_news": lambda self, count: news})
        return lambda symbol: asset()

    plain = configuration("yahoo", tickers=["TSLA"])
    yahoo.fetch(plain, tmp_path / "plain", market(1))
    assert in_the_clear(".cache")
    cfg = sensitive("yahoo", tickers=["TSLA"])
    yahoo.fetch(cfg, tmp_path / "raw", market(2))
    assert in_the_clear(".cache", tmp_path / "raw") == []
    assert yahoo.read(cfg, tmp_path / "raw").news["source_id"].tolist() == ["id-1", "id-2"]
    yahoo.fetch(plain, tmp_path / "again", market(3))
    assert len(yahoo.read(plain, tmp_path / "again").news) == 3
    assert not list(Path(".cache").rglob("*.age"))


# ---- nothing in the clear, whatever happens


KILLED = """
import os, signal, sys
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from source_inputs import configuration
from fusion_alpha import config, files, privacy, stage
from stages import clean, ingest
left, whole = {writes}, files.write_atomic
def counted(path, fill):
    def filled(partial):
        global left
        fill(partial)
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    whole(path, filled)
files.write_atomic = counted
stage.set_up("clean")
cfg = configuration("csv", {{"folder": {folder!r}}}, privacy=config.PrivacyConfig(["csv"], {keys!r}))
{body}
"""
BOTH = "ingest.main(cfg)\nclean.main(cfg)"


def in_a_process(tmp_path, folder, body=BOTH, writes=0, to=(OLD,)):
    """Run stages in a process with a TMPDIR of its own; killed in the middle of the given write, 0 for none."""
    (tmp_path / "tmp").mkdir(exist_ok=True)
    keys = [str(one.to_public()) for one in to]
    parts = {"root": str(ROOT), "tests": str(ROOT / "tests"), "folder": str(folder), "keys": keys}
    code = KILLED.format(writes=writes, body=body, **parts)
    env = dict(os.environ) | {"TMPDIR": str(tmp_path / "tmp")}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("writes", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 5, 6))])
def test_killed_in_the_middle_it_leaves_nothing_in_the_clear(tmp_path, folder, writes):
    done = in_a_process(tmp_path, folder, writes=writes)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert content(tmp_path / "work")
    assert in_the_clear(tmp_path / "work", tmp_path / "tmp") == []
    if writes < 4:  # before the manifest, which comes last
        assert not (ingest.RAW / raw.MANIFEST).exists()
    ingest.main(csv(folder))
    clean.main(csv(folder))
    assert not list(Path("data").glob(".raw*"))
    assert in_the_clear(tmp_path / "work", tmp_path / "tmp") == []


def test_nothing_in_the_clear_after_a_run_and_in_its_log(tmp_path, folder):
    done = in_a_process(tmp_path, folder)
    assert done.returncode == 0, done.stderr
    assert in_the_clear(tmp_path / "work", tmp_path / "tmp") == []
    assert [word for word in CANARIES.values() if word in done.stdout + done.stderr] == []
    assert in_the_clear(folder)  # the search itself finds what is there


FAULTS = {
    "a row that is no JSON": ("news/2015.jsonl", '{"text": "canary note that no stage reads"'),
    "a price that is no number": ("prices/TSLA.csv", "2015-01-02,canary of a column,1,1,1,1,1,x"),
    "an action that is wrong": ("actions.csv", "ticker,session,split,dividend\nTSLA,2015-01-05,0,0"),
    "bytes that are not UTF-8": ("news/2016.jsonl", b"canary note that no stage reads \xff"),
}


@pytest.mark.parametrize(
    "fault", [next(iter(FAULTS)), *(pytest.param(one, marks=pytest.mark.slow) for one in list(FAULTS)[1:])]
)
def test_a_failing_run_shows_and_leaves_nothing(tmp_path, folder, fault):
    file, line = FAULTS[fault]
    with (folder / file).open("ab") as handle:
        handle.write(line if isinstance(line, bytes) else f"{line}\n".encode())
    body = "from dataclasses import replace\ncfg = replace(cfg, clean=replace(cfg.clean, max_rejected_share=0.0))\n"
    done = in_a_process(tmp_path, folder, body + BOTH)
    assert "InputError" in done.stderr, done.stderr
    assert in_the_clear(tmp_path / "work", tmp_path / "tmp") == []
    private = [word for name, word in CANARIES.items() if name != "column"]  # of prices, values are shown
    assert [word for word in private if word in done.stdout + done.stderr] == []


# ---- rotation


def open_for(one, monkeypatch):
    monkeypatch.setenv(sealed.IDENTITY, str(one))
    found = {}
    for path in sorted(ingest.RAW.rglob("*.age")):
        found[path.name] = sealed.unseal(path.read_bytes(), str(path))
    return found


def both(tmp_path, monkeypatch):
    path = tmp_path / "both.txt"
    path.write_text(f"{OLD}\n{NEW}\n")
    path.chmod(0o600)
    monkeypatch.delenv(sealed.IDENTITY, raising=False)
    monkeypatch.setenv(sealed.IDENTITY_FILE, str(path))


def test_after_a_rotation_the_new_key_opens_everything_and_the_old_one_nothing(tmp_path, folder, monkeypatch):
    ingest.main(csv(folder))
    before = open_for(OLD, monkeypatch)
    both(tmp_path, monkeypatch)
    assert privacy.rotate(csv(folder, to=(NEW,))) == 3
    assert privacy.rotate(csv(folder, to=(NEW,))) == 0
    assert raw.verify(ingest.RAW, "csv") == 3
    assert read_json(ingest.RAW / raw.MANIFEST)["recipients"] == [str(NEW.to_public())]
    assert open_for(NEW, monkeypatch) == before
    with pytest.raises(InputError, match="none of the identities"):
        open_for(OLD, monkeypatch)
    after = content("data")
    monkeypatch.setenv(sealed.IDENTITY, str(NEW))
    ingest.main(csv(folder, to=(NEW,)))
    assert content("data") == after


@pytest.mark.parametrize("writes", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 3, 5, 6, 7))])
def test_a_rotation_that_was_killed_goes_on(tmp_path, folder, monkeypatch, writes):
    """Its writes: journal and file for each of three files, then the manifest."""
    ingest.main(csv(folder))
    before = open_for(OLD, monkeypatch)
    both(tmp_path, monkeypatch)
    done = in_a_process(tmp_path, folder, "privacy.rotate(cfg)", writes, to=(NEW,))
    assert done.returncode == -signal.SIGKILL, done.stderr
    changed = [path for path in sorted(ingest.RAW.rglob("*.age")) if files.sha256(path) not in hashes()]
    assert len(changed) == (writes - 1) // 2
    if changed:
        with pytest.raises(InputError, match="rotation that was interrupted: run it again"):
            raw.verify(ingest.RAW, "csv")
    assert privacy.rotate(csv(folder, to=(NEW,))) == 3
    assert raw.verify(ingest.RAW, "csv") == 3
    assert open_for(NEW, monkeypatch) == before
    assert not (Path.cwd() / privacy.JOURNAL).exists()
    assert in_the_clear(tmp_path / "work", tmp_path / "tmp") == []


def hashes():
    return [entry["sha256"] for entry in read_json(ingest.RAW / raw.MANIFEST)["files"]]


@pytest.mark.slow
def test_interrupted_twice_with_another_key_in_between(tmp_path, folder, monkeypatch):
    third = x25519.Identity.generate()
    ingest.main(csv(folder))
    before = open_for(OLD, monkeypatch)
    both(tmp_path, monkeypatch)
    assert in_a_process(tmp_path, folder, "privacy.rotate(cfg)", 4, to=(NEW,)).returncode == -signal.SIGKILL
    assert in_a_process(tmp_path, folder, "privacy.rotate(cfg)", 2, to=(third,)).returncode == -signal.SIGKILL
    assert privacy.rotate(csv(folder, to=(third,))) == 3
    assert open_for(third, monkeypatch) == before


def test_a_rotation_takes_what_the_live_router_put_aside_with_it(folder, monkeypatch, tmp_path):
    ingest.main(csv(folder))
    kept = Path("live.quarantine/0a.bin.age")
    files.write_bytes(kept, sealed.seal(b"no answer", [str(OLD.to_public())]))
    both(tmp_path, monkeypatch)
    privacy.rotate(csv(folder, to=(NEW,)))
    monkeypatch.delenv(sealed.IDENTITY_FILE)
    monkeypatch.setenv(sealed.IDENTITY, str(NEW))
    assert sealed.unseal(kept.read_bytes(), str(kept)) == b"no answer"


def test_rotation_refuses_what_it_does_not_know(tmp_path, folder, monkeypatch):
    with pytest.raises(InputError, match="no sealed raw data"):
        privacy.rotate(csv(folder))
    ingest.main(csv(folder))
    both(tmp_path, monkeypatch)
    files.write_bytes(ingest.RAW / "prices/AAPL.csv.age", sealed.seal(b"other", [str(OLD.to_public())]))
    with pytest.raises(InputError, match="not as it was sealed"):
        privacy.rotate(csv(folder, to=(NEW,)))
    shutil.rmtree(ingest.RAW)
    ingest.main(csv(folder))
    monkeypatch.delenv(sealed.IDENTITY_FILE)
    with pytest.raises(InputError, match="no identity"):
        privacy.rotate(csv(folder, to=(NEW,)))


# ---- the command


def command(capsys, *arguments):
    status = privacy.main(arguments)
    shown = capsys.readouterr()
    return status, shown.out + shown.err


def test_key_command_shows_public_keys_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(sealed.IDENTITY)
    status, out = command(capsys, "key")
    path = tmp_path / "nobody/fusion-alpha/identity.txt"
    (one,) = sealed.identities()
    assert status == 0
    assert str(one.to_public()) in out
    assert str(one) not in out
    assert str(path) in out
    assert command(capsys, "key")[1].count("age1") == 1
    assert command(capsys, "key", "--another")[1].count("age1") == 1
    assert command(capsys, "key")[1].count("age1") == 2
    assert command(capsys, "key", "--output", "here.txt")[0] == 2


@pytest.mark.parametrize("place", ["a folder", "below a file", "a new folder on what cannot hold one"])
def test_a_place_that_takes_no_key_is_refused_by_name(tmp_path, capsys, place):
    (tmp_path / "file").write_text("")
    where = {"a folder": tmp_path, "below a file": tmp_path / "file/key.txt"}.get(place, Path("/proc/none/key.txt"))
    for more in ([], ["--another"]):
        status, out = command(capsys, "key", "--output", str(where), *more)
        assert status == 2
        for word in (str(where), "rule", "remedy", "--output"):
            assert word in out


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        privacy.main(["--help"])
    out = capsys.readouterr().out
    for word in ("privacy.recipients", "dvc commit --force ingest", "dvc gc --workspace --cloud", sealed.IDENTITY):
        assert word in out


def test_check_finds_what_was_left_in_the_clear(tmp_path, folder, monkeypatch):
    ingest.main(csv(folder))
    cache = tmp_path / "cache"
    monkeypatch.setattr(privacy, "_dvc", lambda *_: str(cache))
    assert [line.split(":")[0] for line in privacy.in_the_clear(csv(folder))] == [str(folder)]
    Path("data/.raw.1.old.partial").mkdir()
    Path("data/.raw.1.old.partial/a.csv").write_text("x")
    held = (folder / "prices/AAPL.csv").read_bytes()
    digest = privacy.hashlib.md5(held).hexdigest()
    (cache / "files/md5" / digest[:2]).mkdir(parents=True)
    (cache / "files/md5" / digest[:2] / digest[2:]).write_bytes(held)
    found = "\n".join(privacy.in_the_clear(csv(folder)))
    for word in ("data/.raw.1.old.partial/a.csv", digest[2:], "dvc gc"):
        assert word in found


def test_check_finds_objects_of_earlier_contents_in_a_cache_of_dvc(tmp_path, folder, capsys, monkeypatch):
    for words in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(words, check=True)
    ingest.main(configuration("csv", {"folder": str(folder)}))
    dvc(Path.cwd(), "add", "data/raw")
    last_week = (folder / "news/2015.jsonl").read_bytes()
    (folder / "news/2015.jsonl").write_text(item(7) + "\n")
    Path("data/models").mkdir()
    (Path("data/models") / raw.MANIFEST).write_text("{}")  # of something else, which is none of our business
    (Path("data/models") / "a.bin").write_text("x")
    dvc(Path.cwd(), "add", "data/models")
    Path("data/raw.dvc").unlink()
    ingest.main(csv(folder))
    dvc(Path.cwd(), "add", "data/raw")
    monkeypatch.setattr(config, "load", lambda: csv(folder))
    status, out = command(capsys, "check")
    assert status == 1
    found = [line.split(": ", 1) for line in out.splitlines() if "files/md5" in line]
    assert sorted(said.split(";")[0] for _, said in found) == [
        f"the content of {name}" for name in ("2015.jsonl", "AAPL.csv", "TSLA.csv")
    ]
    assert last_week in [Path(name.strip()).read_bytes() for name, _ in found]
    assert "dvc gc" in out
    dvc(Path.cwd(), "gc", "--workspace", "--force")
    assert "files/md5" not in command(capsys, "check")[1]


def test_check_finds_headlines_and_answers_of_feeds_that_were_kept_in_the_clear(tmp_path, capsys, monkeypatch):
    cfg = sensitive("yahoo", tickers=["TSLA"])
    ingest.RAW.mkdir(parents=True)
    raw.write_manifest(ingest.RAW, "yahoo", [], cfg.privacy.recipients)
    shut = sealed.seal(b"{}", cfg.privacy.recipients)
    left = [yahoo.STORE / "AAPL.jsonl", yahoo.STORE / ".TSLA.jsonl.77.partial", Path("live.quarantine/0a.bin")]
    left += [yahoo.STORE / "NVDA.jsonl.age"]  # by its name alone
    for path in [*left, yahoo.STORE / "TSLA.jsonl.age", Path("live.quarantine/0b.bin.age")]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"headline" if path in left else shut)
    monkeypatch.setattr(config, "load", lambda: cfg)
    monkeypatch.setattr(privacy, "_dvc", lambda *_: str(tmp_path / "cache"))
    status, out = command(capsys, "check")
    assert status == 1
    assert sorted(line.split(":")[0].strip() for line in out.splitlines()[1:]) == sorted(
        str(Path.cwd() / path) for path in left
    )
    for path in left:
        path.unlink()
    assert command(capsys, "check")[0] == 0


# ---- interim and the whole pipeline


def test_no_labelled_identifier_that_is_sought_reaches_interim(tmp_path):
    """Every written form of the development half, as news of a sensitive source."""
    cases = [case for case in pii_check.labelled(pii_forms.DEVELOPMENT, [], 5) if case.kind in pii.KINDS]
    made = csv_folder(tmp_path / "mine")
    lines = [item(n, text=case.text, author=f"person-{n}") for n, case in enumerate(cases)]
    (made / "news/2015.jsonl").write_text("\n".join(lines) + "\n")
    ingest.main(csv(made))
    clean.main(csv(made))
    news = tables.read("news")
    assert len(news) == len(cases)
    assert not news["author_key"].str.startswith("person").any()
    held = "\n".join(pq.read_table("data/interim/news.parquet").to_pandas().to_csv().splitlines())
    assert [case.value for case in cases if len(case.value) > 4 and case.value in held] == []


@pytest.mark.slow
def test_the_whole_pipeline_leaves_nothing_in_the_clear(tmp_path, monkeypatch):
    """All stages with the tracking database, on the lab's files as somebody's own folder, canaries in every item."""
    from test_pipeline import SMALL, STAGES

    work, own = tmp_path / "work", tmp_path / "own"
    shared = [choice for choice in SMALL if not choice.startswith("data.lab")]
    monkeypatch.chdir(ROOT)
    config.compose(work / "lab.yaml", SMALL)
    keys = f"privacy.recipients=[{OLD.to_public()}]"
    choices = ["data=csv", f"data.csv.folder={own}", "privacy.sensitive=[csv]", keys, "data.train_start='2015-01-01'"]
    config.compose(work / "params.yaml", [*shared, *choices])
    monkeypatch.chdir(work)
    monkeypatch.setenv("DVC_ROOT", str(work))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    importlib.import_module("fusion_alpha.sources.lab").fetch(config.load(params=work / "lab.yaml"), own)
    for name in ("README.md", "tickers.csv"):
        (own / name).unlink()
    lines = [line for line in (own / "news/news.jsonl").read_text().splitlines() if line.endswith("}")]
    planted = []
    for n, line in enumerate(lines):
        fields = json.loads(line)
        if isinstance(fields, dict) and isinstance(fields.get("text"), str):
            fields |= {"id": f"{CANARIES['id']}-{n}", "author": CANARIES["author"], "note": CANARIES["note"]}
            fields["text"] += f" {CANARIES['address']} {CANARIES['handle']} {CANARIES['phone']}"
        planted.append(json.dumps(fields))
    (own / "news/news.jsonl").write_text("\n".join(planted) + "\n")
    cfg = config.load()
    for name in STAGES:
        importlib.import_module(f"stages.{name}").main(cfg)
    assert (work / "mlflow.db").exists()
    assert in_the_clear(work, tmp_path / "tmp") == []
    assert in_the_clear(own)
    names = b"".join(path.read_bytes() for path in (work / "data/raw").rglob("*") if path.is_file())
    assert names.count(b"age-encryption.org/v1") == 5


def dvc(where, *arguments, **env):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=where, env=dict(os.environ) | env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_in_dvc_from_sealing_to_rotation_and_the_old_objects(tmp_path, folder, monkeypatch, capsys):
    """The steps that the help names, typed in a clone."""
    where = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(where)], check=True)
    monkeypatch.chdir(where)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    both(tmp_path, monkeypatch)

    def choose(*choices):
        config.compose(where / "params.yaml", ["data=csv", f"data.csv.folder={folder}", *choices])

    def objects():
        return {path.relative_to(where).as_posix() for path in (where / ".dvc/cache").rglob("*") if path.is_file()}

    (where / "dvc.lock").unlink()
    shutil.rmtree(where / "tests")  # the canaries stand here too
    choose()
    dvc(where, "repro", "clean")
    assert in_the_clear(where / ".dvc/cache")  # not sealed yet: this is what the key is for
    choose("privacy.sensitive=[csv]", f"privacy.recipients=[{OLD.to_public()}]")
    dvc(where, "repro", "clean")
    interim = content(where / "data/interim")
    status, out = command(capsys, "check")
    assert status == 1
    assert out.count(".dvc/cache/files/md5/") == 3
    dvc(where, "gc", "--workspace", "--force")
    assert in_the_clear(where) == []
    before = objects()
    dvc(where, "repro", "--force", "ingest")
    assert "Data and pipelines are up to date" in dvc(where, "repro", "clean")
    assert objects() == before

    choose("privacy.sensitive=[csv]", f"privacy.recipients=[{NEW.to_public()}]")
    status, out = command(capsys, "rotate")
    assert status == 0
    assert "dvc commit --force ingest" in out
    dvc(where, "commit", "--force", "ingest")
    ran = dvc(where, "repro", "clean")
    assert "Running stage 'clean'" in ran
    assert "Running stage 'ingest'" not in ran
    assert content(where / "data/interim") == interim
    dvc(where, "gc", "--workspace", "--force")
    monkeypatch.delenv(sealed.IDENTITY_FILE)
    monkeypatch.setenv(sealed.IDENTITY, str(OLD))
    for path in objects():
        held = (where / path).read_bytes()
        if held.startswith(b"age-encryption.org/v1"):
            with pytest.raises(InputError, match="none of the identities"):
                sealed.unseal(held, path)
    assert in_the_clear(where) == []
