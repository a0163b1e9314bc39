"""The benchmark: peers do the job that they are timed at, wrong results are refused, the log keeps its columns."""

import csv
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
import torch
from shim import ShimDevice

from kernels.bench import __main__ as command
from kernels.bench import ceilings, clock, jobs, log
from kernels.bench.bicep import Bicep, BicepCuda, BicepNumpy
from kernels.bench.peers import Numpy, Provider, Torch, TorchBits, TorchSde
from kernels.exact import lattice_barrier_probability, monitored_barrier_probability
from kernels.philox import Op, philox4x32

ROOT = Path(__file__).parents[1]
NAMED = ("paths_bits", "paths_normal", "fused_barrier_normal", "fused_mdd_bits", "fused_barrier_bits", "terminal_bits")
PROVIDERS = {provider.name: provider for provider in (Bicep, BicepNumpy, Numpy, Torch, TorchBits, TorchSde)}
PLAN = clock.Plan(least=3, most=3, seconds=0.0, sample_s=0.0)


class Ticks:
    """A clock whose calls take a known time."""

    def __init__(self, *seconds: float) -> None:
        self.left = list(seconds)
        self.calls = 0

    def seconds(self, call: clock.Call, times: int) -> float:
        call()
        self.calls += times
        return self.left.pop(0) * times if self.left else 1.0 * times


def job(operation: str, n_paths: int = 4096, n_steps: int = 64) -> jobs.Job:
    return jobs.Job(operation, n_paths, n_steps)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        (name, operation)
        for name, provider in PROVIDERS.items()
        for operation in jobs.CEILINGS
        if hasattr(provider, operation) and (name != "torch_bits" or operation.endswith("_bits"))
    ],
)
@pytest.mark.parametrize("n_steps", [64, 37])
def test_every_provider_s_result_has_the_law_of_the_job(name: str, operation: str, n_steps: int) -> None:
    provider, what = PROVIDERS[name](), job(operation, n_steps=n_steps)
    call = provider.prepare(what)
    assert call is not None
    first = provider.host(call()).copy()
    jobs.check(what, provider.steps(what), first)
    jobs.check(what, provider.steps(what), provider.host(call()))  # buffers are used again
    provider.verify(what)


def test_torch_and_bicep_take_part_in_every_operation() -> None:
    assert set(NAMED) | {"dropout"} <= set(jobs.CEILINGS)
    for operation in jobs.CEILINGS:
        for name in ("bicep", "torch"):
            assert PROVIDERS[name]().prepare(job(operation)) is not None


def test_slow_providers_take_no_part_in_large_jobs() -> None:
    assert BicepNumpy().prepare(job("paths_bits", 1_000_000, 256)) is None


def test_torch_makes_a_job_larger_than_its_memory_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.bench.peers._CHUNK", 1000 * 64)
    for operation in ("fused_barrier_normal", "fused_barrier_bits", "fused_mdd_bits", "terminal_bits"):
        what = job(operation, n_paths=4097)
        provider = Torch()
        jobs.check(what, "normal", provider.host(provider.prepare(what)()))


@pytest.mark.parametrize("n_steps", [64, 255])
def test_laws_are_those_of_the_closed_forms(n_steps: int) -> None:
    what = job("fused_barrier_bits", n_steps=n_steps)
    exact = float(lattice_barrier_probability(n_steps, what.level))
    assert jobs.law(what, "bits")[0][0] == pytest.approx(exact, rel=1e-12)
    normal = float(monitored_barrier_probability(n_steps, what.barrier, sigma=jobs.VOL))
    assert jobs.law(what, "normal")[0][0] == pytest.approx(normal, rel=4e-3)


@pytest.mark.parametrize("operation", [*NAMED, "dropout"])
def test_wrong_results_are_refused(operation: str) -> None:
    what = job(operation)
    provider = Torch()
    result = provider.host(provider.prepare(what)())
    wrong = result * 1.1 + (0.0 if operation.startswith(("paths", "dropout")) else 0.1 * np.abs(result) + 0.01)
    with pytest.raises(AssertionError):
        jobs.check(what, "normal", wrong)


def test_provider_that_is_wrong_is_never_timed() -> None:
    class Wrong(Provider):
        name = "wrong"

        def terminal_bits(self, what: jobs.Job) -> clock.Call:
            return lambda: [1.0]

    ticks = Ticks()
    with pytest.raises(AssertionError):
        clock.measure(job("terminal_bits"), [Wrong()], ceilings.CpuCeilings(), ticks, PLAN)
    assert ticks.calls == 0


