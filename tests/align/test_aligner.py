"""Photos of every kind: a clear result each, or an error that names the photo, the reason and the fix."""

import io

import numpy as np
import pytest
from PIL import Image

import ditifeat
from ditifeat.align import Aligner, find_faces, model_aligner
from ditifeat.align.geometry import POSITIONS, USED
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import FaceError, InputError
from tests.align.conftest import make_photo
from tests.conftest import make_image


def off(image, scale=1):
    """How far the eyes and mouth of an aligned image are from their positions, in pixels of 178 x 218."""
    (face,) = find_faces(image)[:1]
    return np.linalg.norm(face.points[USED] / scale - POSITIONS, axis=1).mean()


@pytest.mark.parametrize("angle", [-30, 0, 25])
@pytest.mark.parametrize("side", [90, 400])
def test_aligned(angle, side):
    image = Aligner()(make_photo(1, side=side, angle=angle)[0])
    assert image.size == (178, 218) and off(image) < 5


def test_scale():
    image = Aligner(scale=2)(make_photo(1)[0])
    assert image.size == (356, 436) and off(image, 2) < 5


def test_the_similarity_leads_to_the_image():
    photo, true = make_photo(4, angle=-20)
    face = Aligner().cut(photo)
    there = face.similarity(true(POSITIONS))
    assert np.linalg.norm(there - POSITIONS, axis=1).mean() < 5


def test_at_the_border():
    photo, true = make_photo(1, side=220, place=(70, 110))  # the crop begins 40 pixels left of the photo
    face = Aligner().cut(photo)
    assert np.linalg.norm(face.similarity(true(POSITIONS)) - POSITIONS, axis=1).mean() < 8
    left = np.asarray(face.image)[100, :3]
    assert np.ptp(left, axis=0).max() < 12  # the edge is continued


def test_none_is_refused():
    with pytest.raises(FaceError, match=r"no face .* 20 pixels .* cut out"):
        Aligner()(make_image(2, 300, 200))
    with pytest.raises(FaceError, match="63 pixels"):
        Aligner("largest")(Image.new("RGB", (4000, 300)))


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_photos_that_lie_or_stand_on_their_heads(angle):
    photo = make_photo(7, size=(400, 300), place=(200, 150))[0]
    assert off(Aligner()(photo.rotate(angle, expand=True))) < 5


def two_faces():
    photo = make_photo(0, side=120, place=(140, 240))[0]
    photo.paste(make_photo(1, side=260, size=(320, 300), place=(160, 150))[0], (300, 100))
    return photo


def test_several():
    with pytest.raises(FaceError, match=r"2 faces, of \d+, \d+ pixels.*align='largest'"):
        Aligner()(two_faces())
    image = Aligner("largest")(two_faces())
    alone = Aligner()(make_photo(1, side=260, size=(320, 300), place=(160, 150))[0])
    assert np.abs(np.asarray(image, int) - np.asarray(alone)).mean() < 12


@pytest.mark.parametrize("kind", ["grey", "alpha", "exif", "16 bits"])
def test_kinds_of_files(kind, tmp_path, tiny_encoder):
    photo = make_photo(1, size=(400, 400), place=(200, 200))[0]
    plain = ditifeat.encode(tiny_encoder, photo, align=True)
    path = tmp_path / "photo.png"
    if kind == "grey":
        photo.convert("L").save(path)
    elif kind == "alpha":
        photo.putalpha(255)
        photo.save(path)
    elif kind == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # stored lying on its side
        photo.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    else:
        grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(path)
    features = ditifeat.encode(tiny_encoder, path, align=True)
    assert features.shape == plain.shape
    if kind in ("alpha", "exif"):
        np.testing.assert_allclose(features.array, plain.array, rtol=0, atol=1e-5)


def test_model_aligner_has_the_models_scale():
    celeba = (25 / 178, 57 / 218, 153 / 178, 185 / 218)
    scales = [model_aligner(True, Preprocessing(size, celeba), "model").scale for size in (64, 128, 129, 256)]
    assert scales == [1, 1, 2, 2]
    assert model_aligner(False, Preprocessing(64), "model") is None
    assert model_aligner("largest", Preprocessing(64), "center").faces == "largest"


@pytest.mark.parametrize("align", ["all", 1, None, "yes", ["one"]])
def test_other_words_are_refused(align):
    with pytest.raises(InputError, match="align = "):
        model_aligner(align, Preprocessing(64), "model")


def test_bytes_are_named_by_their_row(tiny_encoder):
    buffer = io.BytesIO()
    make_image(1, 100, 100).save(buffer, "PNG")
    with pytest.raises(FaceError, match=r"^1: shows no face"):
        ditifeat.encode(tiny_encoder, [make_photo(1)[0], buffer.getvalue()], align=True)
