"""Rows of codes as they come out of an encoder: collected in one array, counted by a progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from torch import Tensor

from ditifeat.data.folders import list_folder


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


def with_bar(items: Iterator[tuple[list[str], Tensor]], total: int | None) -> Iterator[tuple[list[str], Tensor]]:
    """Show a bar of images from the second batch on: one batch needs none."""
    from tqdm.auto import tqdm

    bar = None
    seen = 0
    try:
        for names, codes in items:
            if bar is None and seen:
                bar = tqdm(unit="image", initial=seen, total=total)
            yield names, codes
            seen += len(names)
            if bar is not None:
                bar.update(len(names))
    finally:
        if bar is not None:
            bar.close()


def count_images(images: Any) -> int | None:
    """Count the images that `encode` is about to read, where that is known without reading them.

    >>> from ditifeat.encoding.rows import count_images
    >>> count_images("photos"), count_images(["me.png", "you.png"]), count_images(iter([]))
    (8, 2, None)
    """
    if isinstance(images, str | os.PathLike):
        return len(list_folder(images)) if os.path.isdir(images) else None
    if not isinstance(images, Sized):
        return None
    several = isinstance(images, list | tuple) and any(
        isinstance(item, str | os.PathLike) and os.path.isdir(item) for item in images
    )
    return None if several else len(images)
