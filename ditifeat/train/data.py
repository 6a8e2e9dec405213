"""The images of a run: decoded once into one file, then read in any order."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ditifeat.align import Align, model_aligner
from ditifeat.data.batches import batches, load_images
from ditifeat.data.folders import list_folder
from ditifeat.data.paths import kind_of_path, split_column
from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.data.sources import SourceReport, sources
from ditifeat.errors import RecipeError, WriteError
from ditifeat.files import read_json, write_text

logger = logging.getLogger(__name__)

DECODED = 256  # images that are decoded before any is written

SAVE_SECONDS = 20  # between notes of how far decoding is

LOADED = 8192  # images that are copied onto a device at once


Read = Callable[..., Iterator[tuple[list[str], np.ndarray]]]  # `batches` of the run's images


class TrainingImages:
    """The images of a run as one memory-mapped uint8 array `(N, S, S, 3)`, with their names.

    Args:
        array: the images.
        names: of the images.
        flip: whether each is flipped with probability 1/2 whenever it is trained on.
        seed: of the order.

    >>> from ditifeat.train.data import TrainingImages
    >>> images = TrainingImages(np.zeros((5, 8, 8, 3), np.uint8), list("abcde"))
    >>> images.indices(step=0, batch=2).shape, images.first(3).shape
    ((2,), torch.Size([3, 3, 8, 8]))
    """

    def __init__(self, array: np.ndarray, names: list[str], *, flip: bool = True, seed: int = 0):
        self.array, self.names, self.flip, self.seed = array, names, flip, seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self._loaded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def indices(self, step: int, batch: int) -> np.ndarray:
        """Return which images a step sees, int64 `(batch,)`: epochs are permutations, laid end to end.

        It depends on the seed and the step alone, not on what was asked for before, or by how many processes.
        """
        epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), len(self))
        return np.concatenate([self._shuffled(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])

    def _shuffled(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self))
            self._epoch = epoch
        return self._order

    def load_onto(self, device: torch.device) -> None:
        """Copy all images onto a device, where `batch` then finds them, unless that took over half of its free memory."""
        if self._loaded is not None and self._loaded.device.type == device.type:
            return
        if device.type == "cuda" and self.array.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            logger.info("%d images are more than half of what %s has free; read from the disk", len(self), device)
            return
        loaded = torch.empty(self.array.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(self), LOADED):
            loaded[start : start + LOADED] = torch.from_numpy(np.array(self.array[start : start + LOADED]))
        self._loaded = loaded

    def batch(self, indices: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
        """Return images on a device, float32 `(B, 3, S, S)` in [-1, 1], not flipped; a GPU is not waited for."""
        if self._loaded is not None and self._loaded.device.type == torch.device(device).type:
            return load_images(self._loaded[_send(torch.from_numpy(indices), device)], device)
        return load_images(_send(torch.from_numpy(self.array[indices]), device), device)

    def first(self, count: int) -> Tensor:
        """Return the first `count` images, as `batch` does, or all where there are fewer."""
        return load_images(self.array[:count])


def _send(x: Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device. Only from pinned memory does a GPU copy without being waited for."""
    return x.pin_memory().to(device, non_blocking=True) if torch.device(device).type == "cuda" else x.to(device)


@dataclass(frozen=True)
class Decoded:
    """All images of a folder or tar, preprocessed.

    Attributes:
        array: uint8 `(N, S, S, 3)`, memory-mapped.
        names: of its rows, by which labels are matched.
        skipped: names and reasons of the images that could not be decoded.
    """

    array: np.ndarray
    names: list[str]
    skipped: list[tuple[str, str]]


def prepare(
    data: Path,
    preprocessing: Preprocessing,
    cache: Path,
    *,
    crop: Crop = "model",
    align: Align = False,
    progress: bool = False,
) -> Decoded:
    """Decode a folder or tar of images into `cache` (`images.npy`, `images.json`), or go on with it, or find it done.

    Damaged images are left out, counted in the log, and listed with their reasons in `images.json`. What is there already is
    taken for that of the same files: of the same names and sizes, and the same times or else the same pixels. So the folder
    may have been moved or copied, but no image added, changed or deleted.

    Args:
        data: the folder or tar.
        preprocessing: crop and size.
        cache: folder to write.
        crop: "model", or "center" for images that are cropped already.
        align: find and align the faces of photos, as in `encode`; photos without one are left out.
        progress: show a progress bar.

    Raises:
        RecipeError: if there is no image to train on, or the cache was made from other images or another preprocessing.
        WriteError: if there is no space for the images, before any is decoded.

    >>> from pathlib import Path
    >>> from ditifeat.data.preprocessing import Preprocessing
    >>> prepare(Path("photos"), Preprocessing(32), Path("cache")).array.shape
    (8, 32, 32, 3)
    """
    if crop == "center":
        preprocessing = replace(preprocessing, crop=(0.0, 0.0, 1.0, 1.0))
    about = {"preprocessing": json.loads(json.dumps(asdict(preprocessing))), "files": _files(data)}
    aligner = model_aligner(align, preprocessing, "model")
    if aligner is not None:
        about["preprocessing"]["align"] = aligner.faces
    read = partial(batches, data, preprocessing, DECODED, on_error="skip", align=aligner)
    if (cache / "images.json").exists():
        stored = read_json(cache / "images.json")
        _check_same(stored, about, data, read, cache)
    else:
        stored = _decode(data, read, cache, about, progress)
    array = np.load(cache / "images.npy", mmap_mode="r")[: len(stored["names"])]
    return Decoded(array, stored["names"], [(name, reason) for name, reason in stored["skipped"]])


