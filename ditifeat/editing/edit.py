"""Counterfactuals: the same image with one attribute, or one range of time-steps, changed (DiTi section 5.2)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditifeat.align import Align
from ditifeat.data.batches import load_images
from ditifeat.data.drawing import to_pixels
from ditifeat.data.preprocessing import ALIGNED, Crop
from ditifeat.data.sources import is_single
from ditifeat.editing.arguments import (
    EditOptions,
    Output,
    Scale,
    check_choice,
    checked_direction,
    checked_subsets,
    decode_all,
    decode_one,
    read_scales,
)
from ditifeat.editing.paste import Pasted
from ditifeat.encoding.encoder import Encoder, check_encoder
from ditifeat.errors import InputError
from ditifeat.model.partition import TimeStepPartition
from ditifeat.model.sampling import Solver, slerp

if TYPE_CHECKING:
    from ditifeat.analysis.report import AttributeProbe

logger = logging.getLogger(__name__)

StartNoise = Literal["keep", "slerp", "swap"]


def attribute_edit(z: Tensor, weights: Tensor, std: Tensor, scale: float) -> Tensor:
    """Move codes `(B, d)` along a probe's weights `(d,)` on codes over `std`: `z' = z + s sqrt(d) std w / ||w||`.

    >>> from ditifeat.editing.edit import attribute_edit
    >>> attribute_edit(torch.zeros(1, 4), torch.tensor([3.0, 0, 0, 0]), torch.ones(4), 0.5)
    tensor([[1., 0., 0., 0.]])
    """
    return z + scale * math.sqrt(z.shape[1]) * std * weights / weights.norm()


def subset_edit(
    partition: TimeStepPartition, z: Tensor, reference: Tensor, subsets: range, amount: float = 1.0
) -> Tensor:
    """Move the subsets lo..hi-1 of codes `(B, d)` towards those of `reference` `(1, d)`: `z' = z1 + a m (z2 - z1)`.

    >>> from ditifeat.editing.edit import subset_edit
    >>> subset_edit(ditifeat.TimeStepPartition(2, 4), torch.zeros(1, 4), torch.ones(1, 4), range(1, 2))
    tensor([[0., 0., 1., 1.]])
    """
    mask = torch.zeros_like(z)
    mask[:, partition.dims_of_subsets(subsets.start, subsets.stop)] = 1
    return z + amount * mask * (reference - z)


@overload
def edit(
    encoder: Encoder,
    images: Any,
    direction: AttributeProbe | np.ndarray | Tensor,
    *,
    scale: Scale | None = ...,
    steps: int = ...,
    solver: Solver = ...,
    batch_size: int = ...,
    crop: Crop = ...,
    align: Align = ...,
    paste: bool = ...,
    output: Output = ...,
    progress: bool = ...,
) -> Any: ...


@overload
def edit(
    encoder: Encoder,
    images: Any,
    *,
    reference: Any,
    subsets: range | None = ...,
    x_T: StartNoise = ...,
    scale: Scale | None = ...,
    steps: int = ...,
    solver: Solver = ...,
    batch_size: int = ...,
    crop: Crop = ...,
    align: Align = ...,
    paste: bool = ...,
    output: Output = ...,
    progress: bool = ...,
) -> Any: ...


def edit(
    encoder: Encoder,
    images: Any,
    direction: Any = None,
    *,
    reference: Any = None,
    subsets: range | None = None,
    x_T: StartNoise = "keep",
    scale: Scale | None = None,
    steps: int = 20,
    solver: Solver = "fixed_point",
    batch_size: int = 16,
    crop: Crop = "model",
    align: Align = False,
    paste: bool = False,
    output: Output = "pil",
    progress: bool = False,
) -> Any:
    """Change an attribute of images, or put the subsets of a reference image in; keep the rest.

    Each image is inverted to its `x_T` under its own plain code, the code is changed, and `x_T` is sampled under it. At
    `scale=0` that is the reconstruction. All images are decoded before the first one is edited.

    Args:
        encoder: from `load_encoder`; its frozen DM and estimator are read at the first edit.
        images: anything that `encode` takes.
        direction: an attribute, `report["Smiling"]`, of plain features or of ones averaged over flips; or a probe's weights
            `(d,)` on codes standardised by the encoder's own `mean` and `std`.
        reference: in place of a direction, an image whose subsets are taken.
        subsets: which subsets of the reference, a range of step 1; all by default.
        x_T: "keep" the image's own, "slerp" towards the reference's by `scale` (the published interpolation), or "swap"
            for the reference's.
        scale: how far. For a direction, s of `z' = z + s sqrt(d) std w / ||w||`, 0.3 by default, negative for less of the
            attribute; for a reference, the share of it, 1 by default. Several, as a sequence, array or tensor, share one
            inversion.
        steps: of inversion, and of sampling, each an evaluation of the networks.
        solver: "fixed_point", whose reconstruction is close in few steps, or the published "ddim"
            (`ditifeat.model.generative.GenerativeModel`).
        batch_size: images per batch.
        crop: as in `encode`.
        align: whether the images, and the reference, are photos whose faces are to be aligned, as in `encode`.
        paste: put the edited faces back into their photos: what the edit changed is added there, feathered. All else of the
            photo stays, and so does what of the face is finer than the model's size.
        output: "pil" for RGB images, "numpy" for uint8 arrays `(S, S, 3)`, "torch" for float32 tensors `(3, S, S)` in
            [-1, 1] on the encoder's device.
        progress: show a bar, if there are several batches.

    Returns:
        An image of the model's size (with `paste`, of the photo's) for a single image and a single scale. Several scales give
        a list of images per image, several images a list of these; arrays and tensors have dimensions `(n, scales, ...)` in
        place of lists.

    Raises:
        ImageDecodeError, InputError, ModelError: for images, arguments or weights that do not fit; before the first edit.

    >>> report = encoder.attributes()
    >>> ditifeat.edit(encoder, "me.png", report["Smiling"], crop="center", steps=4).size
    (64, 64)
    >>> swapped = ditifeat.edit(
    ...     encoder, "photos/", reference="you.png", subsets=range(16, 24), crop="center", steps=2, output="torch"
    ... )
    >>> swapped.shape
    torch.Size([8, 3, 64, 64])
    """
    check_encoder(encoder)
    if (direction is None) == (reference is None):
        raise InputError("give either a direction (an attribute) or a reference image")
    if direction is not None and (subsets is not None or x_T != "keep"):
        raise InputError("subsets and x_T belong to a reference image, not to a direction")
    partition = encoder.partition
    how = EditOptions(partition.num_time_steps, steps, solver, batch_size, crop, output, align, paste)
    change: AttributeChange | ReferenceChange
    if reference is None:
        scales, several = read_scales(scale, 0.3)
        change = AttributeChange(encoder, direction, how)
    else:
        scales, several = read_scales(scale, 1.0)
        change = ReferenceChange(encoder, reference, checked_subsets(partition, subsets), x_T, how)
    single = is_single(images)
    aligner = how.aligner(encoder.config.image) if paste else None
    pasted = None if aligner is None else Pasted(encoder, images, how, aligner)
    decoded = decode_all(encoder, images, how) if pasted is None else pasted.decoded
    size = encoder.config.image.size
    edited = [torch.empty(0, len(scales), 3, size, size, device=encoder.device)]
    for rows in _with_bar(decoded, progress):
        x_0 = load_images(rows, encoder.device)
        z = encoder(x_0)
        start = encoder.model.invert(x_0, z, how.steps, how.solver)
        changed = (change(z, start, s) for s in scales)
        made = [encoder.model.sample(begin, code, how.steps, solver=how.solver) for code, begin in changed]
        batch = torch.stack(made, dim=1)
        if not torch.isfinite(batch).all():
            raise InputError(f"scale = {scale!r} leads to values that are not finite; choose a smaller one")
        edited.append(batch.clamp(-1, 1))
    found = torch.cat(edited) if several else torch.cat(edited)[:, 0]
    edits = pasted(found) if pasted else _output(found, how.output)
    return edits[0] if single and len(found) == 1 else edits


class AttributeChange:
    """Codes moved along an attribute's direction.

    Raises:
        InputError: for a direction that does not fit the encoder.
    """

    def __init__(self, encoder: Encoder, direction: Any, how: EditOptions):
        self.weights, self.std = checked_direction(encoder, direction)
        learned, here = getattr(direction, "preprocessing", ""), encoder.config.image.fingerprint(how.crop)
        # Images that needed no alignment have taught what holds for those that were aligned, but not the other way round.
        if learned and learned != here and (how.align is False or learned.removesuffix(ALIGNED) != here):
            logger.warning(
                "the direction was learned from images that were cropped or aligned in another way than crop=%r, align=%r",
                how.crop,
                how.align,
            )

    def __call__(self, z: Tensor, x_T: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return attribute_edit(z, self.weights, self.std, scale), x_T


class ReferenceChange:
    """Codes, and perhaps `x_T`, moved towards those of a reference image, which is inverted at the first use.

    Raises:
        ImageDecodeError, InputError: for anything but one image.
    """

    def __init__(self, encoder: Encoder, reference: Any, subsets: range, x_T: StartNoise, how: EditOptions):
        check_choice("x_T", x_T, ("keep", "slerp", "swap"))
        self.encoder, self.subsets, self.towards, self.how = encoder, subsets, x_T, how
        self.pixels = decode_one(encoder, reference, how.crop, "the reference", how.align)

    @cached_property
    def x_0(self) -> Tensor:
        return load_images(self.pixels, self.encoder.device)

    @cached_property
    def z(self) -> Tensor:
        return self.encoder(self.x_0)

    @cached_property
    def start(self) -> Tensor:
        return self.encoder.model.invert(self.x_0, self.z, self.how.steps, self.how.solver)

    def __call__(self, z: Tensor, x_T: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        changed = subset_edit(self.encoder.partition, z, self.z, self.subsets, scale)
        amount = {"keep": 0.0, "slerp": scale, "swap": 1.0}[self.towards]
        return changed, slerp(x_T, self.start.expand_as(x_T), amount) if amount else x_T


def _with_bar(decoded: list[np.ndarray], progress: bool) -> Iterator[np.ndarray]:
    """Show a bar of images: one batch needs none."""
    if not progress or len(decoded) < 2:
        yield from decoded
        return
    from tqdm.auto import tqdm

    with tqdm(total=sum(map(len, decoded)), unit="image") as bar:
        for rows in decoded:
            yield rows
            bar.update(len(rows))


def _output(images: Tensor, output: Output) -> Any:
    """Images `(..., 3, S, S)` as they were asked for: a tensor, an array `(..., S, S, 3)`, or nested lists of PIL images."""
    if output == "torch":
        return images
    pixels = to_pixels(images.reshape(-1, *images.shape[-3:])).reshape(*images.shape[:-3], *images.shape[-2:], 3)
    return pixels if output == "numpy" else _to_pil(pixels)


def _to_pil(pixels: np.ndarray) -> Any:
    return Image.fromarray(pixels) if pixels.ndim == 3 else [_to_pil(image) for image in pixels]
