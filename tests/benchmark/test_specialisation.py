import numpy as np
import pytest
import torch

from ditifeat.analysis.metrics import effective_rank, mse
from ditifeat.benchmark import specialisation as module
from ditifeat.benchmark.scores import ridge_mean_ap
from ditifeat.benchmark.specialisation import (
    ERROR_RANGES,
    attribute_shares,
    band_energies,
    error_left,
    frequency_shares,
    sample_swapped,
    scaled,
    specialisation,
)
from ditifeat.benchmark.split import in_batches
from ditifeat.data.batches import load_images
from ditifeat.model.partition import TimeStepPartition
from tests.benchmark.conftest import make_split
from tests.conftest import method_recipe, random_model, tiny_recipe

RANGES = ((0, 250), (250, 500), (500, 1000))
DIMS = (slice(0, 8), slice(8, 16), slice(16, 32))  # of the tiny model's 8 subsets of 4 dimensions


def images(n=4, seed=0):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def checkers():
    return ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1).expand(1, 3, 32, 32)


@pytest.fixture(scope="module")
def model():
    return random_model(tiny_recipe())


def test_bands_add_up_and_tell_coarse_from_fine():
    change = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    low, high = band_energies(change)
    assert low + high == pytest.approx(float(change.square().mean()), rel=1e-5)
    assert band_energies(checkers()) == pytest.approx((0, 1), abs=1e-6)


def test_shares_of_frequencies():
    flat = torch.ones(1, 3, 32, 32)
    found = frequency_shares([flat + checkers(), 0 * flat, 3 * flat + 2 * checkers()])
    assert found["low"] == pytest.approx([0.1, 0, 0.9]) and found["rest"] == pytest.approx([0.2, 0, 0.8])
    assert found["ratio"] == pytest.approx([1, np.nan, 9 / 4], nan_ok=True)
    assert frequency_shares([0 * flat])["low"] == [0.0]


class Channels(torch.nn.Module):
    """Logits that are the first two channels' means."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))

    def forward(self, images):
        return self.scale * images.mean((2, 3))[:, :2]


def test_shares_of_attributes():
    before = torch.zeros(2, 3, 8, 8)
    red, green = (torch.zeros(2, 3, 8, 8) for _ in range(2))
    red[0, 0], red[1, 0] = 0.4, -0.4  # opposite changes do not cancel
    green[:, 0], green[:, 1] = 0.1, 0.2
    found = attribute_shares(Channels().requires_grad_(False), before, [red, green])
    assert np.allclose(found, [[0.8, 0.2], [0, 1]], atol=0.01)


def test_an_estimator_that_gives_nothing_leaves_all_of_the_error():
    silent = random_model(tiny_recipe())
    torch.nn.init.zeros_(silent.estimator.conv_out.weight)
    torch.nn.init.zeros_(silent.estimator.conv_out.bias)
    assert np.allclose(error_left(silent, images(), RANGES), 1, atol=1e-4)


def ratios(model, x_0, z, codes):
    """The errors left of one batch, by the errors of the noise, whose ratio is that of x_0's."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for lo, hi in RANGES:
        t = torch.randint(lo, hi, (len(x_0),), generator=generator)
        noise = torch.randn(x_0.shape, generator=generator)
        x_t = model.schedule.add_noise(x_0, noise, t)
        frozen = (noise - model.frozen_noise(x_t, t)).square().sum((1, 2, 3))
        c_t = model.schedule.at("shift_coefficient", t)
        left = [noise - model.frozen_noise(x_t, t) - c_t * model.shift(x_t, t, code).detach() for code in (*codes, z)]
        found.append([float((error.square().sum((1, 2, 3)) / frozen).mean()) for error in left])
    return np.array(found)


def test_errors_left_are_those_of_the_noise(model):
    x_0, z = model.codec.encode(images()), model.encoder(images())
    codes = [torch.where(torch.arange(32) < dims.stop, z, 0) for dims in DIMS]
    expected = ratios(model, x_0, z, codes)
    found = error_left(model, images(), RANGES)
    assert np.allclose(found, expected[:, :3], rtol=1e-4)
    assert np.allclose(found[:, -1], expected[:, -1], rtol=1e-4)
    assert abs(np.diff(found[2])).min() > 1e-3 * found[2].max()  # each code has its own error


