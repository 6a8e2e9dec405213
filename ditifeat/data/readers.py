"""Readers: what reads one image, at any time and in any thread, and how much memory it holds until then."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from ditifeat.data.decode import Reduction, decode
from ditifeat.errors import DitifeatError, ImageDecodeError, InputError

THE_IMAGE = "the image"


class Reader(Protocol):
    """Reads an image; a JPEG may be reduced while it is decoded, see `decode`."""

    def __call__(self, reduction: Reduction | None = None) -> Image.Image: ...


# An image's name, and what reads it.
Source = tuple[str, Reader]


@dataclass(frozen=True)
class FromBytes:
    """Reads an image from the bytes of its file.

    >>> with open("me.png", "rb") as file:
    ...     FromBytes(file.read(), "me.png")().size
    (64, 64)
    """

    data: bytes
    label: str

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self.data)

    def __call__(self, reduction: Reduction | None = None) -> Image.Image:
        return decode(self.data, self.label, reduction)


@dataclass(frozen=True)
class Decoded:
    """Gives an image that is decoded already."""

    image: Image.Image

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return 4 * self.image.width * self.image.height

    def __call__(self, reduction: Reduction | None = None) -> Image.Image:
        return self.image


@dataclass(frozen=True)
class Failing:
    """Raises what was found wrong with an image when it was listed."""

    error: DitifeatError

    def __call__(self, reduction: Reduction | None = None) -> Image.Image:
        raise self.error


@dataclass(frozen=True)
class Labelled:
    """Reads an image without a name of its own, and says in messages which it is."""

    label: str
    read: Reader

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return held(self.read)

    def __call__(self, reduction: Reduction | None = None) -> Image.Image:
        try:
            return self.read(reduction)
        except DitifeatError as error:
            raise type(error)(f"{self.label}: {error}") from error


def held(read: Reader) -> int:
    """Bytes that a reader holds in memory until it has read; 0 for a file's.

    >>> held(FromBytes(b"1234", "x"))
    4
    """
    return getattr(read, "held", 0)


def taken(read: Callable[[], Image.Image]) -> Reader:
    """Read now, in the caller's thread: the object may change when its owner goes on."""
    try:
        return Decoded(read())
    except DitifeatError as error:
        return Failing(error)


def check_local(path: str, where: str = "") -> None:
    """Refuse a URL.

    Raises:
        InputError: with what to do.
    """
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:|pipe:", path):
        return
    raise InputError(
        f"{where}{path[:80]}: is a URL, and nothing is downloaded; download it, and pass the file or its bytes"
    )


def cell_source(value: Any, folder: str, label: str) -> Source:
    """Name and read what a table has for an image: bytes, a path from `folder`, or both as `{"bytes": ..., "path": ...}`.

    Args:
        value: of the cell.
        folder: where relative paths begin.
        label: of the cell, for messages.

    Returns:
        The path, or "" if there is none, and a reader.

    >>> cell_source({"bytes": None, "path": "me.png"}, "", "row 0")[0]
    'me.png'
    """
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if isinstance(data, str):
        data, path = None, data
    if isinstance(data, bytes | bytearray | memoryview):
        return path or "", FromBytes(bytes(data), path or label)
    if isinstance(path, str) and path and data is None:
        check_local(path, f"{label}: ")
        where = os.path.join(folder, path)
        return path, lambda reduction=None: decode(where, where, reduction)
    found = "is empty" if value is None or isinstance(value, dict) else f"is {type(value).__name__}"
    return "", Failing(ImageDecodeError(f"{label}: {found}, and no image's bytes or path"))
