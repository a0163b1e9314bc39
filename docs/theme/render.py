"""Render the site: Jupyter Book's resolved pages (JSON) in _build/site -> static HTML in $BUILD_DIRECTORY.

Jupyter Book runs this as the theme's build command. Every page arrives with numbers, citations, mathematics and cell
outputs resolved; what is left is one function per node type. A node type without a function stops the build.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

Node = dict[str, Any]
THEME = Path(__file__).resolve().parent
GLOSSARY = "glossary"  # the page whose terms search knows one by one
DESCRIPTION = re.compile(r"<desc>(.*?)</desc>", re.DOTALL)


class UnknownNode(Exception):
    """The theme has no rule for a node of the page."""


class Page:
    """Turns one page's tree into HTML. `citations` is the page's map from citation label to reference."""

    def __init__(self, slug: str, content: Node) -> None:
        self.slug = slug
        self.tree = content["mdast"]
        self.frontmatter = content["frontmatter"]
        self.citations: Node = content.get("references", {}).get("cite", {}).get("data", {})
        self.headings: list[tuple[int, str, str]] = []
        self.footnotes = {node["identifier"]: node for node in nodes(self.tree, "footnoteDefinition")}

    def body(self) -> str:
        return self.render(self.tree)

    def children(self, node: Node) -> str:
        return "".join(self.render(child) for child in node.get("children", []))

    def render(self, node: Node) -> str:
        kind = node["type"]
        if kind in IGNORED or node.get("visibility") == "remove":
            return ""
        if kind in WRAPPED:
            tag = WRAPPED[kind]
            return f"<{tag}{anchor(node)}>{self.children(node)}</{tag}>"
        rule = RULES.get(kind)
        if rule is None:
            raise UnknownNode(f"page {self.slug}: no rule for a node of type {kind!r}")
        return rule(self, node)

    def heading(self, node: Node) -> str:
        level = min(node["depth"], 6)
        identifier = node.get("html_id") or node.get("identifier")
        text = self.children(node)
        if identifier and level <= 3:
            self.headings.append((level, identifier, re.sub("<[^>]+>", "", text)))
        mark = f' <a class="mark" href="#{identifier}" aria-label="Link to this section">#</a>' if identifier else ""
        return f"<h{level}{anchor(node)}>{text}{mark}</h{level}>\n"

    def paragraph(self, node: Node) -> str:
        first = next(iter(node.get("children", [])), {})
        style = ' class="test"' if str(first.get("value", "")).startswith("Test: ") else ""
        return f"<p{anchor(node)}{style}>{self.children(node)}</p>"

    def code(self, node: Node) -> str:
        lexer = get_lexer_by_name(node.get("lang") or "text")
        inner = highlight(node["value"], lexer, HtmlFormatter(nowrap=True)).rstrip("\n")
        return f'<pre tabindex="0"{anchor(node)}><code>{inner}</code></pre>\n'

    def list(self, node: Node) -> str:
        tag = "ol" if node.get("ordered") else "ul"
        start = f' start="{node["start"]}"' if node.get("ordered") and node.get("start", 1) != 1 else ""
        return f"<{tag}{start}>{self.children(node)}</{tag}>\n"

    def link(self, node: Node) -> str:
        url = node["url"]
        if node.get("internal"):
            url = local(url)
        return f'<a href="{escape(url)}">{self.children(node)}</a>'

    def cross_reference(self, node: Node) -> str:
        page = local(node["url"]) if node.get("url") else ""
        target = node.get("html_id") or node.get("identifier")
        return f'<a href="{page}#{target}">{self.children(node)}</a>'

    def cite(self, node: Node) -> str:
        return f'<a href="#ref-{escape(node["label"])}">{self.children(node)}</a>'

    def cite_group(self, node: Node) -> str:
        inner = [self.render(child) for child in node["children"]]
        return "; ".join(inner) if node.get("kind") == "narrative" else f"({'; '.join(inner)})"

    def container(self, node: Node) -> str:
        kind = node.get("kind", "figure")
        captions = [child for child in node["children"] if child["type"] in ("caption", "legend")]
        others = [child for child in node["children"] if child not in captions]
        caption = "".join(f"<figcaption>{self.children(child)}</figcaption>" for child in captions)
        content = "".join(self.render(child) for child in others)
        inner = caption + content if kind == "table" else content + caption
        return f'<figure class="{escape(kind)}"{anchor(node)}>{inner}</figure>\n'

    def caption_number(self, node: Node) -> str:
        return f'<span class="number">{self.children(node)}</span> '

    def image(self, node: Node) -> str:
        source = public() / Path(node["url"]).name
        alt = description(source.read_text()) if source.suffix == ".svg" else node.get("alt")
        if not alt:
            raise UnknownNode(f"page {self.slug}: the image {node.get('urlSource')} has no alternative text")
        return picture(save(source.read_bytes(), source.suffix), alt, node.get("width"))

    def table(self, node: Node) -> str:
        rows = [self.render(row) for row in node["children"]]
        heads = [all(cell.get("header") for cell in row["children"]) for row in node["children"]]
        head = "".join(row for row, is_head in zip(rows, heads, strict=True) if is_head)
        body = "".join(row for row, is_head in zip(rows, heads, strict=True) if not is_head)
        return scrolled(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")

    def table_cell(self, node: Node) -> str:
        tag = "th" if node.get("header") else "td"
        style = f' class="{node["align"]}"' if node.get("align") else ""
        scope = ' scope="col"' if node.get("header") else ""
        return f"<{tag}{scope}{style}>{self.children(node)}</{tag}>"

    def math(self, node: Node) -> str:
        if "html" not in node:
            raise UnknownNode(f"page {self.slug}: a formula was not set: {node['value']}")
        number = f'<span class="number">({node["enumerator"]})</span>' if node.get("enumerator") else ""
        return f'<div class="equation"{anchor(node)} tabindex="0">{node["html"]}{number}</div>\n'

    def inline_math(self, node: Node) -> str:
        if "html" not in node:
            raise UnknownNode(f"page {self.slug}: a formula was not set: {node['value']}")
        return str(node["html"])

    def admonition(self, node: Node) -> str:
        return f'<aside class="admonition {escape(node["kind"])}">{self.children(node)}</aside>\n'

    def admonition_title(self, node: Node) -> str:
        return f'<p class="title">{self.children(node)}</p>'

    def output(self, node: Node) -> str:
        data = node["jupyter_data"]
        if data["output_type"] in ("error", "stream"):
            raise UnknownNode(f"page {self.slug}: a cell wrote {data.get('name', 'an error')}: {data}")
        bundle = data["data"]
        if "image/svg+xml" in bundle:
            return self.vector(bundle["image/svg+xml"])
        if "text/html" in bundle:
            return scrolled(source_of(bundle["text/html"]))
        raise UnknownNode(f"page {self.slug}: a cell's output is neither SVG nor HTML but {sorted(bundle)}")

    def vector(self, item: Node) -> str:
        svg = source_of(item)
        alt = description(svg)
        if not alt:
            raise UnknownNode(f"page {self.slug}: a drawn figure has no description to serve as alternative text")
        return picture(save(svg.encode(), ".svg"), alt)

    def footnote_reference(self, node: Node) -> str:
        number = escape(str(node.get("enumerator") or node["identifier"]))
        return f'<sup><a id="fnref-{number}" href="#fn-{number}">{number}</a></sup>'

    def definition_term(self, node: Node) -> str:
        inner = self.children(node)
        if self.slug != GLOSSARY:
            return f"<dt{anchor(node)}>{inner}</dt>"
        name = re.sub(r"[^a-z0-9]+", "-", plain(inner).lower()).strip("-")
        return f'<dt id="term-{name}">{inner}</dt>'

    def endings(self) -> str:
        """The footnotes and the references of the page."""
        parts = ""
        if self.footnotes:
            items = "".join(f'<li id="fn-{name}">{self.children(note)}</li>' for name, note in self.footnotes.items())
            parts += f'<section class="notes"><h2>Notes</h2><ol>{items}</ol></section>'
        if self.citations:
            entries = sorted(self.citations.items(), key=lambda item: re.sub("<[^>]+>", "", item[1]["html"]))
            items = "".join(f'<li id="ref-{escape(label)}">{entry["html"]}</li>' for label, entry in entries)
            parts += f'<section class="references"><h2 id="references">References</h2><ul>{items}</ul></section>'
        return parts


def nodes(tree: Node, kind: str) -> list[Node]:
    found = [tree] if tree.get("type") == kind else []
    for child in tree.get("children", []):
        found += nodes(child, kind)
    return found


def anchor(node: Node) -> str:
    identifier = node.get("html_id") or node.get("identifier")
    return f' id="{escape(identifier)}"' if identifier else ""


def local(url: str) -> str:
    """Jupyter Book's address of a page (/slug) as a file beside this one, so that the site works from a disk too."""
    path, _, fragment = url.partition("#")
    name = path.strip("/") or "index"
    return f"{name}.html" + (f"#{fragment}" if fragment else "")


