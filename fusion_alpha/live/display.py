"""The live table in the terminal; a line in the log for each bar where there is no terminal."""

import logging
from types import TracebackType

import pandas as pd
from rich.live import Live
from rich.table import Table

from fusion_alpha.live.router import Router
from fusion_alpha.stage import console

log = logging.getLogger(__name__)

_COLUMNS = (
    "ticker",
    "price",
    "sentiment",
    "contradiction",
    "P(up)",
    "next return",
    "action",
    "weight",
    "age",
    "latency",
)
_COLOURS = {"buy": "green", "sell": "red", "hold": "dim"}


class Display:
    """Shows a router's rows; use as a context manager around its run."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._live = Live(get_renderable=self.table, console=console, refresh_per_second=2, transient=False)

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

    def table(self) -> Table:
        router, now = self._router, self._router.parts.clock.now()
        simulated = "SIMULATED " if router.parts.feed.simulated else ""
        killed = f", KILLED: {router.latched}" if router.latched else ""
        title = f"{simulated}{router.parts.feed.name} {now:%Y-%m-%d %H:%M:%S} UTC, equity {self._equity()}{killed}"
        table = Table(*_COLUMNS, title=title)
        for name in router.tickers:
            table.add_row(name, *self._cells(name, now))
        return table

    def lines(self) -> None:
        now = self._router.parts.clock.now()
        label = "SIMULATED " if self._router.parts.feed.simulated else ""
        for name in self._router.tickers:
            cells = zip(_COLUMNS[1:], self._cells(name, now, plain=True), strict=True)
            log.info("%s%s %s", label, name, ", ".join(f"{column} {cell}" for column, cell in cells if cell))

    def _equity(self) -> str:
        return f"{self._router.parts.broker.equity():.4f}"

    def _cells(self, name: str, now: pd.Timestamp, plain: bool = False) -> list[str]:
        row = self._router.rows.get(name)
        if row is None:
            return [""] * (len(_COLUMNS) - 1)
        data = row.data
        action = str(data.get("action", data.get("reason", "")))
        shown = action if plain else f"[{_COLOURS.get(action, 'yellow')}]{action}[/]"
        known = "mean_ret" in data
        return [
            _number(data.get("price"), ".2f"),
            _number(data.get("s"), "+.2f"),
            _number(data.get("cs"), "+.2f"),
            _number(data.get("p_up"), ".3f"),
            f"{data['mean_ret']:+.2%} ± {data['sd_ret']:.2%}" if known else "",
            shown,
            _number(data.get("weight"), "+.3f"),
            str((now - row.close_utc).floor("s")).removeprefix("0 days "),
            f"{1e3 * row.latency_s:.0f} ms",
        ]


def _number(value: object, form: str) -> str:
    return format(value, form) if isinstance(value, float) else ""
