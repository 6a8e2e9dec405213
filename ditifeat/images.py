"""Every way a picture comes in: one decode boundary, one resize, streaming batches.

A picture becomes 8-bit RGB by Pillow, then is cropped and resized as the model's `Preprocessing` says, whatever
it came from, so that a file and the array read from it give the same features.
"""

from __future__ import annotations

import math
import os
import tarfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ditifeat.artefact import write_whole
from ditifeat.errors import ImageDecodeError, InputError

if TYPE_CHECKING:
    from torch import Tensor

# Pillow registers 43 parsers; these are the pictures that people have.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # JPEG is MPO too, as phones write it
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS = 89_478_485  # where Pillow itself begins to warn of a decompression bomb
MIN_SIDE = 8  # fewer pixels than this hold nothing to encode
RESAMPLING = ("bicubic", "bilinear", "box", "hamming", "lanczos")
MAX_THREADS = 8

Crop = Literal["model", "center"]
OnError = Literal["raise", "skip"]


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes a model's input. Part of every artefact, never guessed.

    Attributes:
        size: side of the square input, in pixels.
        crop: (left, top, right, bottom) as fractions of the picture's width and height; edges are rounded to whole
            pixels (a half goes down), so that a picture of the training size is not resampled. Of a box that is no
            square in a picture, the central square is read: nothing is stretched.
        resampling: Pillow's filter, antialiased when it shrinks.
        alignment: in words, what pictures the crop expects.
    """

    size: int
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    resampling: str = "lanczos"
    alignment: str = "none: the central square"

    def __post_init__(self) -> None:
        left, top, right, bottom = self.crop
        if not 8 <= self.size <= 1024:
            raise InputError(f"image: size = {self.size} is not within 8..1024")
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise InputError(f"image: crop {self.crop} is not (left, top, right, bottom) within 0..1")
        if self.resampling not in RESAMPLING:
            raise InputError(f"image: resampling {self.resampling!r} is not one of {', '.join(RESAMPLING)}")

    def box(self, width: int, height: int, crop: Crop = "model") -> tuple[int, int, int, int]:
        """The pixels (left, top, right, bottom) that are read of a `width` x `height` picture."""
        fractions = self.crop if crop == "model" else (0, 0, 1, 1)
        left, top, right, bottom = (
            math.ceil(fraction * side - 0.5 - 1e-6)
            for fraction, side in zip(fractions, (width, height, width, height), strict=True)
        )
        side = min(right - left, bottom - top)
        left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
        return left, top, left + side, top + side

    def apply(self, picture: Image.Image, crop: Crop = "model") -> np.ndarray:
        """RGB picture to uint8 `(size, size, 3)`.

        Raises:
            ImageDecodeError: if fewer than 8 pixels a side would be read.
        """
        box = self.box(*picture.size, crop)
        if box[2] - box[0] < MIN_SIDE:
            raise ImageDecodeError(
                f"the picture has {picture.size[0]} x {picture.size[1]} pixels, of which {box} would be read: "
                f"under {MIN_SIDE} a side there is nothing to encode"
            )
        resampling = Image.Resampling[self.resampling.upper()]
        return np.asarray(picture.resize((self.size, self.size), resampling, box=box))


def to_rgb(picture: Image.Image) -> Image.Image:
    """Any Pillow picture as upright 8-bit RGB; alpha is composited on white, 16-bit grey scaled to 8.

    Raises:
        ImageDecodeError: for too many pixels, and for 32-bit integer or float pixels, whose range nobody knows.
    """
    if picture.width * picture.height > MAX_PIXELS:
        raise ImageDecodeError(
            f"the picture has {picture.width} x {picture.height} pixels, over the limit of {MAX_PIXELS}; make it smaller first"
        )
    if picture.mode in ("I", "F"):
        raise ImageDecodeError(
            f"the picture has 32-bit pixels (mode {picture.mode}), whose range is not known; save it with 8 or 16 bits a channel"
        )
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        # convert("RGB") would clip to 255; 257 = 65535 / 255.
        picture = Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")


def decode(source: str | os.PathLike[str] | bytes | Image.Image, name: str) -> Image.Image:
    """A picture file, its bytes, or a Pillow picture as upright 8-bit RGB; of an animation the first frame.

    Raises:
        ImageDecodeError: whatever is wrong with it, with its name and the reason.
    """
    try:
        if isinstance(source, Image.Image):
            return to_rgb(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is an error
            with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as picture:
                return to_rgb(picture)
    except FileNotFoundError:
        raise ImageDecodeError(f"{name}: there is no such file") from None
    except PermissionError:
        raise ImageDecodeError(f"{name}: may not be read; check its permissions") from None
    except IsADirectoryError:
        raise ImageDecodeError(f"{name}: is a folder, not a picture") from None
    except UnidentifiedImageError:
        raise ImageDecodeError(f"{name}: is not a picture of a known kind ({', '.join(FORMATS)})") from None
    except ImageDecodeError as error:
        raise ImageDecodeError(f"{name}: {error}") from None
    except Exception as error:  # corrupt bytes raise five kinds of exception in Pillow, SyntaxError among them
        raise ImageDecodeError(f"{name}: is damaged or incomplete ({error})") from error


def array_to_picture(array: np.ndarray) -> Image.Image:
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


def tensor_to_picture(tensor: Tensor) -> Image.Image:
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
    return array_to_picture(pixels.transpose(1, 2, 0))


def _unit_to_bytes(array: np.ndarray, meaning: str, way_out: str) -> np.ndarray:
    if not np.isfinite(array).all():
        raise InputError("the picture holds NaN or infinite values; mend or drop it")
    if array.min() < -1e-3 or array.max() > 1 + 1e-3:
        raise InputError(f"values outside their range: {meaning}; {way_out}")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)


def list_folder(folder: str | os.PathLike[str]) -> list[Path]:
    """The picture files below `folder`, sorted by their path from it; hidden ones are left out.

    Raises:
        InputError: if a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise InputError(f"{error.filename}: the folder cannot be read ({error.strerror})") from error

    root = Path(folder)
    found = []
    for place, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, f) for f in files if f.lower().endswith(SUFFIXES) and not f.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


