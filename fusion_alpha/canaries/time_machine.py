"""The time machine: the past must not change when the future does.

At every cut the raw data after it is deleted, then poisoned (attacks.py), and the real stages run again on what is
left. Every column except target_* of every row that is known at the cut must keep every bit, warm-ups included. The
model that is kept forecasts the known rows again ("live"), and at some cuts a walk-forward model is trained anew and
forecasts its block (forecasts.py).
"""

from functools import partial
from pathlib import Path
from typing import Any

from fusion_alpha.canaries import attacks, findings, forecasts, layers, market
from fusion_alpha.canaries.findings import Finding
from fusion_alpha.canaries.market import Cut
from fusion_alpha.canaries.tasks import Task
from fusion_alpha.workspace import Workspace

TOLERANCE = 1e-5  # of forecasts: matrix products may round otherwise on other machines


def tasks(whole: Workspace, home: Path) -> list[Task]:
    """One for each cut; `whole` has run all stages."""
    trained = market.forecast_cuts(whole.cfg)
    return [
        Task(f"cut {cut.name}", home / f"cut-{cut.utc:%Y%m%dT%H%M%S}.json", partial(at_cut, whole, cut, cut in trained))
        for cut in market.cuts(whole.cfg)
    ]


def at_cut(whole: Workspace, cut: Cut, trained: bool) -> dict[str, Any]:
    """kind, utc, and of each attack: future rows, cells, different, columns, live and
    walk_forward (largest difference of forecasts, null where there are none)."""
    last = market.last_known(whole.cfg, cut)
    mirror = attacks.mirrored(whole.read("news"), whole.read("text"))
    before = forecasts.walk_forward(whole, last) if trained else None
    forecast = not layers.known_bars(whole.read("predictions"), last).empty  # else the cut is inside the warm-up
    answer: dict[str, Any] = {"kind": cut.kind, "utc": cut.name}
    for how in attacks.ATTACKS:
        with layers.copied(whole, f"{how}-{cut.utc:%Y%m%dT%H%M%S}", model=True) as part:
            future = attacks.attack(part.folder / "data/raw", whole.cfg, cut, how, mirror)
            part.once("ingest", lambda: None)
            part.run(*layers.FEATURES, *(["predict"] if forecast else []), quiet=True)
            found = layers.differences(whole, part, layers.FEATURES, cut, last) | {"future": future}
            found["live"] = forecasts.live_difference(whole, part, last) if forecast else None
            found["walk_forward"] = None
            if before is not None:
                found["walk_forward"] = layers.forecast_difference(before, forecasts.walk_forward(part, last))
            answer[how] = found
    return answer


def judged(answers: dict[str, Any]) -> dict[str, Finding]:
    """time_machine: cells that differ; time_machine_live, time_machine_walk_forward: differences of forecasts."""
    every = [answer[how] for answer in answers.values() for how in attacks.ATTACKS]
    assert all(found["future"] for found in every), "an attack found no future to change"

    def largest(name: str) -> float | None:
        return max((found[name] for found in every if found[name] is not None), default=None)

    return {
        "time_machine": findings.at_most(sum(found["different"] for found in every), 0),
        "time_machine_live": findings.at_most(largest("live"), TOLERANCE),
        "time_machine_walk_forward": findings.at_most(largest("walk_forward"), TOLERANCE),
    }
