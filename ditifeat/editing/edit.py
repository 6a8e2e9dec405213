"""Counterfactuals: the same image with one attribute, or one range of time-steps, changed (DiTi section 5.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import to_pixels
from ditifeat.data.preprocessing import Crop
from ditifeat.data.sources import is_single
from ditifeat.errors import InputError
from ditifeat.model.partition import TimeStepPartition
from ditifeat.model.sampling import Solver, slerp

if TYPE_CHECKING:
    from ditifeat.analysis.report import AttributeProbe
    from ditifeat.encoding.encoder import Encoder

StartNoise = Literal["keep", "slerp", "swap"]


def attribute_edit(z: Tensor, weights: Tensor, std: Tensor, scale: float) -> Tensor:
    """`z' = z + s sqrt(d) std w / ||w||`: codes `(B, d)` moved along a probe's weights `(d,)` on codes over `std`."""
    return z + scale * math.sqrt(z.shape[1]) * std * weights / weights.norm()


def subset_edit(
    partition: TimeStepPartition, z: Tensor, reference: Tensor, subsets: range, amount: float = 1.0
) -> Tensor:
    """`z' = z1 + a m (z2 - z1)`: the subsets lo..hi-1 of codes `(B, d)` moved towards those of `reference` `(1, d)`."""
    mask = torch.zeros_like(z)
    mask[:, partition.dims_of_subsets(subsets.start, subsets.stop)] = 1
    return z + amount * mask * (reference - z)


@overload
def edit(
    encoder: Encoder,
    images: Any,
    direction: AttributeProbe | np.ndarray | Tensor | None = None,
    *,
    scale: float | None = None,
    reference: Any = None,
    subsets: range | None = None,
    x_T: StartNoise = "keep",
    steps: int = 20,
    solver: Solver = "fixed_point",
    batch_size: int = 16,
    crop: Crop = "model",
) -> Image.Image | list[Image.Image]: ...


@overload
def edit(
    encoder: Encoder,
    images: Any,
    direction: AttributeProbe | np.ndarray | Tensor | None = None,
    *,
    scale: Sequence[float],
    reference: Any = None,
    subsets: range | None = None,
    x_T: StartNoise = "keep",
    steps: int = 20,
    solver: Solver = "fixed_point",
    batch_size: int = 16,
    crop: Crop = "model",
) -> list[Image.Image] | list[list[Image.Image]]: ...


def edit(
    encoder: Encoder,
    images: Any,
    direction: AttributeProbe | np.ndarray | Tensor | None = None,
    *,
    scale: float | Sequence[float] | None = None,
    reference: Any = None,
    subsets: range | None = None,
    x_T: StartNoise = "keep",
    steps: int = 20,
    solver: Solver = "fixed_point",
    batch_size: int = 16,
    crop: Crop = "model",
) -> Any:
    """Pictures with an attribute, or the subsets of a reference image, put in; the rest kept.

    Each image is inverted to its `x_T` under its own code, the code is changed, and `x_T` is sampled under it. At
    `scale=0` that is the reconstruction.

    Args:
        encoder: from `load_encoder`; its frozen DM and estimator are read at the first edit.
        images: anything that `encode` takes.
        direction: an attribute, `report["Smiling"]`; or a probe's weights `(d,)` on codes standardised with the
            encoder's own `mean` and `std`.
        scale: how far. For an attribute the s of DESIGN's attribute edit, 0.3 by default, negative for its contrary; for a
            reference its share, 1 by default. A sequence of them is a path: its images share one inversion.
        reference: an image whose subsets are taken, in place of `direction`.
        subsets: which subsets, a range of step 1; all by default.
        x_T: "keep" the image's own, "slerp" towards the reference's by `scale` (the published interpolation), or
            "swap" for the reference's.
        steps: of inversion and of sampling, each an evaluation of the networks.
        solver: "fixed_point", whose reconstruction is close in few steps, or the published "ddim"
            (`ditifeat.generative.GenerativeModel`).
        batch_size: images at a time.
        crop: as in `encode`.

    Returns:
        An RGB image of the model's size; a list of them unless `images` is a single image. For a sequence of scales each
        of these is a list, one image a scale.

    Raises:
        ImageDecodeError, InputError, ModelError: for images, arguments or weights that do not fit.
    """
    if (direction is None) == (reference is None):
        raise InputError("give either a direction (an attribute) or a reference image")
    if direction is not None and (subsets is not None or x_T != "keep"):
        raise InputError("subsets and x_T belong to a reference image, not to a direction")
    if x_T not in ("keep", "slerp", "swap"):
        raise InputError(f"x_T = {x_T!r} is not one of keep, slerp, swap")
    scales = _scales(scale, 0.3 if direction is not None else 1.0)
    model = encoder.model
    if direction is not None:
        weights, std = checked_direction(encoder, direction)
    else:
        subsets = _check_subsets(encoder.partition, subsets)
        reference_z, reference_x_T = _reference(encoder, reference, steps, crop, x_T, solver)
    edited: list[list[Image.Image]] = []
    for _, rows in batches(images, encoder.config.image, batch_size, crop):
        x_0 = load_images(rows, encoder.device)
        z = encoder(x_0)
        start = model.invert(x_0, z, steps, solver)
        paths: list[list[Image.Image]] = [[] for _ in rows]
        for s in scales:
            begin = start
            if direction is not None:
                changed = attribute_edit(z, weights, std, s)
            else:
                changed = subset_edit(encoder.partition, z, reference_z, subsets or range(0), s)
                amount = {"keep": 0.0, "slerp": s, "swap": 1.0}[x_T]
                begin = slerp(start, reference_x_T.expand_as(start), amount) if amount else start
            for path, pixels in zip(paths, to_pixels(model.sample(begin, changed, steps, solver=solver)), strict=True):
                path.append(Image.fromarray(pixels))
        edited += paths
    found: list[Any] = edited if isinstance(scale, Sequence) else [path[0] for path in edited]
    return found[0] if is_single(images) and len(found) == 1 else found


