"""Folders: which of their files are images, and what is left out."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from pathlib import Path

from ditifeat.data.decode import HAS_HEIC, HEIC_SUFFIXES, SUFFIXES, is_image
from ditifeat.errors import InputError

MACOS_FOLDER = "__MACOSX"  # in zips that macOS made: a second file for each, which begins with `._`


def list_folder(folder: str | os.PathLike[str], left_out: Counter[str] | None = None) -> list[Path]:
    """List the image files below `folder`, sorted by their path from it.

    Links are followed, but never to a folder above them. Files without a suffix are looked into. Hidden files and folders
    are no images.

    Args:
        folder: where to look, at any depth.
        left_out: counts the other files, by suffix or kind.

    Raises:
        InputError: if a folder or file cannot be read.

    >>> [path.name for path in list_folder("photos")][:2]
    ['0.png', '1.png']
    """
    root = os.fspath(folder)
    left_out = Counter() if left_out is None else left_out
    found: list[Path] = []
    try:
        above = {root: frozenset([_identity(root)])}
        for place, folders, files in os.walk(root, onerror=_fail, followlinks=True):
            here = above.pop(place)
            for name in list(folders):
                path = os.path.join(place, name)
                if is_hidden(name):
                    kind = "hidden folder"
                elif _identity(path) in here:
                    kind = "link to a folder above"
                else:
                    above[path] = here | {_identity(path)}
                    continue
                left_out[kind] += 1
                folders.remove(name)
            for name in files:
                kind = file_kind(os.path.join(place, name))
                if kind == "image":
                    found.append(Path(place, name))
                else:
                    left_out[kind] += 1
    except OSError as error:
        _fail(error)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _fail(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def file_kind(path: str) -> str:
    """Say what a file is: "image", or a suffix or kind by which it is counted as left out.

    >>> file_kind("me.png"), file_kind("labels.csv")
    ('image', '.csv')
    """
    kind = kind_of_name(os.path.basename(path))
    if kind in ("image", "") and os.path.exists(path) and not os.path.isfile(path):
        return "special file"
    if kind:
        return kind
    if not os.path.exists(path):
        return "broken link"
    try:
        with open(path, "rb") as file:
            return "image" if is_image(file) else "without suffix"
    except PermissionError:
        return "without suffix, not readable"


def kind_of_name(name: str) -> str:
    """What a file's name says that it is: "image", "hidden", another suffix, or "" where it says nothing.

    >>> [kind_of_name(name) for name in ("1.JPG", ".DS_Store", "notes.TXT", "README")]
    ['image', 'hidden', '.txt', '']
    """
    if is_hidden(name):
        return "hidden"
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in HEIC_SUFFIXES and not HAS_HEIC:
        return f"{suffix} (needs pillow-heif)"
    return "image" if suffix in SUFFIXES else suffix


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or what macOS adds to a zip.

    >>> is_hidden("._1.jpg"), is_hidden("__MACOSX"), is_hidden("1.jpg")
    (True, True, False)
    """
    return name.startswith(".") or name == MACOS_FOLDER
