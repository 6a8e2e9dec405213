"""Labelled images of which some train and the others test: what every score is worked out on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditifeat.analysis.attributes import read_attributes
from ditifeat.benchmark.cache import content_hash
from ditifeat.data.batches import batches, load_images
from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.editing.arguments import check_choice
from ditifeat.errors import InputError
from ditifeat.model.encoders import flip_averaged
from ditifeat.schema import integer

MIN_TRAIN = 16

MIN_TEST = 4


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their attributes, and which of them train.

    Args:
        images: uint8 `(n, S, S, 3)`, as the compared encoders read them.
        names: of the images, `n`.
        attributes: their names.
        targets: float64 `(n, attributes)`: 1 where an image has the attribute, 0 where not, NaN where nobody knows.
        train: bool `(n,)`; the other rows test.

    Raises:
        InputError: if their lengths differ, or fewer than 16 rows train or 4 test.

    >>> from ditifeat.benchmark.split import Split
    >>> targets = np.arange(24).reshape(24, 1) % 2.0
    >>> names = tuple(f"{i}.png" for i in range(24))
    >>> split = Split(np.zeros((24, 8, 8, 3), np.uint8), names, ("odd",), targets, np.arange(24) < 20)
    >>> int(split.test.sum())
    4
    """

    images: np.ndarray
    names: tuple[str, ...]
    attributes: tuple[str, ...]
    targets: np.ndarray
    train: np.ndarray

    def __post_init__(self) -> None:
        rows = len(self.images)
        if not len(self.names) == len(self.train) == rows or self.targets.shape != (rows, len(self.attributes)):
            raise InputError(
                f"{rows} images, {len(self.names)} names, a mask of {len(self.train)} rows and targets of shape "
                f"{self.targets.shape} for {len(self.attributes)} attributes do not belong together"
            )
        if self.train.sum() < MIN_TRAIN or self.test.sum() < MIN_TEST:
            raise InputError(
                f"{self.train.sum()} images to train on and {self.test.sum()} to test on: at least {MIN_TRAIN} must train "
                f"and {MIN_TEST} test"
            )

    @property
    def test(self) -> np.ndarray:
        """Mask `(n,)` of the rows that do not train."""
        return ~self.train

    @cached_property
    def key(self) -> str:
        """A hash of what scores depend on: images, attributes, targets and rows, but not the images' names."""
        return content_hash(self.images, self.attributes, self.targets, self.train)


def read_split(data: Any, labels: Any, preprocessing: Preprocessing, train_size: int, crop: Crop = "model") -> Split:
    """Read images and their labels; the first `train_size` images train, the others test.

    Args:
        data: images as `ditifeat.encode` takes them: a folder (sorted by name), a `.tar`, or a list of these.
        labels: as `ditifeat.probe` takes them, of two values each.
        preprocessing: how images become the encoders' input.
        train_size: how many images train.
        crop: "model", or "center" for images that are cropped already, as `ditifeat.encode` takes it.

    Raises:
        ImageDecodeError, InputError: for images, labels or a size that do not fit.

    >>> from ditifeat.benchmark.split import read_split
    >>> read_split("photos", {"odd": np.arange(8) % 2}, encoder.config.image, train_size=6, crop="center")
    Traceback (most recent call last):
    ditifeat.errors.InputError: train_size = 6 of 8 images: at least 16 must train and 4 test
    """
    names, images = read_images(data, preprocessing, crop)
    train_size = integer("train_size", train_size)
    if not MIN_TRAIN <= train_size <= len(names) - MIN_TEST:
        raise InputError(
            f"train_size = {train_size} of {len(names)} images: at least {MIN_TRAIN} must train and {MIN_TEST} test"
        )
    return labelled_split(names, images, labels, np.arange(len(names)) < train_size)


def read_images(data: Any, preprocessing: Preprocessing, crop: Crop = "model") -> tuple[list[str], np.ndarray]:
    """Read all images into memory: their names, and their pixels, uint8 `(n, S, S, 3)`.

    Args:
        data, preprocessing, crop: as `read_split`.

    Raises:
        ImageDecodeError, InputError: for images that cannot be read, or none.

    >>> from ditifeat.benchmark.split import read_images
    >>> names, images = read_images("photos", encoder.config.image, "center")
    >>> names[0], images.shape
    ('0.png', (8, 64, 64, 3))
    """
    names: list[str] = []
    rows: list[np.ndarray] = []
    check_choice("crop", crop, ("model", "center"))
    for batch_names, batch in batches(data, preprocessing, 256, crop):
        names += batch_names
        rows.append(batch)
    if not rows:
        raise InputError(f"{data}: holds no images")
    return names, np.concatenate(rows)


def labelled_split(names: Sequence[str], images: np.ndarray, labels: Any, train: np.ndarray) -> Split:
    """Give images their labels, as `ditifeat.probe` takes them, of two values each.

    Args:
        names, images: as `read_images` gives them.
        labels: of the images.
        train: mask `(n,)` of those that train.

    Raises:
        InputError: for labels that do not fit.
    """
    attributes = read_attributes(labels, names)
    real = [attribute.name for attribute in attributes if attribute.kind == "real"]
    if real:
        raise InputError(
            f"attribute {real[0]}: has more than two different labels; the benchmark compares those of two"
        )
    targets = np.stack([attribute.values for attribute in attributes], axis=1)
    return Split(images, tuple(names), tuple(a.name for a in attributes), targets, train)


@torch.no_grad()
def in_batches(
    function: Callable[[Tensor], Tensor],
    images: np.ndarray,
    device: torch.device | str = "cpu",
    batch: int = 250,
    *,
    flip_average: bool = False,
) -> np.ndarray:
    """Apply a function of images `(B, 3, S, S)` in [-1, 1] on a device to uint8 images `(n, S, S, 3)`.

    Args:
        function: gives rows `(B, ...)`.
        images: all of them.
        device: where `function` computes.
        batch: images per batch.
        flip_average: take the mean over each image and its horizontal flip.

    Returns:
        float32 `(n, ...)`.

    >>> from ditifeat.benchmark.split import in_batches
    >>> in_batches(lambda images: images.mean((2, 3)), np.full((2, 8, 8, 3), 255, np.uint8))
    array([[1., 1., 1.],
           [1., 1., 1.]], dtype=float32)
    """
    function = flip_averaged(function) if flip_average else function
    parts = (load_images(images[i : i + batch], device) for i in range(0, len(images), batch))
    return torch.cat([function(part).float().cpu() for part in parts]).numpy()
