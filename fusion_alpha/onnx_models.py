"""Folders of models for ONNX Runtime: a manifest with the hash of every file, and sessions that repeat their bits.

A manifest also holds the SHA-256 of itself, and its file is the one form that `files.write_json` gives it: one wrong
bit anywhere in a folder is noticed before a model is loaded. No torch is needed here.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _ort
from safetensors import SafetensorError

from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, sha256, to_json, write_json

MANIFEST = "manifest.json"
PACKAGES = ("onnx", "onnxruntime", "onnxscript", "torch")  # whose versions can show in an exported file

# What libraries and Python raise over bytes of another form.
_DAMAGED = (
    *(AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError, SafetensorError),
    *(_ort.EPFail, _ort.EngineError, _ort.Fail, _ort.InvalidArgument, _ort.InvalidGraph, _ort.InvalidProtobuf),
    *(_ort.NoModel, _ort.NoSuchFile, _ort.NotImplemented, _ort.RuntimeException),
)
_ABSENT, _WHOLE = "no such file", "an exported model is whole"


def write_manifest(folder: Path, content: Mapping[str, Any], files: Iterable[str]) -> None:
    """Finish a folder: `content` with the hashes of its files, and its own."""
    whole = {**content, "files": {name: sha256(folder / name) for name in files}}
    write_json(folder / MANIFEST, whole | {"digest": digest(whole)})


def digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its own digest."""
    content = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verified(folder: Path, form: int, remedy: str) -> dict[str, Any]:
    """The manifest of a folder; InputError with `remedy` unless it and every file are what the export wrote.

    form: number of the folder's format.
    """
    path = folder / MANIFEST
    _require_file(path, remedy)
    manifest = read_json(path, remedy)
    whole = isinstance(manifest, dict) and manifest.get("digest") == digest(manifest)
    if not whole or not _in_one_form(manifest, path):
        raise InputError("the manifest was changed", file=path, rule="its own digest", remedy=remedy)
    if manifest.get("format") != form or not isinstance(manifest.get("files"), dict):
        raise InputError(f"format {manifest.get('format')!r}", file=path, rule=f"format {form}", remedy=remedy)
    present = {file.name for file in folder.iterdir() if file.is_file()}
    for name, expected in manifest["files"].items():
        if name not in present:
            raise InputError(_ABSENT, file=folder / name, rule=_WHOLE, remedy=remedy)
        found = sha256(folder / name)
        if found != expected:
            raise InputError(f"SHA-256 is {found}", file=folder / name, rule=f"the manifest: {expected}", remedy=remedy)
    return manifest


def _in_one_form(manifest: Mapping[str, Any], path: Path) -> bool:
    try:
        return path.read_bytes() == to_json(manifest).encode()
    except ValueError:  # NaN or Infinity, which it never holds
        return False


@contextmanager
def as_exported(path: Path, remedy: str) -> Iterator[None]:
    """InputError naming `path` where what stands behind the right hash is no export all the same."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGED as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        rule = "as this version exports it"
        raise InputError(f"not an exported model ({said})", file=path, rule=rule, remedy=remedy) from error


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of PACKAGES and of others."""
    return {name: version(name) for name in sorted({*PACKAGES, *packages})}


def session(model: bytes, fixed: Mapping[str, int] | None = None) -> onnxruntime.InferenceSession:
    """A session of one thread, which several threads may use at once. fixed: sizes of named dimensions, if known."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = fixed is not None  # plans memory for one shape
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    for name, size in (fixed or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _require_file(path: Path, remedy: str) -> None:
    if not path.is_file():
        raise InputError(_ABSENT, file=path, rule=_WHOLE, remedy=remedy)
