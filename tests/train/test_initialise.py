"""Initialisation of the encoder from a frozen DM, before a step is made."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from ditifeat.benchmark.baselines import down_path
from ditifeat.data.batches import load_images
from ditifeat.errors import ModelError, RecipeError
from ditifeat.model.config import DMReference
from ditifeat.model.encoders import EncoderSpec, build_encoder
from ditifeat.model.partition import TimeStepPartition
from ditifeat.train.allocation import allocate_by_first_loss
from ditifeat.train.data import TrainingImages
from ditifeat.train.initialise import (
    COMPONENTS_PER_CODE,
    ERROR_RIDGE,
    initialise_error_predictive,
    initialise_from_dm,
    initialise_whitened,
)
from ditifeat.train.tasks.diti import DiTiTask, build_diti
from ditifeat.train.tasks.dm import build_dm
from tests.benchmark.conftest import make_split, residual_recipe
from tests.conftest import random_model
from tests.conftest import tiny_recipe as larger_recipe

# A small map, so that the inputs' covariance is quick to take apart.
ENCODER = EncoderSpec((32, 32, 32, 32))


def tiny_recipe(**changes):
    return larger_recipe(**{"encoder": ENCODER, **changes})


def smooth_images(count, seed=0):
    """Images of a few colours and lights, `(count, 3, 32, 32)`: what explains their errors explains those of others."""
    small = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (count, 3, 4, 4)).astype(np.float32))
    return torch.nn.functional.interpolate(small, size=32, mode="bilinear")


def test_whitened_codes_are_white():
    model = random_model(tiny_recipe())
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (400, 3, 32, 32)).astype(np.float32))
    initialise_whitened(model.encoder, images)
    codes = model.encoder(images)
    covariance = torch.cov(codes.T)
    assert codes.mean(0).abs().max() < 1e-3
    assert (covariance.diagonal() - 1).abs().max() < 0.01
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 0.05


def test_the_encoder_is_initialised_as_the_dm_s_down_path():
    recipe = tiny_recipe()
    dm = build_dm(recipe).eval()
    spec = EncoderSpec((32, 32), style="residual", unshuffle=2)
    encoder = build_encoder(spec, 32, 32)
    initialise_from_dm(encoder, spec, dm)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = dm.features(dm.codec.encode(images), torch.full((2,), 50)).bottleneck.flatten(1)
        assert torch.allclose(encoder.inputs(images), expected, atol=1e-5)
    both = replace(spec, levels=2)
    deep = build_encoder(both, 32, 32)
    initialise_from_dm(deep, both, dm)
    with torch.no_grad():
        first = dm.features(dm.codec.encode(images), torch.full((2,), 50)).skips[1]
        pooled = torch.nn.functional.avg_pool2d(first, 2).flatten(1)
        assert torch.allclose(deep.inputs(images), torch.cat([expected, pooled], 1), atol=1e-5)
    other = EncoderSpec((32, 64), style="residual", unshuffle=2)
    with pytest.raises(RecipeError, match="down path"):
        initialise_from_dm(build_encoder(other, 32, 32), other, dm)


def weighted_error(model, images, lo, hi, seed):
    """Of the frozen DM at random time-steps of lo..hi-1, `(N, values)`."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(lo, hi, (len(images),), generator=generator)
    noise = torch.randn((len(images), *model.noise_shape), generator=generator)
    x_t = model.dm.schedule.add_noise(model.dm.codec.encode(images), noise, t)
    error = noise - model.frozen_noise(x_t, t)
    return (model.dm.schedule.at("loss_weight", t).sqrt() * error).flatten(1).double()


def explained_share(model, images, lo, hi, seed):
    """The share of that error's variance over images that its range's cumulative code explains, by least squares."""
    z = model.encoder(images).double()[:, : model.partition.dims_of_time_steps(lo, hi).stop]
    z, error = z - z.mean(0), weighted_error(model, images, lo, hi, seed)
    error = error - error.mean(0)
    rest = error - z @ torch.linalg.lstsq(z, error).solution
    return 1 - (rest.square().sum() / error.square().sum()).item()


