"""Features as tables of other libraries: pandas and datasets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ditifeat.analysis.columns import column_names
from ditifeat.errors import InputError, MissingDependencyError
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import from_dict

if TYPE_CHECKING:
    import datasets
    import pandas

KEY = "ditifeat"  # of a DataFrame's attrs


class Table(NamedTuple):
    """What a table of features holds.

    Attributes:
        names: of the images.
        array: float32 `(n, d)`.
        header: what made them; plain JSON.
    """

    names: list[str]
    array: np.ndarray
    header: dict[str, Any]


def to_frame(table: Table) -> pandas.DataFrame:
    """Make a DataFrame, indexed by names, with the header in its `attrs`.

    Raises:
        MissingDependencyError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError("a DataFrame needs pandas: pip install pandas") from error
    index, columns = pandas.Index(table.names, name="name"), column_names(_partition(table.header))
    frame = pandas.DataFrame(table.array, index=index, columns=columns)
    frame.attrs[KEY] = table.header
    return frame


def read_frame(frame: pandas.DataFrame) -> Table:
    """Read what `to_frame` made, its columns in any order.

    Raises:
        InputError: for other columns, cells that are no numbers, or a frame without a header.
    """
    header = getattr(frame, "attrs", {}).get(KEY)
    if not isinstance(header, dict):
        raise InputError(
            "the DataFrame's attrs do not say what made it, as those of Features.to_pandas do; pass array, names and partition "
            "to ditifeat.Features(frame.to_numpy(), tuple(frame.index), encoder.partition)"
        )
    columns, found = column_names(_partition(header)), [str(column) for column in frame.columns]
    if sorted(found) != sorted(columns):
        other = sorted(set(found) - set(columns)) or sorted(set(columns) - set(found)) or ["columns of equal names"]
        raise InputError(
            f"the DataFrame has {len(found)} columns, the features {len(columns)}; they differ in {', '.join(other[:3])}"
            f"{', ...' if len(other) > 3 else ''}; drop what are no features, and make the images' names the index"
        )
    try:
        array = frame[columns].to_numpy(np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"the DataFrame holds what is no number ({error})") from error
    return Table([str(name) for name in frame.index], array, header)


def to_dataset(table: Table) -> datasets.Dataset:
    """Make a `datasets.Dataset` with columns `name` and `features`, with the header in its description.

    Raises:
        MissingDependencyError: if datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError("a Dataset needs datasets: pip install datasets") from error
    numbers = datasets.Sequence(datasets.Value("float32"), length=table.array.shape[1])
    columns = datasets.Features({"name": datasets.Value("string"), "features": numbers})
    info = datasets.DatasetInfo(description=json.dumps({KEY: table.header}), features=columns)
    return datasets.Dataset.from_dict({"name": table.names, "features": table.array}, features=columns, info=info)


def read_dataset(dataset: datasets.Dataset) -> Table:
    """Read what `to_dataset` made.

    Raises:
        InputError: for a dataset without its columns or its description.
    """
    missing = [name for name in ("name", "features") if name not in (getattr(dataset, "column_names", None) or ())]
    if missing:
        raise InputError(f"the dataset has no column {missing[0]!r}; make it with Features.to_dataset")
    try:
        header = json.loads(dataset.info.description)[KEY]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "the dataset's description does not say what made it, as that of Features.to_dataset does; pass array, names and "
            "partition to ditifeat.Features"
        ) from error
    names = [str(name) for name in dataset["name"]]
    array = np.asarray(dataset.with_format("numpy", columns=["features"])[:]["features"], dtype=np.float32)
    return Table(names, array if names else np.empty((0, _partition(header).d), np.float32), header)


def _partition(header: dict[str, Any]) -> TimeStepPartition:
    try:
        return from_dict(TimeStepPartition, header["partition"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the header of these features holds no partition ({error})") from error
