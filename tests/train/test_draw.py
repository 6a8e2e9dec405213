"""What a step draws, on the CPU and on a device, by one process and by several."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ditifeat.train.draw import Draws
from tests.train.conftest import training_images

CPU = torch.device("cpu")


def draws(**changes):
    values = {"images": training_images(8), "num_time_steps": 1000, "noise_shape": (3, 4, 4), "seed": 0, "batch": 4}
    return Draws(**{**values, **changes})


def draw(made, step, where):
    return made.per_image(step) if where == "per image" else made.on_device(step, CPU)


@pytest.fixture(params=["per image", "on the device"])
def where(request):
    return request.param


def test_draws_follow_from_seed_step_and_place(where):
    """A process draws its share as one would draw all."""
    made = draws()
    images, t, noise = draw(made, 3, where)
    assert images.shape == (4, 3, 32, 32) and t.dtype == torch.int64 and images.dtype == noise.dtype == torch.float32
    for rank in (0, 1):
        share = draw(replace(made, rank=rank, processes=2), 3, where)
        for whole, part in zip((images, t, noise), share, strict=True):
            assert torch.equal(whole[2 * rank : 2 * rank + 2], part)
    for other in (draw(made, 4, where), draw(draws(seed=1), 3, where)):
        assert not torch.equal(other.noise, noise) and not torch.equal(other.t, t)
    assert len(set(map(float, noise[:, 0, 0, 0]))) == 4
    state = torch.get_rng_state()
    assert torch.equal(draw(made, 3, where).noise, noise) and torch.equal(torch.get_rng_state(), state)


def test_noise_is_normal_and_time_steps_are_even(where):
    made = [draw(draws(batch=64, images=training_images(64)), step, where) for step in range(20)]
    t, noise = torch.cat([each.t for each in made]), torch.cat([each.noise for each in made])
    assert 0 <= t.min() < 20 and 980 < t.max() <= 999 and abs(t.float().mean() - 499.5) < 30
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("flip", [True, False])
def test_flips_are_flips(where, flip):
    kinds = set()
    made = draws(images=training_images(8, flip=flip))
    for step in range(4):
        for image, index in zip(draw(made, step, where).images, made.images.indices(step, 4), strict=True):
            before = made.images.batch(np.array([index]))[0]
            kinds.add(torch.equal(image, before) + 2 * torch.equal(image, before.flip(-1)))
    assert kinds == ({1, 2} if flip else {1})


def test_on_a_device_maps_are_channels_last():
    images, _, noise = draws().on_device(0, CPU)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert noise.is_contiguous(memory_format=torch.channels_last)
    assert draws(noise_shape=(2, 10)).on_device(0, CPU).noise.shape == (4, 2, 10)
