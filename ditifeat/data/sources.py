"""The named images of whatever a user has: paths, folders, tars, PIL images, arrays, tensors, tables, iterables."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ditifeat.data.arrays import array_to_image, tensor_to_image
from ditifeat.data.decode import Reduction, decode
from ditifeat.data.folders import is_tar, list_folder, read_tar
from ditifeat.errors import DitifeatError, InputError, MissingImageError

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """Reads an image, at any time and in any thread; a JPEG may be reduced, see `decode`."""

    def __call__(self, reduction: Reduction | None = None) -> Image.Image: ...


# An image's name, and what reads it.
Source = tuple[str, Reader]

THE_IMAGE = "the image"


@dataclass
class SourceReport:
    """What a call left out of its images, and why.

    Attributes:
        skipped: names and reasons of images that could not be decoded, under `on_error="skip"`.
        left_out: how many files were no images, by their suffix or kind.

    >>> from collections import Counter
    >>> print(SourceReport([("broken.png", "is damaged")], Counter({".txt": 2})))
    1 image skipped: broken.png; left out: 2 .txt
    """

    skipped: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = []
        if self.skipped:
            names = ", ".join(name for name, _ in self.skipped[:3]) + (", ..." if len(self.skipped) > 3 else "")
            parts.append(f"{len(self.skipped)} image{'s' * (len(self.skipped) > 1)} skipped: {names}")
        if self.left_out:
            parts.append("left out: " + ", ".join(f"{count} {kind}" for kind, count in self.left_out.most_common()))
        return "; ".join(parts) or "nothing left out"


def is_single(images: Any) -> bool:
    """Whether `images` is one image, whose features are one row: a file, a Pillow image, one array or tensor.

    >>> is_single("me.png"), is_single("photos/"), is_single(["me.png"])
    (True, False, False)
    """
    if isinstance(images, str | os.PathLike):
        return not (os.path.isdir(images) or is_tar(_path(images)))
    if isinstance(images, Image.Image | bytes | bytearray | memoryview) or hasattr(images, "read"):
        return True
    numeric = getattr(getattr(images, "dtype", None), "kind", "f") not in "OUT"
    return numeric and not hasattr(images, "columns") and getattr(images, "ndim", 4) in (2, 3)


def sources(images: Any, report: SourceReport | None = None) -> Iterator[Source]:
    """Name the images of whatever a user has, one by one.

    Names are paths, from the folder or within the tar if one is given by itself, and numbers where there is no path. Of
    equal names the second becomes `name#2`. Files are read when a source is; objects, which their owner may change, are
    decoded as they are pulled.

    Args:
        images: a path of an image, folder or tar; an encoded image's bytes or an open file; a Pillow image; an array
            `(H, W, 3)` or `(N, H, W, 3)`; a tensor `(3, H, W)` or `(N, 3, H, W)`; a column of a table; or an iterable of
            any of these. See `array_to_image` and `tensor_to_image` for types and ranges.
        report: counts the files that are left out, as they are no images.

    Raises:
        InputError, ImageDecodeError: for anything else.

    >>> [name for name, read in sources(["me.png", np.zeros((8, 8, 3), np.uint8)])]
    ['me.png', '1']
    """
    report = SourceReport() if report is None else report
    if isinstance(images, str | os.PathLike) and not os.path.exists(_path(images)):
        raise MissingImageError(f"{_path(images)}: there is no such file or folder")
    seen: Counter[str] = Counter()
    for index, (name, read) in enumerate(_sources(images, report.left_out, nested=False)):
        if name:
            yield _unique(name, seen), read
        else:
            yield _unique(str(index), seen), partial(_read_unnamed, index, read)
    if report.left_out:
        logger.info("%s", SourceReport(left_out=report.left_out))


def _unique(name: str, seen: Counter[str]) -> str:
    while True:
        seen[name] += 1
        if seen[name] == 1:
            return name
        name = f"{name}#{seen[name]}"


def _read_unnamed(index: int, read: Reader, reduction: Reduction | None = None) -> Image.Image:
    try:
        return read(reduction)
    except DitifeatError as error:
        raise type(error)(f"{index}: {error}") from error


def _sources(images: Any, left_out: Counter[str], nested: bool) -> Iterator[Source]:
    if isinstance(images, str | os.PathLike):
        yield from _path_sources(_path(images), left_out, nested)
    elif isinstance(images, Image.Image):
        name = getattr(images, "filename", "")
        yield _path(name), _taken(partial(decode, images, _path(name) or THE_IMAGE))
    elif isinstance(images, bytes | bytearray | memoryview):
        yield "", partial(decode, bytes(images), THE_IMAGE)
    elif hasattr(images, "read"):
        yield _file_source(images)
    elif _is_tensor(images):
        rows = images if images.ndim == 4 else [images]
        yield from (("", _taken(partial(tensor_to_image, row))) for row in rows)
    elif hasattr(images, "__array__"):
        yield from _array_sources(images, left_out)
    elif isinstance(images, Iterable) and not isinstance(images, Mapping | set | frozenset):
        for image in images:
            yield from _sources(image, left_out, nested=True)
    else:
        raise InputError(
            f"{type(images).__name__} is not an image; pass a path, folder, PIL image, array or tensor, or a list of them"
        )


def _path(path: str | os.PathLike[str]) -> str:
    return os.fsdecode(path)


def _path_sources(path: str, left_out: Counter[str], nested: bool) -> Iterator[Source]:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", path):
        raise InputError(
            f"{path[:80]}: is a URL, and nothing is downloaded; download it, and pass the file or its bytes"
        )
    if os.path.isdir(path):
        for file in list_folder(path, left_out):
            yield (file if nested else file.relative_to(path)).as_posix(), partial(decode, file, str(file))
    elif is_tar(path):
        for name, data in read_tar(path, left_out):
            label = f"{path}/{name}"
            read = partial(decode, data, label) if isinstance(data, bytes) else partial(_fail, data)
            yield label if nested else name, read
    else:
        yield path, partial(decode, path, path)


def _file_source(file: Any) -> Source:
    name = getattr(file, "name", "")
    name = name if isinstance(name, str) else ""
    try:
        data = file.read()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{name or 'the file'}: cannot be read ({error}); pass its path, or a file that is open"
        ) from error
    if not isinstance(data, bytes):
        raise InputError(f"{name or 'the file'}: is open as text; open it with mode 'rb'")
    return name, partial(decode, data, name or THE_IMAGE)


def _array_sources(images: Any, left_out: Counter[str]) -> Iterator[Source]:
    """Rows of a numeric array; items of an array of objects: of a column of paths, say."""
    try:
        array = images if isinstance(images, np.ndarray) else np.asarray(images)
    except Exception as error:  # whatever a foreign library raises
        raise InputError(f"{type(images).__name__} cannot be read as an array ({error})") from error
    if array.dtype.kind in "OUT":
        if array.ndim != 1 and not (array.ndim == 2 and array.shape[1] == 1):
            raise InputError(
                f"{type(images).__name__} of shape {array.shape} is not one column of images; pass that alone"
            )
        for item in array.reshape(-1):
            yield from _sources(item, left_out, nested=True)
    elif hasattr(images, "columns"):
        raise InputError(f"{type(images).__name__} of numbers is not images; pass the column of their paths")
    else:
        for row in array if array.ndim == 4 else [array]:
            yield "", _taken(partial(array_to_image, row))


def _is_tensor(images: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(images, torch.Tensor)


def _taken(read: Callable[[], Image.Image]) -> Reader:
    """Read now, in the caller's thread: the object may change when its owner goes on."""
    try:
        image = read()
    except DitifeatError as error:
        return partial(_fail, error)
    return lambda reduction=None: image


def _fail(error: DitifeatError, reduction: Reduction | None = None) -> Image.Image:
    raise error
