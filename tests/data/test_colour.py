"""Embedded colour profiles become sRGB; damaged ones are ignored, and logged."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from ditifeat.data.decode import decode
from tests.conftest import make_image


def fixed(values):
    return b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in values)


def profile(red=(0.64, 0.33), green=(0.30, 0.60), blue=(0.15, 0.06), gamma=2.2):
    """A small ICC profile (version 2, matrix and gamma) from chromaticities, by Pillow's own sRGB one as a frame."""
    white = np.array([0.3127 / 0.3290, 1, (1 - 0.3127 - 0.3290) / 0.3290])
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in (red, green, blue)]).T
    to_xyz = xyz * np.linalg.solve(xyz, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    d50 = np.array([0.9642, 1.0, 0.8249])
    adapt = np.linalg.inv(bradford) @ np.diag((bradford @ d50) / (bradford @ white)) @ bradford
    columns = (adapt @ to_xyz).T
    curve = b"curv" + bytes(4) + (1).to_bytes(4, "big") + int(gamma * 256).to_bytes(2, "big") + bytes(2)
    text = b"made for a test\0"
    tags = {
        b"desc": b"desc" + bytes(4) + len(text).to_bytes(4, "big") + text + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + fixed(d50),
        **{name: b"XYZ " + bytes(4) + fixed(c) for name, c in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, data, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + (offset + len(data)).to_bytes(4, "big") + len(value).to_bytes(4, "big")
        data += value
    header = bytearray(128)
    header[8:12], header[12:24], header[36:40] = b"\x02\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    header[68:80] = fixed(d50)
    body = len(tags).to_bytes(4, "big") + table + data
    header[:4] = (128 + len(body)).to_bytes(4, "big")
    return bytes(header) + body


DISPLAY_P3 = profile(red=(0.680, 0.320), green=(0.265, 0.690))
ADOBE_RGB = profile(green=(0.21, 0.71))


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return decode(file.getvalue(), "x")


# Linear Display P3 and Adobe RGB to linear sRGB, as published.
P3_MATRIX = np.array([[1.2249, -0.2249, 0], [-0.0421, 1.0421, 0], [-0.0196, -0.0786, 1.0983]])
ADOBE_MATRIX = np.array([[1.3984, -0.3984, 0], [0, 1, 0], [0, -0.0429, 1.0429]])


def in_srgb(matrix, colour):
    linear = matrix @ (np.array(colour) / 255) ** 2.2
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(1e-9) ** (1 / 2.4) - 0.055)


P3_RED, IN_SRGB = (200, 100, 100), in_srgb(P3_MATRIX, (200, 100, 100))


@pytest.mark.parametrize(
    "icc,matrix,colour", [(DISPLAY_P3, P3_MATRIX, P3_RED), (ADOBE_RGB, ADOBE_MATRIX, (150, 170, 120))]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF", "JPEG"])
def test_wide_colours_become_srgb(icc, matrix, colour, kind):
    options = {"quality": 100} if kind in ("AVIF", "JPEG") else {"lossless": True} if kind == "WEBP" else {}
    pixel = saved(Image.new("RGB", (16, 16), colour), kind, icc_profile=icc, **options).getpixel((8, 8))
    assert np.abs(np.subtract(pixel, colour)).max() >= 8
    assert np.abs(np.subtract(pixel, in_srgb(matrix, colour))).max() <= 4


def test_srgb_is_left_as_it_is():
    image = make_image()
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(np.asarray(saved(image, icc_profile=icc)), np.asarray(image))


def test_alpha_is_kept_until_it_is_composited():
    image = Image.new("RGBA", (16, 16), (200, 100, 100, 255))
    image.paste((200, 100, 100, 0), (0, 0, 8, 16))
    pixels = np.asarray(saved(image, icc_profile=DISPLAY_P3)).astype(int)
    assert (pixels[:, :8] == 255).all() and np.abs(pixels[:, 8:] - IN_SRGB).max() <= 4


def test_palettes_and_pillow_images():
    image = Image.new("RGB", (16, 16), P3_RED).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(np.subtract(saved(image, icc_profile=DISPLAY_P3).getpixel((0, 0)), IN_SRGB)).max() <= 4
    image = Image.new("RGB", (16, 16), P3_RED)
    image.info["icc_profile"] = DISPLAY_P3
    assert np.abs(np.subtract(decode(image, "x").getpixel((0, 0)), IN_SRGB)).max() <= 4
    assert image.getpixel((0, 0)) == (200, 100, 100)


@pytest.mark.parametrize("icc", [b"damaged", DISPLAY_P3[:200], bytes(500)])
@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_damaged_profiles_are_ignored_and_logged(icc, mode, caplog):
    image = Image.new(mode, (16, 16), 120 if mode == "L" else (120,) * len(mode))
    with_profile = saved(image, "TIFF", icc_profile=icc)
    assert with_profile.getpixel((0, 0)) == image.convert("RGB").getpixel((0, 0))
    assert "x: its colour profile is ignored" in caplog.text


def test_profiles_of_other_channels_are_ignored(caplog):
    image = Image.new("CMYK", (16, 16), (10, 20, 30, 40))
    assert saved(image, "TIFF", icc_profile=DISPLAY_P3).getpixel((0, 0)) == image.convert("RGB").getpixel((0, 0))
    assert "is ignored" in caplog.text
