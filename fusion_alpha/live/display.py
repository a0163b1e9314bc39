"""The live table in the terminal, 80 columns or more; a line in the log for each ticker and bar where there is none."""

import logging
import math
from collections import Counter
from types import TracebackType
from typing import Any

import pandas as pd
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fusion_alpha.live.clock import Hours
from fusion_alpha.live.router import Router, Row
from fusion_alpha.stage import console

log = logging.getLogger(__name__)

_WIDE = 104  # columns from which headings are whole words
_AROUND = 8  # lines of the terminal that are no ticker's
_COLUMNS = (  # in a narrow terminal, in a wide one
    ("ticker", "ticker"),
    ("price", "price"),
    ("news", "sentiment"),
    ("contra", "contradiction"),
    ("P(up)", "P(up)"),
    ("return ± sd", "next return ± sd"),
    ("action", "action"),
    ("weight", "weight"),
    ("age", "age of bar"),
    ("took", "latency"),
)
_COLOURS = {"buy": "green", "sell": "red", "hold": "dim"}
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


class Display:
    """Shows a router's rows; use as a context manager around its run."""

    def __init__(self, router: Router) -> None:
        self._router, self._hours = router, Hours(router.parts.cfg)
        self._live = Live(get_renderable=self.view, console=console, refresh_per_second=2, transient=False)

    def __enter__(self) -> "Display":
        if console.is_terminal:
            self._live.start()
        else:
            self._router.on_bar = self.lines
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if console.is_terminal:
            self._live.stop()

    def view(self) -> Group:
        """What the terminal shows: state, a row for each ticker that has room, and why some have no signal."""
        now = self._router.parts.clock.now()
        rows = {name: self._router.rows.get(name) for name in self._router.tickers}
        room = max(console.height - _AROUND, 1)
        shown = dict(list(rows.items())[: room if len(rows) > room else len(rows)])
        return Group(*self._state(now), self._table(shown, now), *_remarks(rows, shown))

    def lines(self) -> None:
        """The bar that was dealt with, in the log: a line for each ticker."""
        mark = "SIMULATED " if self._router.parts.feed.simulated else ""
        rows = {name: self._router.rows[name] for name in self._router.tickers if name in self._router.rows}
        if not rows:
            return
        row = next(iter(rows.values()))
        log.info(
            "%sbar %s UTC: equity %.4f, latency %s",
            mark,
            f"{row.close_utc:%Y-%m-%d %H:%M}",
            self._router.parts.broker.equity(),
            _latency(row),
        )
        for name, row in rows.items():
            log.info("%s%s %s", mark, name, _in_words(row.data))

    def _state(self, now: pd.Timestamp) -> list[Text]:
        router, health = self._router, self._router.health()
        mark = "SIMULATED " if health["simulated"] else ""
        close = self._hours.next_close(now)
        left = (close - now).total_seconds()
        speed = getattr(router.parts.clock, "speed", 1.0)
        wall = f" ({_span(left / speed)} here)" if speed != 1.0 else ""
        equity = f"equity {router.parts.broker.equity():.4f}"
        found = [
            Text(f"{mark}{router.parts.feed.name}, {now:%Y-%m-%d %H:%M:%S} UTC, {equity}", style="bold"),
            Text(f"next bar ends {close:%Y-%m-%d %H:%M} UTC, in {_span(left)}{wall}", style="dim"),
        ]
        if health["killed"]:
            found.append(Text(f"KILLED: {health['killed']}; no signals until --release", style="bold red"))
        if health["journal"] != "ok":
            found.append(Text(f"JOURNAL: {health['journal']}; nothing is sent any more", style="bold red"))
        if health["feed_failures"]:
            found.append(Text(f"FEED: no answer, {health['feed_failures']} times in a row", style="yellow"))
        return found

    def _table(self, rows: dict[str, Row | None], now: pd.Timestamp) -> Table:
        wide = console.width >= _WIDE
        table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="bold underline")
        for number, heads in enumerate(_COLUMNS):
            left = heads[0] in ("ticker", "action")
            table.add_column(heads[wide], justify="left" if left else "right", no_wrap=True)
            if number == 0:
                table.columns[0].min_width = 6
        for name, row in rows.items():
            table.add_row(Text(name), *_cells(row, now))  # no markup in a name
        return table


def _cells(row: Row | None, now: pd.Timestamp) -> list[str | Text]:
    if row is None:
        return ["", "", "", "", "", Text("waiting", style="dim"), "", "", ""]
    data = row.data
    action = _action(data)
    return [
        _number(data.get("price"), ".2f"),
        _number(data.get("s"), "+.2f"),
        _number(data.get("cs"), "+.2f"),
        _chance(data),
        _return(data),
        Text(action, style=_COLOURS.get(action, "yellow")),
        _number(data.get("weight"), "+.3f"),
        _span((now - row.close_utc).total_seconds()),
        _latency(row),
    ]


def _remarks(rows: dict[str, Row | None], shown: dict[str, Row | None]) -> list[Text]:
    """Tickers that the terminal has no room for, and whole reasons for silence."""
    found = []
    if len(shown) < len(rows):
        hidden = Counter(_action(row.data) if row else "waiting" for name, row in rows.items() if name not in shown)
        counts = ", ".join(f"{count} {action}" for action, count in hidden.most_common())
        found.append(Text(f"and {len(rows) - len(shown)} more: {counts}", style="dim"))
    reasons = Counter(str(row.data["reason"]) for row in rows.values() if row and "reason" in row.data)
    if reasons:
        said = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
        found.append(Text(f"no signal: {said}", style="yellow", overflow="ellipsis", no_wrap=True))
    return found


def _action(data: dict[str, Any]) -> str:
    """The action, or the reason for silence in a word or two."""
    if "reason" not in data:
        return str(data.get("action", ""))
    return str(data["reason"]).partition(":")[0][:9].strip()


def _in_words(data: dict[str, Any]) -> str:
    price = _number(data.get("price"), ".2f")
    if "reason" in data:
        return f"{price} no signal: {data['reason']}".strip()
    parts = [price, f"{data['action']} {data['weight']:+.3f}", f"P(up) {_chance(data)}", f"return {_return(data)}"]
    parts += [
        f"{name} {value:+.2f}"
        for name, value in (("news", data.get("s")), ("contra", data.get("cs")))
        if value is not None
    ]
    return ", ".join(parts)


def _chance(data: dict[str, Any]) -> str:
    p_up, deviation = data.get("p_up"), data.get("p_up_sd")
    return f"{p_up:.2f}±{deviation:.2f}" if p_up is not None and deviation is not None else ""


def _return(data: dict[str, Any]) -> str:
    mean, deviation = data.get("mean_ret"), data.get("sd_ret")
    return f"{100 * mean:+.2f}±{100 * deviation:.2f}%" if mean is not None and deviation is not None else ""


def _latency(row: Row) -> str:
    return f"{1e3 * row.latency_s:.0f} ms"


def _span(seconds: float) -> str:
    """A length of time in its largest unit."""
    if not math.isfinite(seconds):
        return ""
    for size, unit in _UNITS[:-1]:
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, float) else ""
