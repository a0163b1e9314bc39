"""The research library: works of references.bib by topic, where the book uses them, who has read them."""

import re
from html import escape
from pathlib import Path

import results
from exhibits import NOTHING, Table

_ENTRY = re.compile(r"^@(\w+)\{(\w+),\n(.*?)^\}", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^\s*(\w+)\s*=\s*\{(.*?)\},?$", re.DOTALL | re.MULTILINE)
_CITED = re.compile(r"\{cite:[pt]\}`([^`]+)`")


def works() -> dict[str, dict[str, str]]:
    """Fields of each work by its key."""
    source = (results.ROOT / "docs" / "references.bib").read_text()
    return {key: dict(_FIELD.findall(body)) for _, key, body in _ENTRY.findall(source)}


def named(key: str) -> str:
    """Authors and year of a work."""
    fields = works()[key]
    return f"{_authors(fields['author'])}, {fields['year']}"


def uses() -> dict[str, list[str]]:
    """Titles of the chapters that cite each work."""
    found: dict[str, list[str]] = {}
    for path in sorted((results.ROOT / "docs").glob("*.md")):
        page = path.read_text()
        for key in dict.fromkeys(key.strip() for keys in _CITED.findall(page) for key in keys.split(",")):
            found.setdefault(key, []).append(_title(path, page))
    return found


def library() -> Table:
    """topic, work, relevance (the chapters that rest on it), read by, notes; by topic."""
    used = uses()
    rows = [
        (
            fields["keywords"],
            f"{named(key)}. {_plain(fields['title'])}.",
            ", ".join(used.get(key, [])) or NOTHING,
            fields.get("readby", "open"),
            _plain(fields.get("annote", "")) or NOTHING,
        )
        for key, fields in works().items()
    ]
    return Table(sorted(rows), ["topic", "work", "relevance: used in", "read by", "notes"], right=[])


def shelves() -> list["Shelf"]:
    """The library, a table for each first topic: a page of print breaks between tables, not within one."""
    table = library()
    names = dict.fromkeys(row[0].split(", ")[0] for row in table.rows)
    return [
        Shelf(name, Table([row for row in table.rows if row[0].split(", ")[0] == name], table.head, right=[]))
        for name in names
    ]


class Shelf:
    """A heading and a table."""

    def __init__(self, name: str, table: Table) -> None:
        self.name, self.table = name, table

    def _repr_html_(self) -> str:
        return f"<h2>{escape(self.name)}</h2>{self.table._repr_html_()}"


def topics() -> Table:
    """How many works each topic has; a work may have several."""
    counts: dict[str, int] = {}
    for fields in works().values():
        for topic in fields["keywords"].split(", "):
            counts[topic] = counts.get(topic, 0) + 1
    return Table(sorted(counts.items(), key=lambda item: (-item[1], item[0])), ["topic", "works"])


def _authors(field: str) -> str:
    names = [name.split(",")[0] if "," in name else name.split()[-1] for name in re.split(r"\s+and\s+", _plain(field))]
    if len(names) > 2:
        return f"{names[0]} et al."
    return " and ".join(names)


def _plain(field: str) -> str:
    """BibTeX without its braces and line ends."""
    accented = field.replace("\\'o", "\u00f3").replace("{\\'o}", "\u00f3")
    return " ".join(re.sub(r"[{}]", "", accented).split())


def _title(path: Path, page: str) -> str:
    named = re.search(r"^title: (.+)$", page, re.MULTILINE) or re.search(r"^# (.+)$", page, re.MULTILINE)
    return named[1].strip('"').split(":")[0] if named else path.stem
