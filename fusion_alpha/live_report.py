"""Draw what a router did, from its journal: `python -m fusion_alpha.live_report live.log`.

    python -m fusion_alpha.live_report live.log                          report/ with the page, the sheet and a table
    python -m fusion_alpha.live_report live.log --from 2020-01-02T15:00 --to 2020-01-02T16:00 --output hour
    python -m fusion_alpha.live_report live.log --readable               also of a damaged journal, up to the damage

live_report.html is one file that fetches nothing, live_report.png the same drawings on one sheet: signals on prices,
contradiction and its severity, latency by step, gaps, halts and the kill switch, the value of the book on paper.

The journal may be in use: a record that is not whole at its end is left out, and the report says so. Anything else that
does not hold together (a wrong checksum, a broken chain of hashes) is damage: the report is refused with status 65 and
names the line, or with --readable shows what stands before it. Times without an offset are UTC; --from and --to are
closes of bars.
"""

import argparse
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from fusion_alpha import files, stage
from fusion_alpha.errors import InputError
from fusion_alpha.live import drawings, journal
from fusion_alpha.live.account import Account, between, latencies, outcomes, tell
from fusion_alpha.tearsheet import page, words
from fusion_alpha.tearsheet.words import Fact, Table

USAGE, DAMAGED = 2, 65  # exit status; EX_DATAERR of sysexits.h
PAGE, SHEET = "live_report.html", "live_report.png"
EVENTS = 40  # that the page lists
_DAY = r"\d{4}-\d\d-\d\d"
REASONS = 3  # for silence that a ticker's row names


