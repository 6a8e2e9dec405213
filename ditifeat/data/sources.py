"""The named images of whatever a user has: paths, folders, archives, PIL images, arrays, tensors, iterables."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ditifeat.data.decode import SUFFIXES, array_to_image, decode, tensor_to_image
from ditifeat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class SourceReport:
    """What a call left out of its images, and why.

    Attributes:
        skipped: names and reasons of images that could not be decoded, under `on_error="skip"`.
        left_out: how many files were no images, by their suffix or kind.

    >>> report = SourceReport([("broken.png", "is damaged")], Counter({".txt": 2}))
    >>> print(report)
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


def list_folder(folder: str | os.PathLike[str]) -> list[Path]:
    """The image files below `folder`, sorted by their path from it; hidden ones are left out.

    Raises:
        InputError: if a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror})") from error

    root = Path(folder)
    found = []
    for place, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


# A source is an image's name and a function that reads it, so that decoding can happen in a thread.
Source = tuple[str, Callable[[], Image.Image]]


def is_single(images: Any) -> bool:
    """Whether `images` is one image, whose features are one row: a file, a Pillow image, one array or tensor."""
    if isinstance(images, str | os.PathLike):
        return not (os.path.isdir(images) or str(images).endswith(".tar"))
    return isinstance(images, Image.Image) or getattr(images, "ndim", 4) in (2, 3)


def sources(images: Any, report: SourceReport | None = None) -> Iterator[Source]:
    """The named images of whatever a user has.

    Args:
        images: a path of an image, folder or `.tar`; a Pillow image; an array `(H, W, 3)` or `(N, H, W, 3)`; a tensor
            `(3, H, W)` or `(N, 3, H, W)`; or an iterable of any of these. See `array_to_image` for types and ranges.

        report: takes what is left out.

    Raises:
        InputError, ImageDecodeError: for anything else.
    """
    for index, source in enumerate(_sources(images)):
        name, read = source
        yield (name or str(index), read)


def _sources(images: Any) -> Iterator[Source]:
    if isinstance(images, str | os.PathLike):
        yield from _path_sources(images)
    elif isinstance(images, Image.Image):
        name = getattr(images, "filename", "")
        yield name, partial(decode, images, name or "the image")
    elif isinstance(images, np.ndarray):
        rows = images if images.ndim == 4 else [images]
        yield from (("", partial(array_to_image, row)) for row in rows)
    elif type(images).__module__ == "torch":
        tensors: Iterable[Tensor] = images if images.ndim == 4 else [images]
        yield from (("", partial(tensor_to_image, tensor)) for tensor in tensors)
    elif isinstance(images, Iterable) and not isinstance(images, bytes | dict):
        for image in images:
            yield from _sources(image)
    else:
        raise InputError(f"{type(images).__name__} is not an image; pass a path, folder, PIL image, array or tensor")


def _path_sources(path: str | os.PathLike[str]) -> Iterator[Source]:
    if os.path.isdir(path):
        yield from ((p.relative_to(path).as_posix(), partial(decode, p, str(p))) for p in list_folder(path))
    elif str(path).endswith(".tar"):
        yield from _tar_sources(path)
    else:
        name = os.fspath(path)
        yield name, partial(decode, name, name)


def _tar_sources(path: str | os.PathLike[str]) -> Iterator[Source]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(SUFFIXES):
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    yield member.name, partial(decode, data, f"{path}/{member.name}")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read as a tar of images ({error})") from error
