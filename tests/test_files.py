"""Files and folders are whole or as they were."""

import pytest

from fusion_alpha.errors import InputError
from fusion_alpha.files import read_json, replace_files, replace_folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_replaced_with_all_that_is_in_it(tmp_path):
    target = tmp_path / "data/raw"
    replace_folder(target, lambda folder: (folder / "a").write_text("1"))
    replace_folder(target, lambda folder: (folder / "b").write_text("2"))
    assert contents(tmp_path) == {"data/raw/b": "2"}


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "raw"
    replace_folder(target, lambda folder: (folder / "a").write_text("1"))

    def fail(folder):
        (folder / "b").write_text("2")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        replace_folder(target, fail)
    assert contents(tmp_path) == {"raw/a": "1"}
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / ".raw.1.partial").mkdir()
    (tmp_path / ".raw.1.old.partial").mkdir()
    replace_folder(tmp_path / "raw", lambda folder: (folder / "a").write_text("1"))
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_files_are_replaced_together_and_others_stay(tmp_path):
    (tmp_path / ".gitignore").write_text("/a")
    replace_files(tmp_path, lambda folder: [(folder / name).write_text("1") for name in "ab"])
    replace_files(tmp_path, lambda folder: (folder / "b").write_text("2"))
    assert contents(tmp_path) == {".gitignore": "/a", "a": "1", "b": "2"}


def test_files_stay_as_they_were_after_a_failure_and_a_kill(tmp_path):
    replace_files(tmp_path, lambda folder: [(folder / name).write_text("1") for name in "ab"])
    (tmp_path / ".new.1.partial").mkdir()  # what a kill leaves

    def fail(folder):
        (folder / "a").write_text("2")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        replace_files(tmp_path, fail)
    assert contents(tmp_path) == {"a": "1", "b": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("content", [b'{"a', b"\xff"])
def test_damaged_json_is_named_with_what_to_do(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"(?s)a\.json: not JSON.*delete it"):
        read_json(tmp_path / "a.json", remedy="delete it")
