"""evaluate_strategy.py from beginning to end: read the last run's tables, report, write, record in MLflow."""

import hashlib
import logging
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Shown

from fusion_alpha import costs, evaluation, files, report, tables, tracking, trials
from fusion_alpha.config import Config
from fusion_alpha.report import Report, View
from fusion_alpha.tearsheet import page, panels, words

NUMBERS, PAGE, SHEET = "strategy.json", "tearsheet.html", "tearsheet.png"
_NARROW, _LEFT_OUT = 116, ("volatility", "turnover", "gross", "net", "p")  # columns that a narrow terminal does without

log = logging.getLogger(__name__)


def evaluate(view: View, cfg: Config, folder: Path, plot: bool) -> None:
    """Write the figures of a view to `folder`, with its drawings if asked, record and show them.

    Raises InputError as `report.build` does, and where a table of the last run is absent.
    """
    if cfg.data.simulated:
        log.info("evaluate_strategy: SIMULATED data (%s)", cfg.data.source)
    frames = {name: tables.read(name, columns=columns) for name, columns in evaluation.INPUTS.items()}
    frames["technical"] = tables.read("technical")
    rows = report.decisions(frames, cfg)
    model_id = str(rows["model_id"].iloc[0])
    if view.cost_bps is not None and cfg.strategy.costs is not None:
        kept = costs.read(Path(cfg.strategy.costs)).drop(columns="borrow_bps").dropna(how="all").index
        if named := sorted(set(kept) & set(rows["ticker"])):
            log.warning("%s has costs of their own for %s: they keep them", cfg.strategy.costs, ", ".join(named))
    tried = trials.tried(cfg, model_id)
    found = report.build(frames, view, cfg, tried)
    about = report.provenance(found.cfg, model_id, tried)
    written = write(found, about, folder, plot)
    record(found, about, view, written)
    show(found, about, Console(width=None if sys.stdout.isatty() else 120))
    sys.stdout.write(f"\nwritten: {', '.join(str(path) for path in written)} and MLflow (make ui)\n")


def write(found: Report, about: dict[str, Any], folder: Path, plot: bool) -> list[Path]:
    files.write_json(folder / NUMBERS, {"about": about, **found.numbers})
    if not plot:
        return [folder / NUMBERS]
    files.write_text(folder / PAGE, page.page(found, about))
    files.write_bytes(folder / SHEET, panels.sheet(found, about))
    return [folder / name for name in (NUMBERS, PAGE, SHEET)]


def record(found: Report, about: dict[str, Any], view: View, written: list[Path]) -> None:
    """A run of its own, in an experiment of its own: a report is no trial."""
    looked_at = [about["model_id"], tracking.config_hash(found.cfg), str(asdict(replace(view, baseline="")))]
    tags = {
        "view": hashlib.sha256("\n".join(looked_at).encode()).hexdigest()[:16],
        "source": about["source"],
        "baseline": view.baseline,
        "checkpoint": about["model_id"],
        "mlflow.runName": f"{about['model']}-against-{view.baseline}",
    }
    with tracking.training_run(found.cfg, trials.REPORTS) as run:
        run.record(found.numbers | {"trials": about["trials"]["count"]}, tags, written)


def show(found: Report, about: dict[str, Any], console: Console) -> None:
    numbers = found.numbers
    console.print(f"\n[bold]{words.title(about, numbers['view'])}[/]", highlight=False)
    console.print(words.period(numbers["view"]), highlight=False)
    for table in (words.performance(numbers), words.differences(numbers), words.rivals(numbers)):
        console.print(_shown(table, console.width))
    for fact in words.facts(numbers):
        console.print(f"{fact.name:<28}[bold]{fact.value:>9}[/]   {fact.note}", highlight=False)
    console.print()
    for sentence in ([f"{words.WARNING}."] if about["simulated"] else []) + words.reading(numbers, about):
        console.print(sentence, highlight=False)
    console.print(f"\n{words.origin(about)}", style="dim", highlight=False)


def _shown(table: words.Table, width: int) -> Shown:
    left_out, gap = (_LEFT_OUT, 1) if width < _NARROW else ((), 2)
    kept = [number for number, head in enumerate(table.heads) if head not in left_out]
    shown = Shown(
        title=f"\n{table.title}", title_justify="left", box=None, padding=(0, gap, 0, 0), header_style="bold underline"
    )
    for number in kept:
        shown.add_column(table.heads[number], justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(row[number] for number in kept), style="bold" if row[0] == report.MODEL else None)
    return shown
