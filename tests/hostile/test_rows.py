"""Rows depend on their image alone: not on the batch, the order or other threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ditifeat
from tests.conftest import make_image

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=["tiny", pytest.param("bundled", marks=pytest.mark.slow)])
def encoder(request, tiny_encoder):
    return tiny_encoder if request.param == "tiny" else ditifeat.load_encoder(device="cpu")


@pytest.fixture(scope="module")
def images():
    return [np.asarray(make_image(i, 80, 72)) for i in range(70)]


def test_eight_threads_with_one_encoder_are_equal_to_one(encoder, images):
    parts = [images[i : i + 8] for i in range(0, 64, 8)] * 2
    expected = [encoder.encode(part).array for part in parts]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda part: encoder.encode(part).array, parts))
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_rows_do_not_depend_on_their_batch(encoder, images, batch_size):
    alone = np.stack([encoder.encode(image).array for image in images[:20]])
    scale = np.abs(alone).max()
    found = encoder.encode(images, batch_size=batch_size).array[:20]
    assert np.abs(found - alone).max() <= TOLERANCE * max(1, scale)


def test_rows_do_not_depend_on_their_order(encoder, images):
    order = np.random.default_rng(0).permutation(len(images))
    expected = encoder.encode(images, batch_size=16).array
    found = encoder.encode([images[i] for i in order], batch_size=16).array
    assert np.abs(found - expected[order]).max() <= TOLERANCE * max(1, np.abs(expected).max())
