"""Images out: tensors to pixels, grids, titled sheets, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ditifeat.errors import InputError
from ditifeat.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor


WRITABLE = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def to_pixels(images: Tensor) -> np.ndarray:
    """Convert images `(B, 3, H, W)` in [-1, 1] to uint8 `(B, H, W, 3)`.

    >>> to_pixels(torch.zeros(1, 3, 2, 2)).shape
    (1, 2, 2, 3)
    """
    unit = (images.detach().float().cpu().clamp(-1, 1) + 1) / 2
    return (unit * 255).round().byte().permute(0, 2, 3, 1).numpy()


def grid(pixels: np.ndarray, columns: int) -> Image.Image:
    """Arrange images, uint8 `(B, H, W, 3)`, in one, row by row; places without an image are white.

    >>> grid(np.zeros((5, 8, 8, 3), np.uint8), columns=3).size
    (24, 16)
    """
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas)


def save_image(image: Image.Image, path: Path) -> None:
    """Write an image atomically, in the format of its suffix.

    Raises:
        InputError: for a suffix that names no image format.

    >>> save_image(grid(np.zeros((2, 8, 8, 3), np.uint8), columns=2), Path("grid.png"))
    """
    check_suffix(path)
    kind = {".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}.get(path.suffix.lower(), path.suffix.lstrip(".").upper())
    atomic_write(path, lambda path: image.save(path, kind))


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int = 150) -> None:
    """Write images atomically as an endless GIF that runs forwards and backwards, `milliseconds` per image.

    >>> save_animation([Image.new("L", (8, 8), level) for level in (0, 128, 255)], Path("fade.gif"))
    """
    there_and_back = [*frames[1:], *frames[-2:0:-1]]
    atomic_write(
        path,
        lambda path: frames[0].save(
            path, "GIF", save_all=True, append_images=there_and_back, duration=milliseconds, loop=0
        ),
    )


def check_suffix(path: Path) -> None:
    """Refuse a path whose suffix names no image format, before anything is computed for it.

    Raises:
        InputError: with the formats that can be written.

    >>> check_suffix(Path("grid.png"))
    """
    if path.suffix.lower() not in WRITABLE:
        raise InputError(f"{path}: images are saved as {', '.join(WRITABLE)}")


ZOOM = 2  # 64 px are small on a screen

MARGIN = 10


def sheet(rows: dict[str, np.ndarray]) -> Image.Image:
    """Arrange titled rows of images, uint8 `(n, S, S, 3)` each, on one white page.

    >>> sheet({"black": np.zeros((2, 16, 16, 3), np.uint8)}).size
    (94, 76)
    """
    font = ImageFont.load_default(13)
    side = ZOOM * next(iter(rows.values())).shape[1]
    step = side + 2 * MARGIN + 14
    width = max(map(len, rows.values())) * (side + MARGIN) + MARGIN
    page = Image.new("RGB", (width, len(rows) * step + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for y, (title, row) in enumerate(rows.items()):
        draw.text((MARGIN, y * step + MARGIN), title, fill="black", font=font)
        for x, pixels in enumerate(row):
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            page.paste(image, (MARGIN + x * (side + MARGIN), y * step + MARGIN + 18))
    return page