def _scales(scale: float | Sequence[float] | None, default: float) -> list[float]:
    values = default if scale is None else scale
    scales = [float(value) for value in (values if isinstance(values, Sequence) else [values])]
    if not scales or not all(map(math.isfinite, scales)):
        raise InputError(f"scale = {scale} is not a finite number, nor some of them")
    return scales


def checked_direction(encoder: Encoder, direction: Any) -> tuple[Tensor, Tensor]:
    """A probe's weights on scaled codes and the std that scaled them, `(d,)` each, on the encoder's device.

    Raises:
        InputError: for another shape, or weights that are zero or not finite.
    """
    std = getattr(direction, "std", None) if hasattr(direction, "weights") else None
    weights = torch.as_tensor(np.asarray(getattr(direction, "weights", direction), dtype=np.float32))
    if weights.shape != (encoder.partition.d,):
        raise InputError(
            f"the direction has shape {tuple(weights.shape)}, the model's codes {encoder.partition.d} numbers"
        )
    if not torch.isfinite(weights).all() or not weights.norm() > 0:
        raise InputError("the direction is zero or not finite; its attribute could not be probed")
    deviation = encoder.std if std is None else torch.as_tensor(np.asarray(std, dtype=np.float32))
    return weights.to(encoder.device), deviation.to(encoder.device)


def _check_subsets(partition: TimeStepPartition, subsets: range | None) -> range:
    subsets = range(partition.k) if subsets is None else subsets
    if not isinstance(subsets, range) or subsets.step != 1:
        raise InputError(f"subsets = {subsets!r} is not a range of step 1, like range(16, 24)")
    partition.dims_of_subsets(subsets.start, subsets.stop)
    if len(subsets) == 0:
        raise InputError(f"subsets = {subsets} is empty")
    return subsets


def _reference(
    encoder: Encoder, reference: Any, steps: int, crop: Crop, x_T: StartNoise, solver: Solver
) -> tuple[Tensor, Tensor]:
    """The reference's code `(1, d)` and its `x_T` `(1, C, h, w)`, which only some edits need."""
    found = [rows for _, rows in batches(reference, encoder.config.image, 2, crop)]
    if len(found) != 1 or len(found[0]) != 1:
        raise InputError("the reference must be one image")
    x_0 = load_images(found[0], encoder.device)
    z = encoder(x_0)
    return z, encoder.model.invert(x_0, z, steps, solver) if x_T != "keep" else torch.empty(0)
