"""The last rows of a table in memory: columns are arrays, a row is appended at the end, old ones are forgotten."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Tail:
    """At most `keep` rows of named arrays of equal length; `tail[name]` is a view of them, in order."""

    def __init__(self, columns: Mapping[str, NDArray[Any]], keep: int) -> None:
        """columns: what is known, of which the last `keep` rows are held."""
        length = len(next(iter(columns.values())))
        self._keep, self._begin, self._end = keep, 0, min(length, keep)
        # Filled, not empty: no page is touched for the first time while a bar waits, and memory is what it will be.
        self._columns = {name: np.full((2 * keep, *held.shape[1:]), 0, held.dtype) for name, held in columns.items()}
        for name, held in columns.items():
            self._columns[name][: self._end] = held[length - self._end :]

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name][self._begin : self._end]

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; columns that it does not name keep whatever stood there."""
        if self._end == 2 * self._keep:
            self._begin = self._end - self._keep
            for name, held in self._columns.items():
                held[: self._keep] = self[name]
            self._begin, self._end = 0, self._keep
        for name, value in row.items():
            self._columns[name][self._end] = value
        self._end += 1
        self._begin = max(self._begin, self._end - self._keep)

    def cut(self, length: int) -> None:
        """Keep the first `length` rows alone."""
        self._end = self._begin + length

    def insert(self, place: int, row: Mapping[str, Any]) -> None:
        """Add a row before the one at `place`."""
        after = {name: self[name][place:].copy() for name in self._columns}
        later = len(self) - place
        self.cut(place)
        self.append(row)
        for number in range(later):
            self.append({name: held[number] for name, held in after.items()})