def test_swapped_images_are_sampled_from_the_same_noise(model):
    x_T = torch.randn(4, *model.noise_shape, generator=torch.Generator().manual_seed(3))
    z = model.encoder(images())
    found = list(sample_swapped(model, images(), RANGES, steps=4, seed=3, batch_size=3))
    assert len(found) == 4 and torch.allclose(found[0], model.sample(x_T, z, 4), atol=2e-3)
    for dims, changed in zip(DIMS, found[1:], strict=True):
        for i in range(4):
            code = z[[i]].clone()
            code[:, dims] = z[[i - 1], dims]
            assert torch.allclose(changed[[i]], model.sample(x_T[[i]], code, 4), atol=2e-3)
        assert not torch.allclose(changed, found[0], atol=2e-2)


def test_ranges_follow_the_number_of_time_steps():
    assert scaled(ERROR_RANGES, TimeStepPartition(8, 32)) == list(ERROR_RANGES)
    assert scaled(ERROR_RANGES, TimeStepPartition(4, 8, num_time_steps=8)) == [(0, 2), (2, 4), (4, 6), (6, 8)]


def small(monkeypatch):
    monkeypatch.setattr(module, "SAMPLED", 3)
    monkeypatch.setattr(module, "ERROR_IMAGES", 4)


def test_all_is_of_the_test_images(model, monkeypatch):
    small(monkeypatch)
    split = make_split(24, 18)
    codes = in_batches(model.encoder, split.images)
    found = specialisation(model, codes, split, lambda: Channels().requires_grad_(False))
    values, test = found["values"], load_images(split.images[18:])
    assert found["ranges"]["error_left"] == list(ERROR_RANGES)
    assert np.allclose(values["error_left"], error_left(model, test[:4], ERROR_RANGES))
    sampled, *swapped = sample_swapped(model, test[:3], found["ranges"]["swaps"], steps=20)
    z = model.encoder(test[:3])
    x_T = model.invert(test[:3], z, 20, "fixed_point")
    trip = model.sample(x_T, z, 20, solver="fixed_point")
    assert values["mse_random"] == pytest.approx(float(mse(sampled, test[:3]).mean()), rel=1e-4)
    assert values["round_trip"] == pytest.approx(float(mse(trip, test[:3]).mean()), rel=1e-3)
    assert values["swaps"]["low"] == pytest.approx(frequency_shares([image - sampled for image in swapped])["low"])
    # Subsets 1 and 2 of the eight begin at 125 and 250, so that each of these ranges has some.
    assert min(values["swaps"]["rest"]) > 0 and sum(values["swaps"]["rest"]) == pytest.approx(1)
    assert list(values["attributes"]) == ["Bright", "Coin"] and sum(values["attributes"]["Coin"]) == pytest.approx(1)
    assert values["swaps"]["attributes"] == pytest.approx(np.mean(list(values["attributes"].values()), axis=0))
    assert values["effective_rank"] == pytest.approx(effective_rank(codes[18:]))
    for i, (lo, hi) in enumerate(found["ranges"]["probe"]):
        dims = model.partition.dims_of_time_steps(lo, hi)
        for kind, part in (("alone", dims), ("cumulative", slice(0, dims.stop))):
            assert values[kind][i] == pytest.approx(ridge_mean_ap(codes[:, part], split.targets, split.train))
    assert values["cumulative"][-1] == pytest.approx(ridge_mean_ap(codes, split.targets, split.train))


def test_a_code_of_one_subset_has_one_column_and_no_swaps(monkeypatch):
    small(monkeypatch)
    pdae, split = random_model(method_recipe("pdae")), make_split(24, 18)
    codes = in_batches(pdae.encoder, split.images)
    found = specialisation(pdae, codes, split, lambda: pytest.fail("there is nothing to swap"))
    values, x_0 = found["values"], load_images(split.images[18:22])
    assert np.allclose(values["error_left"], error_left(pdae, x_0, ERROR_RANGES)[:, :1]) and "swaps" not in values
    assert len(values["error_left"]) == 5 and "attributes" not in values and 0 < values["mse_random"] < 1
    assert found["ranges"]["probe"] == ((0, 1000),) and values["alone"] == values["cumulative"]
