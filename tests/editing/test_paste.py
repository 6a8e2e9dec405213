"""`edit(align=..., paste=...)`: the face changes, the rest of the photo stays."""

import numpy as np
import pytest

import ditifeat
from ditifeat.errors import FaceError, InputError
from tests.align.conftest import make_photo
from tests.conftest import make_image


@pytest.fixture(scope="module")
def direction(tiny_encoder):
    return np.random.default_rng(0).normal(size=tiny_encoder.partition.d)


def test_pasted(tiny_encoder, direction):
    photo = make_photo(1, angle=15)[0]
    how = {"align": True, "steps": 2}
    face = ditifeat.edit(tiny_encoder, photo, direction, scale=2.0, **how)
    assert face.size == (32, 32)
    weak, strong = ditifeat.edit(tiny_encoder, photo, direction, scale=[0.0, 3.0], paste=True, **how)
    assert weak.size == strong.size == photo.size
    change = np.abs(np.asarray(strong, int) - np.asarray(weak)).max(-1)
    ys, xs = np.nonzero(change > 2)
    assert len(ys) and abs(np.median(xs) - 300) < 80 and abs(np.median(ys) - 200) < 80
    assert (np.asarray(strong)[-40:] == np.asarray(photo)[-40:]).all()
    assert (np.asarray(strong)[:, :60] == np.asarray(photo)[:, :60]).all()


def test_what_is_added_is_the_change(tiny_encoder, direction):
    """With a model that gives its input back, the photo stays as it is."""
    from ditifeat.align import Aligner
    from ditifeat.data.batches import load_images
    from ditifeat.editing.paste import paste

    photo = make_photo(1)[0]
    face = Aligner().cut(photo)
    image = tiny_encoder.config.image
    before = load_images(image.apply(face.image)[None])[0]
    assert paste(photo, face, before, before, image) == photo
    brighter = np.asarray(paste(photo, face, before, before + 0.2, image), int) - np.asarray(photo)
    middle = np.rint(face.similarity.inverse(np.array([89.0, 109.0]))).astype(int)
    assert np.abs(brighter[middle[1], middle[0]] - 25.5).max() < 2


def test_several_photos(tiny_encoder, direction):
    photos = [make_photo(i, size=(300 + 20 * i, 300), place=(150, 150), side=180)[0] for i in range(3)]
    pasted = ditifeat.edit(tiny_encoder, iter(photos), direction, align=True, paste=True, steps=2, batch_size=2)
    assert [image.size for image in pasted] == [photo.size for photo in photos]


def test_a_reference_is_aligned_too(tiny_encoder):
    one, two = make_photo(1)[0], make_photo(2, angle=20)[0]
    swapped = ditifeat.edit(tiny_encoder, one, reference=two, align=True, steps=2)
    assert swapped.size == (32, 32)
    with pytest.raises(FaceError, match="no face"):
        ditifeat.edit(tiny_encoder, one, reference=make_image(1, 200, 200), align=True, steps=2)


@pytest.mark.parametrize("change", [{"align": False}, {"output": "numpy"}, {"output": "torch"}])
def test_paste_needs_a_photo(tiny_encoder, direction, change):
    with pytest.raises(InputError, match=r"paste .* needs align=True, and output='pil'"):
        ditifeat.edit(tiny_encoder, make_photo(1)[0], direction, **{"align": True, "paste": True, **change})


def test_errors_name_the_photo(tiny_encoder, direction, tmp_path):
    make_image(1, 200, 200).save(tmp_path / "sea.png")
    for paste in (False, True):
        with pytest.raises(FaceError, match=r"sea\.png: shows no face"):
            ditifeat.edit(tiny_encoder, tmp_path / "sea.png", direction, align=True, paste=paste)
    with pytest.raises(InputError, match="no photo"):
        ditifeat.edit(tiny_encoder, [], direction, align=True, paste=True)


def test_a_direction_of_aligned_images_fits(tiny_encoder, caplog):
    """What images that needed no alignment have taught holds for aligned photos, without a warning; not the other way."""
    photo = make_photo(1)[0]
    labels = {"a": np.array([0, 1, 0, 1])}
    rows = [make_photo(i, size=(300, 300), place=(150, 150))[0] for i in range(4)]
    plain = ditifeat.probe(ditifeat.encode(tiny_encoder, rows), labels, train_rows=range(2))["a"]
    aligned = ditifeat.probe(ditifeat.encode(tiny_encoder, rows, align=True), labels, train_rows=range(2))["a"]
    for direction in (plain, aligned):
        ditifeat.edit(tiny_encoder, photo, direction, align=True, steps=2)
    assert caplog.records == []
    ditifeat.edit(tiny_encoder, photo, aligned, steps=2)
    assert "aligned in another way" in caplog.text
