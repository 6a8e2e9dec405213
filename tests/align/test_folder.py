import numpy as np
import pytest
from PIL import Image

import ditifeat
from ditifeat.errors import FaceError, ImageDecodeError, InputError
from tests.align.conftest import make_photo
from tests.align.test_aligner import two_faces
from tests.conftest import make_image


@pytest.fixture
def holiday(tmp_path):
    """Photos of one face, two faces and none, a damaged one and a video."""
    folder = tmp_path / "holiday"
    (folder / "beach").mkdir(parents=True)
    make_photo(1, size=(400, 400), place=(200, 200))[0].save(folder / "IMG_1.jpg")
    make_photo(2, size=(400, 400), place=(200, 200))[0].save(folder / "IMG_1.png")
    two_faces().save(folder / "beach" / "two.png")
    make_image(1, 300, 200).save(folder / "beach" / "sea.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "swim.mov").write_bytes(b"a video")
    return folder


def test_one(holiday, tmp_path):
    done = ditifeat.align_faces(holiday, tmp_path / "faces", on_error="skip")
    assert sorted(done.faces) == ["IMG_1.png", "IMG_1.png.png"]
    assert done.skipped == ("beach/sea.png", "beach/two.png", "broken.jpg")
    reasons = dict(done.report.skipped)
    assert "no face" in reasons["beach/sea.png"] and "2 faces" in reasons["beach/two.png"]
    assert done.report.left_out == {".mov": 1}
    for name in done.faces:
        assert Image.open(tmp_path / "faces" / name).size == (178, 218)


def test_largest_and_all(holiday, tmp_path):
    largest = ditifeat.align_faces(holiday / "beach" / "two.png", tmp_path / "largest", faces="largest")
    assert list(largest.faces) == ["two.png"]
    every = ditifeat.align_faces(holiday / "beach", tmp_path / "all", faces="all", on_error="skip")
    assert list(every.faces) == ["two-1.png", "two-2.png"]
    assert every.faces["two-1.png"][0] == "two.png"
    first, alone = (np.asarray(Image.open(p)) for p in (tmp_path / "all/two-1.png", tmp_path / "largest/two.png"))
    assert np.array_equal(first, alone)


def test_errors_name_the_photo(holiday, tmp_path):
    with pytest.raises(FaceError, match=r"sea\.png: shows no face"):
        ditifeat.align_faces(holiday / "beach" / "sea.png", tmp_path / "a")
    with pytest.raises(ImageDecodeError, match=r"broken\.jpg"):
        ditifeat.align_faces(holiday / "broken.jpg", tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"faces": "both"}, "faces = 'both'"),
        ({"scale": 0}, "scale"),
        ({"scale": 1.5}, "scale"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_arguments(change, message, photos, tmp_path):
    with pytest.raises(InputError, match=message):
        ditifeat.align_faces(photos, tmp_path / "out", **change)


def test_nothing_is_overwritten(holiday, tmp_path):
    with pytest.raises(InputError, match="would add to"):
        ditifeat.align_faces(holiday, holiday / "faces")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        ditifeat.align_faces(holiday, tmp_path / "full")
    with pytest.raises(InputError, match="not an empty folder"):
        ditifeat.align_faces(holiday, tmp_path / "full" / "mine.txt")


def test_aligned_faces_encode_as_align_does(holiday, tmp_path, tiny_encoder):
    """Written or in memory, the pixels are the same, and so are the codes."""
    ditifeat.align_faces(holiday / "IMG_1.png", tmp_path / "faces")
    written = ditifeat.encode(tiny_encoder, tmp_path / "faces" / "IMG_1.png")
    direct = ditifeat.encode(tiny_encoder, holiday / "IMG_1.png", align=True)
    np.testing.assert_array_equal(written.array, direct.array)
