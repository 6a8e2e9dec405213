"""Labels as targets of probes: what kind each attribute is, and which rows have a label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ditifeat.data.labels import read_labels
from ditifeat.errors import InputError

MAX_CLASSES = 20  # so few different whole numbers may be the codes of classes


@dataclass(frozen=True, eq=False)
class Attribute:
    """One attribute's labels.

    Attributes:
        name: the attribute.
        kind: "binary" or "real".
        values: `(n,)` float64; 0 and 1 of a binary attribute; NaN where there is no label.
    """

    name: str
    kind: Literal["binary", "real"]
    values: np.ndarray


def read_attributes(labels: Any, names: Sequence[str]) -> list[Attribute]:
    """Read labels, as `ditifeat.probe` takes them, of the rows `names`.

    Raises:
        InputError: for labels that do not fit, and for the codes of three or more classes.

    >>> from ditifeat.analysis.attributes import read_attributes
    >>> [(a.name, a.kind) for a in read_attributes({"smiles": [-1, 1, 1], "age": [20.5, 31, 47]}, ["a", "b", "c"])]
    [('smiles', 'binary'), ('age', 'real')]
    """
    return [_attribute(name, values) for name, values in read_labels(labels, names).items()]


def _attribute(name: str, values: np.ndarray) -> Attribute:
    missing = np.isnan(values)
    different = np.unique(values[~missing])
    if {0.0, 1.0} >= set(different) or {-1.0, 1.0} >= set(different):
        positive = 1.0  # also where all rows have one of the two
    elif len(different) == 2:
        positive = different[1]
    else:
        _refuse_classes(name, different, int((~missing).sum()))
        return Attribute(name, "real", values)
    return Attribute(name, "binary", np.where(missing, np.nan, values == positive))


def _refuse_classes(name: str, different: np.ndarray, count: int) -> None:
    """A few whole numbers, each in several rows, may be classes, whose order means nothing to a regression."""
    if 3 <= len(different) <= MAX_CLASSES and 2 * len(different) <= count and (different == np.round(different)).all():
        shown = ", ".join(f"{value:g}" for value in different[:4]) + (", ..." if len(different) > 4 else "")
        raise InputError(
            f"attribute {name}: {len(different)} whole numbers ({shown}) may be classes or a quantity; encode classes as a "
            "0/1 column each (pandas.get_dummies), and scale a quantity (divide it by 10, say) to be probed as real-valued"
        )


def alike(known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give the columns of a mask `(n, attributes)` that are equal, and what they are: one fit serves them all.

    >>> from ditifeat.analysis.attributes import alike
    >>> [(columns.tolist(), mask.tolist()) for columns, mask in alike(np.array([[True, False, True]]))]
    [([0, 2], [True]), ([1], [False])]
    """
    groups: dict[bytes, list[int]] = {}
    for i, column in enumerate(np.ascontiguousarray(known.T)):
        groups.setdefault(column.tobytes(), []).append(i)
    for columns in groups.values():
        yield np.array(columns), known[:, columns[0]]
