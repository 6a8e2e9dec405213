"""Does a DM repeat its training images? How far its samples are from the nearest one, beside how far other real images are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ditifeat.data.batches import load_images
from ditifeat.errors import InputError

SIDE = 32  # pixels, to which images are shrunk by averaging: noise of single pixels hides no copy

CHUNK = 2048  # training images per matrix product


@torch.no_grad()
def nearest_mse(images: np.ndarray, training: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Compute each image's mean squared error (scale 0..1) to the nearest training image or its horizontal flip.

    Args:
        images: uint8 `(n, S, S, 3)`.
        training: uint8 `(m, S, S, 3)`, m at least 1.
        device: a torch device.

    Returns:
        float32 `(n,)`, of images shrunk to 32 pixels per side where they have more.

    Raises:
        InputError: for no training image, or images of another size.

    >>> from ditifeat.benchmark.memorisation import nearest_mse
    >>> nearest_mse(np.full((1, 8, 8, 3), 255, np.uint8), np.zeros((4, 8, 8, 3), np.uint8))
    array([1.], dtype=float32)
    """
    if not len(training) or images.shape[1:] != training.shape[1:]:
        raise InputError(
            f"images of shape {images.shape[1:]} and {len(training)} training images of {training.shape[1:]}"
        )
    queries = _shrunk(images, device)
    both = torch.cat([queries, queries.flip(3)]).flatten(1)
    least = torch.full((len(both),), torch.inf, device=both.device)
    for start in range(0, len(training), CHUNK):
        known = _shrunk(training[start : start + CHUNK], device).flatten(1)
        squared = known.square().sum(1) - 2 * both @ known.T
        least = torch.minimum(least, squared.amin(1))
    least = (least + both.square().sum(1)).clamp(min=0) / both.shape[1]
    return torch.minimum(*least.chunk(2)).cpu().numpy()


def _shrunk(images: np.ndarray, device: torch.device | str) -> Tensor:
    """In -0.5..0.5, so that squares are of the scale 0..1."""
    return functional.adaptive_avg_pool2d(load_images(images, device), min(SIDE, images.shape[1])) / 2
