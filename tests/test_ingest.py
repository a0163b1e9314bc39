"""The stage ingest: raw is whole or as it was, the manifest is all there is to know, the truth lies beside."""

import json
import types

import pytest
from source_inputs import archive, configuration, csv_folder, stocknet_files

from fusion_alpha import sources, tables
from fusion_alpha.errors import InputError
from fusion_alpha.sources import stocknet
from stages import ingest


@pytest.fixture(autouse=True)
def _workspace(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv(stocknet.VARIABLE, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_csv_folder_with_manifest_sidecar_and_empty_truth(tmp_path):
    ingest.main(configuration("csv", {"folder": str(csv_folder(tmp_path / "mine"))}))
    manifest = json.loads((ingest.RAW / "manifest.json").read_text())
    assert [entry["path"] for entry in manifest["files"]] == ["news/2015.jsonl", "prices/AAPL.csv", "prices/TSLA.csv"]
    assert str(tmp_path) not in json.dumps(manifest)
    assert tables.read("truth").empty
    assert (tmp_path / "work/.cache/retrieved.json").exists()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    cfg = configuration("csv", {"folder": str(csv_folder(tmp_path / "mine"))})
    ingest.main(cfg)
    first = content(tmp_path / "work/data")
    ingest.main(cfg)
    assert content(tmp_path / "work/data") == first


def test_truth_of_a_source_that_has_one(tmp_path, monkeypatch):
    day = tables.empty("truth")
    day.loc[0] = ["TSLA", "2015-01-02T21:00:00Z", "none", 0.0, 0.0, 0.02, 0.0]
    day = day.astype({"bar_close_utc": "datetime64[us, UTC]"})
    simulated = types.SimpleNamespace(fetch=lambda cfg, raw: [], truth=lambda cfg: day)
    monkeypatch.setattr(sources, "get", lambda name: simulated)
    ingest.main(configuration("csv"))
    assert len(tables.read("truth")) == 1


@pytest.mark.parametrize("fault", ["empty folder", "corrupt archive", "wrong checksum", "no archive"])
def test_a_failing_fetch_leaves_everything_as_it_was(tmp_path, fault):
    ingest.main(configuration("csv", {"folder": str(csv_folder(tmp_path / "mine"))}))
    before = content(tmp_path / "work")
    (tmp_path / "empty").mkdir()
    good = archive(tmp_path / "good.zip", stocknet_files())
    (tmp_path / "bad.zip").write_bytes(good.read_bytes()[:300])
    cfg, words = {
        "empty folder": (configuration("csv", {"folder": str(tmp_path / "empty")}), ["no prices/TICKER.csv", "empty"]),
        "corrupt archive": (configuration("stocknet", {"archive": str(tmp_path / "bad.zip")}), ["bad.zip", "zip"]),
        "wrong checksum": (
            configuration("stocknet", {"archive": str(good), "sha256": "0" * 64}),
            ["good.zip", "SHA-256"],
        ),
        "no archive": (configuration("stocknet", {"archive": str(tmp_path / "x.zip")}), ["x.zip", "no such file"]),
    }[fault]
    with pytest.raises(InputError) as error:
        ingest.main(cfg)
    for word in [*words, "rule", "remedy"]:
        assert word in str(error.value)
    assert content(tmp_path / "work") == before


def test_another_source_replaces_all_of_the_old_one(tmp_path):
    ingest.main(configuration("csv", {"folder": str(csv_folder(tmp_path / "mine"))}))
    ingest.main(configuration("stocknet", {"archive": str(archive(tmp_path / "a.zip", stocknet_files()))}))
    assert sorted(content(ingest.RAW)) == ["manifest.json", "stocknet.zip"]
