"""Labels as people have them: an array, a DataFrame, a dict, CelebA's list_attr file, or a CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ditifeat.errors import InputError


def read_labels(labels: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Attribute -> float64 values `(n,)`, in the order of the features' rows.

    Labels that carry image names (a DataFrame's index, a file's first column) are matched by name, or by the name's
    last part; others by order.

    Args:
        labels: array `(n,)` or `(n, m)`, DataFrame, `{attribute: values}`, or a path of CelebA's `list_attr_celeba.txt`
            or of a CSV with a header and the images' names first.
        names: the rows' names.

    Raises:
        InputError: if labels are missing for a row, are not numbers, or are of another number than the rows.
    """
    if isinstance(labels, str | os.PathLike):
        columns, keyed = _read_file(Path(labels))
        columns = _match(columns, keyed, names)
    elif hasattr(labels, "columns") and hasattr(labels, "index"):
        columns = {str(c): labels[c].to_numpy() for c in labels.columns}
        keyed = [str(key) for key in labels.index]
        # A DataFrame that was never indexed counts from 0, as features without names do.
        if keyed != [str(i) for i in range(len(keyed))]:
            columns = _match(columns, keyed, names)
    elif isinstance(labels, Mapping):
        columns = {str(key): np.asarray(value) for key, value in labels.items()}
    else:
        array = np.asarray(labels)
        if array.ndim not in (1, 2):
            raise InputError(f"labels of shape {array.shape} are not (n,) or (n, attributes)")
        columns = {"label": array} if array.ndim == 1 else {f"label{i}": column for i, column in enumerate(array.T)}
    return {name: _numbers(name, values, len(names)) for name, values in columns.items()}


def _numbers(name: str, values: np.ndarray, rows: int) -> np.ndarray:
    if len(values) != rows:
        raise InputError(f"attribute {name}: {len(values)} labels for {rows} rows of features")
    try:
        numbers = values.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"attribute {name}: labels must be numbers (0/1 or real); encode words as 0/1 columns"
        ) from None
    if not np.isfinite(numbers).all():
        raise InputError(
            f"attribute {name}: {int((~np.isfinite(numbers)).sum())} labels are missing or infinite; drop those rows"
        )
    return numbers


def _read_file(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error
    if path.suffix == ".csv":
        header, *rows = [row for row in csv.reader(lines) if row] or [[]]
        header = header[1:]
    else:
        if not lines or not lines[0].strip().isdigit():
            raise InputError(
                f"{path}: is neither a .csv nor of CelebA's form (a count, the attributes, one row an image)"
            )
        header, rows = lines[1].split(), [line.split() for line in lines[2:] if line.strip()]
    if not header or not rows:
        raise InputError(f"{path}: holds no labels")
    wrong = next((row for row in rows if len(row) != len(header) + 1), None)
    if wrong is not None:
        raise InputError(f"{path}: the row of {wrong[0]} has {len(wrong) - 1} labels, expected {len(header)}")
    values = np.array([row[1:] for row in rows], dtype=object)
    return {name: values[:, i] for i, name in enumerate(header)}, [row[0] for row in rows]


def _match(columns: dict[str, np.ndarray], keyed: list[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns in the rows' order, by full name or by its last part."""
    place = {key: i for i, key in enumerate(keyed)}
    short = {PurePosixPath(key).name: i for key, i in place.items()}
    found = [place.get(name, short.get(PurePosixPath(name).name, -1)) for name in names]
    missing = [name for name, i in zip(names, found, strict=True) if i < 0]
    if missing:
        raise InputError(
            f"no labels for {len(missing)} of {len(names)} images, the first {missing[0]!r}; names must agree"
        )
    return {name: values[found] for name, values in columns.items()}
