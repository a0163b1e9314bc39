"""The `typst` command that Jupyter Book calls, on the Python package `typst`: `typst compile FILE.typ`.

Packages come from packages/ here, fonts from the compiler itself. What Jupyter Book's Typst writer gets wrong for a
printed book is set right first: it leaves out alternative text (every SVG of the book carries its own, see
figures.svg), prints the whole book's contents where a page lists its children, starts a new page for each of them,
breaks short tables across pages, blows small figures up, and takes family names of several words apart.
"""

import html
import re
import sys
from pathlib import Path

import typst

IMAGE = re.compile(r'image\("(?P<path>[^"]+\.svg)"(?P<width>, width: [\d.]+%)?')
SIZE = re.compile(r'<svg[^>]*\bwidth="([\d.]+)pt"')
DEFAULT_WIDTH, TEXT_WIDTH_PT = ", width: 90%", 442  # what the writer gives to figures without a width
UNWANTED = {"#outline()": "", "#let breakableDefault = true": "#let breakableDefault = false"}
DESCRIPTION = re.compile(r"<desc>(.*?)</desc>", re.DOTALL)


def corrected(source: Path) -> str:
    """A part's Typst source; raises ValueError for an image that has no description."""

    def with_alt(match: re.Match[str]) -> str:
        drawing = (source.parent / match["path"]).read_text()
        found = DESCRIPTION.search(drawing)
        if not found:
            raise ValueError(f"{match['path']} has no description to serve as alternative text")
        alt = " ".join(html.unescape(found[1]).split()).replace("\\", "\\\\").replace('"', '\\"')
        size = SIZE.search(drawing)
        own_size = size is not None and match["width"] == DEFAULT_WIDTH and float(size[1]) < 0.9 * TEXT_WIDTH_PT
        width = f", width: {size[1]}pt" if size and own_size else match["width"] or ""
        return f'image("{match["path"]}"{width}, alt: "{alt}"'

    text = IMAGE.sub(with_alt, source.read_text())
    for found, wanted in UNWANTED.items():
        text = text.replace(found, wanted)
    return text


def joined(book: Path) -> str:
    """The main file without a page break before a part that is below the level of a chapter."""

    def kept(match: re.Match[str]) -> str:
        return match["part"] if re.search("^== ", first_heading(book.parent / match["name"])) else match[0]

    return re.sub(r'#pagebreak\(\)\s+(?P<part>#include "(?P<name>[^"]+)")', kept, book.read_text())


def with_whole_names(bibliography: str) -> str:
    """BibTeX in which a family name of several words is one name; Jupyter Book takes its braces away."""

    def braced(match: re.Match[str]) -> str:
        names = match["names"].split(" and ")
        return match["field"] + " and ".join(re.sub(r"^([^,{}][^,]* [^,]*),", r"{\1},", name) for name in names) + "},"

    return re.sub(r"^(?P<field>\s*author = \{)(?P<names>.*)\},$", braced, bibliography, flags=re.MULTILINE)


def first_heading(part: Path) -> str:
    return next((line for line in part.read_text().splitlines() if line.startswith("=")), "")


def main() -> None:
    command, name = sys.argv[1:]
    if command != "compile":
        raise SystemExit(f"typst {command}: only compile is provided")
    source = Path(name)
    for part in source.parent.glob("*.typ"):
        part.write_text(joined(part) if part == source else corrected(part))
    for listed in source.parent.glob("*.bib"):
        listed.write_text(with_whole_names(listed.read_text()))
    packages = Path(__file__).parent / "packages"
    try:
        typst.compile(source, output=source.with_suffix(".pdf"), package_path=packages, ignore_system_fonts=True)
    except typst.TypstError as error:
        raise SystemExit(f"Error: {error.diagnostic or error}") from None


if __name__ == "__main__":
    main()
