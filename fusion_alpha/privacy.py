"""Keys of sensitive sources: make one, change it, check that nothing lies in the clear.

Raw files of a source that privacy.sensitive names are encrypted with age (https://age-encryption.org) on this machine,
in DVC's cache and on the remote; stages open them in memory. Files are sealed to public keys (age1...), which stand in
conf/config.yaml. The secret key that opens them stays in a file outside the repository. The first time:

    python -m fusion_alpha.privacy key            a key pair; prints the public key
    conf/config.yaml:  privacy: {sensitive: [csv], recipients: [age1...]}, then `make params`
    dvc repro                                     ingest seals, clean opens; everything else is as before
    python -m fusion_alpha.privacy check          what was kept in the clear before, and must be deleted

Another person reads it too: their public key (`key` shows it) joins privacy.recipients, then `rotate`. A stolen or lost
secret, or somebody who leaves:

    python -m fusion_alpha.privacy key --another  a new pair beside the old one, which still opens what exists
    conf/config.yaml:  the new public key in place of the old one, then `make params`
    python -m fusion_alpha.privacy rotate         seals every file anew; after a kill, run it again
    dvc commit --force ingest && dvc repro        records the new hashes; only clean runs, and its tables are equal
    dvc push && dvc gc --workspace --cloud        deletes the old objects, which the old key opens, here and there

`dvc gc --workspace` deletes from the cache what any other commit needs; read its question before you say yes. Nothing
takes back what somebody has already copied with the old key. Remove the old line from the identity file last.

The identity is looked for in $FUSION_ALPHA_AGE_IDENTITY (the secret itself, for CI), then in the file that
$FUSION_ALPHA_AGE_IDENTITY_FILE names, then in ~/.config/fusion-alpha/identity.txt. Back it up: without it nobody opens
the files, and all that is left is to move data/raw away, take a new key and fetch again.
"""

import argparse
import contextlib
import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyrage import x25519
from rich.progress import track

from fusion_alpha import config, files, raw, sealed, stage
from fusion_alpha.config import Config
from fusion_alpha.errors import InputError
from fusion_alpha.sources import yahoo
from fusion_alpha.stage import console

log = logging.getLogger(__name__)

RAW = Path("data/raw")
JOURNAL = Path(".cache/rotation.json")  # of a rotation under way, in the main checkout

_QUARANTINES = "*.quarantine/*"  # of live_router.py, beside its journal
_HEADER = b"age-encryption.org/v1"

Journal = dict[str, dict[str, Any]]  # by file: every hash that it was given, and the keys of the last


