"""The result of encoding: codes with the rows' names, their partition, and what made them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ditifeat.analysis.columns import dims_of_range
from ditifeat.analysis.neighbours import Nearest
from ditifeat.analysis.origin import Origin, check_same_origin
from ditifeat.analysis.shards import SUFFIX, Rows, iterate_rows, read_folder, read_header, write_folder
from ditifeat.analysis.storage import Content, read_file, write_file
from ditifeat.analysis.tables import Table, read_dataset, read_frame, to_dataset, to_frame
from ditifeat.errors import InputError
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import boolean, from_dict, integer

if TYPE_CHECKING:
    import datasets
    import pandas

FORMAT_VERSION = 1

SKIPPED = "could not be decoded"  # where the reason is not known any more


@dataclass(frozen=True, eq=False)
class Features:
    """Codes with their rows' names and their partition; `numpy.asarray` and scikit-learn take it as an array.

    Equality and hash are those of the object; compare arrays by `numpy.array_equal`.

    Attributes:
        array: float32 `(n, d)`; `(d,)` for one image.
        names: of the rows: paths, relative to the folder where one was given; numbers where there was no name.
        partition: which dimensions belong to which time-steps.
        model: the name of the model that encoded the images.
        weights: sha256 of that encoder's weights, 64 hex digits; empty where it is unknown.
        preprocessing: hash of size, crop and resampling of the images; empty where it is unknown.
        flip_average: whether each row is the mean over the codes of the image and of its horizontal flip.
        skipped: names of the images that could not be decoded and have no row (`on_error="skip"`).

    Raises:
        InputError: if the array's shape disagrees with the names or the partition.

    >>> features = ditifeat.encode(encoder, "photos/", crop="center")
    >>> features.shape, features.names[:2]
    ((8, 512), ('0.png', '1.png'))
    >>> np.asarray(features).dtype
    dtype('float32')
    >>> features[:3].time_steps(500, 1000).shape
    (3, 50)
    """

    array: np.ndarray
    names: tuple[str, ...]
    partition: TimeStepPartition
    model: str = ""
    weights: str = ""
    preprocessing: str = ""
    flip_average: bool = False
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.array, np.ndarray) or self.array.ndim not in (1, 2):
            raise InputError(f"features are a numpy array (n, d) or (d,), not {type(self.array).__name__}")
        rows = len(self.array) if self.array.ndim == 2 else 1
        if self.array.shape[-1] != self.partition.d or rows != len(self.names):
            raise InputError(
                f"features of shape {self.array.shape} with {len(self.names)} names and d = {self.partition.d}"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @property
    def ndim(self) -> int:
        return self.array.ndim

    def __len__(self) -> int:
        return len(self.array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)

    def __getitem__(self, rows: Any) -> Any:
        """Rows by slice, indices or mask are `Features`; one row, or a selection of columns, is an array."""
        picked = self.array[rows]
        if self.array.ndim == 2 and picked.ndim == 2 and not isinstance(rows, tuple):
            return replace(self, array=picked, names=tuple(np.array(self.names, dtype=object)[rows]))
        return picked

    @staticmethod
    def concatenate(parts: Iterable[Features]) -> Features:
        """Join the rows of several, as of a training and a test folder, in their order; `numpy.concatenate` gives a bare array.

        Raises:
            InputError: for none, or features of other weights, preprocessing or partition, or averaged over flips in part.

        >>> both = ditifeat.Features.concatenate([features[:6], features[6:]])
        >>> both.names == features.names
        True
        """
        parts = list(parts) if isinstance(parts, Iterable) else [parts]
        if not parts or not all(isinstance(part, Features) for part in parts):
            raise InputError("features are concatenated with features, as [first, second]; give at least one")
        for one, other in combinations(parts, 2):
            check_same_origin(one.origin, other.origin)
            if one.partition != other.partition:
                raise InputError(f"features of another partition ({other.partition}, not {one.partition})")
        return replace(
            parts[0],
            weights=min(part.weights for part in parts),  # "" if one is unknown
            preprocessing=min(part.preprocessing for part in parts),
            array=np.concatenate([np.atleast_2d(part.array) for part in parts]),
            names=tuple(name for part in parts for name in part.names),
            skipped=tuple(name for part in parts for name in part.skipped),
        )

    @property
    def origin(self) -> Origin:
        """What decides whether they can be mixed with others."""
        return Origin(self.weights, self.preprocessing, self.flip_average)

    def __repr__(self) -> str:
        averaged = ", averaged over flips" if self.flip_average else ""
        return f"Features({self.array.shape}, {self.partition.k} subsets, model {self.model!r}{averaged})"

    def time_steps(self, lo: int, hi: int) -> np.ndarray:
        """Select the columns of the subsets whose first time-step is within `lo..hi-1`: `(n, m)`, a view.

        Raises:
            InputError: if the range is not within the partition's time-steps, or no subset begins in it.

        >>> features.time_steps(0, 50).shape
        (8, 10)
        """
        return self.array[..., self.partition.dims_of_time_steps(lo, hi)]

    def subsets(self, lo: int, hi: int) -> np.ndarray:
        """Select the columns of subsets `lo..hi-1`: `(n, m)`, a view.

        Raises:
            InputError: if the range is not within `0..k`, or holds no dimension.

        >>> features.subsets(0, 64).shape
        (8, 512)
        """
        return self.array[..., self.partition.dims_of_subsets(lo, hi)]

    def nearest(self, query: Any, *, time_steps: tuple[int, int] | None = None, count: int = 5) -> list[Any]:
        """Find the rows nearest to one code or several, in all dimensions or in those of a range of time-steps.

        Args:
            query: `Features` or array, `(d,)` or `(m, d)`.
            time_steps: `(lo, hi)`, edges of subsets; all by default. Late ones compare what is coarse, early ones what is
                fine.
            count: how many neighbours.

        Returns:
            `(name, distance)` of each neighbour, nearest first; for several queries a list of such lists. Distances are
            Euclidean, divided by the root of the columns' summed variance in these features. Columns keep their relative
            scales, as in `probe`.

        Raises:
            InputError: for a query, time-steps or a count that do not fit, or a query of other weights or preprocessing, or
                of which only one is averaged over flips.

        >>> [name for name, distance in features.nearest(features[0], count=1)]
        ['0.png']
        >>> len(features.nearest(features[:3], time_steps=(500, 1000)))
        3
        """
        codes, columns = read_query(query, self.origin, self.partition, time_steps)
        count = integer("count", count, 1, len(np.atleast_2d(self.array)))
        nearest = Nearest(np.atleast_2d(codes), count)
        nearest.add(self.names, np.atleast_2d(self.array)[:, columns])
        return nearest.finish()[0] if codes.ndim == 1 else nearest.finish()

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame, one row per image, with columns `s07_d034`: subset 7, dimension 34.

        Its `attrs` say what made the features. They stay where pandas keeps them: in selections of rows, joins, and Parquet.

        Raises:
            MissingDependencyError: if pandas is not installed.

        >>> features.to_pandas().loc["0.png"].shape
        (512,)
        """
        return to_frame(self._table())

    @staticmethod
    def from_pandas(frame: pandas.DataFrame) -> Features:
        """Take back what `to_pandas` gave, or rows of it: names, partition, model and all.

        Raises:
            InputError: for a frame with other columns, or without the `attrs` of `to_pandas`.

        >>> frame = features.to_pandas().sort_index(ascending=False).head(3)
        >>> ditifeat.Features.from_pandas(frame).names
        ('7.png', '6.png', '5.png')
        """
        return _from_table("the DataFrame", read_frame(frame))

    def to_dataset(self) -> datasets.Dataset:
        """Return a `datasets.Dataset` with columns `name` and `features`; its description says what made them.

        Raises:
            MissingDependencyError: if datasets is not installed.

        >>> features.to_dataset().column_names
        ['name', 'features']
        """
        return to_dataset(self._table())

    @staticmethod
    def from_dataset(dataset: datasets.Dataset) -> Features:
        """Take back what `to_dataset` gave, or rows of it; other columns are left out.

        Raises:
            InputError: for a dataset without these columns or this description.

        >>> ditifeat.Features.from_dataset(features.to_dataset().select([2, 5])).names
        ('2.png', '5.png')
        """
        return _from_table("the dataset", read_dataset(dataset))

    def _table(self) -> Table:
        header = {**self.header, "skipped": list(self.skipped), "single": self.ndim == 1}
        return Table(list(self.names), np.atleast_2d(self.array), header)

    @property
    def header(self) -> dict[str, Any]:
        """What every file of features says of them, beside names and values; plain JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "model": self.model,
            "weights": self.weights,
            "preprocessing": self.preprocessing,
            "flip_average": bool(self.flip_average),
            "partition": json.loads(json.dumps(asdict(self.partition))),  # tuples become lists, as they are read
        }

    def save(self, path: str | Path) -> None:
        """Write `.npz`, `.safetensors`, `.npy` (beside it a `.npy.json`), or a folder `NAME.parquet`, atomically.

        Raises:
            InputError: for another suffix.
            MissingDependencyError: for Parquet without pyarrow.

        >>> features.save("features.npz")
        >>> ditifeat.Features.load("features.npz").weights == encoder.weights
        True
        """
        path = Path(path)
        if path.suffix == SUFFIX:
            rows = Rows(list(self.names), np.atleast_2d(self.array), [None] * len(self.names))
            lost = len(self.skipped)
            missing = Rows(list(self.skipped), np.full((lost, self.partition.d), np.nan, np.float32), [SKIPPED] * lost)
            write_folder(path, [rows, missing] if lost else [rows], self.header)
        else:
            about = {**self.header, "names": self.names, "skipped": self.skipped}
            write_file(path, Content(self.array.shape, np.dtype(np.float32), [self.array], about))

    @staticmethod
    def load(path: str | Path) -> Features:
        """Read what `save` or `encode(..., out=path)` wrote; nothing in the file can run.

        A `.npy` is a read-only memory map. Parquet's rows with an error are left out, and named in `skipped`.

        Raises:
            MissingInputError: if there is no such file.
            InputError, ModelError: if it does not hold features, or the run that writes it is not finished.

        >>> features.save("faces.npy")
        >>> ditifeat.Features.load("faces.npy")[:2].names
        ('0.png', '1.png')
        """
        path = Path(path)
        if path.suffix == SUFFIX:
            names, array, skipped = read_folder(path)
            return _from_header(path, array, names, skipped, read_header(path))
        array, about = read_file(path)
        return _from_header(path, array, about.get("names"), about.get("skipped"), about)

    @staticmethod
    def iterate(path: str | Path, count: int = 8192) -> Iterator[Features]:
        """Read saved features in pieces of up to `count` rows; of Parquet and `.npy` no more than that is in memory.

        Raises:
            MissingInputError, InputError, ModelError: as `load`.

        >>> features.save("faces.npy")
        >>> [part.names[0] for part in ditifeat.Features.iterate("faces.npy", 5)]
        ['0.png', '5.png']
        """
        path, count = Path(path), integer("count", count, 1)
        if path.suffix == SUFFIX:
            header = read_header(path)
            for rows in iterate_rows(path, count):
                names, array = rows.fine()
                skipped = [name for name, error in zip(rows.names, rows.errors, strict=True) if error is not None]
                yield _from_header(path, array.astype(np.float32, copy=False), names, skipped, header)
        else:
            features = Features.load(path)
            for start in range(0, len(features.names), count):
                part = features[start : start + count] if features.ndim == 2 else features
                yield replace(part, skipped=features.skipped if start == 0 else ())


def as_codes(values: Any, what: str) -> np.ndarray:
    """Read float32 codes from an array, a table, `Features`, or a tensor on any device.

    Raises:
        InputError: for anything that is not of numbers.

    >>> from ditifeat.analysis.features import as_codes
    >>> as_codes(torch.zeros(2, 3, requires_grad=True), "the codes").shape
    (2, 3)
    """
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().float().numpy()
    try:
        return np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be read as an array of numbers ({error})") from error


def read_query(query: Any, origin: Origin, partition: TimeStepPartition, time_steps: Any) -> tuple[np.ndarray, slice]:
    """Read what `Features.nearest` looks for: the codes `(m,)` or `(n, m)` in the dimensions of a range, and these dimensions.

    Raises:
        InputError: for a query of another origin or shape, or time-steps that do not fit.

    >>> from ditifeat.analysis.features import read_query
    >>> codes, columns = read_query(features[0], features.origin, features.partition, (500, 1000))
    >>> codes.shape, columns
    ((50,), slice(462, 512, None))
    """
    if isinstance(query, Features):
        check_same_origin(origin, query.origin)
    codes = as_codes(query, "the query")
    if codes.ndim not in (1, 2) or codes.shape[-1] != partition.d or not np.isfinite(codes).all():
        raise InputError(
            f"the query has shape {codes.shape}; it must be finite, one code of {partition.d} dimensions or (m, d)"
        )
    columns = slice(0, partition.d) if time_steps is None else dims_of_range(partition, time_steps)
    return codes[..., columns], columns


def _from_header(path: Path | str, array: np.ndarray, names: Any, skipped: Any, header: dict[str, Any]) -> Features:
    """Features of what a file holds; its header is a stranger's."""
    try:
        if header["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version {header['format_version']!r}, not {FORMAT_VERSION}")
        if array.dtype not in (np.float32, np.float16):
            raise ValueError(f"its type is {array.dtype}, not float32 or float16")
        texts = {key: header[key] for key in ("model", "weights", "preprocessing")}
        if not all(isinstance(text, str) for text in (*texts.values(), *names, *skipped)):
            raise ValueError("a name or a hash is no text")
        return Features(
            array.astype(np.float32, copy=False),
            tuple(names),
            from_dict(TimeStepPartition, header["partition"]),
            **texts,
            flip_average=boolean("flip_average", header["flip_average"]),
            skipped=tuple(skipped),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: does not hold features ({error}); make it again with encode") from error


def _from_table(what: str, table: Table) -> Features:
    single = table.header.get("single") is True and len(table.names) == 1
    array = table.array[0] if single else table.array
    return _from_header(what, array, table.names, table.header.get("skipped"), table.header)
