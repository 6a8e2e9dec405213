"""How an image becomes a model's input: crop, resize. Part of every model folder, never guessed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ditifeat.data.decode import REDUCED, Reduced
from ditifeat.errors import ImageDecodeError, InputError

MIN_SIDE = 8  # fewer pixels than this hold nothing to encode

DRAFT_GAP = 2  # pixels of a draft per pixel that is kept: as Pillow's own thumbnails have it

RESAMPLING = ("bicubic", "bilinear", "box", "hamming", "lanczos")

Crop = Literal["model", "center"]

ALIGNED = "+aligned"  # of a fingerprint: `ditifeat.align` made the images that were cropped


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a model's input; it is part of every model folder.

    >>> Preprocessing(64, crop=(0.1, 0.2, 0.9, 0.8)).size
    64

    Attributes:
        size: side of the square input, in pixels.
        crop: (left, top, right, bottom) as fractions of the image's width and height; edges are rounded to whole
            pixels (a half goes down), so that an image of the training size is not resampled. Of a box that is no
            square in an image, the central square is read: nothing is stretched.
        resampling: Pillow's filter, antialiased when it shrinks.
        alignment: in words, what images the crop expects.
    """

    size: int
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    resampling: str = "lanczos"
    alignment: str = "none: the central square"

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop
        if not 8 <= self.size <= 1024:
            raise InputError(f"image: size = {self.size} is not within 8..1024")
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(f"image: crop {self.crop} is not (left, top, right, bottom) within 0..1")
        if self.resampling not in RESAMPLING:
            raise InputError(f"image: resampling {self.resampling!r} is not one of {', '.join(RESAMPLING)}")

    def box(self, width: int, height: int, crop: Crop = "model") -> tuple[int, int, int, int]:
        """Give the pixels (left, top, right, bottom) that are read of a `width` x `height` image.

        >>> Preprocessing(32).box(100, 60)
        (20, 0, 80, 60)
        """
        fractions = self.crop if crop == "model" else (0, 0, 1, 1)
        left, top, right, bottom = (
            math.ceil(fraction * side - 0.5 - 1e-6)
            for fraction, side in zip(fractions, (width, height, width, height), strict=True)
        )
        side = min(right - left, bottom - top)
        left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
        return left, top, left + side, top + side

    def reduction(self, width: int, height: int, crop: Crop = "model") -> int:
        """Say by how much a JPEG may be reduced while it is decoded: 1, 2, 4 or 8, with twice `size` left of the box.

        >>> Preprocessing(64).reduction(4000, 3000), Preprocessing(64).reduction(178, 218)
        (8, 1)
        """
        left, _, right, _ = self.box(width, height, crop)
        return next((scale for scale in (8, 4, 2) if right - left >= scale * DRAFT_GAP * self.size), 1)

    def fingerprint(self, crop: Crop = "model", *, aligned: bool = False) -> str:
        """Hash what decides an image's pixels: size, crop and resampling; 12 hex digits, with "+aligned" for aligned faces.

        >>> from ditifeat.data.preprocessing import Preprocessing
        >>> Preprocessing(64).fingerprint() == Preprocessing(64, alignment="none").fingerprint("center")
        True
        """
        crop_box = self.crop if crop == "model" else (0, 0, 1, 1)
        text = json.dumps([self.size, [float(edge) for edge in crop_box], self.resampling])
        return hashlib.sha256(text.encode()).hexdigest()[:12] + (ALIGNED if aligned else "")

    def apply(self, image: Image.Image, crop: Crop = "model", draft: bool = False) -> np.ndarray:
        """Crop and resize an RGB image to uint8 `(size, size, 3)`.

        Args:
            image: as `decode` returns it: whole, or reduced as `reduction` allows.
            crop: "model" for the model's own crop, "center" for the largest central square.
            draft: shrink a large image by whole factors first, which takes a fraction of the time.

        Raises:
            ImageDecodeError: if fewer than 8 pixels per side would be read.

        >>> from PIL import Image
        >>> Preprocessing(32).apply(Image.new("RGB", (100, 60))).shape
        (32, 32, 3)
        """
        whole: Reduced = image.info.get(REDUCED) or Reduced(0, 0, 1, *image.size)
        box = self.box(whole.width, whole.height, crop)
        if box[2] - box[0] < MIN_SIDE:
            raise ImageDecodeError(
                f"the image has {whole.width} x {whole.height} pixels, of which {box} would be read: "
                f"under {MIN_SIDE} per side there is nothing to encode"
            )
        left, top, right, bottom = (edge / whole.scale for edge in box)
        inside = (left + whole.left, top + whole.top, right + whole.left, bottom + whole.top)
        resampling = Image.Resampling[self.resampling.upper()]
        gap = float(DRAFT_GAP) if draft else None
        return np.asarray(image.resize((self.size, self.size), resampling, box=inside, reducing_gap=gap))
