"""Rows of codes as they come out of an encoder: collected in one array, counted by a progress bar."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sized
from typing import Any, TypeVar

import numpy as np

from ditifeat.data.folders import list_folder
from ditifeat.data.paths import expand, kind_of_path, list_lines, split_column
from ditifeat.data.tables import count_parquet
from ditifeat.data.video import count_frames

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


def count_images(images: Any) -> int | None:
    """Count the images that `encode` is about to read, where that is known without reading them.

    >>> from ditifeat.encoding.rows import count_images
    >>> count_images("photos"), count_images(["me.png", "you.png"]), count_images(iter([]))
    (8, 2, None)
    """
    if isinstance(images, str | os.PathLike):
        return _count_path(os.fsdecode(images))
    if not isinstance(images, Sized):
        return None
    if not isinstance(images, list | tuple):
        return len(images)
    counts = [count_images(item) if isinstance(item, str | os.PathLike) else 1 for item in images]
    return None if None in counts else sum(count or 0 for count in counts)


def _count_path(path: str) -> int | None:
    kind = kind_of_path(path)
    if kind == "image":
        return 1
    if kind == "pattern":
        counts = [_count_path(found) for found in expand(path, Counter())]
        return None if None in counts else sum(count or 0 for count in counts)
    if not os.path.exists(split_column(path)[0]):
        return None  # which reading will say
    if kind == "folder":
        return len(list_folder(path)) or None  # none, or in Parquet files
    if kind == "list":
        return sum(1 for _ in list_lines(path))
    if kind == "table":
        return count_parquet(split_column(path)[0])
    return count_frames(path) if kind == "video" else None
