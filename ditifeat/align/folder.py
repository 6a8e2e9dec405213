"""A folder of photos to a folder of aligned faces."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal

from ditifeat.align.aligner import Aligner
from ditifeat.align.detector import Face, find_faces
from ditifeat.data.batches import OnError
from ditifeat.data.names import normalise
from ditifeat.data.sources import SourceReport, is_single, sources
from ditifeat.errors import ImageDecodeError, InputError
from ditifeat.files import atomic_write, check_writable
from ditifeat.schema import integer

logger = logging.getLogger(__name__)


@dataclass
class Aligned:
    """What `align_faces` did.

    Attributes:
        faces: of each image that was written, its name, and the photo's name and the face in it.
        report: what was skipped, and why, and what is no image.
    """

    faces: dict[str, tuple[str, Face]] = field(default_factory=dict)
    report: SourceReport = field(default_factory=SourceReport)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the photos that were skipped."""
        return tuple(name for name, _ in self.report.skipped)


def align_faces(
    images: Any,
    out: str | Path,
    *,
    faces: Literal["one", "largest", "all"] = "one",
    scale: int = 1,
    on_error: OnError = "raise",
    progress: bool = False,
) -> Aligned:
    """Cut the faces out of photos as CelebA's are, and write them to a folder as PNGs of 178 x 218 pixels.

    A face that reaches over the photo's edge has that continued. Names stay but for their suffix; with "all", the faces of a
    photo of several are numbered, largest first (`beach-1.png`, `beach-2.png`).

    Args:
        images: photos, as `encode` takes them.
        out: the folder to write: new, or empty.
        faces: "one" refuses a photo of several faces, "largest" takes the largest, "all" each.
        scale: of 178 x 218.
        on_error: "raise" stops at a photo that cannot be decoded, or without the face that is asked for; "skip" goes on.
        progress: show a progress bar.

    Raises:
        ImageDecodeError: for a photo that cannot be decoded; FaceError, one of its kinds, for one without a face, or several.
        InputError: for arguments that do not fit, or a folder that holds something.

    >>> from PIL import Image
    >>> Image.open("me.png").resize((300, 300)).rotate(15).save("tilted.png")
    >>> ditifeat.align_faces("tilted.png", "faces").faces["tilted.png"][1].points.shape
    (5, 2)
    """
    if faces not in ("one", "largest", "all"):
        raise InputError(f"faces = {faces!r} must be one, largest or all")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error = {on_error!r} must be raise or skip")
    aligner = Aligner("one" if faces == "one" else "largest", integer("scale", scale, 1, 8))
    folder = _checked_folder(Path(out), images)
    single, done = is_single(images), Aligned()
    from tqdm.auto import tqdm

    with tqdm(unit="photo", disable=not progress) as bar:
        for name, read in sources(images, done.report):
            try:
                _write_faces(PurePath(name).name if single else name, read, aligner, faces == "all", folder, done)
            except ImageDecodeError as error:
                if on_error == "raise":
                    raise
                logger.warning("skipped: %s", error)
                done.report.skipped.append((name, str(error)))
            bar.update()
    return done


def _checked_folder(out: Path, images: Any) -> Path:
    if isinstance(images, str | Path) and out.resolve().is_relative_to(Path(images).resolve()):
        raise InputError(f"{out}: lies in {images}, whose photos it would add to; choose a folder elsewhere")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose a new one")
    check_writable(out / "face.png")
    return out


def _write_faces(
    name: str, read: Callable[[], Any], aligner: Aligner, every: bool, folder: Path, done: Aligned
) -> None:
    photo = read()
    found = find_faces(photo)
    try:
        chosen = aligner.choose(found, photo)
    except ImageDecodeError as error:
        raise type(error)(f"{name}: {error}") from None
    several = every and len(found) > 1
    for number, face in enumerate(found if several else [chosen], 1):
        path = _new_name(name, f"-{number}" if several else "", done)
        image = aligner.cut(photo, face).image
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / path, partial(image.save, format="PNG"))
        done.faces[path] = name, face


def _new_name(name: str, number: str, done: Aligned) -> str:
    """The photo's path with `.png`; after its suffix, where another photo of that name without it came before (IMG_1.HEIC)."""
    path = PurePosixPath(normalise(name).lstrip("/"))
    short = str(path.with_name(f"{path.stem}{number}.png"))
    return short if short not in done.faces else str(path.with_name(f"{path.name}{number}.png"))
