"""SimCLR and SimSiam: what is refused, and views that follow from the noise."""

from dataclasses import replace

import pytest
import torch

from ditifeat import RecipeError
from tests.conftest import method_recipe
from tests.train.conftest import make_task, training_images


@pytest.mark.parametrize("kind", ["simclr", "simsiam"])
def test_views_follow_from_the_noise(kind):
    task = make_task(kind)
    images, t = training_images(4).first(4), torch.zeros(4, dtype=torch.int64)
    noise = torch.randn(4, *task.noise_shape, generator=torch.Generator().manual_seed(0))
    a, b = task(images, t, noise)["loss"], task(images, t, noise)["loss"]
    assert a.shape == (4,) and torch.equal(a, b) and not torch.equal(a, task(images, t, -noise)["loss"])


def test_what_is_refused():
    section = method_recipe("simclr").section
    for changes in ({"temperature": 0.0}, {"projection": 1}, {"optimiser": replace(section.optimiser, batch=1)}):
        with pytest.raises(RecipeError, match="contrastive"):
            replace(section, **changes)


def test_whitened_initialisation():
    task = make_task("simclr")
    task.recipe = replace(task.recipe, whiten=True)
    images = training_images(200)
    task.initialise(images)
    codes = task.trained["encoder"](images.first(200)).detach()
    assert (codes.std(0) - 1).abs().max() < 0.02 and codes.mean(0).abs().max() < 1e-3
