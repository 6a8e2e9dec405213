import numpy as np
import pytest
import torch

from ditifeat.benchmark.specialisation import band_energies, error_left, swap_changes
from tests.conftest import random_model, tiny_recipe

RANGES = ((0, 250), (250, 500), (500, 1000))


def images(n=4, seed=0):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def model():
    return random_model(tiny_recipe())


def test_bands_add_up_and_tell_coarse_from_fine():
    change = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    low, high = band_energies(change)
    assert low + high == pytest.approx(float(change.square().mean()), rel=1e-5)
    checker = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    assert band_energies(checker) == pytest.approx((0, 1), abs=1e-6)


def test_an_estimator_that_gives_nothing_leaves_all_of_the_error(model):
    silent = random_model(tiny_recipe())
    torch.nn.init.zeros_(silent.estimator.conv_out.weight)
    torch.nn.init.zeros_(silent.estimator.conv_out.bias)
    assert np.allclose(error_left(silent, images(), RANGES), 1, atol=1e-4)


def test_rows_are_constant_right_of_the_diagonal(model):
    found = error_left(model, images(), RANGES)
    assert found.shape == (3, 3)
    assert np.allclose(found[0], found[0, 0], rtol=1e-5) and np.allclose(found[1, 1:], found[1, 1], rtol=1e-5)
    assert not np.allclose(found[2], found[2, 2], rtol=1e-4)  # fewer ranges give another error


def test_swaps_share_out_the_change(model):
    found = swap_changes(model, images(), RANGES, steps=4)
    assert found.low.sum() == pytest.approx(1) and found.high.sum() == pytest.approx(1)
    assert (found.low >= 0).all()
    same = images(1).expand(3, -1, -1, -1)
    assert swap_changes(model, same, RANGES, steps=4).low.sum() == 0
