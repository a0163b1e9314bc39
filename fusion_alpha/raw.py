"""data/raw: a source's files as fetched, with a manifest, never changed afterwards.

manifest.json names for every file its url, sha256 and bytes, sorted by path. When it was fetched is not in it, or
equal content would not have an equal hash: that goes to .cache/retrieved.json of the main checkout.

Of a sensitive source the files are sealed (fusion_alpha.sealed), and the manifest names the keys that they are sealed
to; hashes and bytes are those of the sealed files, so that a manifest gives nothing away and is checked without a key.
Sealing the same content twice gives different bytes, hence `keep_sealed`: what has not changed keeps its bytes, its
hash, and every stage after it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fusion_alpha import files, sealed
from fusion_alpha.errors import InputError
from fusion_alpha.sources import RawFile

MANIFEST = "manifest.json"


def write_manifest(raw: Path, source: str, fetched: list[RawFile], recipients: Sequence[str] = ()) -> None:
    """Name every file below `raw`; the source must have listed exactly those that are there.

    recipients: public keys that the files are sealed to; none for plain files.
    """
    assert all(sealed.is_sealed(file.path) == bool(recipients) for file in fetched), f"plain and sealed: {fetched}"
    present = {path for path in raw.rglob("*") if path.is_file()}
    assert present == {file.path for file in fetched}, f"listed {sorted(fetched, key=str)}, present {sorted(present)}"
    entries = [
        {
            "path": file.path.relative_to(raw).as_posix(),
            "url": file.url,
            "sha256": files.sha256(file.path),
            "bytes": file.path.stat().st_size,
        }
        for file in fetched
    ]
    content: dict[str, Any] = {"source": source, "files": sorted(entries, key=lambda entry: str(entry["path"]))}
    files.write_json(raw / MANIFEST, content | ({"recipients": sorted(recipients)} if recipients else {}))


def keep_sealed(new: Path, old: Path, recipients: Sequence[str]) -> int:
    """Give sealed files below `new` the bytes that they have below `old`, where content and recipients are the same.

    Returns how many got them. Raises InputError where no identity opens a file of either: whether it has changed
    cannot be said then.
    """
    if not (old / MANIFEST).exists() or files.read_object(old / MANIFEST).get("recipients") != sorted(recipients):
        return 0
    kept = 0
    for path in sorted(path for path in new.rglob(f"*{sealed.SUFFIX}") if path.is_file()):
        before = old / path.relative_to(new)
        if before.is_file() and sealed.unseal(before.read_bytes(), str(before)) == sealed.read(sealed.plain(path)):
            files.write_bytes(path, before.read_bytes())
            kept += 1
    return kept


def verify(raw: Path, source: str) -> int:
    """Check the files below `raw` against the manifest; returns how many they are.

    Raises InputError when there is no raw data, when it is another source's, and for a file that is missing, extra or
    not as it was fetched.
    """
    fetch_again = "run ingest: `dvc repro ingest`"
    manifest = raw / MANIFEST
    if not manifest.exists():
        raise InputError("no raw data", file=manifest, remedy=fetch_again)
    content = files.read_object(manifest, "source", "files", remedy=fetch_again)
    if content["source"] != source:
        raise InputError(
            f"raw data is from source {content['source']!r}",
            file=manifest,
            rule=f"data.source = {source}",
            remedy=fetch_again,
        )
    try:
        listed = {str(entry["path"]): entry["sha256"] for entry in content["files"]}
    except (TypeError, KeyError):
        rule = "files are objects with path and sha256"
        raise InputError("an entry of another form", file=manifest, rule=rule, remedy=fetch_again) from None
    present = {path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()} - {MANIFEST}
    for name, digest in listed.items():
        if name not in present or files.sha256(raw / name) != digest:
            raise InputError(
                "missing, or not as it was fetched",
                file=raw / name,
                rule=f"SHA-256 {digest} of {manifest.name}",
                remedy="raw data is never edited: run `dvc checkout`, or ingest again; a key rotation that was "
                "interrupted: run it again",
            )
    extra = sorted(present - set(listed))
    if extra:
        rule = "raw holds what ingest put there"
        raise InputError("not in the manifest", file=raw / extra[0], rule=rule, remedy="move it")
    return len(listed)


def note_retrieval(raw: Path, root: Path) -> None:
    """Note the time for this content in the main checkout's sidecar, which neither git nor DVC keeps."""
    sidecar = root / ".cache/retrieved.json"
    remedy = "delete it; it holds retrieval times alone"
    times = files.read_object(sidecar, remedy=remedy) if sidecar.exists() else {}
    manifest = raw / MANIFEST
    times[files.sha256(manifest)] = {
        "source": files.read_object(manifest, "source")["source"],
        "retrieved_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    files.write_json(sidecar, times)
