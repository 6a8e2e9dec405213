from functools import partial

import numpy as np
import pytest
import torch

from ditifeat import DitifeatError
from ditifeat.benchmark.baselines import DDAE_TIME_STEPS, dm_bottleneck, down_path, pca, random_encoder
from tests.benchmark.conftest import make_split, residual_recipe
from tests.conftest import random_model


def test_pca_is_fitted_on_the_training_rows(split):
    codes = pca(split, 8)
    changed = split.images.copy()
    changed[split.test] = 0
    again = pca(make_split(images=changed), 8)
    assert codes.shape == (48, 8) and np.allclose(codes[split.train], again[split.train], atol=1e-4)
    assert np.allclose(codes[split.train].mean(0), 0, atol=1e-3) and pca(split).shape == (48, 32)  # rows are the most


def test_codes_averaged_over_flips_do_not_know_left_from_right(split):
    images = split.images // 4
    images[::3, :, :16] += 150  # bright at the left
    one, other = (
        make_split(images=images),
        make_split(images=np.where(split.train[:, None, None, None], images, images[:, :, ::-1])),
    )
    rows = split.test
    assert np.allclose(pca(one, 8, flip_average=True)[rows], pca(other, 8, flip_average=True)[rows], atol=1e-4)
    assert not np.allclose(pca(one, 8)[rows], pca(other, 8)[rows], atol=1)


@pytest.fixture(scope="module")
def model():
    return random_model(residual_recipe())


@pytest.mark.parametrize("codes_of", [random_encoder, partial(down_path, initialisation="whitened")])
def test_codes_of_encoders_are_averaged_over_flips(codes_of, model, split):
    plain = codes_of(model, split)
    averaged = codes_of(model, split, flip_average=True)
    images = np.where(
        split.train[:, None, None, None], split.images, split.images[:, :, ::-1]
    )  # what initialises stays
    assert np.allclose(averaged, codes_of(model, make_split(images=images), flip_average=True), atol=1e-4)
    expected = (plain + codes_of(model, make_split(images=images))) / 2
    assert np.allclose(averaged[split.test], expected[split.test], atol=1e-4)
    assert not np.allclose(averaged, plain, atol=1e-2)


def test_features_of_the_bottleneck_are_averaged_over_flips(model, split):
    plain, averaged = (dm_bottleneck(model.dm, split, flip_average=f)[0] for f in (False, True))
    assert averaged.shape == plain.shape and not np.allclose(averaged, plain, atol=1e-3)


def test_random_encoders_are_repeatable_and_seed_nothing(model, split):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    codes = random_encoder(model, split)
    assert codes.shape == (48, 32) and np.array_equal(codes, random_encoder(model, split))
    assert torch.equal(torch.get_rng_state(), state)
    assert not np.allclose(codes, random_encoder(model, split, "whitened"))


def test_initialisation_sees_the_training_rows_alone(model, split):
    changed = split.images.copy()
    changed[split.test] = 0
    for codes_of in (random_encoder, down_path):
        codes, again = (codes_of(model, s, "whitened") for s in (split, make_split(images=changed)))
        assert np.allclose(codes[split.train], again[split.train], atol=1e-5)


def test_the_down_path_is_the_dms_and_leaves_the_model_as_it_was(model, split):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    codes = [down_path(model, split, "whitened"), down_path(model, split, "error_predictive", "relative")]
    assert all(z.shape == (48, 32) and np.isfinite(z).all() for z in codes) and not np.allclose(*codes)
    assert not np.allclose(codes[0], random_encoder(model, split, "whitened"))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_encoder_has_no_down_path(tiny_model, split):
    with pytest.raises(DitifeatError, match="encoder_from_dm"):
        down_path(tiny_model, split, "whitened")


def test_bottleneck_of_the_dm(model, split):
    codes, t = dm_bottleneck(model.dm, split)
    assert codes.shape == (48, 32) and t in DDAE_TIME_STEPS
    assert np.array_equal(codes, dm_bottleneck(model.dm, split)[0])
