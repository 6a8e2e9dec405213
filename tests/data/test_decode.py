"""Image files of every kind: the right pixels, or one clear error."""

import errno
import io
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from ditifeat import ImageDecodeError, InputError
from ditifeat.data.decode import MAX_PIXELS, decode, is_image, to_rgb
from tests.conftest import make_image


def read(path):
    return np.asarray(decode(path, str(path)))


def test_sixteen_bit_grey_keeps_its_levels(tmp_path):
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        pixels = read(tmp_path / name)
        assert pixels.shape == (64, 64, 3)
        assert np.abs(pixels[..., 0] - levels / 257).max() <= 0.5


def test_thirty_two_bit_pixels_are_refused(tmp_path):
    for mode in ("I", "F"):
        Image.new(mode, (16, 16)).save(tmp_path / "x.tif")
        with pytest.raises(ImageDecodeError, match="32-bit"):
            read(tmp_path / "x.tif")


def test_alpha_is_composited_on_white(tmp_path):
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (16, 16), (7, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (16, 16), 3)
    palette.putpalette([0, 0, 0] * 3 + [10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=3)
    Image.new("RGB", (16, 16), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    for name in ("rgba.png", "la.png", "p.png", "rgb.png"):
        assert (read(tmp_path / name) == 255).all(), name


def test_exif_orientation_is_applied(tmp_path):
    image = make_image(width=30, height=20)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(read(tmp_path / "turned.png"), upright)
    with Image.open(tmp_path / "turned.png") as opened:
        assert np.array_equal(np.asarray(to_rgb(opened)), upright)


def test_other_colours(tmp_path):
    image = make_image()
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read(tmp_path / "cmyk.jpg").astype(int) - np.asarray(image)).mean() < 12
    image.convert("L").save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png")[..., 1], np.asarray(image.convert("L")))
    image.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read(tmp_path / "bits.png"))) <= {0, 255}


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "moving.gif")[0, 0] == (255, 0, 0)).all()


@pytest.mark.parametrize(
    "name,content,words",
    [
        ("empty.jpg", b"", "not an image"),
        ("text.png", b"hello", "not an image"),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    ],
)
def test_what_is_no_image(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageDecodeError, match=f"{name}.*{words}"):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "bmp"])
def test_truncated_files(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ImageDecodeError, match=f"cut.{suffix}"):
        read(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_raise_our_error_or_none(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / f"x.{['png', 'jpg', 'webp', 'tif'][seed % 4]}"
    make_image(seed).save(path)
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, len(data), 20):
        data[place] = rng.integers(0, 256)
    path.write_bytes(data)
    try:
        read(path)
    except ImageDecodeError as error:
        assert path.name in str(error)


def test_two_hundred_megapixels_are_refused_before_decoding(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 15_000):  # over our limit; over Pillow's own
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / f"bomb{side}.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        )
        assert side**2 > MAX_PIXELS
        with pytest.raises(ImageDecodeError, match=f"bomb{side}"):
            read(path)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ImageDecodeError, match="no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(ImageDecodeError, match="folder"):
        decode(tmp_path, "there")


# ---- kinds of files


@pytest.mark.parametrize("kind", ["AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP"])
def test_kinds_that_people_have(kind):
    file = io.BytesIO()
    make_image().save(file, kind)
    pixels = np.asarray(decode(file.getvalue(), "x")).astype(int)
    assert np.abs(pixels - np.asarray(make_image())).mean() < 12


@pytest.mark.parametrize("kind", ["EPS", "JPEG2000", "PCX", "TGA", "ICO"])
def test_kinds_that_are_refused(kind):
    file = io.BytesIO()
    make_image().save(file, kind)
    with pytest.raises(ImageDecodeError, match="x: is not an image of a known kind"):
        decode(file.getvalue(), "x")


def test_heic():
    heif = pytest.importorskip("pillow_heif")
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    heif.from_pillow(make_image()).save(file, quality=95, exif=exif.tobytes())
    upright = make_image().transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(decode(file.getvalue(), "x")).astype(int) - np.asarray(upright)).mean() < 12
    assert is_image(io.BytesIO(file.getvalue()))
    with pytest.raises(ImageDecodeError, match="x: is damaged"):
        decode(file.getvalue()[:-200], "x")


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    with pytest.raises(ImageDecodeError, match=r"x: is HEIC.*pip install pillow-heif"):
        decode(head, "x")


