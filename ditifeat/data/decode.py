"""One decode boundary: any image file, array or tensor to upright 8-bit RGB."""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ditifeat.errors import ImageDecodeError, InputError

if TYPE_CHECKING:
    from torch import Tensor

# Pillow registers 43 parsers; these are the images that people have.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # JPEG is MPO too, as phones write it

SUFFIXES = (
    *(
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
    ),
    *(".ppm", ".tif", ".tiff", ".webp"),
)

MAX_PIXELS = 89_478_485  # where Pillow itself begins to warn of a decompression bomb


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as upright 8-bit RGB; alpha is composited on white, 16-bit grey scaled to 8.

    Raises:
        ImageDecodeError: for too many pixels, and for 32-bit integer or float pixels, whose range nobody knows.
    """
    if image.width * image.height > MAX_PIXELS:
        raise ImageDecodeError(
            f"the image has {image.width} x {image.height} pixels, over the limit of {MAX_PIXELS}; make it smaller first"
        )
    if image.mode in ("I", "F"):
        raise ImageDecodeError(
            f"the image has 32-bit pixels (mode {image.mode}), whose range is not known; save it with 8 or 16 bits a channel"
        )
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # convert("RGB") would clip to 255; 257 = 65535 / 255.
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def decode(source: str | os.PathLike[str] | bytes | Image.Image, name: str) -> Image.Image:
    """An image file, its bytes, or a Pillow image as upright 8-bit RGB; of an animation the first frame.

    Raises:
        ImageDecodeError: whatever is wrong with it, with its name and the reason.
    """
    try:
        if isinstance(source, Image.Image):
            return to_rgb(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is an error
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                return to_rgb(image)
    except FileNotFoundError:
        raise ImageDecodeError(f"{name}: there is no such file") from None
    except PermissionError:
        raise ImageDecodeError(f"{name}: may not be read; check its permissions") from None
    except IsADirectoryError:
        raise ImageDecodeError(f"{name}: is a folder, not an image") from None
    except UnidentifiedImageError:
        raise ImageDecodeError(f"{name}: is not an image of a known kind ({', '.join(FORMATS)})") from None
    except ImageDecodeError as error:
        raise ImageDecodeError(f"{name}: {error}") from None
    except Exception as error:  # corrupt bytes raise five kinds of exception in Pillow, SyntaxError among them
        raise ImageDecodeError(f"{name}: is damaged or incomplete ({error})") from error


def array_to_image(array: np.ndarray) -> Image.Image:
    """One array to RGB: `(H, W)` grey, `(H, W, 3)` RGB or `(H, W, 4)` RGBA; uint8, or float in [0, 1].

    Raises:
        InputError: for another shape, type or range, with what to do.
    """
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        raise InputError(f"array of shape {array.shape} has its channels first; use array.transpose(1, 2, 0)")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 3, 4))) or 0 in array.shape:
        raise InputError(f"array of shape {array.shape} is not (H, W), (H, W, 3) or (H, W, 4)")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating):
        array = _unit_to_bytes(array, "float arrays are read as [0, 1]", "divide by 255 or rescale")
    elif array.dtype != np.uint8:
        raise InputError(f"array of type {array.dtype} is neither uint8 (0..255) nor float (0..1); convert it")
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def tensor_to_image(tensor: Tensor) -> Image.Image:
    """One tensor `(3, H, W)` or `(1, H, W)` to RGB: uint8, or float in [-1, 1] as everywhere in this package.

    Raises:
        InputError: for another shape, type or range, with what to do.
    """
    shape = tuple(tensor.shape)
    if tensor.ndim == 3 and shape[0] not in (1, 3) and shape[-1] in (1, 3, 4):
        raise InputError(f"tensor of shape {shape} has its channels last; use tensor.permute(2, 0, 1)")
    if tensor.ndim != 3 or shape[0] not in (1, 3) or 0 in shape:
        raise InputError(f"tensor of shape {shape} is not (3, H, W) or (B, 3, H, W)")
    array = tensor.detach().cpu()
    if tensor.is_floating_point():
        array = array.float()
        if float(array.min()) >= 0 and float(array.max()) > 0.5:
            warnings.warn(
                "a float tensor without a value below 0: tensors are read as [-1, 1]; if yours is in [0, 1], pass 2 * x - 1",
                stacklevel=2,
            )
        unit = (array.numpy() + 1) / 2
        pixels = _unit_to_bytes(unit, "float tensors are read as [-1, 1]", "rescale, or pass uint8")
    elif str(tensor.dtype) == "torch.uint8":
        pixels = array.numpy()
    else:
        raise InputError(f"tensor of type {tensor.dtype} is neither uint8 (0..255) nor float (-1..1); convert it")
    return array_to_image(pixels.transpose(1, 2, 0))


def _unit_to_bytes(array: np.ndarray, meaning: str, way_out: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise InputError("the image holds NaN or infinite values; mend or drop it")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise InputError(f"values outside their range: {meaning}; {way_out}")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)