def make_key(path: Path, another: bool = False) -> list[str]:
    """Put a new identity into the file `path`, for its owner alone; returns the public keys of all that it holds.

    Raises InputError inside the repository, and where the file exists unless `another` one is asked for.
    """
    if path.resolve().is_relative_to(stage.root()):
        raise InputError(
            "inside the repository", file=path, rule="secret keys stay outside", remedy="choose another --output"
        )
    if path.exists() and not another:
        raise InputError(
            "there is an identity already", file=path, rule="never overwritten", remedy="--another puts one beside it"
        )
    made, apart = x25519.Identity.generate(), ""
    if path.exists():
        public_keys(path)  # before anything joins what is no identity
        apart = "" if path.read_bytes().endswith(b"\n") else "\n"
    with _for_people(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as handle:
            handle.write(f"{apart}# public key: {made.to_public()}\n{made}\n")
    return public_keys(path)


def public_keys(path: Path) -> list[str]:
    """Of the identities in a file; InputError names a line that is none, and a file that cannot be read."""
    with _for_people(path):
        text = path.read_text(errors="replace")
    return [str(one.to_public()) for one in sealed.parsed(text, str(path))]


@contextlib.contextmanager
def _for_people(path: Path) -> Iterator[None]:
    """What the disk says about a file of identities, as InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot be used ({error.strerror})",
            file=path,
            rule="a file of identities, in a folder that you may write to",
            remedy=f"name another one: --output FILE, or ${sealed.IDENTITY_FILE}",
        ) from error


def rotate(cfg: Config, folder: Path = RAW) -> int:
    """Seal every raw file of the source to the present privacy.recipients; returns how many, 0 if nothing was to do.

    Each file is replaced whole. A journal says what a file will be before it is, so that a rotation that was killed
    goes on where it was; the manifest follows when all are done. Raises InputError where nothing is sealed, a file
    is neither as in the manifest nor as in the journal, or no identity opens it.
    """
    keys = sorted(cfg.privacy.recipients)
    sealed.recipients(keys)
    manifest, journal = folder / raw.MANIFEST, stage.root() / JOURNAL
    content = files.read_object(manifest, "files") if manifest.exists() else {}
    if "recipients" not in content:
        raise InputError(
            "no sealed raw data", file=manifest, rule="privacy.sensitive names the source", remedy="`dvc repro ingest`"
        )
    if content["recipients"] == keys and not journal.exists():
        return 0
    for leftover in folder.rglob(".*.partial"):  # of one that was killed
        leftover.unlink()
    done = _under_way(journal)
    _check_entries(content["files"], manifest)
    for entry in track(content["files"], "sealing", console=console, transient=True):
        _reseal(folder, entry, keys, done, journal)
    for path in _beside(cfg):
        files.write_bytes(path, sealed.seal(sealed.unseal(path.read_bytes(), str(path)), keys))
    for entry in content["files"]:
        path = folder / entry["path"]
        entry.update(sha256=files.sha256(path), bytes=path.stat().st_size)
    files.write_json(manifest, content | {"recipients": keys})
    journal.unlink(missing_ok=True)
    return len(content["files"])


def _under_way(journal: Path) -> Journal:
    """What a rotation that was killed has noted; InputError where that cannot be read."""
    remedy = f"`dvc checkout {RAW}`, delete it, then rotate again"
    done: Journal = files.read_object(journal, remedy=remedy) if journal.exists() else {}
    for entry in done.values():
        if not isinstance(entry, dict) or not all(_is_texts(entry.get(name)) for name in ("sha256", "recipients")):
            rule = "by file: sha256 and recipients, lists of text"
            raise InputError("an entry of another form", file=journal, rule=rule, remedy=remedy)
    return done


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _check_entries(entries: object, manifest: Path) -> None:
    present = {path.relative_to(manifest.parent).as_posix() for path in manifest.parent.rglob("*") if path.is_file()}
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or not _is_texts([entry.get("path"), entry.get("sha256")]):
            raise InputError(
                "an entry of another form",
                file=manifest,
                rule="files: a list of objects with path and sha256",
                remedy=f"`dvc checkout {RAW}`, then rotate again",
            )
        if entry["path"] not in present:
            raise _changed(manifest.parent / entry["path"])


def _changed(path: Path) -> InputError:
    return InputError(
        "missing, or not as it was sealed",
        file=path,
        rule=f"SHA-256 as in {raw.MANIFEST} or in {JOURNAL}",
        remedy=f"`dvc checkout {RAW}`, then rotate again",
    )


def _reseal(folder: Path, entry: dict[str, Any], keys: list[str], done: Journal, journal: Path) -> None:
    """Seal one file anew unless the journal says that it is; notes its coming hash first."""
    path, name = folder / entry["path"], entry["path"]
    known = done.get(name, {"sha256": [], "recipients": None})
    present = files.sha256(path)
    if present not in (entry["sha256"], *known["sha256"]):
        raise _changed(path)
    if known["sha256"] and present == known["sha256"][-1] and known["recipients"] == keys:
        return
    content = sealed.seal(sealed.unseal(path.read_bytes(), str(path)), keys)
    done[name] = {"sha256": [*known["sha256"], hashlib.sha256(content).hexdigest()], "recipients": keys}
    files.write_json(journal, done)
    files.write_bytes(path, content)


def _beside(cfg: Config) -> list[Path]:
    """Sealed files that are no raw ones: the store of headlines, a sealed folder of the user's own, quarantines."""
    folder = stage.root() / yahoo.STORE if cfg.data.source == "yahoo" else None
    if cfg.data.csv is not None:
        folder = stage.root() / Path(cfg.data.csv.folder).expanduser()
    found = sorted(folder.rglob(f"*{sealed.SUFFIX}")) if folder else []
    return found + sorted(stage.root().glob(f"{_QUARANTINES}{sealed.SUFFIX}"))


def in_the_clear(cfg: Config, folder: Path = RAW) -> Iterator[str]:
    """What of a sensitive source lies in the clear on this machine, a line each with what to do about it.

    Looked at are data/, DVC's cache, Yahoo's store of headlines, the live router's quarantine and the user's own
    folder; not the remote, and no cache of another checkout.
    """
    for path in _plain(folder.parent.glob(f"*{folder.name}*/**/*")):
        if path.name != raw.MANIFEST:
            yield f"{path}: run ingest again, `dvc repro ingest`"
    delete = "delete it, or `dvc gc --workspace`, and --cloud for the remote"
    objects = Path(_dvc("cache", "dir")) / "files" / "md5"
    for path, of in sorted(_present(objects, folder) | _earlier(objects, cfg.data.source)):
        yield f"{path}: the content of {of}; {delete}"
    if cfg.data.source == "yahoo":
        for path in _plain((stage.root() / yahoo.STORE).rglob("*")):
            yield f"{path}: headlines kept; `seal` it, or delete it: Yahoo may serve them no more"
    for path in _plain(stage.root().glob(_QUARANTINES)):
        yield f"{path}: what a feed said to the live router; look at it, then `seal` or delete it"
    if cfg.data.csv is not None:
        own = stage.root() / Path(cfg.data.csv.folder).expanduser()
        names = _plain(own.rglob("*"))
        if names:
            yield f"{own}: {len(names)} files of your own folder; `seal` them, or keep them on an encrypted disk"


def _plain(paths: Iterable[Path]) -> list[Path]:
    """Files among `paths` that hold anything else than the age format, whatever they are called."""
    return sorted(path for path in paths if path.is_file() and not _HEADER.startswith(_first(path)))


def _first(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(len(_HEADER))


def _present(objects: Path, folder: Path) -> set[tuple[Path, str]]:
    """Objects of DVC's cache that hold what a sealed file below `folder` holds, with its name."""
    found = set()
    for path in folder.rglob(f"*{sealed.SUFFIX}"):
        content = sealed.unseal(path.read_bytes(), str(path))
        found.add((_object(objects, hashlib.md5(content, usedforsecurity=False).hexdigest()), sealed.plain(path).name))
    return {(path, name) for path, name in found if path.is_file()}


def _earlier(objects: Path, source: str) -> set[tuple[Path, str]]:
    """Plain objects of the raw folders of `source` that DVC's cache still lists, of whatever time, with their names.

    DVC keeps a folder as NAME.dir, a list of its files' names and hashes. One of ours lists a manifest, which names
    the source; where the manifest's own object is gone nobody can say whose the files are.
    """
    found = set()
    for listing in objects.glob("*/*.dir"):
        entries = {entry["relpath"]: _object(objects, entry["md5"]) for entry in files.read_json(listing)}
        manifest = entries.pop(raw.MANIFEST, None)
        if manifest is None or not manifest.is_file():
            continue
        content = files.read_json(manifest)
        if isinstance(content, dict) and content.get("source") == source:
            found |= {(path, Path(name).name) for name, path in entries.items() if _plain([path])}
    return found


def _object(objects: Path, digest: str) -> Path:
    return objects / digest[:2] / digest[2:]


def _dvc(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"dvc {' '.join(arguments)} failed: {done.stderr.strip()[-200:]}", remedy="run it by hand")
    return done.stdout.strip()


def seal_files(paths: Sequence[Path], cfg: Config) -> int:
    """Replace plain files by sealed ones; returns how many. Removing a file does not wipe the disk.

    All are looked at before the first is touched. Raises InputError for a file that is sealed, a link or absent,
    for one with a sealed file of other content, or of others' keys, beside it, and where no identity here opens what
    would be written.
    """
    chosen = list(dict.fromkeys(paths))
    for path in chosen:
        if sealed.is_sealed(path) or path.is_symlink() or not path.is_file():
            raise InputError("not a plain file", file=path, remedy="name files that are not sealed yet, and no links")
        _refuse_another(path)
    for path in chosen:
        content, written = path.read_bytes(), _sealed_name(path)
        shut = sealed.seal(content, cfg.privacy.recipients)
        assert sealed.unseal(shut, str(written)) == content, f"{written} would not hold what {path} holds"
        files.write_bytes(written, shut)
        assert written.read_bytes() == shut, f"{written} does not hold what was written to it"
        path.unlink()
    return len(chosen)


def _sealed_name(path: Path) -> Path:
    return path.with_name(path.name + sealed.SUFFIX)


def _refuse_another(path: Path) -> None:
    """InputError where the sealed name of `path` is taken by anything but its own content, of a run that was cut."""
    beside = _sealed_name(path)
    if not os.path.lexists(beside):
        return
    try:
        same = sealed.unseal(beside.read_bytes(), str(beside)) == path.read_bytes()
    except (InputError, OSError):  # of somebody else, damaged, a folder: all the more a reason to keep it
        same = False
    if not same:
        raise InputError(
            f"there is a sealed file beside {path}, of other content or not yours to open",
            file=beside,
            rule="what is sealed is never overwritten by anything else",
            remedy="move one of the two away, or give the other one another name",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    stage.set_up("privacy")
    log.setLevel(logging.INFO)
    parser = argparse.ArgumentParser(
        prog=sealed.COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="key | rotate | check | seal")
    key = commands.add_parser("key", help="make an identity, or show the public keys of the one that is there")
    key.add_argument("--output", type=Path, default=None, help="file of the secret; default as said above")
    key.add_argument("--another", action="store_true", help="one more in the same file, for a rotation")
    commands.add_parser("rotate", help="seal every raw file to the present privacy.recipients; can be run again")
    commands.add_parser("check", help="is every raw file sealed, does it open, is nothing left in the clear?")
    seal = commands.add_parser("seal", help="replace plain files of data.csv.folder by sealed ones")
    seal.add_argument("file", type=Path, nargs="+")
    chosen = parser.parse_args(arguments)
    try:
        return {"key": _key, "rotate": _rotate, "check": _check, "seal": _seal}[chosen.command](chosen)
    except (InputError, OSError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 2


def _key(chosen: argparse.Namespace) -> int:
    named = os.environ.get(sealed.IDENTITY_FILE)
    path = chosen.output or (Path(named).expanduser() if named else sealed.default_file())
    if path.exists() and not chosen.another:
        _say(f"{path} opens what is sealed to:", *public_keys(path), "nothing was changed; --another makes one more")
        return 0
    keys = make_key(path, chosen.another)
    _say(f"made in {path}, for you alone to read. Back it up. Its public key goes into privacy.recipients:", keys[-1])
    if path != sealed.default_file() and str(path) != named:
        _say(f"stages find it when you export {sealed.IDENTITY_FILE}={path}")
    return 0


def _rotate(chosen: argparse.Namespace) -> int:
    cfg = _sensitive()
    count = rotate(cfg)
    if not count:
        _say("every raw file is sealed to privacy.recipients already")
        return 0
    _say(
        f"{count} files are sealed to {len(cfg.privacy.recipients)} keys. Now:",
        "dvc commit --force ingest && dvc repro   (the new hashes; only clean runs, and its tables are equal)",
        "dvc push",
        "dvc gc --workspace --cloud   (deletes the old objects, which old keys open, and what other commits need)",
        "then remove the old key from the identity file",
    )
    return 0


def _check(chosen: argparse.Namespace) -> int:
    cfg = _sensitive()
    count = raw.verify(RAW, cfg.data.source)
    found = list(in_the_clear(cfg))
    _say(f"{count} raw files are as in the manifest; sealed ones open with your identity", *found)
    return 1 if found else 0


def _seal(chosen: argparse.Namespace) -> int:
    count = seal_files(chosen.file, config.load())
    _say(f"{count} files are sealed and their plain forms removed (the disk may still hold their blocks)")
    return 0


def _sensitive() -> Config:
    cfg = config.load()
    if cfg.data.source not in cfg.privacy.sensitive:
        raise InputError(
            f"source {cfg.data.source} is not sensitive",
            rule=f"privacy.sensitive = {cfg.privacy.sensitive}",
            remedy="name it there: conf/config.yaml, then `make params`",
        )
    return cfg


def _say(*lines: str) -> None:
    sys.stdout.write("\n  ".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
