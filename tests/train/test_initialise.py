"""Where training begins: codes from a frozen DM, before a step is made."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ditifeat.benchmark.baselines import untrained
from ditifeat.data.batches import load_images
from ditifeat.errors import ModelError, RecipeError
from ditifeat.model.encoders import EncoderSpec, build_encoder
from ditifeat.model.partition import TimeStepPartition
from ditifeat.train.data import Pictures
from ditifeat.train.initialise import LOST_RIDGE, encoder_from_dm, initialise_error_predictive, initialise_white
from ditifeat.train.run import _begin
from ditifeat.train.tasks.dm import build_dm
from tests.conftest import random_model, tiny_recipe


def smooth_images(count, seed=0):
    """Pictures of a few colours and lights, `(count, 3, 32, 32)`: what is told of them can be told of others."""
    small = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (count, 3, 4, 4)).astype(np.float32))
    return torch.nn.functional.interpolate(small, size=32, mode="bilinear")


@pytest.mark.parametrize("flip_average", [False, True])
def test_whitened_codes_are_white(flip_average):
    recipe = tiny_recipe()
    model = random_model(replace(recipe, encoder=replace(recipe.encoder_spec, flip_average=flip_average)))
    images = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (400, 3, 32, 32)).astype(np.float32))
    initialise_white(model.encoder, images)
    codes = model.encoder(images)
    covariance = torch.cov(codes.T)
    assert codes.mean(0).abs().max() < 1e-3
    assert (covariance.diagonal() - 1).abs().max() < 0.01
    assert (covariance - torch.diag(covariance.diagonal())).abs().max() < 0.05


def test_the_encoder_begins_as_the_dm_s_down_path():
    recipe = tiny_recipe()
    dm = build_dm(recipe).eval()
    spec = EncoderSpec((32, 32), style="residual", unshuffle=2)
    encoder = build_encoder(spec, 32, 32)
    encoder_from_dm(encoder, spec, dm)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = dm.features(dm.codec.encode(images), torch.full((2,), 50)).bottleneck.flatten(1)
        assert torch.allclose(encoder.inputs(images), expected, atol=1e-5)
    other = EncoderSpec((32, 64), style="residual", unshuffle=2)
    with pytest.raises(RecipeError, match="down path"):
        encoder_from_dm(build_encoder(other, 32, 32), other, dm)


def weighted_error(model, images, lo, hi, seed):
    """Of the frozen DM at random time-steps of lo..hi-1, `(N, values)`, one picture at a time."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for x_0 in images.split(1):
        t = torch.randint(lo, hi, (1,), generator=generator)
        noise = torch.randn((1, *model.noise_shape), generator=generator)
        x_t = model.dm.schedule.add_noise(model.dm.codec.encode(x_0), noise, t)
        error = noise - model.frozen_noise(x_t, t)
        rows.append((model.dm.schedule.loss_weight[t].sqrt() * error).flatten(1))
    return torch.cat(rows).double()


def told_share(model, images, lo, hi, seed):
    """The share of that error's variance over pictures that its range's cumulative code tells, by least squares."""
    z = model.encoder(images).double()[:, : model.partition.dims_of_time_steps(lo, hi).stop]
    z, error = z - z.mean(0), weighted_error(model, images, lo, hi, seed)
    error = error - error.mean(0)
    rest = error - z @ torch.linalg.lstsq(z, error).solution
    return 1 - (rest.square().sum() / error.square().sum()).item()


def test_lost_codes_keep_the_scale_of_the_inputs():
    model = random_model(tiny_recipe())
    initialise_error_predictive(model, smooth_images(300))
    codes = model.encoder(smooth_images(300))
    assert codes.mean(0).abs().max() < 1e-3 and codes.square().mean().sqrt() == pytest.approx(1, abs=0.01)
    rows = model.encoder.head.weight.norm(dim=1)
    assert torch.allclose(rows, rows.mean(), rtol=1e-4)


def test_lost_codes_times_their_sizes_vary_as_much_as_they_tell():
    model = random_model(tiny_recipe())
    heard = initialise_error_predictive(model, smooth_images(300)) * model.encoder(smooth_images(300))
    for lo, hi in model.partition.ranges:
        part = heard.std(0)[model.partition.dims_of_time_steps(lo, hi)]
        # What tells most comes first, and a range's codes have root mean square 1.
        assert (part.diff() <= 1e-3).all() and part.square().mean().sqrt() == pytest.approx(1, abs=0.01)


