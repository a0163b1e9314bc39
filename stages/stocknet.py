"""stocknet: every system of the StockNet benchmark and its controls, chosen inside train + dev, scored on test once.

Reads   the archive that $STOCKNET_ARCHIVE names, else the published one (conf/data/stocknet.yaml), through the stages
        ingest to contradiction; their layers and all runs stay in .cache/stocknet, so that an interrupted benchmark
        goes on where it was. Nothing of data/ is touched but the output.
Writes  metrics/stocknet.json, metrics/stocknet.svg, data/predictions/stocknet.parquet; adds a line to
        metrics/stocknet_test_runs.csv
Holds   settings, thresholds and the ensemble come from purged walk-forward inside train + dev; test answers are scored
        after their look is logged; equal inputs give equal figures.
Run     make stocknet, or python -m stages.stocknet [benchmark.open_test=false benchmark.seeds=3 ...]
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from fusion_alpha import figures, statistics, tables
from fusion_alpha.config import Config
from fusion_alpha.files import write_json
from fusion_alpha.stage import console, run
from fusion_alpha.stocknet import choice, features, layers, looks, results, runs, systems, walkforward

METRICS, FIGURE = Path("metrics/stocknet.json"), Path("metrics/stocknet.svg")
COLORS = {"rule": figures.FAINT, "baseline": figures.ORANGE, "fused": figures.BLUE, "control": figures.PURPLE}
SETTINGS = ("seeds", "folds", "fold_sessions", "embargo_sessions", "block_sessions")

log = logging.getLogger(__name__)


def shown(title: str, figures: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line a system: MCC with its interval, and what must be read beside it."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column("system", no_wrap=True)
    for head in ("MCC", "interval", "sd", "balanced", "accuracy", "up", "IC"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, row in figures.items():
        low, high = row["mcc_ci"]
        spread, rank = statistics.cell(row.get("mcc_sd"), "{:.3f}"), statistics.cell(row.get("ic_daily"), "{:+.3f}")
        rest = (f"{row['balanced_accuracy']:.3f}", f"{row['accuracy']:.3f}", f"{row['share_up']:.2f}", rank)
        table.add_row(name, f"{row['mcc']:+.3f}", f"{low:+.3f} to {high:+.3f}", spread, *rest)
    return table


def draw(metrics: Mapping[str, Any]) -> bytes:
    """MCC of every system on both sets, with day-block intervals."""
    panels = {}
    for letter in results.SETS:
        part = metrics[letter]
        rows = {
            name: {"value": row["mcc"], "low": row["mcc_ci"][0], "high": row["mcc_ci"][1], "kind": row["kind"]}
            for name, row in part["systems"].items()
        }
        panels[f"set {letter}: {part['n']:,} samples"] = pd.DataFrame.from_dict(rows, orient="index")
    return figures.intervals(panels, "MCC on test", COLORS, simulated=False)


def main(cfg: Config) -> None:
    layer = layers.prepare(cfg.benchmark.overrides)
    asked = features.samples(layer)
    folds = walkforward.folds(asked, cfg.benchmark)
    chosen = choice.choose(layer, asked, folds, list(systems.SYSTEMS), cfg.executor)
    mix = choice.blend(chosen, results.fused(), asked, folds)
    before = results.walk_forward(asked, folds, chosen, mix, cfg)
    console.print(shown("walk-forward inside train + dev, set B", {name: row["B"] for name, row in before.items()}))
    if not cfg.benchmark.open_test:
        return

    answers = results.answer(layer, asked, chosen, mix, cfg)
    settings = {name: getattr(cfg.benchmark, name) for name in SETTINGS}
    n_samples = len(walkforward.final(asked).judge)
    n_looks, n_different = looks.note(runs.configuration_hash(layer, settings), list(answers), n_samples)
    metrics = results.assemble(asked, answers, before, chosen, mix, cfg)
    z_tone = systems.board(layer).sentiment["z_tone"]
    for part, inside in (("train_dev", asked["split"] != "test"), ("test", asked["split"] == "test")):
        metrics.setdefault("strong_tone", {})[part] = results.strong_tone(
            asked[inside], z_tone[inside], cfg.evaluate, cfg.benchmark.block_sessions
        )
    metrics |= {"test_looks": {"configurations": n_different, "log": str(looks.LOG)}, "settings": settings}
    tables.write("stocknet", results.table(asked, answers))
    write_json(METRICS, metrics)
    figures.save(FIGURE, draw(metrics))
    for name in results.SETS:
        part = metrics[name]
        title = f"test, set {name}: {part['n']:,} samples of {part['n_days']} days, {part['n_up']:,} up"
        console.print(shown(title, part["systems"]))
    log.info("test was looked at %d times, with %d different configurations (%s)", n_looks, n_different, looks.LOG)


if __name__ == "__main__":
    run(main, own_data=True)
