"""The pictures of a run: decoded once into one file, then read in any order."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ditifeat.data.batches import batches, load_images
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.sources import sources
from ditifeat.errors import RecipeError


class Pictures:
    """All pictures of a run as one memory-mapped uint8 array `(N, S, S, 3)`, with their names.

    `batch(step)` depends on the seed and the step alone, not on how many processes read or where a run was resumed.
    """

    def __init__(self, array: np.ndarray, names: list[str], flip: bool, seed: int):
        self.array, self.names, self.flip, self.seed = array, names, flip, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.names)

    def indices(self, step: int, batch: int) -> np.ndarray:
        """The pictures of a step: epochs are permutations, laid end to end."""
        positions = np.arange(step * batch, (step + 1) * batch)
        return np.array([self._shuffled(p // len(self))[p % len(self)] for p in positions.tolist()])

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self))
            self._epoch = epoch
        return self._order

    def batch(self, step: int, batch: int, generator: torch.Generator) -> Tensor:
        """Images of a step, float32 `(batch, 3, S, S)` in [-1, 1], each flipped with probability 1/2 if asked."""
        images = load_images(self.array[self.indices(step, batch)])
        if not self.flip:
            return images
        flipped = torch.rand(batch, generator=generator) < 0.5
        return torch.where(flipped[:, None, None, None], images.flip(-1), images)

    def first(self, count: int) -> Tensor:
        """The first `count` images, unflipped, for previews that can be compared."""
        return load_images(np.array(self.array[:count]))


def prepare(data: str | Path, preprocessing: Preprocessing, cache: Path) -> tuple[np.ndarray, list[str]]:
    """Decodes a folder or tar of pictures into `cache` (`pictures.npy`, `pictures.json`) unless that is done.

    Raises:
        RecipeError: if there is no picture, or the cache was made from other data.
    """
    array_file, names_file = cache / "pictures.npy", cache / "pictures.json"
    made_from = {"data": str(Path(data).resolve()), "preprocessing": repr(preprocessing)}
    if names_file.exists():
        stored = json.loads(names_file.read_text("utf-8"))
        if stored["made_from"] != made_from:
            raise RecipeError(f"{cache}: holds pictures made from {stored['made_from']}; use another output folder")
        return np.load(array_file, mmap_mode="r"), stored["names"]
    count = sum(1 for _ in sources(data))
    if count == 0:
        raise RecipeError(f"{data}: holds no pictures")
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
