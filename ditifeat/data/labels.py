"""Labels as people have them: arrays, pandas objects, dicts, CSV files, CelebA's format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from ditifeat.data.label_files import is_label, parse_label, read_label_file
from ditifeat.data.names import has_image_suffix, is_row_number, match_names
from ditifeat.errors import InputError


@dataclass
class _Table:
    """Columns of labels and their rows' names: None where there are none, `numbered` where they only count rows."""

    columns: dict[str, np.ndarray]
    keys: list[str] | None = None
    numbered: bool = False


def read_labels(labels: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read labels in the order of the features' rows.

    Labels with names (the index of a Series or DataFrame, its one column of image names, a dict's keys, a file's first
    column) are matched by `match_names`. Arrays, lists and dicts of them go by order. Row numbers (pandas' default index)
    are no names: they are accepted only where the features have no others and both agree row by row.

    Args:
        labels: array `(n,)` or `(n, m)`; Series or DataFrame; `{attribute: values}` or `{image: label}`; or a path of a
            CSV with a header and the images' names first, or of CelebA's `list_attr_celeba.txt`.
        names: the rows' names, n of them.

    Returns:
        float64 `(n,)` per attribute, NaN where a label is missing.

    Raises:
        InputError: if a row has no label or two, if labels are not numbers, or if nothing says whose they are.

    >>> read_labels("labels.csv", ["/somewhere/1.png", "/somewhere/0.png"])["Smiling"]
    array([1., 0.])
    """
    found: dict[str, np.ndarray] = {}
    for table in _tables(labels):
        rows = _rows(table, names)
        for attribute, values in table.columns.items():
            if attribute in found:
                raise InputError(f"two attributes are called {attribute!r}; rename one")
            found[attribute] = _numbers(attribute, values if rows is None else values[rows], len(names))
    if not found:
        raise InputError("the labels hold no attribute")
    return found


def _tables(labels: Any) -> list[_Table]:
    if isinstance(labels, str | os.PathLike):
        header, rows = read_label_file(Path(labels))
        cells = np.array(rows, dtype=object)
        keys = cells[:, 0].tolist()
        # pandas writes its default index under an empty name, or calls it "index".
        numbered = header[0].lower() in ("", "index", "unnamed: 0") and all(map(is_row_number, keys))
        return [_named(_Table({name: cells[:, i] for i, name in enumerate(header) if i}, keys, numbered))]
    if isinstance(labels, Mapping):
        return _mapping_tables(labels)
    if hasattr(labels, "to_pandas"):  # polars, pyarrow
        labels = labels.to_pandas()
    if hasattr(labels, "to_numpy") and hasattr(labels, "index"):
        return [_pandas_table(labels)]
    array = _array(labels)
    if array.ndim not in (1, 2):
        raise InputError(f"labels of shape {array.shape} are not (n,) or (n, attributes)")
    return [_Table({"label": array} if array.ndim == 1 else {f"label{i}": column for i, column in enumerate(array.T)})]


def _mapping_tables(labels: Mapping[Any, Any]) -> list[_Table]:
    if labels and all(np.isscalar(value) or value is None for value in labels.values()):
        return [_Table({"label": np.array(list(labels.values()), dtype=object)}, *_keys(labels))]
    tables = []
    for attribute, values in labels.items():
        if isinstance(values, str) or not hasattr(values, "__len__"):
            raise InputError(f"attribute {attribute}: {type(values).__name__} holds no labels; pass an array or Series")
        (table,) = _tables(values)
        if len(table.columns) != 1:
            raise InputError(f"attribute {attribute}: holds {len(table.columns)} columns of labels, expected one")
        (column,) = table.columns.values()
        tables.append(_Table({str(attribute): column}, table.keys, table.numbered))
    return tables


def _pandas_table(labels: Any) -> _Table:
    if labels.ndim == 1:
        name = "label" if labels.name is None else str(labels.name)
        return _Table({name: labels.to_numpy()}, *_keys(labels.index))
    attributes = [str(column) for column in labels.columns]
    twice = next((name for i, name in enumerate(attributes) if name in attributes[:i]), None)
    if twice is not None:
        raise InputError(f"two columns of the labels are called {twice!r}; rename one")
    columns = {name: labels.iloc[:, i].to_numpy() for i, name in enumerate(attributes)}
    return _named(_Table(columns, *_keys(labels.index)))


def _keys(index: Any) -> tuple[list[str], bool]:
    keys = list(index)
    return [str(key) for key in keys], all(isinstance(key, Integral) for key in keys)


def _named(table: _Table) -> _Table:
    """Take the names of numbered rows from their one column of image names, as of Kaggle's `list_attr_celeba.csv`."""
    if table.numbered:
        held = [name for name, column in table.columns.items() if _holds_names(column)]
        if len(held) == 1:
            columns = {name: column for name, column in table.columns.items() if name != held[0]}
            return _Table(columns, [str(key) for key in table.columns[held[0]]])
    return table


def _holds_names(column: np.ndarray) -> bool:
    if column.dtype.kind not in "OUT":
        return False
    cells = column.tolist()
    if not cells or not all(isinstance(cell, str) and not is_label(cell) for cell in cells):  # most end at the first
        return False
    return any(map(has_image_suffix, cells)) or len(set(cells)) == len(cells)


def _rows(table: _Table, names: Sequence[str]) -> list[int] | None:
    """Each image's row in the table; None where the rows are in the features' order."""
    if table.keys is None:
        return None
    example = repr(table.keys[0]) if table.keys else "none"
    if all(map(is_row_number, names)):
        if table.keys == list(names):
            return None
        raise InputError(
            f"the labels' rows are called {example}, ... but the features' rows have no names, only numbers; encode paths "
            "in place of arrays, or pass labels.to_numpy() if the labels are in the features' order"
        )
    if table.numbered:
        raise InputError(
            f"the labels' rows are numbered ({example}, ...), the features' rows have names ({names[0]!r}, ...), and the order "
            "of both may differ; index the labels by image names (frame.set_index('image_id'), or "
            "index.astype(str) if the numbers are names), or pass labels.to_numpy() if they are in the features' order"
        )
    return match_names(names, table.keys)


def _array(labels: Any) -> np.ndarray:
    if hasattr(labels, "detach"):  # a tensor, perhaps on a GPU
        labels = labels.detach().cpu()
    try:
        return np.asarray(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels of type {type(labels).__name__} are no array ({error})") from error


def _numbers(attribute: str, values: np.ndarray, rows: int) -> np.ndarray:
    if _holds_names(values) and any(map(has_image_suffix, values)):
        raise InputError(f"attribute {attribute}: holds image names; make them the index, or a file's first column")
    if values.ndim != 1 or len(values) != rows:
        raise InputError(f"attribute {attribute}: {len(values)} labels for {rows} rows of features")
    try:
        if values.dtype.kind in "biuf":
            numbers = values.astype(np.float64)
        elif values.dtype.kind in "OUST":
            cells = values.tolist()
            parsed = {cell: parse_label(cell) for cell in dict.fromkeys(cells)}
            numbers = np.array([parsed[cell] for cell in cells], dtype=np.float64)
        else:
            raise TypeError(f"type {values.dtype}")
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"attribute {attribute}: labels must be numbers (0/1, -1/1 or real, with a decimal point), not words: "
            f"{shorten(str(error), 120)}; encode words as one 0/1 column per word (pandas.get_dummies)"
        ) from None
    if np.isinf(numbers).any():
        raise InputError(f"attribute {attribute}: {int(np.isinf(numbers).sum())} labels are infinite; drop those rows")
    if rows and np.isnan(numbers).all():
        raise InputError(f"attribute {attribute}: every label is missing; drop the attribute")
    return numbers
