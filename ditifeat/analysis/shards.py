"""Features as a folder of Parquet shards, `NAME.parquet/part-00000.parquet` and so on: written and read piece by piece.

Columns are `name` (string), `features` (fixed-size list of d float32 or float16) and `error` (string, null where the image
could be read). Features of a row with an error are NaN, not null: versions of pyarrow before 26 read no null in a
fixed-size list. Each shard's schema has the key `ditifeat`, the JSON of `Features.header`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ditifeat.errors import DitifeatError, InputError, MissingInputError, require
from ditifeat.files import atomic_write, read_json, replaced_folder

if TYPE_CHECKING:
    import pyarrow

SUFFIX = ".parquet"

SHARD_ROWS = 32_768  # 64 MiB of 512 float32

STATE = "_encoding.json"  # of the run that writes the folder; readers of Parquet pass over names with _ before

KEY = b"ditifeat"


class Rows(NamedTuple):
    """Some rows of features.

    Attributes:
        names: of the images.
        features: `(n, d)`; NaN where there was an error.
        errors: why an image has no features; None where it has.
    """

    names: list[str]
    features: np.ndarray
    errors: list[str | None]

    def fine(self) -> tuple[list[str], np.ndarray]:
        """Names and features of the rows without an error.

        >>> from ditifeat.analysis.shards import Rows
        >>> Rows(["a.png", "b.png"], np.zeros((2, 1)), [None, "b.png: is damaged"]).fine()
        (['a.png'], array([[0.]]))
        """
        if not any(self.errors):
            return self.names, self.features
        kept = [i for i, error in enumerate(self.errors) if error is None]
        return [self.names[i] for i in kept], self.features[kept]


def join_rows(parts: list[Rows], dtype: str) -> Rows:
    """Join parts, of one at least, with features in a dtype.

    >>> from ditifeat.analysis.shards import Rows, join_rows
    >>> join_rows([Rows(["a"], np.zeros((1, 2)), [None])] * 2, "float16").features.shape
    (2, 2)
    """
    features = np.concatenate([part.features for part in parts]).astype(dtype, copy=False)
    names = [name for part in parts for name in part.names]
    return Rows(names, features, [error for part in parts for error in part.errors])


def shard_path(folder: Path, number: int) -> Path:
    """The path of a shard.

    >>> from pathlib import Path
    >>> from ditifeat.analysis.shards import shard_path
    >>> shard_path(Path("x.parquet"), 7).name
    'part-00007.parquet'
    """
    return folder / f"part-{number:05d}.parquet"


def list_shards(folder: Path) -> list[Path]:
    """List a folder's shards, in their order.

    Raises:
        MissingInputError: if there is no such folder.
        InputError: if one is missing, or there is none.
    """
    if not folder.is_dir():
        raise MissingInputError(f"{folder}: there is no such folder")
    found = {}
    for path in folder.iterdir():
        match = re.fullmatch(r"part-(\d{5,})\.parquet", path.name)
        if match:
            found[int(match[1])] = path
    if not found:
        raise InputError(f"{folder}: holds no part-00000.parquet; make it with encode")
    missing = next((i for i in range(len(found)) if i not in found), None)
    if missing is not None:
        raise InputError(f"{folder}: {shard_path(folder, missing).name} is missing; copy it anew, or encode again")
    return [found[i] for i in range(len(found))]


def write_shard(path: Path, rows: Rows, header: dict[str, Any]) -> None:
    """Write one Parquet file, atomically.

    Args:
        path: `NAME.parquet/part-00000.parquet`, from `shard_path`.
        rows: features in float32 or float16.
        header: of `Features`.

    Raises:
        MissingDependencyError: without pyarrow.
        WriteError: if it cannot be written.

    >>> from pathlib import Path
    >>> from ditifeat.analysis.shards import Rows, iterate_rows, shard_path, write_shard
    >>> rows = Rows(list(features.names), features.array, [None] * len(features))
    >>> write_shard(shard_path(Path("faces.parquet"), 0), rows, features.header)
    >>> [part.features.shape for part in iterate_rows(Path("faces.parquet"), count=6)]
    [(6, 512), (2, 512)]
    """
    parquet = require("pyarrow.parquet", "parquet")
    table = rows_to_table(rows).replace_schema_metadata({KEY: json.dumps(header)})
    # Floats of codes hardly compress, and no value comes twice. Damaged pages are found by their checksums.
    packed = {"compression": {"name": "zstd", "error": "zstd"}, "use_dictionary": ["error"]}
    written = {**packed, "row_group_size": 8192, "write_page_checksum": True}
    atomic_write(path, lambda partial: parquet.write_table(table, partial, **written))


def rows_to_table(rows: Rows) -> pyarrow.Table:
    """The columns `name`, `features` and `error`."""
    arrow = require("pyarrow", "parquet")
    width = rows.features.shape[1]
    values = arrow.array(np.ascontiguousarray(rows.features).reshape(-1))
    return arrow.table(
        {
            "name": arrow.array(rows.names, arrow.string()),
            "features": arrow.FixedSizeListArray.from_arrays(values, width),
            "error": arrow.array(rows.errors, arrow.string()),
        }
    )


def write_folder(folder: Path, parts: Iterable[Rows], header: dict[str, Any]) -> None:
    """Write a folder of shards; one that is there already is replaced when all is written.

    Raises:
        MissingDependencyError: without pyarrow.
        WriteError: if it cannot be written.
    """
    with replaced_folder(folder) as fresh:
        for number, rows in enumerate(split_rows(parts)):
            write_shard(shard_path(fresh, number), rows, header)


def read_folder(folder: Path) -> tuple[list[str], np.ndarray, list[str]]:
    """Read all of a folder of shards: names and features, float32 `(n, d)`, of the rows without an error; the other names.

    Raises:
        MissingInputError, InputError: as `iterate_rows`.
    """
    names: list[str] = []
    skipped: list[str] = []
    array = np.empty((0, 0), np.float32)
    for rows in iterate_rows(folder):
        fine, features = rows.fine()
        if not array.size:
            array = np.empty((sum(map(count_rows, list_shards(folder))), features.shape[1]), np.float32)
        array[len(names) : len(names) + len(fine)] = features
        names += fine
        skipped += [name for name, error in zip(rows.names, rows.errors, strict=True) if error is not None]
    return names, array[: len(names)], skipped


def read_header(folder: Path) -> dict[str, Any]:
    """Return the header of a folder of shards.

    Raises:
        MissingInputError, InputError: if it holds no shards of features, or the run that writes it is not finished.
    """
    state = folder / STATE
    said = read_json(state) if state.exists() else {"finished": True}
    if not (isinstance(said, dict) and said.get("finished")):
        raise InputError(f"{folder}: is not finished; run the command that makes it again, and it goes on")
    return _header(list_shards(folder)[0])


def iterate_rows(folder: Path, count: int = 8192) -> Iterator[Rows]:
    """Read a folder of shards in pieces of up to `count` rows, features as they are stored, with memory that does not grow.

    There is one piece at least, empty if there are no rows.

    Raises:
        MissingInputError, InputError: as `read_header`; for a shard that is damaged, or of another encoder.
    """
    header = read_header(folder)
    for path in list_shards(folder):
        if _header(path) != header:
            raise InputError(f"{path}: was made in another way than the shards before it; encode again")
        yield from iterate_shard(path, count)


def iterate_shard(path: Path, count: int = 8192) -> Iterator[Rows]:
    """Read one shard in pieces of up to `count` rows.

    Raises:
        InputError: if it is damaged, or holds no features.
    """
    with _open(path) as file:
        try:
            for batch in file.iter_batches(count, columns=["name", "features", "error"]):
                values = batch.column("features")
                if not hasattr(values.type, "list_size"):
                    raise InputError(f"{path}: has no features of a fixed length; make it with encode")
                features = values.flatten().to_numpy().reshape(len(values), values.type.list_size)
                yield Rows(batch.column("name").to_pylist(), features, batch.column("error").to_pylist())
        except DitifeatError:
            raise
        except (KeyError, OSError, ValueError) as error:  # pyarrow's own derive from these
            raise InputError(f"{path}: cannot be read as features ({error}); make it with encode") from error


def count_rows(path: Path) -> int:
    """Return how many rows a shard has, from its last bytes alone.

    Raises:
        InputError: if it is damaged.
    """
    with _open(path) as file:
        return file.metadata.num_rows


def split_rows(parts: Iterable[Rows], count: int = SHARD_ROWS) -> Iterator[Rows]:
    """Cut rows into pieces of `count`, the last smaller.

    >>> from ditifeat.analysis.shards import Rows, split_rows
    >>> [part.names for part in split_rows([Rows(["a", "b", "c"], np.zeros((3, 1)), [None] * 3)], 2)]
    [['a', 'b'], ['c']]
    """
    for part in parts:
        for start in range(0, max(len(part.names), 1), count):  # no rows are one empty piece
            here = slice(start, start + count)
            yield Rows(part.names[here], part.features[here], part.errors[here])


def _header(path: Path) -> dict[str, Any]:
    with _open(path) as file:
        about = (file.schema_arrow.metadata or {}).get(KEY)
    try:
        header = json.loads(about or b"")
        if not isinstance(header, dict):
            raise TypeError("its header is no mapping")
        return header
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: does not say which model made it ({error}); make it with encode") from error


def _open(path: Path) -> Any:
    parquet = require("pyarrow.parquet", "parquet")
    try:
        return parquet.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:  # pyarrow's own derive from these
        raise InputError(f"{path}: is no whole Parquet file ({error}); encode again") from error
