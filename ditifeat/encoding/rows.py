"""Rows of codes as they come out of an encoder: collected in one array, counted by a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np

Part = TypeVar("Part", bound=tuple[Any, ...])  # whose first item is the list of its images' names


class GrowingRows:
    """A float32 array `(n, width)` that grows in place: a list of batches, joined at the end, would hold every row twice.

    >>> from ditifeat.encoding.rows import GrowingRows
    >>> rows = GrowingRows(2)
    >>> rows.append(np.ones((3, 2), np.float32))
    >>> rows.finish().shape
    (3, 2)
    """

    def __init__(self, width: int):
        self.buffer = np.empty((0, width), np.float32)
        self.used = 0

    def append(self, rows: np.ndarray) -> None:
        needed = self.used + len(rows)
        if needed > len(self.buffer):
            self.buffer.resize((needed + needed // 4, self.buffer.shape[1]), refcheck=False)
        self.buffer[self.used : needed] = rows
        self.used = needed

    def finish(self) -> np.ndarray:
        """Give the array away, without its spare rows."""
        self.buffer.resize((self.used, self.buffer.shape[1]), refcheck=False)
        return self.buffer


def with_bar(items: Iterator[Part], total: int | None, done: int = 0) -> Iterator[Part]:
    """Show a bar of images from the second batch on: one batch needs none; `done` of them came before."""
    from tqdm.auto import tqdm

    bar = None
    seen = 0
    try:
        for item in items:
            if bar is None and seen:
                bar = tqdm(unit="image", initial=done, total=total, smoothing=0.05)
                bar.update(seen)
            yield item
            seen += len(item[0])
            if bar is not None:
                bar.update(len(item[0]))
    finally:
        if bar is not None:
            bar.close()