def description(svg: str) -> str:
    found = DESCRIPTION.search(svg)
    return " ".join(unescape(found[1]).split()) if found else ""


def picture(url: str, alt: str, width: str | None = None) -> str:
    """On a phone a figure keeps its size, to be readable, and scrolls inside its own box."""
    style = f' style="width: max({escape(width)}, 20rem)"' if width else ""
    image = f'<img src="{url}" alt="{escape(alt)}" loading="lazy"{style}>'
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Figure">{image}</div>'


def breakable(name: str) -> str:
    """A long name may go on in the next line after an underscore or a slash: cells of tables are narrow."""
    return re.sub(r"(?<=[_/])(?=\w)", "<wbr>", name) if len(name) > 24 else name


def scrolled(table: str) -> str:
    """A wide table scrolls inside its own box, which the keyboard can reach."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{table}</div>\n'


def public() -> Path:
    return Path(os.environ["BUILD_DIRECTORY"]).parent / "site" / "public"


def source_of(item: Node) -> str:
    if "content" in item:
        return str(item["content"])
    return (public() / Path(item["path"]).name).read_text()


def save(content: bytes, suffix: str) -> str:
    """Keep a picture under a name made of its content, so that equal books are equal files; returns its address."""
    url = f"files/{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    path = Path(os.environ["BUILD_DIRECTORY"]) / url
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return url


IGNORED = {"comment", "mystTarget", "footnoteDefinition", "blockBreak"}
WRAPPED = {
    "emphasis": "em",
    "strong": "strong",
    "subscript": "sub",
    "superscript": "sup",
    "delete": "del",
    "blockquote": "blockquote",
    "listItem": "li",
    "definitionList": "dl",
    "definitionDescription": "dd",
    "abbreviation": "abbr",
    "tableRow": "tr",
    "div": "div",
    "span": "span",
}
RULES: dict[str, Callable[[Page, Node], str]] = {
    **dict.fromkeys(("root", "block", "outputs", "mystDirective", "mystRole", "include", "caption"), Page.children),
    "text": lambda page, node: escape(node["value"], quote=False),
    "inlineCode": lambda page, node: f"<code>{breakable(escape(node['value'], quote=False))}</code>",
    "inlineExpression": Page.children,
    "break": lambda page, node: "<br>",
    "thematicBreak": lambda page, node: "<hr>",
    "paragraph": Page.paragraph,
    "heading": Page.heading,
    "code": Page.code,
    "list": Page.list,
    "link": Page.link,
    "crossReference": Page.cross_reference,
    "cite": Page.cite,
    "citeGroup": Page.cite_group,
    "container": Page.container,
    "captionNumber": Page.caption_number,
    "image": Page.image,
    "table": Page.table,
    "tableCell": Page.table_cell,
    "math": Page.math,
    "inlineMath": Page.inline_math,
    "admonition": Page.admonition,
    "admonitionTitle": Page.admonition_title,
    "output": Page.output,
    "footnoteReference": Page.footnote_reference,
    "definitionTerm": Page.definition_term,
}


def contents(pages: list[Node], current: str) -> str:
    """The book's contents as nested lists, the current page marked."""
    html, depth = "", 0
    for page in pages:
        while depth < page["level"]:
            html, depth = html + "<ul>", depth + 1
        while depth > page["level"]:
            html, depth = html + "</ul>", depth - 1
        here = ' aria-current="page"' if page["slug"] == current else ""
        html += f'<li><a href="{page["slug"]}.html"{here}>{escape(page["title"])}</a></li>'
    return html + "</ul>" * depth


