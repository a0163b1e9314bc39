"""One process of tests/test_ddp.py: trains on a small market beside the other ranks, leaves what it saw in a folder.

python -m torch.distributed.run ... tests/ddp_worker.py FOLDER     every scenario, undisturbed
... tests/ddp_worker.py FOLDER killed                              rank 1 kills itself after its first epoch
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fusion_market import configuration, market
from safetensors.torch import save_file

from fusion_alpha import fusionnet, ranks, samples, training
from fusion_alpha.config import Config, ExecutorConfig
from fusion_alpha.files import write_bytes
from fusion_alpha.ranks import Ranks

CPU = torch.device("cpu")
BATCH = 31  # 156 train rows: five batches and one row


def configured(size: int) -> Config:
    cfg = configuration(sticky_p=0.1)
    cfg.train = replace(cfg.train, epochs=5, batch_size=BATCH, augment_bridge=0.3)
    cfg.executor = ExecutorConfig("ddp", size, size)
    return cfg


class Masks:
    """Dropout that notes its masks: {"step/layer": mask [rows, units]}."""

    def __init__(self) -> None:
        self.seen: dict[str, torch.Tensor] = {}
        self.plain = fusionnet.DROPOUTS["bicep"]

    def __call__(self, x: torch.Tensor, p: float, **address: Any) -> torch.Tensor:
        name = f"{address['step']}/{address['layer']}"
        self.seen[name] = self.plain(torch.ones_like(x), p, **address).detach() > 0
        return self.plain(x, p, **address)


class Stop(Exception):
    """The training is interrupted."""


def everything(group: Ranks, folder: Path) -> None:
    """Leave what one rank, or one process alone, sees of the same training in folder/RANK."""
    cfg = configured(group.size)
    data = samples.build(market(), cfg)
    masks = Masks()
    fusionnet.DROPOUTS["bicep"] = masks
    try:
        state = training.train(data, cfg, CPU, ranks=group)
    finally:
        fusionnet.DROPOUTS["bicep"] = masks.plain
    file = folder / "state.safetensors"

    def stop(curve: dict[str, float]) -> None:
        if curve["epoch"] == 2:
            raise Stop

    try:
        training.train(data, cfg, CPU, stop, ranks=group, resume=file)
    except Stop:
        group.add_up([torch.zeros(1)])  # rank 0 has written its file when all have come here
        resumed = training.train(data, cfg, CPU, ranks=group, resume=file)
    mine = folder / str(group.rank)
    write_bytes(mine / "state", state.dump())
    write_bytes(mine / "resumed", resumed.dump())
    save_file(masks.seen, mine / "masks")


def difference_is_found(group: Ranks) -> str:
    try:
        group.require_same(bytes([group.rank]))
    except RuntimeError as error:
        return str(error)
    return ""


def killed(group: Ranks, folder: Path) -> None:
    cfg = configured(group.size)

    def die(_: dict[str, float]) -> None:
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    training.train(samples.build(market(), cfg), cfg, CPU, die, ranks=group, resume=folder / "state.safetensors")
    (folder / "finished").touch()


def main() -> None:
    folder = Path(sys.argv[1])
    training.set_up(configuration().train)
    with ranks.joined(configured(2)) as group:
        if "killed" in sys.argv:
            killed(group, folder)
            return
        everything(group, folder)
        (folder / str(group.rank) / "difference").write_text(difference_is_found(group))


if __name__ == "__main__":
    main()