def test_error_predictive_codes_keep_the_scale_of_the_inputs():
    model = random_model(tiny_recipe())
    initialise_error_predictive(model, smooth_images(300))
    codes = model.encoder(smooth_images(300))
    assert codes.mean(0).abs().max() < 1e-3 and codes.square().mean().sqrt() == pytest.approx(1, abs=0.01)
    rows = model.encoder.head.weight.norm(dim=1)
    assert torch.allclose(rows, rows.mean(), rtol=1e-4)


def test_error_predictive_codes_times_their_factors_vary_as_much_as_they_explain():
    model = random_model(tiny_recipe())
    scaled = initialise_error_predictive(model, smooth_images(300)) * model.encoder(smooth_images(300))
    for lo, hi in model.partition.ranges:
        part = scaled.std(0)[model.partition.dims_of_time_steps(lo, hi)]
        assert part.square().mean().sqrt() == pytest.approx(1, abs=0.01)


def test_error_predictive_codes_explain_more_of_the_error_than_whitened_ones():
    # An untrained DM that predicts the image has lost all of it.
    dm = replace(tiny_recipe().dm, prediction="sample")
    recipe = tiny_recipe(dm=dm, partition=TimeStepPartition(4, 8, stages=(250, 1000), dims_per_stage=(3, 5)))
    whitened, predictive = random_model(recipe), random_model(recipe)
    images = smooth_images(300)
    initialise_whitened(whitened.encoder, images)
    initialise_error_predictive(predictive, images)
    for lo, hi in recipe.partition.ranges:
        # Of other noise than that which the codes were fitted to.
        shares = [explained_share(model, images, lo, hi, seed=7) for model in (whitened, predictive)]
        assert shares[1] > 1.05 * shares[0], shares


def explained_one_by_one(model, white, images, lo, hi, seed):
    """How much of the weighted error at lo..hi-1 white inputs explain, one image at a time, less the floor of finite samples."""
    # As the batch draws them: all time-steps, then all noise.
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(lo, hi, (len(images),), generator=generator)
    noise = torch.randn((len(images), *model.noise_shape), generator=generator)
    errors = torch.zeros(len(images), images[0].numel(), dtype=torch.float64)
    for i, (x_0, t_0, n) in enumerate(zip(images.split(1), t.split(1), noise.split(1), strict=True)):
        x_t = model.dm.schedule.add_noise(model.dm.codec.encode(x_0), n, t_0)
        errors[i] = (model.dm.schedule.loss_weight[t_0].sqrt() * (n - model.frozen_noise(x_t, t_0))).flatten().double()
    covariance = white.T @ errors / len(images)
    floor = white.T @ white / len(images) * (errors - errors.mean(0)).square().sum(1).mean() / len(images)
    return covariance @ covariance.T - floor


@pytest.mark.parametrize(
    "partition",
    [TimeStepPartition(1, 4), TimeStepPartition(4, 8, stages=(250, 1000), dims_per_stage=(3, 5))],
)
def test_error_predictive_codes_are_reduced_rank_regression_allocated_by_first_loss(partition):
    model = random_model(tiny_recipe(partition=partition))
    images = smooth_images(200)
    initialise_error_predictive(model, images, seed=3)
    inputs = model.encoder.inputs(images).double()
    inputs = inputs - inputs.mean(0)
    covariance = inputs.T @ inputs / 200
    variances, axes = torch.linalg.eigh(covariance)
    root = (axes / (variances + ERROR_RIDGE * variances.mean()).sqrt())[:, -COMPONENTS_PER_CODE * partition.d :]
    ranges = partition.ranges if partition.stages else ((0, 1000),)  # one subset serves all time-steps
    explained = [(hi - lo) * explained_one_by_one(model, inputs @ root, images, lo, hi, 3) for lo, hi in ranges]
    dims = [partition.dims_of_time_steps(lo, hi) for lo, hi in ranges]
    directions = allocate_by_first_loss(explained, [d.stop - d.start for d in dims])
    for d in dims:
        codes = model.encoder.head.weight.double()[d].T
        expected, found = (torch.linalg.qr(inputs @ w)[0] for w in (root @ directions[:, d], codes))
        assert torch.linalg.svdvals(expected.T @ found).min() > 0.999


