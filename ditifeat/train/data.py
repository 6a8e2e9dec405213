"""The images of a run: decoded once into one file, then read in any order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from torch import Tensor

from ditifeat.data.batches import batches, load_images
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.sources import sources
from ditifeat.errors import RecipeError


class TrainingImages:
    """The images of a run as one memory-mapped uint8 array `(N, S, S, 3)`, with their names.

    Args:
        array: the images.
        names: of the images.
        flip: whether each is flipped with probability 1/2 whenever it is trained on.
        seed: of the order.
    """

    def __init__(self, array: np.ndarray, names: list[str], *, flip: bool = True, seed: int = 0):
        self.array, self.names, self.flip, self.seed = array, names, flip, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def indices(self, step: int, batch: int) -> np.ndarray:
        """Return which images a step sees, int64 `(batch,)`: epochs are permutations, laid end to end.

        It depends on the seed and the step alone, not on what was asked for before, or by how many processes.
        """
        positions = np.arange(step * batch, (step + 1) * batch)
        return np.array([self._shuffled(p // len(self))[p % len(self)] for p in positions.tolist()])

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self))
            self._epoch = epoch
        return self._order

    def batch(self, indices: np.ndarray) -> Tensor:
        """Return images, float32 `(B, 3, S, S)` in [-1, 1], as they lie on the disk."""
        return load_images(self.array[indices])

    def first(self, count: int) -> Tensor:
        """Return the first `count` images, as `batch` does, or all where there are fewer."""
        return load_images(self.array[:count])


def prepare(data: str | Path, preprocessing: Preprocessing, cache: Path) -> tuple[np.ndarray, list[str]]:
    """Decodes a folder or tar of images into `cache` (`images.npy`, `images.json`) unless that is done.

    Raises:
        RecipeError: if there is no image, or the cache was made from other data.
    """
    array_file, names_file = cache / "images.npy", cache / "images.json"
    made_from = {"data": str(Path(data).resolve()), "preprocessing": repr(preprocessing)}
    if names_file.exists():
        stored = json.loads(names_file.read_text("utf-8"))
        if stored["made_from"] != made_from:
            raise RecipeError(f"{cache}: holds images made from {stored['made_from']}; use another output folder")
        return np.load(array_file, mmap_mode="r"), stored["names"]
    count = sum(1 for _ in sources(data))
    if count == 0:
        raise RecipeError(f"{data}: holds no images")
    cache.mkdir(parents=True, exist_ok=True)
    partial = array_file.with_suffix(".partial.npy")
    shape = (count, preprocessing.size, preprocessing.size, 3)
    array = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
    names: list[str] = []
    for batch_names, rows in batches(data, preprocessing, 256):
        array[len(names) : len(names) + len(rows)] = rows
        names += batch_names
    array.flush()
    os.replace(partial, array_file)
    partial_names = names_file.with_suffix(".partial")
    partial_names.write_text(json.dumps({"made_from": made_from, "names": names}), "utf-8")
    os.replace(partial_names, names_file)
    return np.load(array_file, mmap_mode="r"), names