# A source is a picture's name and a function that reads it, so that decoding can happen in a thread.
Source = tuple[str, Callable[[], Image.Image]]


def is_single(images: Any) -> bool:
    """Whether `images` is one picture, whose features are one row: a file, a Pillow picture, one array or tensor."""
    if isinstance(images, str | os.PathLike):
        return not (os.path.isdir(images) or str(images).endswith(".tar"))
    return isinstance(images, Image.Image) or getattr(images, "ndim", 4) in (2, 3)


def sources(images: Any) -> Iterator[Source]:
    """The named pictures of whatever a user has.

    Args:
        images: a path of a picture, folder or `.tar`; a Pillow picture; an array `(H, W, 3)` or `(N, H, W, 3)`; a tensor
            `(3, H, W)` or `(N, 3, H, W)`; or an iterable of any of these. See `array_to_picture` for types and ranges.

    Raises:
        InputError, ImageDecodeError: for anything else.
    """
    for index, source in enumerate(_sources(images)):
        name, read = source
        yield (name or str(index), read)


def _sources(images: Any) -> Iterator[Source]:
    if isinstance(images, str | os.PathLike):
        yield from _path_sources(images)
    elif isinstance(images, Image.Image):
        name = getattr(images, "filename", "")
        yield name, partial(decode, images, name or "the picture")
    elif isinstance(images, np.ndarray):
        rows = images if images.ndim == 4 else [images]
        yield from (("", partial(array_to_picture, row)) for row in rows)
    elif type(images).__module__ == "torch":
        tensors: Iterable[Tensor] = images if images.ndim == 4 else [images]
        yield from (("", partial(tensor_to_picture, tensor)) for tensor in tensors)
    elif isinstance(images, Iterable) and not isinstance(images, bytes | dict):
        for image in images:
            yield from _sources(image)
    else:
        raise InputError(f"{type(images).__name__} is not a picture; pass a path, folder, PIL picture, array or tensor")


