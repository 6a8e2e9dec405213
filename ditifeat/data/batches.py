"""Streaming batches of preprocessed images, decoded in threads; uint8 pixels to tensors."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.data.readers import Source
from ditifeat.data.sources import SourceReport, sources
from ditifeat.errors import ImageDecodeError, InputError
from ditifeat.schema import integer

logger = logging.getLogger(__name__)

MAX_THREADS = 8

OnError = Literal["raise", "skip"]


def batches(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    crop: Crop = "model",
    on_error: OnError = "raise",
    report: SourceReport | None = None,
    start: int = 0,
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

    Raises:
        ImageDecodeError: for the first damaged image, unless they are skipped.
        InputError: for anything else that cannot be read, as at the limit of open files, and for wrong arguments.

    >>> from ditifeat.data.preprocessing import Preprocessing
    >>> [pixels.shape for names, pixels in batches("photos", Preprocessing(32), batch_size=6)]
    [(6, 32, 32, 3), (2, 32, 32, 3)]
    """
    batch_size, start = integer("batch_size", batch_size, 1), integer("start", start, 0)
    if crop not in ("model", "center"):
        raise InputError(f"crop = {crop!r} must be model or center")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error = {on_error!r} must be raise or skip")
    report = SourceReport() if report is None else report

    def load(source: Source) -> np.ndarray:
        name, read = source
        image = read()
        try:
            return preprocessing.apply(image, crop)
        except ImageDecodeError as error:
            raise ImageDecodeError(f"{name}: {error}") from None

    threads = min(MAX_THREADS, os.cpu_count() or 1)
    names: list[str] = []
    rows: list[np.ndarray] = []
    items = islice(sources(images, report), start, None)
    with ThreadPoolExecutor(threads, thread_name_prefix="ditifeat-decode") as pool:
        for name, row in _ordered(pool, load, items, 2 * batch_size, on_error, report):
            names.append(name)
            rows.append(row)
            if len(rows) == batch_size:
                yield names, np.stack(rows)
                names, rows = [], []
        if rows:
            yield names, np.stack(rows)


def _ordered(
    pool: ThreadPoolExecutor,
    load: Callable[[Source], np.ndarray],
    items: Iterator[Source],
    ahead: int,
    on_error: OnError,
    report: SourceReport,
) -> Iterator[tuple[str, np.ndarray]]:
    """Rows in the order of their sources; while one is awaited, the next `ahead` are read."""
    pending: deque[tuple[str, Future[np.ndarray]]] = deque()

    def submit(count: int) -> None:
        pending.extend((source[0], pool.submit(load, source)) for source in islice(items, count))

    try:
        submit(ahead)
        while pending:
            name, future = pending.popleft()
            submit(1)
            try:
                yield name, future.result()
            except ImageDecodeError as error:
                if on_error == "raise":
                    raise
                logger.warning("skipped: %s", error)
                report.skipped.append((name, str(error)))
    finally:
        for _, future in pending:
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
