"""From photo to aligned face and back: the similarity that five points give, and images resampled along it.

Coordinates are continuous: the first pixel reaches from 0 to 1. A point (x, y) is the complex number x + iy, so that a
similarity (rotation, scale, shift) is `z -> factor z + shift`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WIDTH, HEIGHT = 178, 218  # of CelebA's aligned images

# Where the detector finds the eyes and the corners of the mouth in CelebA's aligned images, mean over 1,000 faces.
# CelebA's own means are within a pixel: its list of points has the first pixel's middle at 0, and here it is at 0.5.
POSITIONS = np.array([[69.7, 111.8], [108.7, 111.6], [71.6, 153.3], [106.5, 153.1]])

# The nose moves most when a head turns, and would pull the face along; CelebA was aligned by the eyes.
# Measured in weights_card/alignment.md.
USED, SHARES = [0, 1, 3, 4], np.array([2, 2, 1, 1]) / 6

SUPERSAMPLING = 2  # samples per pixel and axis, which Lanczos then brings together


@dataclass(frozen=True)
class Similarity:
    """A rotation, scale and shift of the plane, `z -> factor z + shift`.

    >>> from ditifeat.align.geometry import Similarity
    >>> turn = Similarity(2j, 1 + 0j)
    >>> turn(np.array([[1.0, 0.0]])), turn.inverse(turn(np.array([[3.0, 4.0]])))
    (array([[1., 2.]]), array([[3., 4.]]))
    """

    factor: complex
    shift: complex

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Move points `(..., 2)`."""
        z = self.factor * (points[..., 0] + 1j * points[..., 1]) + self.shift
        return np.stack([z.real, z.imag], -1)

    @property
    def inverse(self) -> Similarity:
        """The way back."""
        return Similarity(1 / self.factor, -self.shift / self.factor)

    def then(self, factor: complex, shift: complex) -> Similarity:
        """This, and after it `z -> factor z + shift`."""
        return Similarity(factor * self.factor, factor * self.shift + shift)


def fit_similarity(points: np.ndarray) -> Similarity:
    """Fit the similarity that takes a face's five points `(5, 2)` to CelebA's positions: weighted least squares.

    >>> from ditifeat.align.geometry import POSITIONS, fit_similarity
    >>> points = np.insert(POSITIONS, 2, (88.7, 135.7), axis=0) * 3 + 50
    >>> round(abs(fit_similarity(points).factor), 6)
    0.333333
    """
    source, target = (p[:, 0] + 1j * p[:, 1] for p in (points[USED], POSITIONS))
    from_mean, to_mean = SHARES @ source, SHARES @ target
    a, b = source - from_mean, target - to_mean
    factor = (SHARES @ (b * a.conj())) / (SHARES @ abs(a) ** 2)
    return Similarity(complex(factor), complex(to_mean - factor * from_mean))


def warp(image: Image.Image, similarity: Similarity, width: int, height: int) -> Image.Image:
    """Resample an RGB image to `width` x `height`, where `similarity` takes its pixels; beyond its edge, that is continued.

    However much smaller the result is, every pixel of the image counts: it is shrunk by Lanczos before it is turned.

    >>> from PIL import Image
    >>> from ditifeat.align.geometry import Similarity, warp
    >>> warp(Image.new("RGB", (4000, 3000), "red"), Similarity(0.05 + 0j, 0j), 178, 218).getpixel((0, 0))
    (255, 0, 0)
    """
    back = similarity.inverse
    wide, high = width * SUPERSAMPLING, height * SUPERSAMPLING
    places = back(_pixels(wide, high) / SUPERSAMPLING)
    shrink = max(1.0, abs(back.factor) / SUPERSAMPLING)
    margin = 4 * shrink  # what bicubic interpolation and Lanczos read beside a place
    low = np.clip(np.floor(places.min((0, 1)) - margin), 0, np.array(image.size) - 1)
    high_corner = np.clip(np.ceil(places.max((0, 1)) + margin), low + 1, image.size)
    size = np.maximum(1, np.round((high_corner - low) / shrink)).astype(int)
    part = image.resize(tuple(size), Image.Resampling.LANCZOS, box=(*low, *high_corner))
    grid = (places - low) / (high_corner - low) * 2 - 1
    sampled = _sample(_to_tensor(part), grid, "border").clamp(0, 255).round().to(torch.uint8)
    return Image.fromarray(sampled.permute(1, 2, 0).numpy()).resize((width, height), Image.Resampling.LANCZOS)


def add_patch(photo: Image.Image, change: Tensor, to_patch: Similarity) -> Image.Image:
    """Add a change `(3, S, S)`, in units of 1/255, to a photo, where `to_patch` takes its pixels to the patch's; feathered.

    >>> from PIL import Image
    >>> from ditifeat.align.geometry import Similarity, add_patch
    >>> photo = add_patch(Image.new("RGB", (100, 100)), torch.full((3, 10, 10), 200.0), Similarity(0.2 + 0j, -5 - 5j))
    >>> photo.getpixel((50, 50)), photo.getpixel((10, 10))
    ((200, 200, 200), (0, 0, 0))
    """
    side = change.shape[-1]
    change = change.cpu().float() * _feather(side)
    if abs(to_patch.factor) > 1:  # the photo's face is smaller than the patch
        smaller = max(8, round(side / abs(to_patch.factor)))
        change = torch.nn.functional.interpolate(change[None], (smaller, smaller), mode="bicubic", antialias=True)[0]
    corners = to_patch.inverse(np.array([[0, 0], [side, 0], [0, side], [side, side]], float))
    left, top = np.clip(np.floor(corners.min(0)), 0, photo.size).astype(int).tolist()
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, photo.size).astype(int).tolist()
    if right <= left or bottom <= top:
        return photo.copy()
    places = _pixels(right - left, bottom - top) + np.array([left, top])
    grid = to_patch(places) / side * 2 - 1
    part = _to_tensor(photo.crop((left, top, right, bottom))) + _sample(change, grid, "zeros")
    changed = photo.copy()
    changed.paste(Image.fromarray(part.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()), (left, top))
    return changed


def _feather(side: int) -> Tensor:
    """A mask `(side, side)`: 0 at the edges, 1 within, and between them half a wave over an eighth of the side."""
    distance = (torch.arange(side) + 0.5).minimum(side - 0.5 - torch.arange(side)) / (side / 8)
    ramp = (1 - torch.cos(torch.pi * distance.clamp(max=1))) / 2
    return ramp[:, None] * ramp[None, :]


def _pixels(width: int, height: int) -> np.ndarray:
    """The middles of all pixels, `(height, width, 2)`."""
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def _sample(values: Tensor, grid: np.ndarray, beyond: str) -> Tensor:
    """Bicubic values `(3, h, w)` at a grid `(h, w, 2)`, whose -1 and 1 are the edges."""
    places = torch.from_numpy(grid.astype(np.float32))[None]
    return torch.nn.functional.grid_sample(
        values[None], places, mode="bicubic", padding_mode=beyond, align_corners=False
    )[0]