def _path_sources(path: str | os.PathLike[str]) -> Iterator[Source]:
    if os.path.isdir(path):
        yield from ((p.relative_to(path).as_posix(), partial(decode, p, str(p))) for p in list_folder(path))
    elif str(path).endswith(".tar"):
        yield from _tar_sources(path)
    else:
        name = os.fspath(path)
        yield name, partial(decode, name, name)


def _tar_sources(path: str | os.PathLike[str]) -> Iterator[Source]:
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(SUFFIXES):
                    data = tar.extractfile(member).read()  # type: ignore[union-attr]
                    yield member.name, partial(decode, data, f"{path}/{member.name}")
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"{path}: cannot be read as a tar of pictures ({error})") from error


def batches(
    images: Any,
    preprocessing: Preprocessing,
    batch_size: int,
    crop: Crop = "model",
    on_error: OnError = "raise",
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and pixels, uint8 `(B, size, size, 3)`, in order; decoded in threads a few batches ahead.

    Raises:
        ImageDecodeError, InputError: for the first bad picture, unless `on_error="skip"`, which warns and goes on.
    """

    def load(source: Source) -> np.ndarray:
        name, read = source
        try:
            return preprocessing.apply(read(), crop)
        except (ImageDecodeError, InputError) as error:
            raise error if name in str(error) else type(error)(f"{name}: {error}") from None

    threads = min(MAX_THREADS, os.cpu_count() or 1)
    names: list[str] = []
    rows: list[np.ndarray] = []
    with ThreadPoolExecutor(threads, thread_name_prefix="ditifeat-decode") as pool:
        for name, row in _ordered(pool, load, sources(images), ahead=2 * batch_size, on_error=on_error):
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
) -> Iterator[tuple[str, np.ndarray]]:
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
            except (ImageDecodeError, InputError) as error:
                if on_error == "raise":
                    raise
                warnings.warn(f"skipped: {error}", stacklevel=3)
    finally:
        for _, future in pending:
            future.cancel()


def to_pixels(images: Tensor) -> np.ndarray:
    """Images `(B, 3, H, W)` in [-1, 1] to uint8 `(B, H, W, 3)`."""
    unit = (images.detach().float().cpu().clamp(-1, 1) + 1) / 2
    return (unit * 255).round().byte().permute(0, 2, 3, 1).numpy()


def grid(pixels: np.ndarray, columns: int) -> Image.Image:
    """Pictures, uint8 `(B, H, W, 3)`, as one, row by row."""
    rows = -(-len(pixels) // columns)
    height, width = pixels.shape[1:3]
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = i // columns * height, i % columns * width
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a picture in the format of its suffix, whole or not at all.

    Raises:
        InputError: for a suffix that names no picture format.
    """
    check_suffix(path)
    kind = {".jpg": "JPEG", ".tif": "TIFF", ".pgm": "PPM"}.get(path.suffix.lower(), path.suffix.lstrip(".").upper())
    write_whole(path, lambda path: picture.save(path, kind))


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int = 150) -> None:
    """Writes pictures as an endless GIF, there and back, whole or not at all."""
    there_and_back = [*frames[1:], *frames[-2:0:-1]]
    write_whole(
        path,
        lambda path: frames[0].save(
            path, "GIF", save_all=True, append_images=there_and_back, duration=milliseconds, loop=0
        ),
    )


def check_suffix(path: Path) -> None:
    """Refuses a path whose suffix names no picture format, before anything is computed for it.

    Raises:
        InputError: with the formats there are.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: pictures are saved as {', '.join(SUFFIXES)}")
