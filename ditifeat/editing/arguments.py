"""The arguments of edits, checked before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ditifeat.align import Align, Aligner, model_aligner
from ditifeat.data.batches import batches
from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.errors import InputError
from ditifeat.model.partition import TimeStepPartition
from ditifeat.model.sampling import Solver, ddim_grid, fixed_point_grid
from ditifeat.schema import boolean, integer

if TYPE_CHECKING:
    from ditifeat.encoding.encoder import Encoder

Output = Literal["pil", "numpy", "torch"]

Scale = float | Sequence[float] | np.ndarray | Tensor

GRIDS: dict[str, Callable[[int, int], list[int]]] = {"ddim": ddim_grid, "fixed_point": fixed_point_grid}


@dataclass(frozen=True)
class EditOptions:
    """How images are edited, as `ditifeat.edit` takes it.

    Raises:
        InputError: for an unknown solver, crop or output, or numbers that do not fit.

    >>> from ditifeat.editing.arguments import EditOptions
    >>> EditOptions(1000, steps=20).solver
    'fixed_point'
    """

    num_time_steps: int
    steps: int = 20
    solver: Solver = "fixed_point"
    batch_size: int = 16
    crop: Crop = "model"
    output: Output = "pil"
    align: Align = False
    paste: bool = False

    def __post_init__(self) -> None:
        for name, known in (
            ("solver", tuple(GRIDS)),
            ("crop", ("model", "center")),
            ("output", ("pil", "numpy", "torch")),
        ):
            check_choice(name, getattr(self, name), known)
        GRIDS[self.solver](self.num_time_steps, self.steps)
        integer("batch_size", self.batch_size, 1)
        if boolean("paste", self.paste) and (self.align is False or self.output != "pil"):
            raise InputError("paste puts edited faces back into their photos: it needs align=True, and output='pil'")

    def aligner(self, image: Preprocessing) -> Aligner | None:
        """The aligner of a model's input, if photos are to be aligned."""
        return model_aligner(self.align, image, self.crop)


def check_choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Refuse an argument that is not one of a few words.

    Raises:
        InputError: with the words.
    """
    if not isinstance(value, str) or value not in known:
        raise InputError(f"{name} = {value!r} is not one of {', '.join(known)}")


def read_scales(scale: Scale | None, default: float) -> tuple[list[float], bool]:
    """Read one scale, or several in a sequence, array or tensor; whether there are several.

    Raises:
        InputError: for anything but finite numbers.

    >>> from ditifeat.editing.arguments import read_scales
    >>> read_scales(None, 0.3), read_scales(np.linspace(-1, 1, 3), 0.3)
    (([0.3], False), ([-1.0, 0.0, 1.0], True))
    """
    values = default if scale is None else scale.detach().tolist() if isinstance(scale, Tensor) else scale
    try:
        array = np.asarray(values)
        numbers = array.astype(np.float64) if array.dtype.kind in "iufO" else None
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or numbers.ndim > 1 or not numbers.size or not np.isfinite(numbers).all():
        raise InputError(f"scale = {scale!r} is neither a finite number nor a sequence of some")
    return np.atleast_1d(numbers).tolist(), numbers.ndim == 1


def checked_direction(encoder: Encoder, direction: Any) -> tuple[Tensor, Tensor]:
    """Read a direction: a probe's weights on scaled codes and the std that scaled them, `(d,)` each, on the encoder's device.

    Raises:
        InputError: for another shape, weights that are zero or not finite, or a probe of another encoder's features.
    """
    if isinstance(direction, Mapping):
        raise InputError("the direction is a whole report; choose an attribute, as in report['Smiling']")
    origin = getattr(direction, "encoder_weights", "")
    if origin and origin != encoder.weights:
        raise InputError(
            f"the direction of {direction.name} was learned from features of other weights ({origin[:12]}, not "
            f"{encoder.weights[:12]}); probe features of this encoder"
        )
    weights = _vector(getattr(direction, "weights", direction))
    d = encoder.partition.d
    if weights.shape != (d,):
        raise InputError(f"the direction has shape {tuple(weights.shape)}; the model's codes have {d} dimensions")
    if not torch.isfinite(weights).all() or not weights.norm() > 0:
        raise InputError("the direction is zero or not finite; its attribute could not be probed")
    std = _vector(direction.std) if hasattr(direction, "weights") else encoder.std
    return weights.to(encoder.device), std.to(encoder.device)


def _vector(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().cpu().float()
    try:
        return torch.from_numpy(np.array(values, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the direction {values!r:.80} is not an array of numbers; choose an attribute, as in report['Smiling']"
        ) from error


def checked_subsets(partition: TimeStepPartition, subsets: range | None) -> range:
    """Check a range of subsets; all by default.

    Raises:
        InputError: for anything but a range of step 1 that holds dimensions.

    >>> from ditifeat.editing.arguments import checked_subsets
    >>> checked_subsets(encoder.partition, None)
    range(0, 64)
    """
    subsets = range(partition.k) if subsets is None else subsets
    if not isinstance(subsets, range) or subsets.step != 1:
        raise InputError(f"subsets = {subsets!r} is not a range of step 1, like range(16, 24)")
    partition.dims_of_subsets(subsets.start, subsets.stop)
    return subsets


def decode_all(encoder: Encoder, images: Any, how: EditOptions) -> list[np.ndarray]:
    """Decode all images, uint8 `(B, S, S, 3)` per batch, so that one that cannot be is found before the first edit.

    Raises:
        ImageDecodeError, InputError: for an image that cannot be decoded, and for a folder or tar without images.
    """
    image = encoder.config.image
    decoded = [rows for _, rows in batches(images, image, how.batch_size, how.crop, align=how.aligner(image))]
    if not decoded and isinstance(images, str | os.PathLike):
        raise InputError(f"{os.fspath(images)}: holds no images")
    return decoded


def decode_one(encoder: Encoder, image: Any, crop: Crop, what: str, align: Align = False) -> np.ndarray:
    """Decode what must be one image: uint8 `(1, S, S, 3)`.

    Raises:
        ImageDecodeError, InputError: for an image that cannot be decoded, several or none.
    """
    check_choice("crop", crop, ("model", "center"))
    aligner = model_aligner(align, encoder.config.image, crop)
    found = next((rows for _, rows in batches(image, encoder.config.image, 2, crop, align=aligner)), None)
    if found is None or len(found) != 1:
        raise InputError(f"{what} must be one image, not {'several' if found is not None else 'none'}")
    return found
