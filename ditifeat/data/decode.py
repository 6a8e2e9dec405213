"""One decode boundary: any image file to upright 8-bit sRGB."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import IO, NamedTuple

import numpy as np

# Plugins are imported here, and not at the first image: that would need files when there may be no more to open.
from PIL import (  # noqa: F401
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
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

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF's orientation

FROM_RIGHT, FROM_BOTTOM = (2, 3, 6, 7), (3, 4, 7, 8)  # orientations whose first column or row is turned to be the last

# By how much an image of a width and height may be reduced while it is decoded: 1, 2, 4 or 8.
Reduction = Callable[[int, int], int]

REDUCED = "ditifeat_reduced"  # in an image's `info`: what `Reduced` holds


class Reduced(NamedTuple):
    """Where in a reduced image the whole lies: pixel (x, y) of the whole is at (left + x / scale, top + y / scale).

    The last column or row of a reduced image may stand for a part of a pixel; turned upright, it may come first.
    """

    left: float
    top: float
    scale: int
    width: int
    height: int


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
    image.load()
    converted = _to_rgb(image, name)
    converted = image.copy() if converted is image else converted
    converted.info = {}  # its orientation and colour profile are those of the file
    return converted


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """`to_rgb` of a loaded image, or the image itself where nothing is to be changed."""
    # 16-bit PGM files have mode I, with values up to 65535.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not sixteen:
        raise ImageDecodeError(
            f"the image has 32-bit pixels (mode {image.mode}), whose range is not known; save it with 8 or 16 bits per channel"
        )
    if image.mode == "LAB":
        raise ImageDecodeError("the image has LAB pixels; save it as RGB")
    profile = image.info.get("icc_profile")
    orientation = _orientation(image, name)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
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
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(
    source: str | os.PathLike[str] | bytes | Image.Image, name: str, reduction: Reduction | None = None
) -> Image.Image:
    """Decode an image file, its bytes, or a Pillow image to upright 8-bit sRGB; of an animation the first frame.

    Args:
        source: a path, bytes, or an image, which stays as it is.
        name: for messages.
        reduction: by how much a JPEG may be reduced while it is decoded, which saves most of the time. `Preprocessing` knows,
            and finds in the image's `info` what it needs to cut as if the image were whole. Other files are not reduced.

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
        _check_pixels(*image.size)
        whole = image.size
        if reduction is not None and image.format in ("JPEG", "MPO"):
            _reduce(image, reduction, name)
        image.load()
        reduced = None if image.size == whole else _reduced(image, whole, name)
        converted = _to_rgb(image, name)
        converted.info = {REDUCED: reduced}
        return converted


def _reduce(image: Image.Image, reduction: Reduction, name: str) -> None:
    """Let Pillow decode a JPEG smaller, by what its decoder does in the frequency domain."""
    width, height = image.size
    turned = _orientation(image, name) >= 5
    scale = reduction(height, width) if turned else reduction(width, height)
    if scale > 1:
        image.draft(None, (width // scale, height // scale))


def _reduced(image: Image.Image, whole: tuple[int, int], name: str) -> Reduced:
    scale = next(s for s in (2, 4, 8) if image.size == (-(-whole[0] // s), -(-whole[1] // s)))
    rest = [side - long / scale for side, long in zip(image.size, whole, strict=True)]
    orientation = _orientation(image, name)
    if orientation >= 5:
        rest, whole = rest[::-1], whole[::-1]
    left, top = rest[0] * (orientation in FROM_RIGHT), rest[1] * (orientation in FROM_BOTTOM)
    return Reduced(left, top, scale, *whole)


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
        mode, size = (found := os.stat(path)).st_mode, found.st_size
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ImageDecodeError(f"{name}: is a pipe or device, not an image")
        if size <= MAX_BYTES:
            with open(path, "rb") as file:
                return file.read()
    except ImageDecodeError:
        raise
    except FileNotFoundError:
        raise MissingImageError(f"{name}: there is no such file") from None
    except IsADirectoryError:
        raise ImageDecodeError(f"{name}: is a folder, not an image") from None
    except PermissionError:
        raise InputError(f"{name}: may not be read; check its permissions") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise MissingImageError(f"{name}: links to itself") from None
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


def _orientation(image: Image.Image, name: str) -> int:
    """1 to 8, as EXIF has it; damaged EXIF is ignored, and logged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # SyntaxError, struct.error, ...
        logger.warning("%s: its damaged EXIF is ignored (%s)", name, error)
        return 1
    return orientation if isinstance(orientation, int) else 1


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
