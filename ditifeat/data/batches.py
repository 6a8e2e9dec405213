"""Streaming batches of preprocessed images, decoded in threads; uint8 pixels to tensors."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.data.readers import Source, held
from ditifeat.data.sources import SourceReport, sources
from ditifeat.errors import ImageDecodeError, InputError
from ditifeat.schema import boolean, integer

logger = logging.getLogger(__name__)

MAX_THREADS = 16

CHUNK = 8  # images that a thread takes at a time: handing over each by itself costs as much as resizing it

MAX_HELD = 2**26  # bytes of images that came from memory or an archive and wait to be decoded

OnError = Literal["raise", "skip"]

Align = Callable[[Image.Image], Image.Image]


class Batch(NamedTuple):
    """So many images, in their order, those that could not be decoded among them.

    Attributes:
        names: of all, `(B,)`.
        pixels: uint8 `(m, size, size, 3)` of the m that were decoded.
        errors: per name, why it was not decoded, or None.
    """

    names: list[str]
    pixels: np.ndarray
    errors: list[str | None]


@dataclass(frozen=True)
class Listed:
    """Images that `sources` has listed already, as another process did."""

    sources: list[Source]


def batches(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    crop: Crop = "model",
    on_error: OnError = "raise",
    report: SourceReport | None = None,
    start: int = 0,
    draft: bool = False,
    align: Align | None = None,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read batches of names and pixels, uint8 `(B, size, size, 3)`, in order; decoded in threads, two batches ahead.

    Args:
        images: as `sources` takes them.
        preprocessing: crop and size.
        batch_size: images per batch; the last may have fewer.
        crop: "model" for `preprocessing.crop`, "center" for the largest central square.
        on_error: "raise" stops at a damaged image; "skip" logs it, adds it to `report`, and goes on.
        report: takes what was skipped and left out.
        start: the first images of this number are not decoded.
        draft: large JPEGs are reduced while they are decoded: several times faster, and nearly the same pixels. Not where images
            are aligned, which is done from all their pixels.
        align: makes of each image the one that is cropped: `ditifeat.align.Aligner`.

    Raises:
        ImageDecodeError: for the first damaged image, unless they are skipped.
        InputError: for anything else that cannot be read, as at the limit of open files, and for wrong arguments.

    >>> from ditifeat.data.preprocessing import Preprocessing
    >>> [pixels.shape for names, pixels in batches("photos", Preprocessing(32), batch_size=6)]
    [(6, 32, 32, 3), (2, 32, 32, 3)]
    """
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error = {on_error!r} must be raise or skip")
    report = SourceReport() if report is None else report
    names: list[str] = []
    rows: list[np.ndarray] = []
    for name, row in _decoded(images, preprocessing, batch_size, crop, report, start, draft, align):
        if isinstance(row, ImageDecodeError):
            if on_error == "raise":
                raise row
            logger.warning("skipped: %s", row)
            report.skipped.append((name, str(row)))
            continue
        names.append(name)
        rows.append(row)
        if len(rows) == batch_size:
            yield names, np.stack(rows)
            names, rows = [], []
    if rows:
        yield names, np.stack(rows)


def batches_with_errors(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    crop: Crop = "model",
    start: int = 0,
    draft: bool = False,
    threads: int | None = None,
    align: Align | None = None,
) -> Iterator[Batch]:
    """Read batches of `batch_size` images as `batches` does, but a damaged image keeps its place, with its error.

    Args:
        images, preprocessing, batch_size, crop, start, draft, align: as `batches` takes them; `Listed` images are
            taken as they are.
        threads: that decode; `count_threads()` by default.

    Raises:
        InputError: for anything but a damaged image that cannot be read, and for wrong arguments.

    >>> from ditifeat.data.batches import batches_with_errors
    >>> from ditifeat.data.preprocessing import Preprocessing
    >>> [batch] = batches_with_errors([b"no image", "me.png"], Preprocessing(32), 8)
    >>> batch.names, batch.pixels.shape, batch.errors[1]
    (['0', 'me.png'], (1, 32, 32, 3), None)
    """
    found = _decoded(images, preprocessing, batch_size, crop, SourceReport(), start, draft, align, threads)
    size = preprocessing.size
    while part := list(islice(found, batch_size)):
        errors = [str(row) if isinstance(row, ImageDecodeError) else None for _, row in part]
        rows = [row for _, row in part if isinstance(row, np.ndarray)]
        pixels = np.stack(rows) if rows else np.empty((0, size, size, 3), np.uint8)
        yield Batch([name for name, _ in part], pixels, errors)


