"""What a path stands for: an image, or one of the things that hold many; patterns, and files that list paths."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Literal

from ditifeat.data.archives import is_tar
from ditifeat.data.decode import decode
from ditifeat.data.folders import file_kind
from ditifeat.data.readers import Labelled, Source, check_local
from ditifeat.errors import InputError, MissingInputError

Kind = Literal["image", "folder", "tar", "zip", "table", "list", "video", "pattern"]

KINDS: dict[str, Kind] = {
    **dict.fromkeys((".txt", ".lst"), "list"),
    **dict.fromkeys((".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".webm", ".wmv"), "video"),
    ".parquet": "table",
    ".zip": "zip",
}

BRACES = re.compile(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}")

MAX_PATHS = 1_000_000  # of one pair of braces


def kind_of_path(path: str, nested: bool = False) -> Kind:
    """Say what a path stands for, by what is there and by its suffix.

    Args:
        path: of a file, a folder, `table.parquet#column`, or a pattern: `photos/**/*.jpg`, `shard-{000..010}.tar`. A file
            with the very name of a pattern is that file.
        nested: it is one of many, which may come from a table: `[` and `?` alone make no pattern.

    >>> [kind_of_path(path) for path in ("me.png", "photos", "photos/*.png", "a.tgz", "a.parquet#image", "clip.mp4")]
    ['image', 'folder', 'pattern', 'tar', 'table', 'video']
    """
    if os.path.isdir(path):
        return "folder"
    if split_column(path)[1] is not None:
        return "table"
    magic = "*" in path or BRACES.search(path) or (not nested and glob.has_magic(path))
    if magic and not os.path.exists(path):
        return "pattern"
    return kind_of_suffix(path)


def split_column(path: str) -> tuple[str, str | None]:
    """Split `table.parquet#column` into the table's path, of a file or folder, and the column; None if there is none.

    >>> split_column("a.parquet#image"), split_column("a#1.png")
    (('a.parquet', 'image'), ('a#1.png', None))
    """
    marks = [i for i, letter in enumerate(path) if letter == "#"]
    for i in marks if marks and not os.path.exists(path) else ():
        table, column = path[:i], path[i + 1 :]
        if column and (table.lower().endswith(".parquet") or os.path.isdir(table)):
            return table, column
    return path, None


def expand(pattern: str, left_out: Counter[str]) -> list[str]:
    """List what a pattern matches, sorted; braces in their order.

    Files that are no images are left out, unless the pattern ends as they do, as `*.tar`. A folder that matches stands for
    its images, but not under `**`, which matches these themselves.

    Raises:
        MissingInputError: if nothing matches, or what braces stand for is not there.

    >>> expand("photos/[12]*", Counter())
    ['photos/1.png', 'photos/2.png']
    """
    paths: list[str] = []
    before = left_out.copy()
    for part in _braces(pattern):
        if os.path.exists(part):
            paths.append(part)
        elif glob.has_magic(part):
            paths += _glob(part, left_out)
        else:
            raise MissingInputError(f"{part}: there is no such file or folder, which {pattern} stands for")
    if not paths:
        others = ", ".join(f"{count} {kind}" for kind, count in (left_out - before).items())
        raise MissingInputError(f"{pattern}: matches no image" + (f", but {others}" if others else ""))
    return paths


def _glob(pattern: str, left_out: Counter[str]) -> list[str]:
    asked = kind_of_suffix(pattern)
    paths = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        if os.path.isdir(path):
            kind = "folder" if "**" in pattern else "image"
        else:
            kind = "image" if asked != "image" and kind_of_suffix(path) == asked else file_kind(path)
        if kind == "image":
            paths.append(path)
        elif kind != "folder":
            left_out[kind] += 1
    return paths


def kind_of_suffix(path: str) -> Kind:
    """Say what a file is by its name alone.

    >>> kind_of_suffix("*.tar.gz"), kind_of_suffix("*.jpg")
    ('tar', 'image')
    """
    return "tar" if is_tar(path) else KINDS.get(os.path.splitext(path)[1].lower(), "image")


def _braces(pattern: str) -> Iterator[str]:
    """`a{1,2}` and `a{01..10}`, as shells and WebDataset have them."""
    parts = BRACES.split(pattern)  # text, braces, text, ...
    choices = [[part] if i % 2 == 0 else _choices(part, pattern) for i, part in enumerate(parts)]
    return map("".join, product(*choices))


def _choices(braces: str, pattern: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", braces)
    if not numbers:
        return braces.split(",") if "," in braces else ["{" + braces + "}"]
    first, last = numbers.groups()
    step = 1 if int(first) <= int(last) else -1
    found = range(int(first), int(last) + step, step)
    if len(found) > MAX_PATHS:
        raise InputError(f"{pattern}: stands for {len(found)} paths, over the limit of {MAX_PATHS}")
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    return [f"{number:0{width}d}" for number in found]


def read_list(path: str) -> Iterator[Source]:
    """Name and read the images of a file with one path per line, relative to the file's folder; empty lines are left out.

    Raises:
        InputError: if it cannot be read, or a line is a URL.

    >>> with open("faces.lst", "w") as file:
    ...     print("me.png", "photos/1.png", sep="\\n", file=file)
    >>> [name for name, read in read_list("faces.lst")]
    ['me.png', 'photos/1.png']
    """
    folder = os.path.dirname(path)
    for number, line in list_lines(path):
        check_local(line, f"{path}, line {number}: ")
        file = os.path.join(folder, line)
        yield line, Labelled(f"{path}, line {number}", partial(decode, file, file))


def list_lines(path: str) -> Iterator[tuple[int, str]]:
    """Number and read the lines of a list of paths, from 1 on.

    Raises:
        InputError: if it cannot be read, or is no text.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise InputError(f"{path}, line {number}: is not text in UTF-8, one path per line")
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
