"""Command line of the benchmark; see the package's docstring."""

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kernels import bench, cuda
from kernels.bench import ceilings, clock, log
from kernels.bench.bicep import Bicep, BicepCuda, BicepNumpy
from kernels.bench.gpu_peers import Cupy, Curand
from kernels.bench.jobs import CEILINGS, SAMPLES, Job
from kernels.bench.peers import Numpy, Provider, Torch, TorchBits, TorchSde
from kernels.philox import Op, philox4x32

QUICK = clock.Plan(least=3, most=3, seconds=0.0, sample_s=5e-4)
FULL = clock.Plan(least=5, most=25, seconds=1.5, sample_s=2e-2)  # the first calls after a neighbour's turn run cold
QUICK_SIZES = ((4096, 256),)
CPU_SIZES = ((1_000, 256), (10_000, 256), (100_000, 256), (100_000, 64), (10_000, 1024))
GPU_SIZES = ((10_000, 256), (100_000, 256), (1_000_000, 256), (1_000_000, 64), (250_000, 1024))
FUSED_GPU_SIZES = (*GPU_SIZES, (10_000_000, 256))  # no walk is in memory, and smaller ones are over too soon
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
KNOWN = (  # of Random123's kat_vectors, Philox4x32-10: counter, key, words
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (PI, 0x299F31D0A4093822, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
)


class Bench(NamedTuple):
    """What is measured where."""

    providers: list[Provider]
    ceilings: ceilings.Ceilings
    clock: clock.Clock
    machine: log.Row


def main(arguments: Sequence[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    chosen = _parser().parse_args(arguments)
    try:
        what = _gpu(chosen.commit) if chosen.gpu else _cpu(chosen.commit)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    check_known_answers()
    plan, found = QUICK if chosen.quick else FULL, []
    for job in jobs(chosen.operations, chosen.gpu, chosen.quick):
        sys.stderr.write(f"{job.operation} {job.n_paths} x {job.n_steps}\n")
        timings = clock.measure(job, what.providers, what.ceilings, what.clock, plan)
        found += log.rows(timings, what.machine)
    output = chosen.output or (None if chosen.quick else log.OUTPUT)
    if output is not None:
        log.append(found, output)
    sys.stdout.write(f"{what.machine['device']}; {what.machine['versions']}\n{log.table(found)}\n")
    return 0


def jobs(operations: Sequence[str], gpu: bool, quick: bool) -> list[Job]:
    """The jobs of a run; 32 masks of a row are 32 rows."""
    found = []
    for operation in operations:
        fused = not operation.startswith(("paths", "dropout"))
        sizes = QUICK_SIZES if quick else (FUSED_GPU_SIZES if fused else GPU_SIZES) if gpu else CPU_SIZES
        for n_paths, n_steps in sizes:
            whole = n_paths // SAMPLES * SAMPLES if operation == "dropout_s32" else n_paths
            found.append(Job(operation, whole, n_steps))
    return found


def check_known_answers() -> None:
    """Raise AssertionError unless the generator gives the published words, and the CPU's building blocks its words."""
    for counter, key, expected in KNOWN:
        found = tuple(int(word) for word in philox4x32(counter, key))
        assert found == expected, f"Philox of {counter} with key {key}: {found}, not {expected}"
    n = 1000
    words = np.stack(philox4x32((0, np.arange(n), 0, int(Op.WALK_BITS) << 24), 0))
    assert ceilings.words(n) == np.bitwise_xor.reduce(words.ravel()), "the CPU's words are not those of the reference"


def _cpu(commit: str | None) -> Bench:
    providers: list[Provider] = [Bicep(), BicepNumpy(), Numpy(), Torch(), TorchBits()]
    if importlib.util.find_spec("torchsde") is not None:
        providers.append(TorchSde())
    else:
        logging.getLogger(__name__).warning("torchsde is not installed: no rows of it")
    return Bench(providers, ceilings.CpuCeilings(), clock.HostClock(), log.cpu_machine(commit))


def _gpu(commit: str | None) -> Bench:
    """RuntimeError where there is no CUDA device."""
    device = cuda.current()
    providers: list[Provider] = [BicepCuda(device), Torch("cuda"), TorchBits("cuda"), Cupy(), Curand()]
    return Bench(providers, ceilings.CudaCeilings(device), clock.CudaClock(), log.cuda_machine(commit))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m kernels.bench", description=bench.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small size, seconds")
    parser.add_argument("--gpu", action="store_true", help="measure the CUDA device")
    names = list(CEILINGS)
    which = f"some of {', '.join(names)} (default all)"
    parser.add_argument("--operations", nargs="+", choices=names, default=names, metavar="NAME", help=which)
    parser.add_argument("--commit", metavar="HASH", help="of the files, for a copy of them without its repository")
    parser.add_argument("--output", type=Path, help=f"CSV that the rows are appended to (default {log.OUTPUT})")
    return parser


if __name__ == "__main__":
    sys.exit(main())
