"""Tables with a column of images: Parquet files, and data sets of the library `datasets`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from ditifeat.data.decode import is_image
from ditifeat.data.folders import is_hidden, kind_of_name
from ditifeat.data.readers import Source, cell_source
from ditifeat.errors import InputError, MissingInputError, require

ROWS = 32  # that are read at once

BUFFER = 2**20  # bytes: or else a whole row group would be read at once


def parquet_files(path: str) -> list[str]:
    """List the Parquet files of a folder, sorted; or the file itself.

    Raises:
        MissingInputError: if there is none.
    """
    if not os.path.isdir(path):
        if not os.path.exists(path):
            raise MissingInputError(f"{path}: there is no such file")
        return [path]
    found = []
    for place, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [os.path.join(place, f) for f in files if f.lower().endswith(".parquet") and not is_hidden(f)]
    if not found:
        raise MissingInputError(f"{path}: holds no Parquet file")
    return sorted(found)


def read_parquet(path: str, column: str | None = None) -> Iterator[Source]:
    """Name and read the images in a column of a Parquet file, or of a folder of them.

    Names are the images' paths, or "" where there is none.

    Args:
        path: of the file or folder.
        column: of images: structs of `bytes` and `path` as `datasets` writes them, bytes, or paths from the file's folder;
            by default the one that there is.

    Raises:
        InputError: if a file is damaged, has no such column, or several.
        MissingDependencyError: without pyarrow.
    """
    require("pyarrow", "parquet")
    for file in parquet_files(path):
        yield from _read_file(file, column)


def count_parquet(path: str) -> int:
    """Count the rows of a Parquet file, or of a folder of them.

    Raises:
        InputError: if a file is damaged.
        MissingDependencyError: without pyarrow.
    """
    require("pyarrow", "parquet")
    return sum(_open(file).metadata.num_rows for file in parquet_files(path))


def _open(file: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({error})") from error


def _read_file(file: str, column: str | None) -> Iterator[Source]:
    import pyarrow as pa

    row = 0
    with _open(file) as table:
        try:
            column = _parquet_column(table, file, column)
            for batch in table.iter_batches(ROWS, columns=[column]):
                for cell in batch.column(0):
                    yield cell_source(cell.as_py(), os.path.dirname(file), f"{file}, row {row}")
                    row += 1
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{file}: is damaged or incomplete, at row {row} or soon after ({error})") from error


def _parquet_column(table: Any, file: str, column: str | None) -> str:
    schema = table.schema_arrow
    kinds = {field.name: _kind_of_type(field.type) for field in schema}
    if len(kinds) < len(schema):
        twice = next(name for name in kinds if schema.names.count(name) > 1)
        raise InputError(f"{file}: has several columns named {twice!r}; give each its own name")
    if column is not None:
        if column not in kinds:
            raise InputError(f"{file}: has no column {column!r}; it has {', '.join(kinds)}")
        if not kinds[column]:
            raise InputError(f"{file}#{column}: holds {schema.field(column).type}, and no images")
        return column
    first = _first_rows(table, [name for name, kind in kinds.items() if kind])
    return choose_column(file, kinds, first, lambda name: f"{file}#{name}")


def _first_rows(table: Any, names: list[str]) -> dict[str, Any]:
    """The first value that each column has, among the first rows."""
    for batch in table.iter_batches(ROWS, columns=names) if names else ():
        rows = batch.to_pylist()
        return {name: next((row[name] for row in rows if row[name] is not None), None) for name in names}
    return {}


def _kind_of_type(kind: Any) -> str:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return "struct" if {"bytes", "path"} <= {field.name for field in kind} else ""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "bytes"
    return "path" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else ""


def choose_column(table: str, kinds: dict[str, str], first: dict[str, Any], spell: Callable[[str], str]) -> str:
    """Choose the column of images: the only one of structs or bytes, or else of paths.

    Args:
        table: its name, for messages.
        kinds: "struct", "bytes", "path" or "" per column.
        first: a value per column, where there is one.
        spell: how a column is asked for.

    Raises:
        InputError: if there is none, or are several.

    >>> choose_column("a.parquet", {"file": "path", "id": "path"}, {"file": "1.png", "id": "1"}, str)
    'file'
    """
    embedded = [n for n, kind in kinds.items() if kind == "struct" or (kind == "bytes" and _has_image(first.get(n)))]
    paths = [n for n, kind in kinds.items() if kind == "path" and _is_image_path(first.get(n))]
    if not first and not embedded:  # of no rows, types alone tell
        embedded = [n for n, kind in kinds.items() if kind == "bytes"]
    found = embedded or paths
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{table}: has {len(found)} columns of images; say which: {', '.join(map(spell, found))}")
    asked = next((n for n, kind in kinds.items() if kind), None)
    hint = f"; if it is {asked!r}, say so: {spell(asked)}" if asked else ""
    raise InputError(f"{table}: has no column of images among {', '.join(kinds) or 'none'}{hint}")


def _has_image(value: Any) -> bool:
    from io import BytesIO

    return isinstance(value, bytes) and is_image(BytesIO(value))


def _is_image_path(value: Any) -> bool:
    return isinstance(value, str) and kind_of_name(os.path.basename(value)) == "image"
