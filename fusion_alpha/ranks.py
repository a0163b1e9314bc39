"""Processes that train one model together, each on its share of every batch: data parallelism through torchrun.

Rank r of R takes the rows n r / R .. n (r + 1) / R of a batch of n, with the noise of these rows of the whole batch,
and weighs its loss so that the sum of the ranks' gradients is the gradient of the batch's mean. Gradients are added up
in one buffer; then every rank takes the same step, so that all hold the same weights, which is checked. Results
differ from those of one process by rounding alone and repeat for the same number of processes.

gloo carries what is on a CPU, NCCL what is on CUDA, where a process has the GPU of its number on its machine.
"""

import hashlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, distributed

from fusion_alpha.config import Config
from fusion_alpha.errors import InputError

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    launcher: int = 0  # process id of torchrun

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files, records the run and shows progress."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This rank's rows of n; none for some ranks where n < size."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks. All are of one dtype and on one device."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def require_same(self, content: bytes) -> None:
        """Raise RuntimeError unless all ranks hold the same bytes and the launcher, which would end them, lives."""
        if self.size == 1:
            return
        mine = torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(everyone, mine)
        differing = [rank for rank, other in enumerate(everyone) if not torch.equal(other, everyone[0])]
        if differing:
            raise RuntimeError(f"the state of ranks {differing} is not that of rank 0: other hardware, or other files")
        if os.getppid() != self.launcher:
            raise RuntimeError("torchrun is gone")


ALONE = Ranks()


def launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_torchelastic_launched()


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


@contextmanager
def joined(cfg: Config) -> Iterator[Ranks]:
    """This process's place among those that torchrun started; alone without torchrun.

    Leaving it waits for all ranks, so that none ends while the first still writes. Raises InputError under torchrun
    without executor=ddp.
    """
    if not launched():
        yield ALONE
        return
    if cfg.executor.name != "ddp":
        raise InputError(
            f"torchrun started this process, but executor.name = {cfg.executor.name!r}",
            rule="processes share one training only with executor=ddp",
            remedy="add executor=ddp to the command line, or run it without torchrun",
        )
    distributed.init_process_group("cpu:gloo,cuda:nccl" if cfg.train.device == "cuda" else "gloo")
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), os.getppid())
    yield ranks
    ranks.add_up([torch.zeros(1)])
    distributed.destroy_process_group()


def launch(module: str, arguments: Sequence[str], processes: int) -> NoReturn:
    """Run `python -m module arguments` in so many processes of this machine through torchrun, and exit as they do.

    Exit status: 0, 2 where they stopped for a user's mistake (which they have named), else 1.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it would explain each exit at length
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{_LOOPBACK}:0",
        local_addr=_LOOPBACK,
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
        if 2 in codes.values():
            sys.exit(2)
        own = {
            rank: code for rank, code in codes.items() if code != -signal.SIGTERM
        } or codes  # not those that it ended
        log.error("training stopped: %s", "; ".join(f"rank {rank} {_end(code)}" for rank, code in own.items()))
        sys.exit(1)
    except SignalException as error:
        log.error("training stopped by %s", error.sigval.name)
        sys.exit(1)
    sys.exit(0)


def _end(exit_code: int) -> str:
    return f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with status {exit_code}"
