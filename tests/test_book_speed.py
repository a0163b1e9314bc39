"""The book's view of the benchmark: the last rows count, targets are compared, what nobody measured stays empty."""

import csv
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
exhibits, figures, results, speed = map(importlib.import_module, ("exhibits", "figures", "results", "speed"))

COLUMNS = [
    *("commit", "date", "device", "driver", "versions", "operation", "provider", "dtype", "n_paths", "n_steps"),
    *("threads", "p20_ms", "p50_ms", "p80_ms", "steps_per_s", "ceiling_share"),
]
CPU, CARD = "cpu Some Processor", "cuda NVIDIA A100-SXM4-80GB"


def row(provider: str, rate: float, **changes: object) -> dict[str, object]:
    base = dict.fromkeys(COLUMNS, 1) | {"commit": "aaa", "date": "2030-01-01", "device": CPU, "versions": "numpy 9"}
    base |= {"operation": "paths_bits", "dtype": "float32", "n_paths": 100_000, "n_steps": 256, "ceiling_share": 0.5}
    return base | {"provider": provider, "steps_per_s": rate} | changes


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(results, "METRICS", tmp_path)

    def write(*rows: dict[str, object]) -> None:
        with (tmp_path / "bench.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)

    return write


def test_columns_are_those_of_the_benchmark() -> None:
    from kernels.bench.log import COLUMNS as written

    assert written == COLUMNS


def test_operations_with_a_target_are_measured() -> None:
    from kernels.bench.__main__ import CPU_SIZES
    from kernels.bench.jobs import CEILINGS

    goal = speed._file()["targets"]
    assert set(goal["ratio"]) <= set(CEILINGS)
    assert (goal["n_paths"], goal["n_steps"]) in CPU_SIZES


def test_ratio_of_the_last_run_stands_beside_its_target(log) -> None:
    log(
        *(row("bicep", 9e9, commit="old", date="2029-01-01"), row("torch", 1e6, commit="old", date="2029-01-01")),
        *(row("bicep", 11e9), row("torch", 1e9), row("numpy", 1e8)),
        *(row("bicep", 1.2e9, operation="paths_normal"), row("torch", 1e9, operation="paths_normal")),
        *(row("bicep", 7e9, n_paths=1000), row("torch", 1e9, n_paths=1000)),
    )
    rows = {cells[0]: cells[1:] for cells in speed.targets().rows}
    assert rows["`paths_bits`"] == ["11,000", "1,000", "11", "10", "yes", "50%"]
    assert rows["`paths_normal`"] == ["1,200", "1,000", "1.2", "1.3", "no", "50%"]
    assert rows["`terminal_bits`"][0] == "not measured"
    assert speed.machines("cpu") == "Some Processor (numpy 9; 2030-01-01, commit aaa)"


def test_rows_of_another_run_are_not_compared(log) -> None:
    log(row("torch", 1e9, commit="old"), row("bicep", 11e9))
    assert speed.targets().rows[0][1] == "not measured"


@pytest.mark.parametrize("commit", ["", "1234567", "12e4567"])
def test_hash_of_a_commit_is_text(log, commit: str) -> None:
    log(row("bicep", 11e9, commit=commit), row("torch", 1e9, commit=commit))
    assert speed.targets().rows[0][3] == "11"
    assert speed.machines("cpu").endswith(f"commit {commit or 'unknown'})")


def test_every_device_has_rows_of_its_own(log) -> None:
    log(
        *(row("bicep", 11e9), row("torch", 1e9)),
        *(row("bicep", 4e9, device="cpu Other"), row("torch", 1e9, device="cpu Other")),
    )
    table = speed.targets()
    assert table.head[0] == "device"
    assert [cells[0] for cells in table.rows if cells[1] == "`paths_bits`"] == ["Some Processor", "Other"]


def test_cards_are_empty_until_measured(log) -> None:
    log(row("bicep", 1e9))
    assert all(cells[5:] == ["not measured"] * 3 for cells in speed.cards().rows)
    assert speed.gpu().rows[0][0] == "not measured"
    assert speed.machines("cuda") == "not measured"
    log(row("bicep", 3e11, device=CARD, n_paths=10**6), row("torch", 1e11, device=CARD, n_paths=10**6))
    cells = {cells[0]: cells for cells in speed.cards().rows}
    assert cells["A100 SXM 80 GB"][4:] == [pytest.approx(2039 / 4), "300", "not measured", "not measured"]
    assert cells["RTX 4090"][5:] == ["not measured"] * 3
    assert speed.gpu().rows == [["NVIDIA A100-SXM4-80GB", "`paths_bits`", 10**6, "300", "3", exhibits.NOTHING, "50%"]]


def test_cards_cite_works_that_the_book_has() -> None:
    known = (ROOT / "docs" / "references.bib").read_text()
    cards = speed._file()["cards"]
    assert {"RTX 4090", "A100 SXM 80 GB"} <= {card["name"] for card in cards}
    for card in cards:
        assert all(f"{{{source}," in known for source in card["sources"])
        lanes = card["fp32_tflops"] * 1e3 / (2 * card["multiprocessors"] * card["boost_ghz"])
        assert round(lanes) in (64, 128), "of a multiprocessor"


def test_figure_draws_every_operation_with_its_ceiling(log) -> None:
    sizes = (1_000, 100_000)
    log(
        *(row(name, 1e9, n_paths=size) for name in ("bicep", "torch") for size in sizes),
        *(row(name, 1e8, n_paths=size, operation="dropout") for name in ("bicep", "torch") for size in sizes),
    )
    figure, alt = speed.rates("cpu")
    shown = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in shown] == ["paths bits", "dropout"]
    ceiling, *providers = shown[0].get_lines()
    assert list(ceiling.get_ydata()) == [2e9, 2e9]
    assert len(providers) == 2
    assert "paths bits: BICEP 1e+09 a second, 1 times torch, 50% of the ceiling" in alt
    assert figures.svg(figure, alt) == figures.svg(*speed.rates("cpu"))


def test_figure_of_what_nobody_measured_says_so(log) -> None:
    log(row("bicep", 1e9))
    _, alt = speed.rates("cuda")
    assert "nobody" in alt


def test_a_book_without_a_log_is_empty_not_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "METRICS", tmp_path)
    assert all(cells[1] == "not measured" for cells in speed.targets().rows)
    assert speed.rates("cpu")[1].startswith("Empty")
