"""Crop and resize."""

import numpy as np
import pytest
from PIL import Image

from ditifeat import InputError
from ditifeat.data.preprocessing import Preprocessing
from tests.conftest import make_image


def test_crop_is_that_of_the_paper_without_resampling():
    crop = (25 / 178, 57 / 218, 153 / 178, 185 / 218)
    preprocessing = Preprocessing(64, crop)
    assert preprocessing.box(178, 218) == (25, 57, 153, 185)
    assert preprocessing.box(89, 109) == (12, 28, 76, 92)
    image = make_image(width=89, height=109)
    assert np.array_equal(preprocessing.apply(image), np.asarray(image)[28:92, 12:76])
    assert preprocessing.box(100, 60, "center") == (20, 0, 80, 60)
    assert not np.array_equal(preprocessing.apply(image), preprocessing.apply(image, "center"))


def test_nothing_is_stretched():
    assert Preprocessing(32).box(100, 60) == (20, 0, 80, 60)
    left, top, right, bottom = Preprocessing(32, (0.1, 0.2, 0.9, 0.8)).box(300, 100)
    assert right - left == bottom - top == 60 and left + right == 300


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = Preprocessing(32).apply(Image.fromarray(stripes))
    assert np.abs(shrunk.astype(int) - 127).max() < 10


@pytest.mark.parametrize(
    "arguments",
    [{"size": 4}, {"size": 10**6}, {"size": 64, "crop": (0.5, 0, 0.2, 1)}, {"size": 64, "resampling": "magic"}],
)
def test_impossible_preprocessing_is_refused(arguments):
    with pytest.raises(InputError, match="image:"):
        Preprocessing(**arguments)