def test_lost_codes_tell_more_of_what_is_lost_than_white_ones():
    # An untrained DM that predicts the picture has lost all of it.
    dm = replace(tiny_recipe().dm, prediction="sample")
    recipe = tiny_recipe(dm=dm, partition=TimeStepPartition(4, 8, stages=(250, 1000), dims_per_stage=(3, 5)))
    white, lost = random_model(recipe), random_model(recipe)
    images = smooth_images(300)
    initialise_white(white.encoder, images)
    initialise_error_predictive(lost, images)
    for lo, hi in recipe.partition.ranges:
        # Of other noise than that which the codes were fitted to.
        shares = [told_share(model, images, lo, hi, seed=7) for model in (white, lost)]
        assert shares[1] > 1.2 * shares[0], shares


def told_one_by_one(model, inputs, images, lo, hi, seed):
    """The inputs' covariance with the weighted error at lo..hi-1, one picture at a time."""
    # As the batch draws them: all time-steps, then all noise.
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(lo, hi, (len(images),), generator=generator)
    noise = torch.randn((len(images), *model.noise_shape), generator=generator)
    told = torch.zeros(inputs.shape[1], noise[0].numel(), dtype=torch.float64)
    for x, x_0, t_0, n in zip(inputs, images.split(1), t.split(1), noise.split(1), strict=True):
        x_t = model.dm.schedule.add_noise(model.dm.codec.encode(x_0), n, t_0)
        error = model.dm.schedule.loss_weight[t_0].sqrt() * (n - model.frozen_noise(x_t, t_0))
        told += torch.outer(x, error.flatten().double()) / len(images)
    return told


@pytest.mark.parametrize(
    "partition",
    [TimeStepPartition(1, 4), TimeStepPartition(4, 8, stages=(250, 1000), dims_per_stage=(3, 5))],
)
def test_lost_codes_are_reduced_rank_regression_and_the_first_range_chooses_first(partition):
    model = random_model(tiny_recipe(partition=partition))
    images = smooth_images(200)
    initialise_error_predictive(model, images, seed=3)
    inputs = model.encoder.inputs(images).double()
    inputs = inputs - inputs.mean(0)
    ranges = partition.ranges if partition.stages else ((0, 1000),)  # one subset serves all time-steps
    told = {(lo, hi): told_one_by_one(model, inputs, images, lo, hi, 3) for lo, hi in ranges}
    covariance = inputs.T @ inputs / 200
    ridge = covariance + LOST_RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    # The generalised eigenproblem of reduced-rank regression: its top directions span the codes.
    root = torch.linalg.inv(torch.linalg.cholesky(ridge))
    gain = {range_: root @ t @ t.T @ root.T for range_, t in told.items()}
    free = torch.linalg.eigh(sum((hi - lo) * gain[lo, hi] for lo, hi in gain))[1][:, -partition.d :]
    for lo, hi in ranges:
        dims = partition.dims_of_time_steps(lo, hi)
        directions = free @ torch.linalg.eigh(free.T @ gain[lo, hi] @ free)[1].flip(1)
        top, free = directions.tensor_split([dims.stop - dims.start], dim=1)
        codes = model.encoder.head.weight.double()[dims].T
        expected, found = (torch.linalg.qr(inputs @ w)[0] for w in (root.T @ top, codes))
        assert torch.linalg.svdvals(expected.T @ found).min() > 0.999


@pytest.mark.parametrize("start", [initialise_white, initialise_error_predictive])
def test_few_pictures_give_finite_codes(start):
    model = random_model(tiny_recipe())
    start(model if start is initialise_error_predictive else model.encoder, smooth_images(10))
    assert torch.isfinite(model.encoder(smooth_images(20, seed=1))).all()


def test_more_codes_than_inputs_are_refused():
    spec = EncoderSpec((32, 32), style="residual", unshuffle=2)
    recipe = tiny_recipe(encoder=spec, partition=TimeStepPartition(8, 4096))
    with pytest.raises(ModelError, match="do not make more codes"):
        initialise_white(random_model(recipe).encoder, smooth_images(10))


def test_a_floor_is_where_a_run_begins():
    array = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    spec = EncoderSpec((32, 32), style="residual", unshuffle=2)
    codes = {}
    for weighting in ("published", "relative"):
        diti = replace(tiny_recipe().diti, encoder_from_dm=True, codes="lost", weighting=weighting)
        recipe = tiny_recipe(encoder=spec, diti=diti)
        model = random_model(recipe)
        codes[weighting] = untrained(model, array, 60, "lost", from_dm=True, weighting=weighting)
        _begin(model, diti, Pictures(array, [str(i) for i in range(60)], False, 0), seed=0)
        assert np.allclose(model.encoder(load_images(array)).numpy(), codes[weighting], atol=1e-3)
    assert not np.allclose(codes["published"], codes["relative"], atol=0.1)