def test_sixteen_bit_pgm():
    levels = np.linspace(0, 65535, 256).reshape(16, 16).astype(">u2")
    pixels = np.asarray(decode(b"P5 16 16 65535 " + levels.tobytes(), "x"))
    assert np.abs(pixels[..., 0] - levels / 257).max() <= 0.5


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage!!", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_turns_nothing(exif, caplog):
    for kind in ("JPEG", "PNG", "WEBP"):
        file = io.BytesIO()
        make_image(width=30, height=20).save(file, kind, exif=exif)
        assert decode(file.getvalue(), "x").size == (30, 20)
    assert ("x: its damaged EXIF is ignored" in caplog.text) == (b"garbage" in exif)


def test_a_turned_tiff_is_turned_once():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    make_image(width=30, height=20).save(file, "TIFF", exif=exif)
    upright = np.asarray(make_image(width=30, height=20).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(np.asarray(decode(file.getvalue(), "x")), upright)
    assert np.array_equal(np.asarray(decode(Image.open(file), "x")), upright)


def test_lab_is_refused():
    with pytest.raises(ImageDecodeError, match=r"LAB.*save it as RGB"):
        to_rgb(Image.new("LAB", (8, 8)))


def test_a_pillow_image_stays_as_it_is():
    image = Image.new("RGBA", (8, 8), (1, 2, 3, 4))
    image.info["icc_profile"] = b"damaged"
    before = (image.mode, image.tobytes(), dict(image.info))
    to_rgb(image).putpixel((0, 0), (9, 9, 9))
    assert (image.mode, image.tobytes(), dict(image.info)) == before
    rgb = make_image()
    before = rgb.tobytes()
    to_rgb(rgb).putpixel((0, 0), (9, 9, 9))
    assert rgb.tobytes() == before


# ---- whose fault it is


def test_a_missing_image_is_also_the_builtin_error(tmp_path):
    for error in (ImageDecodeError, FileNotFoundError, InputError):
        with pytest.raises(error, match=r"none\.png: there is no such file"):
            read(tmp_path / "none.png")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ENOMEM, errno.ESTALE])
def test_what_the_system_cannot_read_is_no_damaged_image(tmp_path, monkeypatch, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    make_image().save(tmp_path / "x.png")
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(InputError, match=r"x\.png.*read") as error:
        read(tmp_path / "x.png")
    assert not isinstance(error.value, ImageDecodeError)


def test_an_open_image_that_the_system_cannot_read_is_no_damaged_one(tmp_path, monkeypatch):
    make_image().save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        monkeypatch.setattr(type(image), "load", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
        with pytest.raises(InputError, match="I/O error") as error:
            decode(image, "x.png")
    assert not isinstance(error.value, ImageDecodeError)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF"])
def test_an_image_that_its_owner_closed_is_no_damaged_one(tmp_path, kind):
    make_image().save(tmp_path / "x", kind)
    image = Image.open(tmp_path / "x")
    image.close()
    with pytest.raises(InputError, match="x: was closed before it was read") as error:
        decode(image, "x")
    assert not isinstance(error.value, ImageDecodeError)


def test_a_damaged_image_that_is_open_is_a_damaged_one(tmp_path):
    make_image().save(tmp_path / "x.png")
    image = Image.open(io.BytesIO((tmp_path / "x.png").read_bytes()[:-400]))
    with pytest.raises(ImageDecodeError, match="x: is damaged"):
        decode(image, "x")


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(2**31)
    with pytest.raises(ImageDecodeError, match=r"huge\.png: has 2147483648 bytes"):
        read(tmp_path / "huge.png")


def test_is_image_looks_at_the_beginning_only():
    file = io.BytesIO()
    make_image().save(file, "JPEG")
    assert is_image(io.BytesIO(file.getvalue()[:1000]))
    for data in (b"", b"BM", b"BMW drives", b"P5 text", b"II*\0" + bytes(50), b"GIF8", b"RIFF0000WEBP", bytes(64)):
        assert not is_image(io.BytesIO(data)), data
