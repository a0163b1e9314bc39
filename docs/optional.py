"""Results that a fresh clone may not have: what commands beside the pipeline write.

A page shows them where they are, and where they are not it names the command that makes them; the build goes on.
"""

import functools
from collections.abc import Callable
from typing import Any

import results
from exhibits import Paragraph
from figures import FAINT, WIDTH, canvas, show

COMMANDS = {  # file below metrics/ -> what writes it
    "bicep.json": "make parity",
    "stocknet.json": "make stocknet",
    "stocknet_test_runs.csv": "make stocknet",
    "lab_recovery.json": "make recovery",
    "canaries.json": "make canaries",
    "tuning.json": "python tune_fusion.py",
    "strategy.json": "python evaluate_strategy.py --plot",
    "pii.json": "python -m fusion_alpha.pii_check",
    "pii_stocknet.json": "python -m fusion_alpha.pii_check --archive FILE",
    "backtest_bench.csv": "python -m fusion_alpha.backtest_bench",
}
ABSENT = "Not run yet:"


def has(file: str) -> bool:
    return (results.METRICS / file).exists()


def absent(file: str) -> Paragraph:
    return Paragraph(ABSENT, f"`{COMMANDS[file]}`.")


def needs(file: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate what shows metrics/FILE: without the file it becomes the sentence that names the command."""

    def decorate(exhibit: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(exhibit)
        def shown(*args: Any, **kwargs: Any) -> Any:
            return exhibit(*args, **kwargs) if has(file) else absent(file)

        return shown

    return decorate


def drawing(file: str, alt: Callable[[], str], of: str) -> Any:
    """The SVG metrics/FILE that the command of metrics/OF drew; alt() describes it from the results."""
    if has(file) and has(of):
        return show(results.METRICS / file, alt())
    figure, axes = canvas(WIDTH, 0.5, (0, 1), (0, 1))
    axes.text(0.5, 0.5, f"{ABSENT} {COMMANDS[of]}", ha="center", va="center", color=FAINT)
    return show(figure, f"Empty. {ABSENT} {COMMANDS[of]}.")


def origin(file: str) -> Paragraph:
    """What a page of optional results begins with: that they are recorded, and what has changed since."""
    if not has(file):
        return absent(file)
    changed = results.changed_since(file)
    if not changed:
        return Paragraph("Recorded", f"by `{COMMANDS[file]}`, with the present parameters.")
    names = ", ".join(f"`{name}`" for name in changed)
    return Paragraph("Recorded", f"by `{COMMANDS[file]}`, before parameters of these groups were changed: {names}.")
