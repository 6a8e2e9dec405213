"""The images of a run: epochs, and decoding."""

import numpy as np
import pytest

from ditifeat import RecipeError
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.train.data import prepare
from tests.train.conftest import training_images


def test_epochs_see_each_image_once():
    data = training_images(10)
    first = np.concatenate([data.indices(step, 4) for step in range(5)])
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10)) and list(first[:10]) != list(first[10:])
    assert np.array_equal(data.indices(2, 4), first[8:12])  # whatever was asked for before


def test_images_are_decoded_once(photos, tmp_path):
    array, names = prepare(photos, Preprocessing(32), tmp_path)
    assert array.shape == (10, 32, 32, 3) and names[-1] == "more/09.png"
    before = (tmp_path / "images.npy").stat().st_mtime_ns
    again, _ = prepare(photos, Preprocessing(32), tmp_path)
    assert np.array_equal(array, again) and (tmp_path / "images.npy").stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match="another output folder"):
        prepare(photos, Preprocessing(16), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="no images"):
        prepare(tmp_path / "empty", Preprocessing(32), tmp_path / "cache")
