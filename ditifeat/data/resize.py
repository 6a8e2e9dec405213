"""Images cut and resized beforehand, into one tar: of several sources, and without those that another one has already."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ditifeat.data.batches import OnError, batches
from ditifeat.data.names import normalise, stem
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.sources import SourceReport, is_single, sources
from ditifeat.errors import InputError
from ditifeat.files import atomic_write, check_writable


@dataclass
class Resized:
    """What `resize` did.

    Attributes:
        written: how many images.
        left_out: how many were left out, as their names are among `names_not_in`.
        report: what was skipped as damaged, or is no image.
    """

    written: int = 0
    left_out: int = 0
    report: SourceReport = field(default_factory=SourceReport)


def resize(
    images: str | Path | list[str] | list[Path],
    out: str | Path,
    *,
    size: int,
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
    names_not_in: str | Path | list[str] | list[Path] | None = None,
    on_error: OnError = "raise",
    progress: bool = False,
) -> Resized:
    """Write images, cut and resized, into one tar of PNGs, which `ditifeat train` takes with the whole image as crop.

    Names stay but for their suffix, which becomes `.png`; so does the order.

    Args:
        images: an image, folder or tar, or a list of these.
        out: the `.tar` to write.
        size: side of the square images, in pixels.
        crop: (left, top, right, bottom) as fractions of the width and height, as `Preprocessing` has it: an image whose box
            has `size` pixels per side is not resampled.
        names_not_in: a folder or tar, or a list of these; images whose names they have, but for the suffix, are left out.
        on_error: "raise" stops at a damaged image; "skip" leaves it out.
        progress: show a progress bar.

    Raises:
        ImageDecodeError, InputError: for images that cannot be read, two of one name, or nothing to write.

    >>> resize("photos", "small.tar", size=16, names_not_in=["photos/0.png"]).written
    7
    """
    out = Path(out)
    if out.suffix != ".tar":
        raise InputError(f"{out}: the images are written into one .tar")
    check_writable(out)
    preprocessing = Preprocessing(size, crop)
    there = {name for source in _each(names_not_in or []) for name in _names(source, (n for n, _ in sources(source)))}
    done = Resized()
    rows = _rows(_each(images), preprocessing, there, on_error, done, progress)
    atomic_write(out, lambda path: _write(path, rows, done))
    return done


def _each(paths: Any) -> list[str]:
    return [os.fspath(paths)] if isinstance(paths, str | os.PathLike) else [os.fspath(path) for path in paths]


def _names(source: str, names: Iterable[str]) -> Iterator[str]:
    """Paths from the source's root without their suffix; of an image by itself, of the file alone."""
    single = is_single(source)
    return (stem(normalise(os.path.basename(name) if single else name)) for name in names)


def _rows(
    images: list[str],
    preprocessing: Preprocessing,
    there: set[str],
    on_error: OnError,
    done: Resized,
    progress: bool,
) -> Generator[tuple[str, np.ndarray], None, None]:
    from tqdm.auto import tqdm

    with tqdm(unit="image", disable=not progress) as bar:
        for source in images:
            for names, rows in batches(source, preprocessing, 64, on_error=on_error, report=done.report):
                bar.update(len(names))
                for name, row in zip(_names(source, names), rows, strict=True):
                    if name in there:
                        done.left_out += 1
                    else:
                        yield name, row


def _write(path: Path, rows: Generator[tuple[str, np.ndarray], None, None], done: Resized) -> None:
    written: set[str] = set()
    with closing(rows), tarfile.open(path, "w") as tar:
        for name, row in rows:
            if name in written:
                raise InputError(
                    f"{name}: two images have this name; give each its own, or leave one out (names_not_in)"
                )
            written.add(name)
            buffer = BytesIO()
            Image.fromarray(row).save(buffer, "PNG")
            member = tarfile.TarInfo(f"{name}.png")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)
    done.written = len(written)
    if not written:
        raise InputError(f"no image to write: {done.left_out} left out by names_not_in; {done.report}")
