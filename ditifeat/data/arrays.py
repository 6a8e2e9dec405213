"""Arrays and tensors to 8-bit RGB images, and refusals of those that would be read wrongly."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ditifeat.data.decode import to_rgb
from ditifeat.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor


def array_to_image(array: np.ndarray) -> Image.Image:
    """Convert one array to RGB: `(H, W)` grey, `(H, W, 3)` RGB or `(H, W, 4)` RGBA; uint8, or float in [0, 1].

    The image shares no memory with the array.

    Raises:
        InputError: for another shape, type or range, with what to do.

    >>> array_to_image(np.full((8, 8, 3), 0.5)).getpixel((0, 0))
    (128, 128, 128)
    """
    if np.ma.is_masked(array):
        raise InputError("the array has masked values; fill them: array.filled(0)")
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        raise InputError(f"array of shape {array.shape} has its channels first; use array.transpose(1, 2, 0)")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))) or 0 in array.shape:
        grey = "; of N grey images pass array[..., None]" if array.ndim == 3 else ""
        raise InputError(f"array of shape {array.shape} is not (H, W), (H, W, 3) or (H, W, 4){grey}")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype.kind == "f":
        array = _unit_to_bytes(array, "float arrays are read as [0, 1]", "divide by 255 or rescale")
    elif array.dtype != np.uint8:
        raise _wrong_type("array", array.dtype, "float (0..1)", "array.astype(np.uint8)")
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def tensor_to_image(tensor: Tensor) -> Image.Image:
    """Convert one tensor `(3, H, W)` or `(1, H, W)` to RGB: uint8, or float in [-1, 1] as everywhere in this package.

    Raises:
        InputError: for another shape, type or range, with what to do.

    >>> tensor_to_image(torch.zeros(3, 8, 8) - 1).getpixel((0, 0))
    (0, 0, 0)
    """
    import torch

    shape = tuple(tensor.shape)
    if tensor.ndim == 3 and shape[0] not in (1, 3) and shape[-1] in (1, 3, 4):
        raise InputError(f"tensor of shape {shape} has its channels last; use tensor.permute(2, 0, 1)")
    if tensor.ndim != 3 or shape[0] not in (1, 3) or 0 in shape:
        raise InputError(f"tensor of shape {shape} is not (3, H, W) or (B, 3, H, W)")
    if not tensor.is_floating_point() and tensor.dtype != torch.uint8:
        raise _wrong_type("tensor", tensor.dtype, "float (-1..1)", "tensor.to(torch.uint8)")
    try:
        array = (tensor.detach().cpu().float() if tensor.is_floating_point() else tensor.detach().cpu()).numpy()
    except (RuntimeError, TypeError) as error:  # sparse, or without data
        raise InputError(f"tensor cannot be read as an image ({error}); pass a dense one, on any device") from error
    if tensor.is_floating_point():
        if array.min() >= 0 and array.max() > 0.5:
            warnings.warn(
                "a float tensor without a value below 0: tensors are read as [-1, 1]; if yours is in [0, 1], pass 2 * x - 1",
                stacklevel=2,
            )
        array = _unit_to_bytes((array + 1) / 2, "float tensors are read as [-1, 1]", "rescale, or pass uint8")
    return array_to_image(array.transpose(1, 2, 0))


def _wrong_type(kind: str, dtype: object, floats: str, fix: str) -> InputError:
    scale = "multiply it by 255 first" if "bool" in str(dtype) else "if its values are 0..255; scale others first"
    return InputError(f"{kind} of type {dtype} is neither uint8 (0..255) nor {floats}; pass {fix}, {scale}")


def _unit_to_bytes(array: np.ndarray, meaning: str, fix: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise InputError("the image holds NaN or infinite values; correct or drop it")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise InputError(f"values outside their range: {meaning}; {fix}")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)
