"""The research library says of every work what references.bib and the chapters say."""

import importlib
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
library = importlib.import_module("library")


def test_every_work_is_there_with_its_topic_and_its_use() -> None:
    keys = re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text(), re.MULTILINE)
    assert list(library.works()) == keys
    rows = library.library().rows
    assert len(rows) == len(keys) == sum(len(shelf.table.rows) for shelf in library.shelves())
    assert all(topic and used != library.NOTHING for topic, _, used, _, _ in rows)
    assert not [work for _, work, *_ in rows if re.search(r"[{}\\]", work)]
    assert any(work.startswith("Xu and Cohen, 2018. Stock Movement") for _, work, *_ in rows)


def test_topics_count_each_work_once_for_each_of_its_topics() -> None:
    listed = [topic for fields in library.works().values() for topic in fields["keywords"].split(", ")]
    assert dict(map(tuple, library.topics().rows)) == {topic: listed.count(topic) for topic in listed}


def test_every_work_says_who_has_read_it_and_what_to_know() -> None:
    for key, fields in library.works().items():
        assert fields["readby"] in ("bicep", "fusion", "book", "abstract"), key
        assert fields["annote"], key


def test_every_published_system_with_a_figure_is_cited_where_it_is_compared() -> None:
    listed = yaml.safe_load((ROOT / "docs" / "stocknet_published.yaml").read_text())["systems"]
    keys = {one["cite"] for one in listed if "cite" in one}
    assert [one["name"] for one in listed if "cite" not in one] == ["always up", "always up"]
    page = (ROOT / "docs" / "stocknet.md").read_text()
    cited = {key.strip() for keys in re.findall(r"\{cite:[pt]\}`([^`]+)`", page) for key in keys.split(",")}
    assert keys <= cited & set(library.works())
