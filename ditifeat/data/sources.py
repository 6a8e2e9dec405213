"""The named images of whatever a user has: paths of all kinds, Pillow images, arrays, tensors, tables, iterables."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ditifeat.data.archives import is_tar, read_tar, read_zip
from ditifeat.data.arrays import array_to_image, tensor_to_image
from ditifeat.data.datasets import is_dataset, read_dataset
from ditifeat.data.decode import decode
from ditifeat.data.folders import list_folder
from ditifeat.data.paths import BRACES, expand, kind_of_path, read_list, split_column
from ditifeat.data.readers import THE_IMAGE, Failing, FromBytes, Labelled, Source, cell_source, check_local, taken
from ditifeat.data.tables import read_parquet
from ditifeat.data.video import read_video
from ditifeat.errors import InputError, MissingImageError, MissingInputError

logger = logging.getLogger(__name__)


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
        return kind_of_path(_path(images)) == "image"
    if is_dataset(images):
        return False
    if isinstance(images, Image.Image | bytes | bytearray | memoryview) or hasattr(images, "read"):
        return True
    numeric = getattr(getattr(images, "dtype", None), "kind", "f") not in "OUT"
    return numeric and not hasattr(images, "columns") and getattr(images, "ndim", 4) in (2, 3)


def sources(images: Any, report: SourceReport | None = None) -> Iterator[Source]:
    """Name the images of whatever a user has, one by one.

    Names are paths, from the folder or within the archive if one is given by itself, and numbers where there is no path. Of
    equal names the second becomes `name#2`. Files are read when a source is; objects, which their owner may change, are
    decoded as they are pulled. Whatever has many images is read one after another: memory does not grow with their number.

    Args:
        images: one of these, or an iterable of any of them:

            - a path of an image, or of a folder;
            - a pattern: `photos/**/*.jpg`, or the tars of WebDataset as `shard-{000..010}.tar`, whose names are then those
              within the tars;
            - a list of paths, `.txt` or `.lst`, one per line, from the list's folder;
            - a `.tar`, also compressed (`.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz`), or a `.zip`;
            - a `.parquet` file, or a folder of them, with a column of images (structs of `bytes` and `path` as `datasets`
              writes them, bytes, or paths from the file's folder); of several, `table.parquet#column`;
            - a video (`.mp4`, `.mov`, `.mkv`, `.webm`, ...), by its frames, named `clip.mp4#000012`; needs PyAV;
            - a data set of `datasets`, or a column of it;
            - an encoded image's bytes, or an open file;
            - a Pillow image; an array `(H, W, 3)` or `(N, H, W, 3)`; a tensor `(3, H, W)` or `(N, 3, H, W)`: see
              `array_to_image` and `tensor_to_image` for types and ranges;
            - a column of a table.
        report: counts the files that are left out, as they are no images.

    Raises:
        InputError, ImageDecodeError: for anything else.
        MissingDependencyError: for a table or a video, without the library that reads it.

    >>> [name for name, read in sources(["me.png", np.zeros((8, 8, 3), np.uint8)])]
    ['me.png', '1']
    """
    report = SourceReport() if report is None else report
    if isinstance(images, str | os.PathLike):
        check_local(_path(images))
        if kind_of_path(_path(images)) != "pattern" and not os.path.exists(split_column(_path(images))[0]):
            raise MissingImageError(f"{_path(images)}: there is no such file or folder")
    seen: Counter[str] = Counter()
    for index, (name, read) in enumerate(_sources(images, report.left_out, nested=False)):
        if name:
            yield _unique(name, seen), read
        else:
            yield _unique(str(index), seen), Labelled(str(index), read)
    if report.left_out:
        logger.info("%s", SourceReport(left_out=report.left_out))


def _unique(name: str, seen: Counter[str]) -> str:
    while True:
        seen[name] += 1
        if seen[name] == 1:
            return name
        name = f"{name}#{seen[name]}"


def _sources(images: Any, left_out: Counter[str], nested: bool) -> Iterator[Source]:
    if isinstance(images, str | os.PathLike):
        yield from _path_sources(_path(images), left_out, nested)
    elif isinstance(images, Image.Image):
        name = getattr(images, "filename", "")
        yield _path(name), taken(partial(decode, images, _path(name) or THE_IMAGE))
    elif isinstance(images, bytes | bytearray | memoryview):
        yield "", FromBytes(bytes(images), THE_IMAGE)
    elif hasattr(images, "read"):
        yield _file_source(images)
    elif is_dataset(images):
        for value, label in read_dataset(images):
            if value is None or isinstance(value, dict | bytes | str):
                yield cell_source(value, "", label)
            else:
                yield from _sources(value, left_out, nested=True)
    elif isinstance(images, dict) and images.keys() == {"bytes", "path"}:
        yield cell_source(images, "", THE_IMAGE)
    elif _is_tensor(images):
        rows = images if images.ndim == 4 else [images]
        yield from (("", taken(partial(tensor_to_image, row))) for row in rows)
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
    check_local(path)
    kind = kind_of_path(path, nested)
    if kind == "image":
        yield path, partial(decode, path, path)
    elif kind == "list":
        yield from _inside(path, read_list(path), nested, os.path.dirname(path))
    elif kind == "video":
        yield from read_video(path)
    elif kind == "pattern":
        yield from _pattern_sources(path, left_out, nested)
    elif kind == "tar":
        yield from _inside(path, read_tar(path, left_out), nested)
    elif kind == "zip":
        yield from _inside(path, read_zip(path, left_out), nested)
    elif kind == "table":
        yield from _inside(path, read_parquet(*split_column(path)), nested)
    else:
        yield from _folder_sources(path, left_out, nested)


def _inside(path: str, found: Iterator[Source], nested: bool, folder: str | None = None) -> Iterator[Source]:
    """With names from outside, if what holds the images is one of several."""
    for name, read in found:
        yield os.path.join(path if folder is None else folder, name) if nested and name else name, read


def _folder_sources(path: str, left_out: Counter[str], nested: bool) -> Iterator[Source]:
    others: Counter[str] = Counter()
    files = list_folder(path, others)
    if not files and others[".parquet"]:
        yield from _inside(path, read_parquet(path), nested)
        return
    left_out.update(others)
    for file in files:
        yield (file if nested else file.relative_to(path)).as_posix(), partial(decode, file, str(file))


def _pattern_sources(pattern: str, left_out: Counter[str], nested: bool) -> Iterator[Source]:
    try:
        paths = expand(pattern, left_out)
    except MissingInputError as error:
        if not nested:
            raise
        yield pattern, Failing(MissingImageError(str(error)))
        return
    shards = not nested and BRACES.search(pattern) is not None and all(map(is_tar, paths))
    for path in paths:
        if shards:
            yield from read_tar(path, left_out)
        else:
            yield from _path_sources(path, left_out, nested=True)


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
    return name, FromBytes(data, name or THE_IMAGE)


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
            yield "", taken(partial(array_to_image, row))


def _is_tensor(images: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    return torch is not None and isinstance(images, torch.Tensor)
