"""The one exception that a user's mistake ends in: it names the place, the rule and the remedy."""

from pathlib import Path


class InputError(ValueError):
    """Bad input, bad parameter or bad file.

    Stages print it without a traceback and exit with status 2. Every part but `problem` is optional;
    give all that are known, so that nobody has to search for the row.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        column: str | None = None,
        rule: str | None = None,
        remedy: str | None = None,
    ) -> None:
        place = ", ".join(
            f"{name} {value}"
            for name, value in (("file", file), ("line", line), ("column", column))
            if value is not None
        )
        lines = [f"{place}: {problem}" if place else problem]
        if rule:
            lines.append(f"  rule:   {rule}")
        if remedy:
            lines.append(f"  remedy: {remedy}")
        super().__init__("\n".join(lines))