def parser() -> argparse.ArgumentParser:
    new = argparse.ArgumentParser(
        prog="python -m fusion_alpha.live_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("journal", type=Path, metavar="FILE", help="of live_router.py --log")
    new.add_argument("--output", type=Path, default=Path("report"), metavar="DIR", help="folder (default: report)")
    new.add_argument(
        "--from", dest="first", type=time, metavar="TIME", help="first close of a bar, as 2020-01-02T15:00"
    )
    new.add_argument("--to", dest="last", type=end, metavar="TIME", help="last close; a date alone means all of it")
    new.add_argument("--readable", action="store_true", help="report a damaged journal up to the damage")
    return new


def time(text: str) -> pd.Timestamp:
    try:
        if not re.match(_DAY, text):
            raise ValueError("no day")
        found = pd.Timestamp(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time as 2020-01-02 or 2020-01-02T15:00") from None
    return found.tz_localize("UTC") if found.tzinfo is None else found.tz_convert("UTC")


def end(text: str) -> pd.Timestamp:
    """The same, where a day without a time means its end."""
    found = time(text)
    if not re.fullmatch(_DAY, text):
        return found
    return found + pd.Timedelta(days=1) - pd.Timedelta(microseconds=1)


def main() -> int:
    arguments = parser().parse_args()
    stage.set_up("live_report")
    try:
        account, notes = opened(arguments.journal, arguments.readable)
        account = between(account, arguments.first, arguments.last)
        written = write(account, notes, arguments.output)
    except journal.Damaged as error:
        stage.console.print(
            f"{error}\n  or:     --readable reports what stands before it", markup=False, highlight=False
        )
        return DAMAGED
    except InputError as error:
        stage.console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return USAGE
    show(account, notes, Console(width=None if sys.stdout.isatty() else 120))
    sys.stdout.write(f"\nwritten: {', '.join(map(str, written))}\n")
    return 0


def opened(path: Path, readable: bool) -> tuple[Account, list[str]]:
    """What a journal says, and what is wrong with it. Damaged where it is and `readable` is false."""
    notes: list[str] = []
    with journal.reading(path) as records:
        account = tell(_up_to_damage(records, notes) if readable else records)
    if records.torn:
        notes.append(f"{records.torn} bytes of a record that is not whole stand at the end; they are left out")
    return account, notes


def _up_to_damage(records: journal.Reading, notes: list[str]) -> Iterator[journal.Record]:
    """The records before the damage, which is noted; Damaged where there are none."""
    try:
        yield from records
    except journal.Damaged as error:
        if not records.number:
            raise
        notes.append(f"DAMAGED: {str(error).splitlines()[0]}; the report ends with record {records.number - 1}")


def write(account: Account, notes: list[str], folder: Path) -> list[Path]:
    files.write_text(folder / PAGE, html(account, notes))
    short = [(fact.name, fact.value) for fact in facts(account)]
    files.write_bytes(folder / SHEET, drawings.sheet(account, title(account), short))
    return [folder / PAGE, folder / SHEET]


def title(account: Account) -> str:
    mark = "SIMULATED: " if account.simulated else ""
    names = account.tickers
    shown = ", ".join(names) if len(names) <= drawings.SHOWN else f"{len(names)} tickers"
    begin, end = account.bars["close_utc"].min(), account.bars["close_utc"].max()
    form = "%Y-%m-%d" if account.daily else "%Y-%m-%d %H:%M"
    return f"{mark}{shown}, {begin.strftime(form)} to {end.strftime(form)}"


def facts(account: Account) -> list[Fact]:
    """The main figures."""
    decisions, events = account.decisions, account.events["kind"]
    given = decisions["kind"] == "signal"
    counts = outcomes(decisions)
    found = latencies(account.bars["latency_s"])
    equity = account.bars["equity"].dropna()
    value = float(equity.iloc[-1]) if len(equity) else math.nan
    latched = int((events == "latch").sum())
    refused = int(events.isin(["reject", "revised", "late"]).sum())
    traded = f"{counts['buy']} buy, {counts['sell']} sell, {counts['hold']} hold"
    return [
        Fact(
            "Bars",
            f"{len(account.bars):,}",
            f"of {account.about.get('interval', 'unknown')}, feed {account.about.get('feed')}",
        ),
        Fact("Signals", f"{int(given.sum()):,}", traded),
        Fact("Not given", f"{int((~given).sum()):,}", "; ".join(_reasons(decisions)) or "a signal from every bar"),
        Fact("Latency", f"{found['p50']:.0f} ms", f"99% {found['p99']:.0f} ms, longest {found['max']:.0f} ms"),
        Fact("Book on paper", f"{value:.4f}", f"lowest {equity.min():.4f}, highest {equity.max():.4f}"),
        Fact("Kill switch", str(latched), f"times latched; {refused} bars refused, revised or late"),
    ]


def by_ticker(account: Account) -> Table:
    heads = [
        "ticker",
        "bars",
        "buy",
        "sell",
        "hold",
        "not given",
        "mean P(up)",
        "contradictions",
        "last price",
        "why not",
    ]
    rows = []
    for ticker in account.tickers:
        own = account.decisions[account.decisions["ticker"] == ticker]
        counts, silent = outcomes(own), int((own["kind"] != "signal").sum())
        known = own["price"].dropna()
        found = int(own["contradiction"].isin(["overhype", "underhype"]).sum())
        cells = [ticker, len(own), counts["buy"], counts["sell"], counts["hold"], silent]
        up = words.number(_finite(own["p_up"].mean()), "{:.3f}")
        price = words.number(_finite(known.iloc[-1] if len(known) else math.nan), "{:.2f}")
        rows.append([*map(str, cells), up, str(found), price, "; ".join(_reasons(own))])
    left_out = len(account.tickers) - drawings.SHOWN
    note = f"Drawn are the first {drawings.SHOWN} tickers." if left_out > 0 else ""
    return Table("Tickers", heads, rows, note)


def steps(account: Account) -> Table:
    """Latency of each step."""
    rows = []
    for name in (*drawings.STEPS, "latency_s"):
        found = latencies(account.bars[name])
        if math.isfinite(found["p50"]):
            label = "bar to decision" if name == "latency_s" else name
            rows.append([label, *(f"{found[part]:.1f}" for part in ("p50", "p99", "max"))])
    note = "Milliseconds of the wall's clock. wait: for other tickers; journal: writing the bar before, to the disk."
    return Table("Latency by step", ["step", "median", "99%", "longest"], rows, note)


def happened(account: Account, most: int) -> Table:
    """Events, the last ones where there are too many."""
    rows = [
        [f"{row.time:%Y-%m-%d %H:%M:%S}", str(row.kind), str(row.ticker), str(row.said)]
        for row in account.events.tail(most).itertuples()
    ]
    more = len(account.events) - len(rows)
    note = "The time is that of the bar before it, where a record has none of its own."
    return Table(
        "Events",
        ["UTC", "kind", "ticker", "what"],
        rows,
        f"{more} earlier ones are left out. {note}" if more > 0 else note,
    )


def html(account: Account, notes: list[str]) -> str:
    """The page: the same account and notes give the same bytes."""
    drawn = [
        page.figure(drawings.svg(account, draw, name), said, account.simulated)
        for said, draw, name in drawings.panels(account)
    ]
    about = account.about
    started = f"{account.starts} start{'s' * (account.starts != 1)}"
    origin = [
        f"Journal of {started}: feed {about.get('feed')}, bars of {about.get('interval')}.",
        f"Model {about.get('model_id')}, SHA-256 {about.get('model_sha256')}.",
        f"Configuration, SHA-256 {about.get('config_sha256')}.",
    ]
    parts = [
        f'<p class="simulated">{words.WARNING}</p>' if account.simulated else "",
        f"<h1>{page.escape(title(account))}</h1>",
        f'<div class="reading">{page.paragraphs(notes)}</div>' if notes else "",
        page.facts(facts(account)),
        page.figures(drawn),
        *(page.table(table) for table in (by_ticker(account), steps(account), happened(account, EVENTS))),
        f"<footer>{page.paragraphs(origin)}</footer>",
    ]
    return page.document(title(account), parts)


def show(account: Account, notes: list[str], console: Console) -> None:
    """The figures in the terminal. What a feed or a person said is text, in which rich shall find no markup."""
    console.print()
    console.print(Text(title(account), style="bold"))
    for note in notes:
        console.print(Text(note, style="bold red"))
    for fact in facts(account):
        console.print(Text.assemble(f"{fact.name:<16}", (f"{fact.value:>10}", "bold"), f"   {fact.note}"))
    narrow = console.width < 110
    for table in (by_ticker(account), steps(account), happened(account, 10)):
        left_out = ("mean P(up)", "contradictions", "why not") if narrow else ()
        shown = Shown(
            title=f"\n{table.title}",
            title_justify="left",
            box=None,
            padding=(0, 2, 0, 0),
            header_style="bold underline",
        )
        kept = [place for place, head in enumerate(table.heads) if head not in left_out]
        for place in kept:
            left = place == 0 or table.heads[place] in ("kind", "ticker", "what", "why not")
            shown.add_column(table.heads[place], justify="left" if left else "right")
        for row in table.rows:
            shown.add_row(*(Text(row[place]) for place in kept))
        if table.rows:
            console.print(shown)
    if account.simulated:
        console.print(f"\n{words.WARNING}.", highlight=False)


def _reasons(rows: pd.DataFrame) -> list[str]:
    """Why no signal was given, the most frequent first."""
    counts = outcomes(rows[rows["kind"] != "signal"])
    return [f"{count} {reason}" for reason, count in counts.most_common(REASONS)]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
