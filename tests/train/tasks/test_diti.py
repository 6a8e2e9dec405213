"""DiTi's task: initialisation, losses, learning rates, previews."""

from dataclasses import replace

import pytest
import torch

from ditifeat import RecipeError
from ditifeat.model.config import DMReference
from ditifeat.model.encoders import EncoderSpec
from ditifeat.train.tasks.diti import DiTiTask, build_diti
from ditifeat.train.tasks.dm import build_dm
from tests.conftest import tiny_recipe
from tests.train.conftest import make_task, training_images


def build(**settings):
    recipe = tiny_recipe(encoder=EncoderSpec((32, 32, 32, 32)))
    recipe = replace(recipe, section=replace(recipe.section, **settings))
    return DiTiTask(build_diti(recipe, build_dm(recipe), DMReference()), recipe.section, seed=3)


@pytest.mark.parametrize("codes", ["random", "whitened", "error_predictive"])
def test_initialisation(codes):
    task = build(codes=codes)
    before = task.model.estimator.code_embedding.weight.detach().clone()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    task.initialise(training_images(200))
    assert torch.equal(state, torch.get_rng_state())
    factors = (task.model.estimator.code_embedding.weight / before)[0].detach()
    # The estimator's first layer is scaled code by code.
    assert torch.allclose(task.model.estimator.code_embedding.weight, before * factors, rtol=1e-4)
    assert (factors == 1).all() if codes == "random" else factors.std() > 0.05
    if codes == "whitened":
        z = task.model.encoder(training_images(200).first(200)).detach()
        assert (z.std(0) - 1).abs().max() < 0.05


def test_a_warm_start_changes_nothing_at_first():
    """G = 0, so the loss is the frozen DM's; the output layer learns from the first step."""
    task = build(warm_start=True, weighting="relative")
    noise = torch.randn(4, *task.noise_shape, generator=torch.Generator().manual_seed(0))
    losses = task(training_images(4).first(4), torch.tensor([10, 300, 600, 999]), noise)
    assert torch.allclose(losses["loss"], losses["frozen"]) and torch.allclose(losses["loss"], torch.ones(4))
    losses["loss"].mean().backward()
    assert task.model.estimator.conv_out.weight.grad.abs().sum() > 0


def test_learning_rates_and_what_is_refused():
    task = build(encoder_lr=0.02, encoder_begin=0.3, estimator="decoded", warm_start=True)
    encoder, others, decoder = task.parameter_groups()
    assert (encoder.factor, encoder.begin, others.factor, others.begin, decoder.factor) == (0.02, 0.3, 1, 0, 0.1)
    assert len(decoder.parameters) == 2 and decoder.parameters[0] is task.model.estimator.decoder.linear.weight
    assert len([*encoder.parameters, *others.parameters, *decoder.parameters]) == len(list(task.trained.parameters()))
    for settings in ({"encoder_lr": 0.0}, {"weighting": "heavy"}):
        with pytest.raises(RecipeError, match="diti"):
            build(**settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind,rows", [("dm", 2), ("diti", 3), ("diffae", 3), ("simclr", 4)])
def test_previews_are_rows_of_images_and_draw_nothing(kind, rows):
    task = make_task(kind).eval()
    images = training_images(2).first(2)
    state = torch.get_rng_state()
    with torch.no_grad():
        made = task.preview(task.trained, images)
        assert torch.equal(made, task.preview(task.trained, images)) and torch.equal(state, torch.get_rng_state())
    assert made.shape == (2 * rows, 3, 32, 32) and torch.isfinite(made).all()
    assert kind == "dm" or torch.equal(made[:2], images)
