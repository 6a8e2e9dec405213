"""How many images there are, where that is known without reading them."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Sized
from typing import Any

from ditifeat.data.archives import kind_of_member, zip_members
from ditifeat.data.datasets import is_dataset
from ditifeat.data.folders import kind_of_name, list_folder
from ditifeat.data.paths import expand, kind_of_path, list_lines, split_column
from ditifeat.data.sources import is_single
from ditifeat.data.tables import count_parquet
from ditifeat.data.video import count_frames
from ditifeat.errors import DitifeatError


def count_images(images: Any) -> int | None:
    """Count the images that `sources` names, where that is known without reading them: for a progress bar.

    Args:
        images: as `sources` takes them.

    Returns:
        Their number; None for tars, which have no list of what they hold, for iterators, and for what cannot be read.

    >>> count_images("photos"), count_images(["me.png", "photos"]), count_images(iter([]))
    (8, 9, None)
    """
    try:
        return _count(images, nested=False)
    except (DitifeatError, OSError, zipfile.BadZipFile):  # `sources` says what is wrong
        return None


def _count(images: Any, nested: bool) -> int | None:
    if isinstance(images, str | os.PathLike):
        return _count_path(os.fsdecode(images), nested)
    if isinstance(images, list | tuple):
        return _sum(_count(item, nested=True) for item in images)
    if is_single(images) or (isinstance(images, dict) and not is_dataset(images)):
        return 1
    return len(images) if isinstance(images, Sized) else None


def _count_path(path: str, nested: bool) -> int | None:
    if nested and kind_of_name(os.path.basename(path)) == "image" and "*" not in path:
        return 1  # of a million paths, none is looked for
    kind = kind_of_path(path, nested)
    if kind == "image":
        return 1
    if kind == "folder":
        others: Counter[str] = Counter()
        return len(list_folder(path, others)) or (count_parquet(path) if others[".parquet"] else 0)
    if kind == "pattern":
        return _sum(_count_path(found, nested=True) for found in expand(path, Counter()))
    if kind == "zip":
        with zipfile.ZipFile(path) as archive:
            return sum(kind_of_member(name) == "image" for name, _ in zip_members(archive))
    if kind == "list":
        return sum(1 for _ in list_lines(path))
    if kind == "table":
        return count_parquet(split_column(path)[0])
    return count_frames(path) if kind == "video" else None


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total