def _files(data: Path) -> list[list[Any]]:
    """Name, size and time of each image file, or of the tar, zip or Parquet file, whatever folder they lie in."""
    kind = kind_of_path(str(data))
    if kind in ("list", "pattern", "video"):
        raise RecipeError(
            f"{data}: training takes a folder, tar, zip or Parquet file of images; put the images into one"
        )
    data = Path(split_column(str(data))[0])
    if data.is_dir():
        files = list_folder(data) or sorted(data.rglob("*.parquet"))
        return [_file(path, path.relative_to(data).as_posix()) for path in files]
    return [_file(data, "")]


def _file(path: Path, name: str) -> list[Any]:
    try:
        found = path.stat()
    except OSError:  # a broken link: that it cannot be read is said when it is decoded
        return [name, -1, 0]
    return [name, found.st_size, found.st_mtime_ns]


def _check_same(stored: dict[str, Any], about: dict[str, Any], data: Path, read: Read, cache: Path) -> None:
    if stored["preprocessing"] != about["preprocessing"]:
        raise RecipeError(f"{cache}: holds images cut or resized in another way; use another output folder")
    before, now = ({name: size for name, size, _ in files} for files in (stored["files"], about["files"]))
    changes = {
        "added": sorted(now.keys() - before.keys()),
        "deleted": sorted(before.keys() - now.keys()),
        "changed": sorted(name for name in now.keys() & before.keys() if now[name] != before[name]),
    }
    if not any(changes.values()) and stored["files"] != about["files"]:
        logger.info("%s: files have other times than when they were decoded; comparing their pixels", data)
        changes["changed"] = _changed_pixels(stored, read, cache)
        if not changes["changed"]:
            write_text(cache / "images.json", json.dumps(stored | about))
    if any(changes.values()):
        counts = ", ".join(f"{len(names)} {kind} ({names[0] or data.name})" for kind, names in changes.items() if names)
        raise RecipeError(
            f"{data}: is not what the run was begun with: {counts}; restore the images, or use another output folder"
        )


def _changed_pixels(stored: dict[str, Any], read: Read, cache: Path) -> list[str]:
    array = np.load(cache / "images.npy", mmap_mode="r")
    report = SourceReport()
    changed: list[str] = []
    done = 0
    for names, rows in read(report=report):
        before = array[done : done + len(rows)]
        same = [
            a == b and np.array_equal(x, y)
            for a, b, x, y in zip(names, stored["names"][done:], rows, before, strict=False)
        ]
        changed += [name for name, equal in zip(names, same, strict=False) if not equal]
        done += len(names)
    skipped = {name for name, _ in stored["skipped"]} ^ {name for name, _ in report.skipped}
    return changed or sorted(skipped)


def _decode(data: Path, read: Read, cache: Path, about: dict[str, Any], progress: bool) -> dict[str, Any]:
    """Write `images.npy`, and then `images.json`; `partial.json` says how far a decoding came that was stopped."""
    unfinished, note = cache / "images.partial.npy", cache / "partial.json"
    count = sum(1 for _ in sources(data))
    if count == 0:
        raise RecipeError(f"{data}: holds no images")
    state: dict[str, Any] = about | {"names": [], "skipped": []}
    if note.exists() and unfinished.exists() and {**read_json(note), "names": [], "skipped": []} == state:
        state = read_json(note)
        array: np.memmap = np.lib.format.open_memmap(unfinished, "r+")
    else:
        cache.mkdir(parents=True, exist_ok=True)
        size = about["preprocessing"]["size"]
        array = _reserve(unfinished, (count, size, size, 3))
    report = SourceReport(skipped=state["skipped"])
    start = len(state["names"]) + len(state["skipped"])
    saved = time.monotonic()
    with tqdm(total=count, initial=start, desc="decoding", unit="image", disable=not progress) as bar:
        for names, rows in read(report=report, start=start):
            done = len(state["names"])
            if done + len(report.skipped) + len(rows) > count:
                raise RecipeError(f"{data}: images were added while it was decoded; begin again")
            array[done : done + len(rows)] = rows
            state["names"] += names
            bar.update(len(state["names"]) + len(report.skipped) - bar.n)
            if time.monotonic() - saved > SAVE_SECONDS:
                array.flush()
                write_text(note, json.dumps(state))
                saved = time.monotonic()
    if not state["names"]:
        raise RecipeError(f"{data}: none of {count} images can be used; the first: {report.skipped[0][1]}")
    if report.skipped:
        left_out, first, listed = len(report.skipped), report.skipped[0][1], cache / "images.json"
        logger.warning("%s: %d of %d images left out, %s; the first: %s", data, left_out, count, listed, first)
    copies = len(state["names"]) - len({hashlib.sha256(row).digest() for row in array[: len(state["names"])]})
    if copies:
        logger.info("%s: %d images are copies of others, and are trained on as often as they are there", data, copies)
    array.flush()
    os.replace(unfinished, cache / "images.npy")
    write_text(cache / "images.json", json.dumps(state))
    note.unlink(missing_ok=True)
    return state


def _reserve(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A new memory-mapped uint8 array, whose space is taken now: a full disk would kill who writes to the map."""
    try:
        array = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        with path.open("r+b") as file:
            _allocate(file.fileno(), path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise WriteError(
            f"{path}: {math.prod(shape) / 1e9:.2g} GB for the decoded images cannot be had ({error.strerror}); free space, or "
            "use a folder on another disk"
        ) from error
    return array


def _allocate(descriptor: int, path: Path) -> None:
    size = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size)
        return
    except AttributeError:
        pass  # macOS and Windows have none
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
