import tarfile
from itertools import chain

import numpy as np
import pytest
from PIL import Image

from ditifeat import InputError
from ditifeat.data.batches import batches
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.resize import resize
from ditifeat.errors import ImageDecodeError
from tests.conftest import make_image


def rows(source, size=16):
    """Names and pixels of the whole images."""
    names, pixels = zip(*batches(source, Preprocessing(size), 64), strict=True)
    return list(chain.from_iterable(names)), np.concatenate(pixels)


def test_pixels_are_those_that_a_model_would_read(photos, tmp_path):
    crop = (12 / 48, 4 / 40, 28 / 48, 20 / 40)
    done = resize(photos, tmp_path / "x.tar", size=16, crop=crop)
    assert (done.written, done.left_out, dict(done.report.left_out)) == (10, 0, {".txt": 1})
    names, pixels = rows(tmp_path / "x.tar")
    expected = list(batches(photos, Preprocessing(16, crop), 64))
    assert names == expected[0][0]  # folders and order included
    np.testing.assert_array_equal(pixels, expected[0][1])
    cut = np.asarray(Image.open(photos / "00.png"))[4:20, 12:28]
    np.testing.assert_array_equal(pixels[0], cut)  # whole pixels of the training size are not resampled


def test_faces_that_another_source_has_are_left_out(photos, tmp_path):
    Image.new("RGB", (30, 30)).save(tmp_path / "03.jpg")
    Image.new("RGB", (30, 30)).save(tmp_path / "11.webp")
    (tmp_path / "have").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "have" / "05.bmp")
    Image.new("RGB", (8, 8)).save(tmp_path / "have" / "07.bmp")  # more/07.png is another image
    first = tmp_path / "first.tar"
    done = resize(photos, first, size=16, names_not_in=[tmp_path / "03.jpg", tmp_path / "have"])
    assert (done.written, done.left_out) == (8, 2)
    names, pixels = rows(first)
    assert "03.png" not in names and "05.png" not in names and "more/07.png" in names
    both = tmp_path / "both.tar"
    resize([first, tmp_path / "03.jpg", tmp_path / "11.webp"], both, size=16)
    assert rows(both)[0] == [*names, "03.png", "11.png"]
    np.testing.assert_array_equal(rows(both)[1][:8], pixels)  # lossless, and not resampled twice


def test_the_same_images_give_the_same_bytes(photos, tmp_path):
    for name in ("a.tar", "b.tar"):
        resize(str(photos), str(tmp_path / name), size=16)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert all(member.isfile() and member.name.endswith(".png") for member in tar)


def test_damaged_images(photos, tmp_path):
    (tmp_path / "in").mkdir()
    make_image().save(tmp_path / "in" / "good.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"x")
    with pytest.raises(ImageDecodeError, match=r"bad\.png"):
        resize(tmp_path / "in", tmp_path / "x.tar", size=16)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    done = resize(tmp_path / "in", tmp_path / "x.tar", size=16, on_error="skip")
    assert done.written == 1 and done.report.skipped[0][0] == "bad.png"


def test_two_images_of_one_name_are_refused(photos, tmp_path):
    make_image().save(tmp_path / "00.jpg")
    (tmp_path / "x.tar").write_bytes(b"of before")
    with pytest.raises(InputError, match="00: two images have this name"):
        resize([photos, tmp_path / "00.jpg"], tmp_path / "x.tar", size=16)
    assert (tmp_path / "x.tar").read_bytes() == b"of before"
