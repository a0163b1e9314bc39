"""The tearsheet as one HTML file: no script, no request, readable on a phone and on paper.

Drawings are images inside the page, so that their identifiers cannot meet and each has its text alternative.
"""

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from fusion_alpha.report import Report
from fusion_alpha.tearsheet import panels, words
from fusion_alpha.tearsheet.words import Fact, Table

_CSS = """
:root { color-scheme: light; --ink: #222; --faint: #666; --line: #e2e2e2; --blue: #0072b2; --warm: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  color: var(--ink); background: #fff; }
main { max-width: 1180px; margin: 0 auto; padding: 1.25rem 1rem 2rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; max-width: 100ch; }
.period, .note, footer { color: var(--faint); }
.note { font-size: .83rem; }
.simulated { max-width: none; background: #fff3ea; border-left: 4px solid var(--warm); padding: .5rem .75rem;
  margin: 0 0 1rem; font-weight: 600; }
.reading { border-left: 4px solid var(--blue); padding: .25rem .75rem; margin: 1rem 0; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: .6rem; margin: 1.25rem 0 0; }
dl div { border: 1px solid var(--line); border-radius: 6px; padding: .55rem .75rem; }
dt { font-size: .83rem; color: var(--faint); }
dd { margin: 0; }
dd.value { font-size: 1.5rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
dd.detail { font-size: .8rem; color: var(--faint); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1rem;
  margin-top: 1.5rem; }
.figures figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .5rem; }
.figures img { display: block; width: 100%; height: auto; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
thead th { font-weight: 600; color: var(--faint); }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 500; }
tr.model > * { color: var(--blue); font-weight: 600; }
footer { margin-top: 2rem; border-top: 1px solid var(--line); padding-top: .75rem; font-size: .8rem;
  overflow-wrap: anywhere; }
@media (max-width: 480px) { dl { grid-template-columns: 1fr 1fr; } dd.value { font-size: 1.2rem; } }
@media print { .figures figure, dl div { break-inside: avoid; } .scroll { overflow: visible; } }
"""


def page(report: Report, about: dict[str, Any]) -> str:
    """The whole tearsheet. The same report and origin give the same bytes."""
    numbers = report.numbers
    title = words.title(about, numbers["view"])
    simulated = about["simulated"]
    drawn = [figure(panels.svg(name, report, simulated), panels.PANELS[name][1], simulated) for name in panels.PANELS]
    tables = (words.performance, words.differences, words.rivals, words.forecast)
    parts = [
        f'<p class="simulated">{escape(words.WARNING)}</p>' if about["simulated"] else "",
        f"<h1>{escape(title)}</h1>",
        f'<p class="period">{escape(words.period(numbers["view"]))}</p>',
        facts(words.facts(numbers)),
        f'<div class="reading">{paragraphs(words.reading(numbers, about))}</div>',
        figures(drawn),
        *(table(make(numbers)) for make in tables),
        f"<h2>How to read it</h2>{paragraphs(_HELP)}",
        f"<footer>{paragraphs(words.origin(about).splitlines())}</footer>",
    ]
    return document(title, parts)


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page in this style, of the parts that are not empty; nothing in it is fetched."""
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


_HELP = [
    "Sharpe ratios are annualised, net of costs, at a risk-free rate of 0. Every strategy has the same decisions to "
    "make, the same limits and the same costs. Intervals draw blocks of sessions again (stationary bootstrap).",
    "Deflated Sharpe: probability that the true Sharpe ratio exceeds what the best of as many worthless trials would "
    "show. All trials that MLflow recorded on this data source count, those of searches too.",
    "PBO: share of all ways to choose the best row in one half of the sessions that put it below the median in the "
    "other. SPA: p-value of the best strategy's lead on the baseline, seeing that it is the best of several.",
]


def facts(main: Sequence[Fact]) -> str:
    rows = [
        f'<div><dt>{escape(fact.name)}</dt><dd class="value">{escape(fact.value)}</dd>'
        f'<dd class="detail">{escape(fact.note)}</dd></div>'
        for fact in main
    ]
    return f"<dl>{''.join(rows)}</dl>"


def figures(drawn: Sequence[str]) -> str:
    """Drawings side by side where there is room."""
    return f'<div class="figures">{"".join(drawn)}</div>'


def figure(svg: bytes, said: str, simulated: bool) -> str:
    """A drawing inside the page, with its text alternative."""
    alternative = escape(f"{said} (SIMULATED)" if simulated else said, quote=True)
    picture = base64.b64encode(svg).decode()
    return f'<figure><img alt="{alternative}" src="data:image/svg+xml;base64,{picture}"></figure>'


def table(content: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in content.heads)
    rows = "".join(_row(cells) for cells in content.rows)
    note = f'<p class="note">{escape(content.note)}</p>' if content.note else ""
    return (
        f'<h2>{escape(content.title)}</h2><div class="scroll" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{note}"
    )


def _row(cells: Sequence[str]) -> str:
    marked = ' class="model"' if cells[0] == "model" else ""
    rest = "".join(f"<td>{escape(cell)}</td>" for cell in cells[1:])
    return f'<tr{marked}><th scope="row">{escape(cells[0])}</th>{rest}</tr>'


def paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)