def neighbours(pages: list[Node], current: str) -> str:
    slugs = [page["slug"] for page in pages]
    here = slugs.index(current)
    links = ""
    if here > 0:
        links += f'<a rel="prev" href="{slugs[here - 1]}.html">Previous: {escape(pages[here - 1]["title"])}</a>'
    if here + 1 < len(slugs):
        links += f'<a rel="next" href="{slugs[here + 1]}.html">Next: {escape(pages[here + 1]["title"])}</a>'
    return f'<nav class="neighbours" aria-label="Neighbouring pages">{links}</nav>'


def document(book: Node, pages: list[Node], page: Page) -> str:
    title = page.frontmatter.get("title", book["title"])
    name = escape(title) if page.slug == "index" else f"{escape(title)} - {escape(book['title'])}"
    body = page.body() + page.endings()  # before the outline: it collects the headings
    outline = "".join(
        f'<li class="level-{level}"><a href="#{escape(identifier)}">{escape(unescape(text))}</a></li>'
        for level, identifier, text in page.headings
    )
    aside = f'<nav class="outline" aria-label="On this page"><p>On this page</p><ul>{outline}</ul></nav>'
    description = escape(page.frontmatter.get("description") or book.get("description", ""))
    menu = f'<nav aria-label="Contents">{contents(pages, page.slug)}</nav>'
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="{description}">
<meta name="color-scheme" content="light dark">
<title>{name}</title>
<link rel="icon" href="icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="katex/katex.min.css">
<link rel="stylesheet" href="style.css">
<script src="search.js" defer></script>
</head>
<body>
<a class="skip" href="#main">Skip to the text</a>
<header>
<a class="brand" href="index.html">{escape(book["title"])}</a>
<details class="menu"><summary>Contents</summary>{menu}</details>
<form class="search" role="search">
<input type="search" name="q" placeholder="Search" aria-label="Search the book" autocomplete="off" spellcheck="false">
<p role="status"></p>
<ol></ol>
</form>
</header>
<div class="layout">
<div class="sidebar">{menu}</div>
<main id="main">
<article>
<h1>{escape(title)}</h1>
{body}</article>
{neighbours(pages, page.slug)}
</main>
{aside if len(page.headings) > 1 else ""}
</div>
</body>
</html>
"""


def sections(slug: str, html: str) -> list[dict[str, str]]:
    """What search looks through: a page's sections and terms, each with its address and its words."""
    article = html[html.index("<article>") : html.index("</article>")]
    article = re.sub(r'<math.*?</math>|<a class="mark".*?</a>', "", article, flags=re.DOTALL)  # KaTeX says it twice
    terms = re.findall(r'<dt id="(term-[^"]*)">(.*?)</dt>\s*<dd>(.*?)</dd>', article, flags=re.DOTALL)
    parts = re.split(r"<h([1-3])(?: id=\"([^\"]*)\")?[^>]*>(.*?)</h\1>", article, flags=re.DOTALL)
    page = plain(parts[3])
    return [
        {
            "url": f"{slug}.html" + (f"#{target}" if target else ""),
            "page": page,
            "section": plain(title),
            "text": plain(text),
        }
        for target, title, text in [*zip(parts[2::4], parts[3::4], parts[4::4], strict=True), *terms]
    ]


