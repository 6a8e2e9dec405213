"""Embedded colour profiles (Display P3, Adobe RGB, CMYK) to sRGB, which the models' training images are in."""

from __future__ import annotations

import logging
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

logger = logging.getLogger(__name__)

SAME = 2  # levels of 255: a profile that changes no colour by more is sRGB itself, as most are


def to_srgb(image: Image.Image, profile: bytes, name: str) -> Image.Image:
    """Convert a grey, RGB, RGBA or CMYK image from its embedded ICC profile to sRGB.

    A profile that is damaged, or of another number of channels, is ignored, and logged.

    >>> from PIL import Image
    >>> to_srgb(Image.new("RGB", (8, 8), "red"), b"damaged", "red.png").getpixel((0, 0))
    (255, 0, 0)
    """
    try:
        transform = _transform(profile, image.mode)
        return image if transform is None else transform.apply(image)
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        logger.warning("%s: its colour profile is ignored (%s)", name, error)
        return image


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where they are the same. Images of one camera share it, and threads may."""
    source, target = ImageCms.ImageCmsProfile(BytesIO(profile)), ImageCms.createProfile("sRGB")
    output = "RGBA" if mode == "RGBA" else "RGB"
    transform = ImageCms.buildTransform(source, target, mode, output)  # type: ignore[arg-type]
    if mode == "CMYK":
        return transform
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(len(levels), -1, 3)
    before = Image.fromarray(colours).convert(mode)
    after = transform.apply(before)
    difference = np.asarray(before.convert("RGB"), dtype=int) - np.asarray(after.convert("RGB"), dtype=int)
    return transform if np.abs(difference).max() > SAME else None
