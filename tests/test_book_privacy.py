"""The page on privacy: its tables are of the recorded figures, and without them it names the command."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
optional, personal, results = map(importlib.import_module, ("optional", "personal", "results"))
EXHIBITS = [personal.missed, personal.harmless, personal.world, personal.tweets, personal.marks]


@pytest.mark.parametrize("exhibit", [*EXHIBITS, lambda: personal.found("held_out")])
def test_what_was_not_measured_names_its_command(tmp_path, monkeypatch, exhibit):
    monkeypatch.setattr(results, "METRICS", tmp_path)
    html = exhibit()._repr_html_()
    assert optional.ABSENT in html
    assert "python -m fusion_alpha.pii_check" in html


def test_tables_show_what_was_recorded():
    recorded = json.loads((ROOT / "metrics/pii.json").read_text())["held_out"]
    rows = {row[0]: row for row in personal.found("held_out").rows}
    assert set(rows) == {
        name.replace("_", " ") + ("" if row["sought"] else ", not sought") for name, row in recorded["kinds"].items()
    }
    emails = recorded["kinds"]["emails"]
    assert rows["emails"][1:3] == [f"{emails['forms_found']} of {emails['forms']}", f"{100 * emails['recall']:.0f}"]
    assert rows["names, not sought"][4] == "–"
    sought = [row["missed"] for row in recorded["kinds"].values() if row["sought"]]
    assert len(personal.missed().rows) == sum(map(len, sought)) + recorded["harmless"]["forms_changed"]
    for exhibit in EXHIBITS:
        assert optional.ABSENT not in exhibit()._repr_html_()
