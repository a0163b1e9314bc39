"""Raw files are those of the manifest."""

import json

import pytest

from fusion_alpha import raw
from fusion_alpha.errors import InputError
from fusion_alpha.sources import RawFile


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fetched(tmp_path):
    folder = tmp_path / "raw"
    (folder / "sub").mkdir(parents=True)
    (folder / "z.csv").write_text("1")
    (folder / "sub/a.csv").write_text("22")
    raw.write_manifest(folder, "csv", [RawFile(folder / "z.csv", "file:z"), RawFile(folder / "sub/a.csv", "file:a")])
    return folder


def test_manifest_names_every_file_and_no_time(fetched):
    content = json.loads((fetched / "manifest.json").read_text())
    assert content["source"] == "csv"
    assert [(entry["path"], entry["bytes"], entry["url"]) for entry in content["files"]] == [
        ("sub/a.csv", 2, "file:a"),
        ("z.csv", 1, "file:z"),
    ]
    assert set(content["files"][0]) == {"path", "url", "sha256", "bytes"}
    assert raw.verify(fetched, "csv") == 2


def test_a_file_that_the_source_did_not_list_is_a_bug(fetched):
    with pytest.raises(AssertionError, match="listed"):
        raw.write_manifest(fetched, "csv", [])


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda folder: (folder / "z.csv").write_text("9"), "z.csv"),
        (lambda folder: (folder / "z.csv").unlink(), "z.csv"),
        (lambda folder: (folder / "new.csv").write_text("9"), "new.csv"),
        (lambda folder: (folder / "manifest.json").unlink(), "no raw data"),
    ],
)
def test_raw_data_that_was_touched_is_refused(fetched, damage, word):
    damage(fetched)
    with pytest.raises(InputError, match=word):
        raw.verify(fetched, "csv")


def test_raw_data_of_another_source_is_refused(fetched):
    with pytest.raises(InputError, match=r"data\.source = lab"):
        raw.verify(fetched, "lab")


def test_retrieval_time_is_beside_not_inside(fetched, tmp_path):
    before = contents(fetched)
    raw.note_retrieval(fetched, tmp_path)
    raw.note_retrieval(fetched, tmp_path)
    (entry,) = json.loads((tmp_path / ".cache/retrieved.json").read_text()).values()
    assert entry["source"] == "csv"
    assert entry["retrieved_utc"].endswith("+00:00")
    assert contents(fetched) == before
