"""Search saved features, without reading them whole: exactly in one pass, or by an index."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ditifeat.analysis.features import Features, read_query
from ditifeat.analysis.index import Index, is_index
from ditifeat.analysis.neighbours import Nearest
from ditifeat.analysis.origin import Origin
from ditifeat.errors import InputError
from ditifeat.schema import integer


def search(
    path: str | Path, query: Any, *, time_steps: tuple[int, int] | None = None, count: int | None = None
) -> list[Any]:
    """Find the rows of saved features that are nearest to one code or several, as `Features.nearest` does.

    Parquet and `.npy` are read piece by piece, so that memory does not grow with the number of rows.

    Args:
        path: what `encode` wrote, or an index of it, which `build_index` wrote.
        query: `Features` or array, `(d,)` or `(m, d)`.
        time_steps: `(lo, hi)`, edges of subsets; all by default, or those that the index is of.
        count: how many neighbours; 5 by default, or all rows if they are fewer.

    Returns:
        `(name, distance)` of each neighbour, nearest first; for several queries a list of such lists.

    Raises:
        InputError: as `Features.nearest`; for an index that is older than its features.

    >>> from ditifeat.analysis.search import search
    >>> features.save("faces.parquet")
    >>> search("faces.parquet", features[3], count=1)
    [('3.png', 0.0)]
    """
    path = Path(path)
    if is_index(path):
        index = Index.open(path)
        return index.nearest(query, time_steps=time_steps, count=min(5, index.rows) if count is None else count)
    wanted = 5 if count is None else integer("count", count, 1)
    parts = Features.iterate(path)
    first = next(parts)
    codes, columns = read_query(query, first.origin, first.partition, time_steps)
    nearest = Nearest(np.atleast_2d(codes), wanted)
    for part in chain([first], parts):
        nearest.add(part.names, np.atleast_2d(part.array)[:, columns])
    if count is not None and count > nearest.rows:
        raise InputError(f"count = {count} is over the {nearest.rows} rows of {path}")
    return nearest.finish()[0] if codes.ndim == 1 else nearest.finish()


def origin(path: str | Path) -> Origin:
    """Return what made saved features, or those that an index is of, so that a query can be made in the same way.

    Raises:
        InputError: as `search`.

    >>> from ditifeat.analysis.search import origin
    >>> features.save("faces.parquet")
    >>> origin("faces.parquet").flip_average
    False
    """
    path = Path(path)
    return Index.open(path).origin if is_index(path) else next(Features.iterate(path)).origin