Decoded = tuple[str, np.ndarray | ImageDecodeError]


def _decoded(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    crop: Crop,
    report: SourceReport,
    start: int,
    draft: bool,
    align: Align | None,
    threads: int | None = None,
) -> Iterator[Decoded]:
    """Names and pixels, or what was wrong with the image, in the order of the sources."""
    batch_size, start = integer("batch_size", batch_size, 1), integer("start", start, 0)
    if crop not in ("model", "center"):
        raise InputError(f"crop = {crop!r} must be model or center")
    reduction = partial(preprocessing.reduction, crop=crop) if boolean("draft", draft) and align is None else None

    def load(source: Source) -> Decoded:
        name, read = source
        try:
            image = read(reduction)
        except ImageDecodeError as error:
            return name, error
        try:
            return name, preprocessing.apply(image if align is None else align(image), crop, draft)
        except ImageDecodeError as error:
            return name, type(error)(f"{name}: {error}")

    def load_chunk(chunk: list[Source]) -> list[Decoded]:
        return [load(source) for source in chunk]

    found = images.sources if isinstance(images, Listed) else sources(images, report)
    items = islice(found, start, None)
    with ThreadPoolExecutor(threads or count_threads(), thread_name_prefix="ditifeat-decode") as pool:
        yield from _ordered(pool, load_chunk, items, 2 * batch_size, max(1, min(CHUNK, batch_size // 4)))


def count_threads() -> int:
    """How many threads decode: as many as this process has cores, up to 16.

    >>> from ditifeat.data.batches import count_threads
    >>> 1 <= count_threads() <= 16
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MAX_THREADS, cores)


def _ordered(
    pool: ThreadPoolExecutor,
    load: Callable[[list[Source]], list[Decoded]],
    items: Iterator[Source],
    ahead: int,
    chunk: int,
) -> Iterator[Decoded]:
    """What `load` gives, in the order of the items; while one chunk is awaited, about the next `ahead` items are read.

    What goes wrong when an item is pulled is raised in its place, after the items before it.
    """
    pending: deque[tuple[Future[list[Decoded]], int]] = deque()
    wrong: list[Exception] = []
    waiting = 0  # bytes that pending items hold

    def submit() -> bool:
        nonlocal waiting
        part: list[Source] = []
        size = 0
        try:
            for source in islice(items, 0 if wrong else chunk):
                part.append(source)
                size += held(source[1])
                if waiting + size > MAX_HELD:
                    break
        except Exception as error:
            wrong.append(error)
        if part:
            pending.append((pool.submit(load, part), size))
            waiting += size
        return bool(part)

    try:
        more = submit()
        while pending:
            # With none pending one more is read, however large: otherwise what follows it would be lost.
            while more and (len(pending) < 2 or (len(pending) * chunk <= ahead and waiting <= MAX_HELD)):
                more = submit()
            future, size = pending.popleft()
            yield from future.result()
            waiting -= size
        if wrong:
            raise wrong[0]
    finally:
        for future, _ in pending:
            future.cancel()


def load_images(pixels: np.ndarray | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Move uint8 images `(B, H, W, 3)` to a device, and convert them there to float32 `(B, 3, H, W)` in [-1, 1].

    >>> import numpy as np
    >>> load_images(np.full((1, 2, 2, 3), 255, np.uint8)).unique()
    tensor([1.])
    """
    # np.array: a memory map is read-only, which torch warns of.
    tensor = pixels if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    return tensor.to(device).permute(0, 3, 1, 2).contiguous().to(torch.float32) / 127.5 - 1
