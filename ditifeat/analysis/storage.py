"""Features in one file, `.npz`, `.safetensors` or `.npy`: written block by block, so that no row is held twice.

A `.npy` has a file beside it, `NAME.npy.json`, with the names and what made the features; it is read as a memory map.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ditifeat.errors import InputError, MissingInputError
from ditifeat.files import CHECKSUM, atomic_write, read_json, read_tensors, tensor_label, write_text

SAFETENSORS_HEADER = 100_000_000  # bytes that its readers take at most

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16"}


class Content(NamedTuple):
    """What a file of features holds.

    Attributes:
        shape: `(n, d)`, or `(d,)` of one image.
        dtype: float32 or float16.
        blocks: the rows, in pieces.
        about: the header, the names and the skipped names.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    blocks: Iterable[np.ndarray]
    about: dict[str, Any]


def write_file(path: Path, content: Content) -> None:
    """Write features to one file, atomically.

    Raises:
        InputError: for another suffix, or more names than the format takes.
        WriteError: if it cannot be written.
    """
    if path.suffix not in WRITERS:
        raise InputError(f"{path}: features are saved as .npz, .safetensors, .npy or .parquet")
    if path.suffix == ".npy":
        with suppress(FileNotFoundError):
            about_path(path).unlink()  # it belongs to the file that is replaced
    atomic_write(path, lambda partial: WRITERS[path.suffix](partial, content))
    if path.suffix == ".npy":
        write_text(about_path(path), json.dumps(content.about))


def read_file(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read what `write_file` wrote: the array and what it is about; nothing in the file can run.

    Raises:
        MissingInputError: if there is no such file.
        InputError, ModelError: if it does not hold features.
    """
    if not path.exists():
        raise MissingInputError(f"{path}: there is no such file")
    array, about = READERS.get(path.suffix, _read_npz)(path)
    if not isinstance(about, dict) or not all(isinstance(about.get(key), list) for key in ("names", "skipped")):
        raise InputError(f"{path}: does not say which images it holds; make it again with encode")
    return array, about


def read_about(path: Path) -> dict[str, Any]:
    """Read what a file is about, without its features.

    Raises:
        MissingInputError, InputError, ModelError: as `read_file`.
    """
    if path.suffix == ".npz":
        return _read_npz(path, features=False)[1]
    return read_file(path)[1]


def about_path(path: Path) -> Path:
    """The file beside a `.npy`.

    >>> from pathlib import Path
    >>> from ditifeat.analysis.storage import about_path
    >>> about_path(Path("x.npy")).name
    'x.npy.json'
    """
    return path.with_name(path.name + ".json")


def _write_npy(path: Path, content: Content) -> None:
    with path.open("wb") as file:
        _write_array(file, content)


def _write_npz(path: Path, content: Content) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as file:
            _write_array(file, content)
        with archive.open("about.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array(file, np.array(json.dumps(content.about)), allow_pickle=False)


def _write_array(file: IO[bytes], content: Content) -> None:
    about = {"descr": np.lib.format.dtype_to_descr(content.dtype), "fortran_order": False, "shape": content.shape}
    np.lib.format.write_array_header_1_0(file, about)
    _write_blocks(file, content)


def _write_safetensors(path: Path, content: Content) -> None:
    # Its format: the header's length in 8 bytes, the header in JSON, the values. Its own writer wants them all at once.
    size = int(np.prod(content.shape)) * content.dtype.itemsize
    tensor = {"dtype": SAFETENSORS_DTYPES[content.dtype.name], "shape": content.shape, "data_offsets": [0, size]}
    metadata = {"ditifeat": json.dumps(content.about)}
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())  # as `files.write_tensors` has it
    digest.update(tensor_label("features", content.dtype.name, content.shape))

    def header() -> bytes:
        text = json.dumps({"__metadata__": metadata | {CHECKSUM: digest.hexdigest()}, "features": tensor}).encode()
        return text + b" " * (-len(text) % 8)

    length = len(header())
    if length > SAFETENSORS_HEADER:
        raise InputError(f"{path.name}: the names of {content.shape[0]} images are too long for it; save as .parquet")
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + header())
        _write_blocks(file, content, digest.update)
        file.seek(8)
        file.write(header())  # of the same length, with the hash of what is known now


def _write_blocks(file: IO[bytes], content: Content, watch: Callable[[memoryview], object] = len) -> None:
    for block in content.blocks:
        data = np.ascontiguousarray(block, content.dtype).reshape(-1).view(np.uint8).data
        watch(data)
        file.write(data)


def _read_npz(path: Path, features: bool = True) -> tuple[np.ndarray, dict[str, Any]]:
    if not zipfile.is_zipfile(path):  # numpy would advise to unpickle it, which is no fix and unsafe
        raise InputError(f"{path}: is no .npz file of features; make one with encode")
    try:
        with np.load(path, allow_pickle=False) as data:
            if any(member.compress_type != zipfile.ZIP_STORED for member in data.zip.infolist()):
                raise ValueError("it is compressed, and could unpack to any size")
            return data["features"] if features else np.empty(0), json.loads(str(data["about"]))
    except Exception as error:  # a damaged zip raises whatever its bytes lead to
        raise InputError(f"{path}: cannot be read as features ({error}); make it again with encode") from error


def _read_npy(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    if not about_path(path).exists():
        raise InputError(
            f"{path}: {about_path(path).name}, which names its rows, is missing; make it again with encode"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as features ({error}); make it again with encode") from error
    return array, read_json(about_path(path))


def _read_safetensors(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    tensors, metadata = read_tensors(path)
    try:
        return tensors["features"].numpy(), json.loads(metadata["ditifeat"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # TypeError of bfloat16, which numpy lacks
        raise InputError(f"{path}: does not hold features ({error}); make it again with encode") from error


WRITERS: dict[str, Callable[[Path, Content], None]] = {
    ".npz": _write_npz,
    ".safetensors": _write_safetensors,
    ".npy": _write_npy,
}

READERS: dict[str, Callable[[Path], tuple[np.ndarray, dict[str, Any]]]] = {
    ".safetensors": _read_safetensors,
    ".npy": _read_npy,
}
