"""Data sets of the library `datasets`, and their columns. It is not imported here: who has one of them has imported it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any

from PIL import Image

from ditifeat.data.tables import choose_column
from ditifeat.errors import InputError


def is_dataset(images: Any) -> bool:
    """Whether something is a data set of `datasets`, several as a `DatasetDict`, or a column.

    >>> is_dataset(["me.png"])
    False
    """
    return _is_column(images) or _is(images, "Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")


def read_dataset(images: Any) -> Iterator[tuple[Any, str]]:
    """Read the values in a column of images, with a label of each for messages.

    A value is `{"bytes": ..., "path": ...}`, bytes or a path, which is decoded later; or what a transform or a generator of
    the user's made of it.

    Raises:
        InputError: if the data set has no column of images, or several, or if there are several data sets.
    """
    if _is(images, "DatasetDict", "IterableDatasetDict"):
        raise InputError(f"{type(images).__name__} holds several data sets ({', '.join(images)}); pass one of them")
    data, column = (images.source, images.column_name) if _is_column(images) else (images, None)
    if _is_column(data):  # a column within a column
        yield from ((value, f"row {row}") for row, value in enumerate(images))
        return
    features = data.features
    if features is None or getattr(data, "format", {}).get("type") == "custom":
        rows = iter(data)
        first = next(rows, None)
        if first is None:
            return
        rows = chain([first], rows)
        column = column or _choose(data, {name: _kind_of_value(value) for name, value in first.items()}, first)
    else:
        kinds = {name: _kind_of_feature(feature) for name, feature in features.items()}
        data = data.with_format(None)
        for name, feature in features.items():
            if _is(feature, "Image"):
                data = data.cast_column(name, type(feature)(decode=False))
        if column is None:
            named = [name for name, kind in kinds.items() if kind]
            first = next(iter(data.select_columns(named)), {}) if named else {}
            column = _choose(data, kinds, first)
        rows = iter(data.select_columns([column]))
    for row, values in enumerate(rows):
        yield values[column], f"{column}, row {row}"


def _is(thing: Any, *names: str) -> bool:
    library = sys.modules.get("datasets")
    return library is not None and isinstance(thing, tuple(getattr(library, name) for name in names))


def _is_column(images: Any) -> bool:
    module = type(images).__module__
    return module.startswith("datasets.") and hasattr(images, "column_name") and hasattr(images, "source")


def _choose(data: Any, kinds: dict[str, str], first: dict[str, Any]) -> str:
    return choose_column(type(data).__name__, kinds, first, lambda name: f"dataset[{name!r}]")


def _kind_of_value(value: Any) -> str:
    if isinstance(value, Image.Image) or (isinstance(value, dict) and value.keys() == {"bytes", "path"}):
        return "struct"
    return "bytes" if isinstance(value, bytes) else "path" if isinstance(value, str) else ""


def _kind_of_feature(feature: Any) -> str:
    if _is(feature, "Image") or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"}):
        return "struct"
    kinds = {"binary": "bytes", "large_binary": "bytes", "string": "path", "large_string": "path"}
    return kinds.get(getattr(feature, "dtype", ""), "")