def test_backend_that_differs_from_its_reference_by_one_bit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = BicepNumpy.paths_bits
    monkeypatch.setattr(
        BicepNumpy, "paths_bits", lambda self, what: lambda: np.nextafter(exact(self, what)(), np.float32(9))
    )
    with pytest.raises(AssertionError, match="reference"):
        Bicep().verify(job("paths_bits"))


def test_known_answers_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    command.check_known_answers()
    monkeypatch.setattr(command, "philox4x32", lambda counter, seed: philox4x32(counter, seed + 1))
    with pytest.raises(AssertionError):
        command.check_known_answers()


def test_medians_of_rounds_give_rate_and_share_of_the_slowest_ceiling() -> None:
    what = job("paths_bits", 1000, 100)
    # for each call a warm-up and a calibration, then three rounds: torch, memset, streamed memset, words
    rounds = [(8.0, 2.0, 1.5, 1.0), (9.0, 3.0, 2.5, 1.0), (10.0, 4.0, 3.5, 1.0)]
    ticks = Ticks(*[1.0] * 8, *(seconds for samples in rounds for seconds in samples))
    (found,) = clock.measure(what, [Torch()], ceilings.CpuCeilings(), ticks, PLAN)
    assert found.seconds == [8.0, 9.0, 10.0]
    assert found.ceiling_share == pytest.approx(2.5 / 9.0)
    (row,) = log.rows([found], {"commit": "c", "date": "d", "device": "cpu x", "driver": "", "versions": "v"})
    assert list(row) == log.COLUMNS
    assert row["p50_ms"] == 9000.0
    assert row["p20_ms"] == 8400.0
    assert row["steps_per_s"] == round(1000 * 100 / 9.0)
    assert row["threads"] == 1


def test_short_calls_are_repeated_and_long_ones_stop_at_the_budget() -> None:
    plan = clock.Plan(least=2, most=50, seconds=3.0, sample_s=0.5)
    ticks = Ticks(*[0.1] * 100)
    (found,) = clock.measure(job("fused_barrier_normal"), [Torch()], ceilings.CpuCeilings(), ticks, plan)
    assert len(found.seconds) == 3  # of 2 x 5 x 0.1 seconds
    assert ticks.calls == 4 + 3 * 2 * 5


def test_host_clock_measures_all_calls() -> None:
    slept = clock.HostClock().seconds(lambda: __import__("time").sleep(0.002), 3)
    assert 0.006 <= slept < 1.0


