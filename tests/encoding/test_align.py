"""`encode(align=...)`: what the features record, what may be mixed, and what is skipped."""

import numpy as np
import pytest

import ditifeat
from ditifeat.errors import FaceError, InputError
from tests.align.conftest import make_photo
from tests.conftest import make_image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    for i in range(4):
        make_photo(i, size=(300, 300), place=(150, 150), side=180, angle=10 * i)[0].save(folder / f"{i}.png")
    make_image(0, 200, 200).save(folder / "sea.png")
    return folder


def test_skipped(photos, tiny_encoder):
    with pytest.raises(FaceError, match=r"sea\.png: shows no face"):
        ditifeat.encode(tiny_encoder, photos, align=True)
    features = ditifeat.encode(tiny_encoder, photos, align=True, on_error="skip")
    assert features.skipped == ("sea.png",) and len(features.names) == 4


def test_mixing_is_refused(photos, tiny_encoder):
    aligned = ditifeat.encode(tiny_encoder, photos, align=True, on_error="skip")
    largest = ditifeat.encode(tiny_encoder, photos / "0.png", align="largest")
    plain = ditifeat.encode(tiny_encoder, photos / "0.png")
    assert aligned.preprocessing == plain.preprocessing + "+aligned" == largest.preprocessing
    assert aligned.nearest(largest, count=1)[0][0] == "0.png"
    with pytest.raises(InputError, match=r"aligned in another way .*\+aligned\); encode them"):
        aligned.nearest(plain)
    with pytest.raises(InputError, match="aligned in another way"):
        ditifeat.encode(tiny_encoder, photos).nearest(largest)


def test_a_probe_of_aligned_images_reads_aligned_photos_but_not_the_other_way(photos, tiny_encoder):
    aligned = ditifeat.encode(tiny_encoder, photos, align=True, on_error="skip")
    plain = ditifeat.encode(tiny_encoder, [photos / name for name in aligned.names])
    labels = {"a": np.array([0, 1, 0, 1])}
    of_plain, of_aligned = (ditifeat.probe(f, labels, train_rows=range(2))["a"] for f in (plain, aligned))
    assert of_plain.predict(aligned).shape == (4,) and of_aligned.predict(aligned).shape == (4,)
    with pytest.raises(InputError, match="aligned in another way"):
        of_aligned.predict(plain)


def test_featurizer(photos, tiny_folder, tiny_encoder):
    paths = [str(photos / f"{i}.png") for i in range(4)]
    codes = ditifeat.DiTiFeaturizer(tiny_folder, align=True).transform(paths)
    np.testing.assert_array_equal(codes, ditifeat.encode(tiny_encoder, paths, align=True).array)


def test_rows_do_not_depend_on_the_batch(photos, tiny_encoder):
    """In threads, beside the encoder: the same codes in any batch."""
    one = ditifeat.encode(tiny_encoder, photos, align=True, on_error="skip", batch_size=1)
    all_at_once = ditifeat.encode(tiny_encoder, photos, align=True, on_error="skip")
    np.testing.assert_allclose(one.array, all_at_once.array, atol=1e-5)
