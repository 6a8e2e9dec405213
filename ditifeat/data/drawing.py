"""Images out: tensors to pixels, grids, titled sheets, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ditifeat.data.sources import SUFFIXES
from ditifeat.errors import InputError
from ditifeat.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor


def to_pixels(images: Tensor) -> np.ndarray:
    """Images `(B, 3, H, W)` in [-1, 1] to uint8 `(B, H, W, 3)`."""
    unit = (images.detach().float().cpu().clamp(-1, 1) + 1) / 2
    return (unit * 255).round().byte().permute(0, 2, 3, 1).numpy()


def grid(pixels: np.ndarray, columns: int) -> Image.Image:
    """Pictures, uint8 `(B, H, W, 3)`, as one, row by row."""
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas)


def save_image(picture: Image.Image, path: Path) -> None:
    """Writes a picture in the format of its suffix, whole or not at all.

    Raises:
        InputError: for a suffix that names no picture format.
    """
    check_suffix(path)
    kind = {".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}.get(path.suffix.lower(), path.suffix.lstrip(".").upper())
    atomic_write(path, lambda path: picture.save(path, kind))


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int = 150) -> None:
    """Writes pictures as an endless GIF, there and back, whole or not at all."""
    there_and_back = [*frames[1:], *frames[-2:0:-1]]
    atomic_write(
        path,
        lambda path: frames[0].save(
            path, "GIF", save_all=True, append_images=there_and_back, duration=milliseconds, loop=0
        ),
    )


def check_suffix(path: Path) -> None:
    """Refuses a path whose suffix names no picture format, before anything is computed for it.

    Raises:
        InputError: with the formats there are.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: pictures are saved as {', '.join(SUFFIXES)}")


ZOOM = 2  # 64 px are small on a screen

MARGIN = 10


def sheet(rows: dict[str, np.ndarray]) -> Image.Image:
    """Titled rows of pictures, uint8 `(n, S, S, 3)` each, on one white page."""
    font = ImageFont.load_default(13)
    side = ZOOM * next(iter(rows.values())).shape[1]
    step = side + 2 * MARGIN + 14
    width = max(map(len, rows.values())) * (side + MARGIN) + MARGIN
    page = Image.new("RGB", (width, len(rows) * step + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for y, (title, row) in enumerate(rows.items()):
        draw.text((MARGIN, y * step + MARGIN), title, fill="black", font=font)
        for x, pixels in enumerate(row):
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            page.paste(picture, (MARGIN + x * (side + MARGIN), y * step + MARGIN + 18))
    return page
