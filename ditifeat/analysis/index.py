"""An index of saved features by faiss, for millions of rows: a folder of its own, which says what it was made of.

Each pair of dimensions becomes one of 16 codewords (product quantisation of 4 bits, whose table of distances fits into the
processor's registers: Andre et al. 2015). A query is compared with all rows so, in a few milliseconds per million, and then
with the best few hundred exactly, in float16. DiTi's codes fill their dimensions nearly evenly: graphs and cells, which
leave out rows unseen, lose more of them.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ditifeat.analysis.columns import dims_of_range
from ditifeat.analysis.features import Features, read_query
from ditifeat.analysis.origin import Origin
from ditifeat.analysis.shards import SUFFIX, list_shards
from ditifeat.errors import InputError, MissingInputError, require
from ditifeat.files import read_json, replaced_folder, sha256, write_text
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import from_dict, integer

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1

ABOUT, CODES, NAMES, NAME_ENDS, VECTORS = "index.json", "codes.npy", "names.txt", "name_ends.npy", "vectors.faiss"

CODEWORDS = 16  # per pair of dimensions

SAMPLE = 16_384  # rows, at least, that the codewords are chosen by, if there are as many

CANDIDATES = 40  # per neighbour that is wanted, compared exactly
MIN_CANDIDATES = 1000


def is_index(path: Path) -> bool:
    """Whether a folder is an index.

    >>> from pathlib import Path
    >>> from ditifeat.analysis.index import is_index
    >>> is_index(Path("photos"))
    False
    """
    return (path / ABOUT).is_file()


class _Moments(NamedTuple):
    """Of all rows: how many, their mean `(m,)`, the root of the summed variance; and evenly spaced rows of them."""

    rows: int
    mean: np.ndarray
    scale: float
    sample: np.ndarray


def build_index(path: str | Path, out: str | Path, *, time_steps: tuple[int, int] | None = None) -> Index:
    """Write an index of saved features, of all dimensions or of a range of time-steps; memory does not grow with the rows.

    Args:
        path: what `encode` wrote; Parquet and `.npy` are read piece by piece, twice.
        out: the folder to write; one that is there is replaced.
        time_steps: `(lo, hi)`, edges of subsets; all by default.

    Raises:
        InputError: for features that do not fit, or a folder that is something else.
        MissingDependencyError: without faiss.

    >>> from ditifeat.analysis.index import build_index
    >>> features.save("faces.npy")
    >>> index = build_index("faces.npy", "faces.index", time_steps=(500, 1000))
    >>> [name for name, distance in index.nearest(features[3], count=1)]
    ['3.png']
    """
    path, out = Path(path), Path(out)
    require("faiss", "index")
    if out.exists() and not is_index(out):
        raise InputError(f"{out}: exists already, and is no index; choose a new folder")
    files = [_File.of(each) for each in _files_of(path)]
    first = next(Features.iterate(path))
    columns = slice(0, first.partition.d) if time_steps is None else dims_of_range(first.partition, time_steps)
    moments = _moments(path, columns)
    about = {
        "format_version": FORMAT_VERSION,
        "features": first.header,
        "time_steps": time_steps,
        "rows": moments.rows,
        "mean": moments.mean.tolist(),
        "scale": moments.scale,
        "source": os.path.relpath(path, out.absolute().parent),
        "files": [file._asdict() for file in files],
    }
    with replaced_folder(out) as fresh:
        _write(fresh, path, columns, moments)
        write_text(fresh / ABOUT, json.dumps(about))
    return Index.open(out)


class Index:
    """An index that `build_index` wrote.

    Attributes:
        folder: where it is.
        partition: of the features.
        origin: hashes of the weights and the preprocessing of the features, and whether they are averaged over flips.
        time_steps: the range that it is of; None for all.
        rows: how many it holds.
    """

    def __init__(self, folder: Path, about: dict[str, Any]):
        header = about["features"]
        self.folder = folder
        self.partition = from_dict(TimeStepPartition, header["partition"])
        self.origin = Origin(header["weights"], header["preprocessing"], header["flip_average"])
        self.time_steps = None if about["time_steps"] is None else tuple(about["time_steps"])
        self.rows = int(about["rows"])
        self._mean, self._scale = np.array(about["mean"], dtype=np.float32), float(about["scale"])
        self._vectors = require("faiss", "index").read_index(str(folder / VECTORS))
        self._codes = np.load(folder / CODES, mmap_mode="r")
        self._ends = np.load(folder / NAME_ENDS, mmap_mode="r")
        self._names = np.memmap(folder / NAMES, np.uint8, "r") if self._ends[-1] else np.empty(0, np.uint8)
        same = len(self._codes) == len(self._ends) == self._vectors.ntotal == self.rows
        if not same or len(self._names) != self._ends[-1]:
            raise ValueError("its files do not belong together")

    @staticmethod
    def open(folder: str | Path) -> Index:
        """Open an index.

        Raises:
            MissingInputError: if there is none.
            InputError: if it is damaged, or its features have changed since it was made. Features that are not where they were
                are not looked for.
            MissingDependencyError: without faiss.
        """
        folder = Path(folder)
        if not is_index(folder):
            raise MissingInputError(f"{folder}: is no index; make one with `ditifeat index`")
        require("faiss", "index")
        about = read_json(folder / ABOUT)
        try:
            if about["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {about['format_version']!r}, not {FORMAT_VERSION}")
            source = folder.absolute().parent / about["source"]
            _check_fresh(folder, source, [_File(**file) for file in about["files"]])
            return Index(folder, about)
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:  # faiss raises the last
            raise InputError(f"{folder}: cannot be read as an index ({error}); make it again") from error

    def nearest(self, query: Any, *, time_steps: tuple[int, int] | None = None, count: int = 5) -> list[Any]:
        """Find the rows nearest to one code or several, as `Features.nearest`; now and then one of them is missed.

        Args:
            query: `Features` or array, `(d,)` or `(m, d)`, of all dimensions.
            time_steps: those that the index is of; they may be left out.
            count: how many neighbours.

        Raises:
            InputError: for a query, time-steps or a count that do not fit.
        """
        count = integer("count", count, 1, self.rows)
        if time_steps is not None and tuple(time_steps) != (self.time_steps or (0, self.partition.ranges[-1][1])):
            raise InputError(f"{self.folder}: is of {self.range}; make another index for other time-steps")
        codes, _ = read_query(query, self.origin, self.partition, self.time_steps)
        scaled = (np.atleast_2d(codes) - self._mean) / np.float32(self._scale)
        found = [self._nearest(one, count) for one in scaled]
        return found[0] if codes.ndim == 1 else found

    def _nearest(self, code: np.ndarray, count: int) -> list[tuple[str, float]]:
        candidates = min(self.rows, max(MIN_CANDIDATES, CANDIDATES * count))
        found = self._vectors.search(_even(code[None]), candidates)[1][0]
        rows = np.sort(found[found >= 0])
        distances = np.linalg.norm(self._codes[rows].astype(np.float32) - code, axis=1)
        return [(self._name(rows[i]), float(distances[i])) for i in np.argsort(distances, kind="stable")[:count]]

    def _name(self, row: int) -> str:
        start = self._ends[row - 1] if row else 0
        return bytes(self._names[start : self._ends[row]]).decode("utf-8", "surrogateescape")

    @property
    def range(self) -> str:
        """Its time-steps, in words."""
        return f"time-steps {self.time_steps[0]}-{self.time_steps[1]}" if self.time_steps else "all time-steps"

    def __repr__(self) -> str:
        return f"Index({str(self.folder)!r}, {self.rows} rows, {self.range})"


class _File(NamedTuple):
    """A file of features as it was when the index was made."""

    name: str
    size: int
    modified: int
    sha256: str

    @staticmethod
    def of(path: Path) -> _File:
        status = path.stat()
        return _File(path.name, status.st_size, status.st_mtime_ns, sha256(path))

    def is_still(self, path: Path) -> bool:
        """Contents are compared where the time differs alone, as after a copy: that reads the file whole."""
        status = path.stat()
        return status.st_size == self.size and (status.st_mtime_ns == self.modified or sha256(path) == self.sha256)


def _files_of(path: Path) -> list[Path]:
    if path.suffix == SUFFIX:
        return list_shards(path)
    if not path.exists():
        raise MissingInputError(f"{path}: there is no such file")
    return [path]


def _check_fresh(folder: Path, source: Path, files: list[_File]) -> None:
    if not source.exists():
        logger.info("%s: its features %s are not there, so nobody knows whether they have changed", folder, source)
        return
    now = _files_of(source)
    same = [path.name for path in now] == [file.name for file in files]
    if not same or not all(file.is_still(path) for file, path in zip(files, now, strict=True)):
        raise InputError(f"{folder}: {source} has changed since the index was made; make it again")


def _moments(path: Path, columns: slice) -> _Moments:
    rows, stride = 0, 1
    offset: Any = None
    sums: Any = 0.0
    squares, sample = 0.0, []
    for part in Features.iterate(path):
        values = np.atleast_2d(part.array)[:, columns]
        if not np.isfinite(values).all():
            raise InputError(f"{path}: the features hold NaN or infinite values")
        if not len(values):
            continue
        offset = values[0].astype(np.float64) if offset is None else offset
        around = values - offset
        sums, squares = sums + around.sum(0), squares + float(np.square(around).sum())
        sample.append(values[-rows % stride :: stride].copy())  # not the whole piece
        rows += len(values)
        if sum(map(len, sample)) > 2 * SAMPLE:
            sample, stride = [np.concatenate(sample)[::2]], 2 * stride
    if offset is None:
        raise InputError(f"{path}: holds no features")
    mean = sums / rows
    variance = squares / rows - float(np.square(mean).sum())
    scale = variance**0.5 if variance > 1e-12 * squares / rows else 1.0
    return _Moments(rows, (mean + offset).astype(np.float32), scale, np.concatenate(sample))


def _write(folder: Path, path: Path, columns: slice, moments: _Moments) -> None:
    faiss = require("faiss", "index")
    width = len(moments.mean)
    pairs = (width + 1) // 2
    vectors = faiss.IndexPQFastScan(2 * pairs, pairs, 4)
    vectors.pq.cp.min_points_per_centroid = 1  # so few rows are no reason to warn on stderr
    sample = (moments.sample - moments.mean) / np.float32(moments.scale)
    vectors.train(_even(np.resize(sample, (max(len(sample), CODEWORDS), width))))  # rows come again if they are too few
    end = 0
    # Written from one end to the other, and not mapped: a full disk is then an error, and no fault of the process.
    with ExitStack() as files:
        codes, ends, names = (files.enter_context((folder / file).open("wb")) for file in (CODES, NAME_ENDS, NAMES))
        _begin(codes, np.float16, (moments.rows, width))
        _begin(ends, np.int64, (moments.rows,))
        for part in Features.iterate(path):
            values = (np.atleast_2d(part.array)[:, columns] - moments.mean) / np.float32(moments.scale)
            vectors.add(_even(values))
            codes.write(values.astype(np.float16).tobytes())
            encoded = [name.encode("utf-8", "surrogateescape") for name in part.names]
            lengths = end + np.cumsum([len(name) for name in encoded], dtype=np.int64)
            ends.write(lengths.tobytes())
            names.write(b"".join(encoded))
            end = int(lengths[-1]) if len(lengths) else end
    faiss.write_index(vectors, str(folder / VECTORS))


def _even(codes: np.ndarray) -> np.ndarray:
    """The codes, with a dimension of zeros if theirs are odd in number: they are taken in pairs."""
    return np.ascontiguousarray(np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))), dtype=np.float32)


def _begin(file: IO[bytes], dtype: type, shape: tuple[int, ...]) -> None:
    """Write the header of a `.npy` file, whose values follow."""
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