def test_the_initial_decoder_is_least_squares_over_cumulative_codes():
    section = replace(tiny_recipe().section, estimator="decoded", warm_start=True, codes="error_predictive")
    recipe = tiny_recipe(section=section, partition=TimeStepPartition(4, 8, stages=(250, 1000), dims_per_stage=(3, 5)))
    model = build_diti(recipe, build_dm(recipe), DMReference()).requires_grad_(False).eval()
    array = ((smooth_images(300) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    DiTiTask(model, section).initialise(TrainingImages(array, [str(i) for i in range(300)]))
    images = load_images(array)
    z, x_0 = model.encoder(images), model.codec.encode(images)
    cumulative = [torch.where(torch.arange(8) < end, z, 0.0) for end in (3, 8)]

    def error(decoder):
        return sum((decoder(code) - x_0).square().sum() for code in cumulative)

    best = error(model.estimator.decoder)
    assert best < 0.98 * 2 * (x_0 - x_0.mean(0)).square().sum()  # than the mean image
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):  # no nearby decoder is better, but for the ridge
        other = copy.deepcopy(model.estimator.decoder)
        for parameter in other.parameters():
            parameter.data += 0.02 * parameter.std() * torch.randn(parameter.shape, generator=generator)
        assert error(other) > best


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("initialise", [initialise_whitened, initialise_error_predictive])
def test_few_images_give_codes_of_ordinary_size(initialise, count):
    """Also to other images, which vary where these do not."""
    model = random_model(tiny_recipe())
    factors = initialise(model if initialise is initialise_error_predictive else model.encoder, smooth_images(count))
    codes = model.encoder(smooth_images(20, seed=1))
    assert torch.isfinite(factors).all() and torch.isfinite(codes).all() and codes.abs().max() < 200


@pytest.mark.parametrize("images", [smooth_images(1), smooth_images(1).repeat(5, 1, 1, 1)])
@pytest.mark.parametrize("initialise", [initialise_whitened, initialise_error_predictive])
def test_images_that_are_all_alike_are_refused(initialise, images):
    model = random_model(tiny_recipe())
    with pytest.raises(ModelError, match="all alike"):
        initialise(model if initialise is initialise_error_predictive else model.encoder, images)


def test_more_codes_than_inputs_are_refused():
    spec = EncoderSpec((32, 32), style="residual", unshuffle=2)
    recipe = tiny_recipe(encoder=spec, partition=TimeStepPartition(8, 4096))
    with pytest.raises(ModelError, match="do not make more codes"):
        initialise_whitened(random_model(recipe).encoder, smooth_images(10))


def test_a_baseline_is_where_a_run_begins():
    recipe = residual_recipe()
    split = make_split(80, 60)
    codes = {}
    for weighting in ("published", "relative"):
        section = replace(recipe.section, encoder_from_dm=True, codes="error_predictive", weighting=weighting)
        model = random_model(replace(recipe, section=section))
        codes[weighting] = down_path(model, split, "error_predictive", weighting)
        DiTiTask(model, section).initialise(TrainingImages(split.images[:60], list(split.names[:60])))
        assert np.allclose(model.encoder(load_images(split.images)).numpy(), codes[weighting], atol=1e-3)
    assert not np.allclose(codes["published"], codes["relative"], atol=0.1)
