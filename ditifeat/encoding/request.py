"""What a file of features was asked for: by which a run that was stopped goes on, or is refused."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ditifeat.data.paths import expand, kind_of_path, list_lines, split_column
from ditifeat.errors import InputError

MEANING = {
    "model": "model",
    "weights": "weights",
    "preprocessing": "crop, size or alignment of the images",
    "flip_average": "averaging over flips",
    "partition": "partition",
    "images": "images, or their content",
    "draft": "draft",
    "align": "alignment",
    "asked_dtype": "dtype",
    "storage_dtype": "dtype that is stored",
    "format_version": "version of the format",
}


def check_same_request(ours: dict[str, Any], theirs: dict[str, Any], path: Path) -> None:
    """Refuse to go on with features that were asked for in another way.

    Raises:
        InputError: with all that differs.
    """
    differs = [MEANING[key] for key in MEANING if ours.get(key) != theirs.get(key)]
    if differs:
        raise InputError(
            f"{path}: was made with other {', '.join(differs)}; give another path, the same arguments as then, or overwrite"
        )


def fingerprint(images: Any, without: Iterable[Path] = ()) -> str | None:
    """Hash the names, sizes and times of files and folders; None for what is no path, which cannot be known before it is read.

    Args:
        images: as `encode` takes them.
        without: files that the run itself writes, which may be below a folder of images.

    >>> from ditifeat.encoding.request import fingerprint
    >>> fingerprint("photos") == fingerprint("photos"), fingerprint([np.zeros((8, 8, 3))])
    (True, None)
    """
    paths = images if isinstance(images, list | tuple) else [images]
    if not all(isinstance(path, str | os.PathLike) for path in paths):
        return None
    hashed = hashlib.sha256()
    own = {os.path.abspath(path) for path in without}
    for path in paths:
        text = os.fsdecode(path)
        hashed.update(f"{os.path.basename(os.path.abspath(text))}\n".encode(errors="surrogateescape"))
        for line in _described(text, own):
            hashed.update(line.encode(errors="surrogateescape"))
    return hashed.hexdigest()


def _described(path: str, own: set[str]) -> Iterator[str]:
    """A line per file, in an order of its own."""
    kind = kind_of_path(path)
    if kind == "pattern":
        for found in expand(path, Counter()):
            yield f"{found}\n"
            yield from _described(found, own)
        return
    if kind == "list" and os.path.exists(path):
        for _, line in list_lines(path):
            file = os.path.join(os.path.dirname(path), line)
            yield _line(line, file)
    if kind == "table":
        path, column = split_column(path)
        yield f"{column}\n"
    if os.path.isdir(path):
        for place, folders, files in os.walk(path):
            folders[:] = sorted(
                f for f in folders if f[0] != "." and os.path.abspath(os.path.join(place, f)) not in own
            )
            for name in sorted(files):
                file = os.path.join(place, name)
                if name[0] != "." and os.path.abspath(file) not in own:
                    yield _line(os.path.relpath(file, path), file)
    else:
        yield _line("", path)


def _line(name: str, file: str) -> str:
    try:
        found = os.stat(file)
    except OSError:  # nothing is there, which reading will say
        return f"{name}\n"
    return f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n"
