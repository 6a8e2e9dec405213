"""Photos to aligned faces, one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from ditifeat.align.detector import MAX_SIDE, MIN_FACE, Face, find_faces
from ditifeat.align.geometry import HEIGHT, WIDTH, Similarity, fit_similarity, warp
from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.errors import FaceError, InputError

Align = bool | Literal["one", "largest"]

CHOICES = ("one", "largest")


@dataclass(frozen=True)
class AlignedFace:
    """A face cut out of a photo.

    Attributes:
        image: RGB, 178 x 218 pixels or a multiple of that.
        face: where it is in the photo.
        similarity: from the photo's pixels to the image's.
    """

    image: Image.Image
    face: Face
    similarity: Similarity


@dataclass(frozen=True)
class Aligner:
    """Cuts the face of a photo out as CelebA's are: eyes near (69, 111) and (108, 111) of 178 x 218 pixels, upright.

    Attributes:
        faces: "one" refuses a photo of several faces; "largest" takes the one whose box is largest.
        scale: of 178 x 218.

    >>> from PIL import Image
    >>> from ditifeat.align import Aligner
    >>> Aligner()(Image.open("me.png").resize((256, 256))).size
    (178, 218)
    """

    faces: Literal["one", "largest"] = "one"
    scale: int = 1

    def __call__(self, photo: Image.Image) -> Image.Image:
        """Cut the face out of an RGB photo.

        Raises:
            FaceError: if there is none, or several and `faces` is "one".
        """
        return self.cut(photo).image

    def choose(self, found: list[Face], photo: Image.Image) -> Face:
        """The face that is meant, of those that were found, largest first; errors as when called."""
        if not found:
            smallest = math.ceil(MIN_FACE * max(1.0, max(photo.size) / MAX_SIDE))
            raise FaceError(
                f"shows no face that can be found: most of it in the photo, and {smallest} pixels wide or more; "
                "cut out what shows the face, or leave the photo out"
            )
        if len(found) > 1 and self.faces == "one":
            sizes = ", ".join(f"{face.size:.0f}" for face in found[:4]) + (", ..." if len(found) > 4 else "")
            raise FaceError(
                f"shows {len(found)} faces, of {sizes} pixels; take the largest (align='largest'), or cut one out"
            )
        return found[0]

    def cut(self, photo: Image.Image, face: Face | None = None) -> AlignedFace:
        """Cut the face out of an RGB photo, or one that was found; beyond the photo's edge, that is continued, as in CelebA.

        Raises:
            FaceError: as when called.
        """
        face = face or self.choose(find_faces(photo), photo)
        similarity = fit_similarity(face.points).then(self.scale, 0)
        return AlignedFace(warp(photo, similarity, WIDTH * self.scale, HEIGHT * self.scale), face, similarity)


def model_aligner(align: Align, image: Preprocessing, crop: Crop) -> Aligner | None:
    """Make the aligner for a model's input, as `encode(align=...)` asks for it: None for False.

    Its scale is the smallest at which the crop has the model's size.

    Raises:
        InputError: for another word.

    >>> from ditifeat.align.aligner import model_aligner
    >>> model_aligner("largest", encoder.config.image, "model")
    Aligner(faces='largest', scale=1)
    """
    if not _is_choice(align):
        raise InputError(f"align = {align!r} must be False, True or 'one' (for one face per photo), or 'largest'")
    if align is False:
        return None
    left, _, right, _ = image.box(WIDTH, HEIGHT, crop)
    return Aligner("largest" if align == "largest" else "one", math.ceil(image.size / (right - left)))


def _is_choice(align: Any) -> bool:
    return isinstance(align, bool) or (isinstance(align, str) and align in CHOICES)
