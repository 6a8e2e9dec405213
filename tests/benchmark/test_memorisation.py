import numpy as np
import pytest

from ditifeat import InputError
from ditifeat.benchmark.memorisation import nearest_mse


def images(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


def test_the_nearest_of_all(monkeypatch):
    monkeypatch.setattr("ditifeat.benchmark.memorisation.CHUNK", 3)
    training, queries = images(8), images(4, seed=1)
    both = np.concatenate([training, training[:, :, ::-1]])
    naive = [min(float((((q / 255) - (t / 255)) ** 2).mean()) for t in both) for q in queries]
    found = nearest_mse(queries, training)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, naive, rtol=1e-4)


@pytest.mark.parametrize("side", [8, 32, 64])
def test_copies_and_mirrored_copies_are_found(side):
    training = images(20, side)
    np.testing.assert_allclose(nearest_mse(training[[7]], training), 0, atol=1e-6)
    np.testing.assert_allclose(nearest_mse(training[[7], :, ::-1], training), 0, atol=1e-6)
    assert nearest_mse(images(1, side, seed=1), training) > 0.001


def test_noise_of_single_pixels_hides_no_copy():
    training = images(20, 8).repeat(16, 1).repeat(16, 2)
    noise = np.random.default_rng(2).normal(0, 20, training.shape)
    noisy = (training[:3] + noise[:3]).clip(0, 255).astype(np.uint8)
    assert nearest_mse(noisy, training).max() < 0.001 < nearest_mse(255 - training[:3], training).min()


@pytest.mark.parametrize(("count", "side"), [(0, 32), (4, 16)])
def test_what_cannot_be_compared_is_refused(count, side):
    with pytest.raises(InputError, match="training images"):
        nearest_mse(images(2), images(count, side))
