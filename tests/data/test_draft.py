"""JPEGs that are decoded smaller: the same cut, nearly the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from ditifeat import ImageDecodeError
from ditifeat.data.decode import MAX_PIXELS, decode
from ditifeat.data.preprocessing import Preprocessing


def scene(width, height, mode="RGB"):
    """Smooth colours and edges, so that a shift by half a pixel of the result shows."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 41 + y / 97), np.sin(x / 133 - y / 61), np.sign(np.sin(x / 59) * np.sin(y / 71))]
    image = Image.fromarray(np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8))
    return image.convert(mode)


def jpeg(image, orientation=1, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, exif=exif, **options)
    return file.getvalue()


def rows(data, preprocessing, crop="model"):
    def reduction(width, height):
        return preprocessing.reduction(width, height, crop)

    drafted = decode(data, "x.jpg", reduction)
    whole = decode(data, "x.jpg")
    return drafted, preprocessing.apply(drafted, crop, draft=True), preprocessing.apply(whole, crop)


def difference(a, b):
    return np.abs(a.astype(float) - b).mean()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1203, 905), (905, 1203), (1201, 1601)])
def test_a_draft_is_cut_as_the_whole_image_is(orientation, size):
    preprocessing = Preprocessing(32, (0.13, 0.21, 0.87, 0.83))
    drafted, draft, whole = rows(jpeg(scene(*size), orientation), preprocessing)
    assert max(drafted.size) < max(size) / 4
    shifted = [difference(np.roll(whole, by, axis), whole) for by, axis in ((1, 0), (1, 1))]
    assert difference(draft, whole) < 1.5 and difference(draft, whole) < min(shifted) / 6


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs(mode):
    drafted, draft, whole = rows(jpeg(scene(1000, 800, mode)), Preprocessing(32))
    assert drafted.size == (125, 100) and difference(draft, whole) < 1.5


def test_progressive_jpegs_and_those_of_phones(tmp_path):
    drafted, draft, whole = rows(jpeg(scene(1000, 800), 6, progressive=True), Preprocessing(32), "center")
    assert drafted.size == (100, 125) and difference(draft, whole) < 1.5
    scene(1000, 800).save(tmp_path / "x.mpo", "MPO", save_all=True, append_images=[scene(200, 160)])
    drafted, draft, whole = rows((tmp_path / "x.mpo").read_bytes(), Preprocessing(32))
    assert drafted.size == (125, 100) and difference(draft, whole) < 1.5


@pytest.mark.parametrize("side,scale", [(127, 1), (128, 2), (255, 2), (256, 4), (511, 4), (512, 8), (999, 8)])
def test_twice_the_size_is_left(side, scale):
    preprocessing = Preprocessing(32)
    assert preprocessing.reduction(side, 2 * side) == scale
    drafted = decode(jpeg(scene(side, side + 3)), "x.jpg", preprocessing.reduction)
    assert drafted.size == (-(-side // scale), -(-(side + 3) // scale))


def test_what_is_no_jpeg_is_read_whole(tmp_path):
    file = io.BytesIO()
    scene(1000, 800).save(file, "PNG")
    drafted, draft, whole = rows(file.getvalue(), Preprocessing(32))
    assert drafted.size == (1000, 800) and difference(draft, whole) < 1.5


def test_limits_hold_for_the_whole_image():
    data = bytearray(jpeg(scene(64, 64)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = (10_000).to_bytes(2, "big") + (10_000).to_bytes(2, "big")
    with pytest.raises(ImageDecodeError, match=f"10000 x 10000 pixels, over the limit of {MAX_PIXELS}"):
        decode(bytes(data), "x.jpg", lambda width, height: 8)
    with pytest.raises(ImageDecodeError, match="is damaged or incomplete"):
        decode(jpeg(scene(1000, 800))[:9000], "x.jpg", lambda width, height: 8)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_decoded_image_is_not_turned_again(orientation):
    image = decode(jpeg(scene(60, 40), orientation), "x.jpg")
    assert image.size == ((40, 60) if orientation == 6 else (60, 40))
    assert decode(image, "x").size == image.size
