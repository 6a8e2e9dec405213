"""The rows nearest to a few queries, found exactly in one pass over pieces of rows; memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

PIECE = 8192  # rows that are compared at once, in float64


class Nearest:
    """Collects the nearest rows of all that it is shown.

    Distances are Euclidean, divided by the root of the columns' summed variance in all rows; of equal ones the earlier row
    comes first.

    Args:
        queries: `(m, d)`.
        count: how many neighbours per query.

    >>> from ditifeat.analysis.neighbours import Nearest
    >>> nearest = Nearest(np.array([[2.0]]), count=2)
    >>> nearest.add(["a", "b", "c"], np.array([[0.0], [2.0], [4.0]]))
    >>> [name for name, distance in nearest.finish()[0]]
    ['b', 'a']
    """

    def __init__(self, queries: np.ndarray, count: int):
        self.queries = queries.astype(np.float64)
        self.count = count
        self.rows = 0
        self._squares = np.empty((len(queries), 0))
        self._names = np.empty((len(queries), 0), dtype=object)
        self._offset: Any = None
        self._sum: Any = 0.0
        self._summed_squares = 0.0

    def add(self, names: Sequence[str], rows: np.ndarray) -> None:
        """Show it more rows `(n, d)`, with their names."""
        for start in range(0, len(rows), PIECE):
            self._add(names[start : start + PIECE], rows[start : start + PIECE].astype(np.float64))

    def _add(self, names: Sequence[str], rows: np.ndarray) -> None:
        # Around some row: the products below would lose the digits of a mean that is far larger than the distances.
        self._offset = rows[0] if self._offset is None else self._offset
        rows, queries = rows - self._offset, self.queries - self._offset
        lengths = np.square(rows).sum(1)
        self.rows += len(rows)
        self._sum = self._sum + rows.sum(0)
        self._summed_squares += float(lengths.sum())
        found = lengths - 2 * queries @ rows.T
        kept = min(2 * self.count, len(rows))  # more than are wanted, as rounding may have changed their order
        chosen = np.sort(np.argpartition(found, kept - 1, axis=1)[:, :kept], axis=1)
        squares = np.square(rows[chosen] - queries[:, None]).sum(2)
        self._squares = np.concatenate([self._squares, squares], axis=1)
        self._names = np.concatenate([self._names, np.array(names, dtype=object)[chosen]], axis=1)
        best = np.argsort(self._squares, axis=1, kind="stable")[:, : self.count]
        self._squares, self._names = (np.take_along_axis(a, best, axis=1) for a in (self._squares, self._names))

    @property
    def scale(self) -> float:
        """The root of the columns' summed variance in the rows so far; 1 where they are constant."""
        if not self.rows:
            return 1.0
        mean = self._sum / self.rows
        variance = self._summed_squares / self.rows - float(np.square(mean).sum())
        # Below this it is the rounding of equal rows.
        return variance**0.5 if variance > 1e-12 * self._summed_squares / self.rows else 1.0

    def finish(self) -> list[list[tuple[str, float]]]:
        """Return `(name, distance)` of each neighbour, nearest first, per query; fewer than asked for if there are fewer rows."""
        distances = np.sqrt(self._squares) / self.scale
        return [
            [(name, float(distance)) for name, distance in zip(*row, strict=True)]
            for row in zip(self._names, distances, strict=True)
        ]
