"""One decode boundary: any image file to upright 8-bit sRGB."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import IO

import numpy as np

# Plugins are imported here, and not at the first image: that would need files when there may be no more to open.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ditifeat.data.colour import to_srgb
from ditifeat.errors import ImageDecodeError, InputError, MissingImageError

logger = logging.getLogger(__name__)

# Pillow registers 43 parsers; these are the images that people have. JPEG is MPO too, as phones write it.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)

HEIC_SUFFIXES = (".heic", ".heif", ".hif")

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

HAS_HEIC = find_spec("pillow_heif") is not None

MAX_PIXELS = 89_478_485  # where Pillow itself begins to warn of a decompression bomb

MAX_BYTES = 2**30  # more than MAX_PIXELS of 16-bit RGBA


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Convert any Pillow image to upright 8-bit sRGB; alpha is composited on white, 16-bit grey scaled to 8.

    The image itself stays as it is, and shares no memory with what is returned.

    Args:
        image: of any mode but those below; an embedded ICC profile is converted to sRGB.
        name: for the log, where its profile is damaged.

    Raises:
        ImageDecodeError: for too many pixels, for 32-bit integer or float pixels, whose range nobody knows, and for LAB.

    >>> from PIL import Image
    >>> to_rgb(Image.new("RGBA", (8, 8), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    _check_pixels(*image.size)
    # 16-bit PGM files have mode I, with values up to 65535.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not sixteen:
        raise ImageDecodeError(
            f"the image has 32-bit pixels (mode {image.mode}), whose range is not known; save it with 8 or 16 bits per channel"
        )
    if image.mode == "LAB":
        raise ImageDecodeError("the image has LAB pixels; save it as RGB")
    profile = image.info.get("icc_profile")
    image = _upright(image, name)
    if sixteen:
        # convert("RGB") would clip to 255; 257 = 65535 / 255.
        image = Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("RGB")
    if profile:
        image = to_srgb(image, profile, name)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def decode(source: str | os.PathLike[str] | bytes | Image.Image, name: str) -> Image.Image:
    """Decode an image file, its bytes, or a Pillow image to upright 8-bit sRGB; of an animation the first frame.

    Raises:
        ImageDecodeError: for an image that is damaged, of another kind, too large or (MissingImageError) not there.
        InputError: if the system cannot read it, as at the limit of open files, or if its owner closed it: that says
            nothing of the image.

    >>> decode("me.png", "me.png").size
    (64, 64)
    """
    if isinstance(source, Image.Image):
        return _decode_image(source, name)
    data = source if isinstance(source, bytes) else _read(source, name)
    with _decoding(name), _open(BytesIO(data)) as image:
        return to_rgb(image, name)


def _decode_image(image: Image.Image, name: str) -> Image.Image:
    file = getattr(image, "fp", None)
    closed = file is None or file.closed
    try:
        with _decoding(name):
            return to_rgb(image, name)
    except ImageDecodeError as error:
        if closed and error.__cause__ is not None:  # what Pillow raised
            raise InputError(
                f"{name}: was closed before it was read; pass its path, or an image that is open"
            ) from error
        raise


def is_image(file: IO[bytes]) -> bool:
    """Whether a file begins as an image of a kind that `decode` reads; for files without a suffix.

    Raises:
        OSError: if the system cannot read it.

    >>> with open("me.png", "rb") as face, open("labels.csv", "rb") as table:
    ...     is_image(face), is_image(table)
    (True, False)
    """
    if _is_heic(file):
        return HAS_HEIC
    try:
        with Image.open(file, formats=FORMATS):
            return True
    except OSError as error:
        if _is_of_the_system(error):
            raise
        return False
    except Exception:  # damaged headers raise five kinds of exception in Pillow
        return False


def _read(path: str | os.PathLike[str], name: str) -> bytes:
    """All bytes of a file: once they are here, whatever fails is the image's fault."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= MAX_BYTES:
                return file.read()
    except FileNotFoundError:
        raise MissingImageError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise ImageDecodeError(f"{name}: is a folder, not an image") from None
    except PermissionError:
        raise InputError(f"{name}: may not be read; check its permissions") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: cannot be read ({error}); the image itself may be good") from error
    raise ImageDecodeError(f"{name}: has {size} bytes, over the limit of {MAX_BYTES}; make it smaller first")


def _open(file: IO[bytes]) -> Image.Image:
    if not _is_heic(file):
        return Image.open(file, formats=FORMATS)
    try:
        import pillow_heif
    except ImportError:
        raise ImageDecodeError("is HEIC, which needs pillow-heif: pip install pillow-heif") from None
    heic = pillow_heif.open_heif(file)
    _check_pixels(*heic.size)
    return heic.to_pillow()


def _is_heic(file: IO[bytes]) -> bool:
    head = file.read(32)
    file.seek(0)
    return head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and b"avif" not in head


def _upright(image: Image.Image, name: str) -> Image.Image:
    """A copy, turned as its EXIF says; damaged EXIF is ignored, and logged."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # SyntaxError, struct.error, ...
        logger.warning("%s: its damaged EXIF is ignored (%s)", name, error)
        return image.copy()


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ImageDecodeError(
            f"the image has {width} x {height} pixels, over the limit of {MAX_PIXELS}; make it smaller first"
        )


def _is_of_the_system(error: OSError) -> bool:
    """Whether the system could not read: Pillow's own errors have no number, and damaged files make it seek anywhere."""
    return error.errno not in (None, errno.EINVAL)


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Make one kind of error of the many that damaged images raise."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageDecodeError(f"{name}: is not an image of a known kind ({', '.join(FORMATS)}, HEIC)") from None
    except ImageDecodeError as error:
        raise ImageDecodeError(f"{name}: {error}") from None
    except Image.DecompressionBombError:
        raise ImageDecodeError(f"{name}: has over {MAX_PIXELS} pixels, the limit; make it smaller first") from None
    except MemoryError:
        raise InputError(f"{name}: there is not enough memory to decode it") from None
    except Exception as error:
        if isinstance(error, OSError) and _is_of_the_system(error):
            raise InputError(f"{name}: cannot be read ({error}); the image itself may be good") from error
        raise ImageDecodeError(f"{name}: is damaged or incomplete ({error})") from error
