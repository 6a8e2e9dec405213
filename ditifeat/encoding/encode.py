"""Images to features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from ditifeat.analysis.features import Features
from ditifeat.data.batches import OnError, batches, load_images
from ditifeat.data.preprocessing import Crop
from ditifeat.data.sources import is_single
from ditifeat.encoding.encoder import Encoder
from ditifeat.errors import InputError


def stream(
    encoder: Encoder, images: Any, *, batch_size: int = 64, crop: Crop = "model", on_error: OnError = "raise"
) -> Iterator[tuple[list[str], Tensor]]:
    """As `encode`, but yields the names and codes `(B, d)` of each batch, so that memory does not grow."""
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size} must be at least 1")
    if crop not in ("model", "center") or on_error not in ("raise", "skip"):
        raise InputError(f"crop = {crop!r} must be model or center, on_error = {on_error!r} raise or skip")
    for names, rows in batches(images, encoder.config.image, batch_size, crop, on_error):
        yield names, encoder(load_images(rows))


@overload
def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = ...,
    crop: Crop = ...,
    on_error: OnError = ...,
    output: Literal["numpy"] = ...,
    progress: bool = ...,
) -> Features: ...


@overload
def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = ...,
    crop: Crop = ...,
    on_error: OnError = ...,
    output: Literal["torch"],
    progress: bool = ...,
) -> Tensor: ...


def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = 64,
    crop: Crop = "model",
    on_error: OnError = "raise",
    output: Literal["numpy", "torch"] = "numpy",
    progress: bool = False,
) -> Features | Tensor:
    """Features of pictures, one row each, in their order.

    Rows do not depend on `batch_size` beyond float32 rounding. Decoding and resizing run in threads beside the network.

    Args:
        encoder: from `load_encoder`.
        images: a path of a picture, a folder (recursive, sorted) or a `.tar`; a PIL picture; an array `(H, W, 3)` or
            `(N, H, W, 3)`, uint8 or float in [0, 1]; a tensor `(3, H, W)` or `(N, 3, H, W)`, uint8 or float in [-1, 1];
            or an iterable of any of these.
        batch_size: pictures a pass.
        crop: "model" cuts as the model's pictures were cut (see `encoder.config.image`); "center" takes the largest
            central square, for pictures that are cut already.
        on_error: "raise" stops at a bad picture; "skip" warns and leaves its row out.
        output: "numpy" for `Features`, "torch" for a float32 tensor on the encoder's device.
        progress: show a bar.

    Returns:
        `Features` of shape `(n, d)`, `(d,)` for one picture, `(0, d)` for none.

    Raises:
        ImageDecodeError, InputError: for a bad picture or argument, with its name, the reason and the way out.
    """
    if output not in ("numpy", "torch"):
        raise InputError(f"output = {output!r} is not one of numpy, torch")
    names: list[str] = []
    rows = _Rows(encoder.partition.d)
    for batch_names, codes in _bar(
        stream(encoder, images, batch_size=batch_size, crop=crop, on_error=on_error), progress
    ):
        names += batch_names
        rows.append(codes.float().cpu().numpy())
    array = rows.finish()
    if is_single(images) and len(array) == 1:
        array = array[0]
    if output == "torch":
        return torch.from_numpy(array).to(encoder.device)
    return Features(array, tuple(names), encoder.partition, encoder.config.name)


class _Rows:
    """A float32 array that grows in place: a list of batches, joined at the end, would hold every row twice."""

    def __init__(self, width: int):
        self.buffer = np.empty((0, width), np.float32)
        self.used = 0

    def append(self, rows: np.ndarray) -> None:
        needed = self.used + len(rows)
        if needed > len(self.buffer):
            self.buffer.resize((needed + needed // 4, self.buffer.shape[1]), refcheck=False)
        self.buffer[self.used : needed] = rows
        self.used = needed

    def finish(self) -> np.ndarray:
        self.buffer.resize((self.used, self.buffer.shape[1]), refcheck=False)
        return self.buffer


def _bar(items: Iterator[tuple[list[str], Tensor]], progress: bool) -> Iterator[tuple[list[str], Tensor]]:
    """Shows a bar from the second batch on: one batch needs none."""
    bar = None
    seen = 0
    for names, codes in items:
        if progress and bar is None and seen:
            from tqdm import tqdm

            bar = tqdm(unit="picture", initial=seen)
        yield names, codes
        seen += len(names)
        if bar is not None:
            bar.update(len(names))
    if bar is not None:
        bar.close()