def test_ceilings_make_the_words_and_normals_that_the_layout_names() -> None:
    n = 3000
    i, seed = np.arange(n), 0x123456789
    words = np.array(philox4x32((i // 1024, i % 1024, 0 * i, 0 * i + (int(Op.WALK_BITS) << 24)), seed))
    assert ceilings.words(n, seed) == np.bitwise_xor.reduce(words.ravel())
    assert abs(ceilings.normals(n)) < 4 * math.sqrt(4 * n)
    assert ceilings.normals(n) != 0


def test_counters_of_a_job_are_what_its_layout_needs() -> None:
    assert job("terminal_bits", 10, 129).counters("words") == 20
    assert job("paths_normal", 10, 129).counters("normals") == 330
    assert job("dropout", 64, 129).counters("words") == 16 * 129
    assert job("dropout_train", 64, 129).counters("words") == 32 * 129
    assert job("dropout_s32", 64, 130).counters("words") == 65
    assert job("dropout", 64, 129).n_bytes == 4 * 64 * 129
    assert job("paths_bits", 64, 129).n_bytes == 4 * 64 * 130


@pytest.mark.parametrize("blocks", [1, 3])
def test_ceilings_of_the_gpu_make_the_same_numbers(blocks: int) -> None:
    device = ShimDevice()
    call, out = ceilings.on_device(device, "words", 1000, blocks)
    call()
    assert np.bitwise_xor.reduce(device.get(out)) == ceilings.words(1000)
    call, out = ceilings.on_device(device, "normals", 1000, blocks)
    call()
    assert device.get(out).sum(dtype=np.float64) == pytest.approx(ceilings.normals(1000), abs=1e-3)


@pytest.mark.parametrize("operation", NAMED)
def test_the_job_of_a_gpu_is_that_of_the_cpu(operation: str) -> None:
    provider, what = BicepCuda(ShimDevice(), torch_device="cpu"), job(operation, n_paths=600)
    call = provider.prepare(what)
    assert call is not None
    call()
    jobs.check(what, provider.steps(what), provider.host(call()))
    provider.verify(what)


def test_log_is_appended_and_refuses_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "bench.csv"
    found = log.rows([clock.Timing(job("paths_bits"), "torch", [0.5], 0.25)], log.cpu_machine())
    log.append(found, path)
    log.append(found, path)
    with path.open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert len(lines) == 2
    assert list(lines[0]) == log.COLUMNS
    assert lines[0]["device"].startswith("cpu ")
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="columns"):
        log.append(found, path)
    assert path.read_text() == "a,b\n1,2\n"


def test_committed_log_has_the_columns() -> None:
    with (ROOT / "metrics" / "bench.csv").open(newline="") as handle:
        assert next(csv.reader(handle)) == log.COLUMNS


def test_table_shows_the_ratio_to_torch() -> None:
    timings = [clock.Timing(job("dropout"), name, [seconds], 0.5) for name, seconds in (("bicep", 1.0), ("torch", 4.0))]
    lines = log.table(log.rows(timings, {})).splitlines()
    assert lines[0].split()[-3:] == ["x", "torch", "ceiling"]
    assert [line.split()[-2:] for line in lines[1:]] == [["4.00", "50.0%"], ["1.00", "50.0%"]]


def test_quick_run_appends_only_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--quick", "--operations", "terminal_bits"]
    assert command.main(arguments) == 0
    assert list(tmp_path.iterdir()) == []
    assert command.main([*arguments, "--output", "rows.csv"]) == 0
    with (tmp_path / "rows.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["operation"] for row in rows} == {"terminal_bits"}
    assert {"bicep", "bicep_numpy", "numpy", "torch", "torch_bits"} == {row["provider"] for row in rows}
    assert all(float(row["ceiling_share"]) > 0 for row in rows)


def test_gpu_run_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert command.main(["--gpu", "--quick"]) == 1
    assert "cuda" in capsys.readouterr().err.lower()


def absent(*_: object, **__: object) -> None:
    raise FileNotFoundError("neither nvidia-smi nor git is here")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of the imagination: CuPy in NumPy, kernels through g++, torch on the CPU."""
    fake = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setitem(sys.modules, "cupy.cuda", fake.cuda)
    monkeypatch.setattr(command.cuda, "current", ShimDevice)
    monkeypatch.setattr(command, "BicepCuda", lambda device: BicepCuda(device, torch_device="cpu"))
    monkeypatch.setattr(command, "Torch", lambda device: Torch())
    monkeypatch.setattr(command, "TorchBits", lambda device: TorchBits())
    monkeypatch.setattr(command, "QUICK_SIZES", ((640, 64),))


def test_gpu_run_from_end_to_end_without_one(
    card: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log, "subprocess", SimpleNamespace(run=absent, CalledProcessError=OSError))
    path = tmp_path / "rows.csv"
    chosen = ("paths_bits", "fused_barrier_normal", "terminal_bits", "dropout")
    assert (
        command.main(["--gpu", "--quick", "--commit", "12e4567", "--output", str(path), "--operations", *chosen]) == 0
    )
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    by_operation = {name: [row["provider"] for row in rows if row["operation"] == name] for name in chosen}
    assert by_operation["paths_bits"] == ["bicep", "torch", "torch_bits", "cupy", "curand"]
    assert by_operation["fused_barrier_normal"] == ["bicep", "torch", "cupy"]
    assert by_operation["dropout"] == ["bicep", "torch", "cupy", "curand"]
    assert {row["device"] for row in rows} == {"cuda NVIDIA Imagined Card"}
    assert {row["driver"] for row in rows} == {"CUDA 13.0"}
    assert {row["commit"] for row in rows} == {"12e4567"}
    assert "curand: no terminal_bits, for its headers are not here" in caplog.text


def test_result_of_a_gpu_that_differs_is_refused(card: None, monkeypatch: pytest.MonkeyPatch) -> None:
    flawed = ShimDevice(edit=lambda text: text.replace("0x9E3779B9u", "0x9E3779B8u"))
    monkeypatch.setattr(command.cuda, "current", lambda: flawed)
    with pytest.raises(AssertionError, match="hash"):
        command.main(["--gpu", "--quick", "--operations", "terminal_bits"])


def test_gpu_run_imports_what_a_bare_machine_has() -> None:
    absent = ("rich", "scipy", "matplotlib", "pandas", "yaml", "torchsde", "fusion_alpha")
    code = (
        "import sys\n"
        f"for name in {absent!r}: sys.modules[name] = None\n"
        "import kernels.bench.__main__, kernels.bench.gpu_peers\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.gpu
def test_quick_run_on_a_gpu(tmp_path: Path) -> None:
    assert command.main(["--gpu", "--quick", "--output", str(tmp_path / "rows.csv")]) == 0
    with (tmp_path / "rows.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["operation"] for row in rows} == set(jobs.CEILINGS)
    assert all(row["device"].startswith("cuda ") for row in rows)