def plain(html: str) -> str:
    joined = re.sub(r"</?(?:a|abbr|code|em|mark|span|strong|sub|sup|wbr)\b[^>]*>", "", html)
    return " ".join(unescape(re.sub("<[^>]+>", " ", joined)).split())


def copy_assets(target: Path) -> None:
    for name in ("style.css", "icon.svg", "search.js"):
        shutil.copyfile(THEME / name, target / name)
    katex = target.parent / "katex" / "node_modules" / "katex" / "dist"
    (target / "katex" / "fonts").mkdir(parents=True)
    style = (katex / "katex.min.css").read_text()
    # every browser that reads CSS variables reads woff2: the two older formats stay behind
    style = re.sub(r',url\([^)]*\.(?:woff|ttf)\) format\("(?:woff|truetype)"\)', "", style)
    (target / "katex" / "katex.min.css").write_text(style)
    for font in (katex / "fonts").glob("*.woff2"):
        shutil.copyfile(font, target / "katex" / "fonts" / font.name)


def main() -> None:
    target = Path(os.environ["BUILD_DIRECTORY"])
    site = target.parent / "site"
    book = json.loads((site / "config.json").read_text())["projects"][0]
    contents_of = {path.stem: json.loads(path.read_text()) for path in (site / "content").glob("*.json")}
    first = {"slug": "index", "title": contents_of["index"]["frontmatter"]["title"], "level": 1}
    pages = [first, *(page for page in book["pages"] if page.get("slug"))]
    index = []
    for page in pages:
        html = document(book, pages, Page(page["slug"], contents_of[page["slug"]]))
        (target / f"{page['slug']}.html").write_text(html)
        index += sections(page["slug"], html)
    (target / "search-index.js").write_text(f"window.bookIndex = {json.dumps(index, ensure_ascii=False)};\n")
    copy_assets(target)


if __name__ == "__main__":
    try:
        main()
    except UnknownNode as error:
        sys.exit(f"Error: {error}")
