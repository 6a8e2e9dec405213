"""Training further from a trained model."""

from dataclasses import replace

import pytest
import torch

import ditifeat
from ditifeat import RecipeError
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import EncoderSpec
from ditifeat.train import train
from ditifeat.train.initial_model import dm_of_model, initialise_from_model
from ditifeat.train.recipe import load_recipe
from ditifeat.train.tasks import task_class
from tests.conftest import make_image, method_recipe, random_model, tiny_recipe
from tests.train.conftest import assert_equal_weights, make_run, read_log, training_images, write_recipe


@pytest.fixture
def saved(tmp_path):
    model = random_model(tiny_recipe())
    model.save(tmp_path / "trained")
    return model, tmp_path / "trained"


def test_a_run_begins_with_the_models_networks_over_its_dm(saved, tmp_path, few_steps, no_previews):
    model, folder = saved
    (tmp_path / "images").mkdir()
    for i in range(12):
        make_image(i, 32, 32).save(tmp_path / "images" / f"{i}.png")
    recipe = tiny_recipe(holdout=3)
    slow = replace(recipe.section, optimiser=replace(recipe.section.optimiser, lr=1e-60))
    path = write_recipe(tmp_path, replace(recipe, section=slow))
    out = train(path, tmp_path / "images", tmp_path / "run", initial=str(folder))
    trained = DiTi.load(out)
    for name in ("encoder", "estimator", "dm"):
        assert_equal_weights(getattr(trained, name), getattr(model, name))
    assert load_recipe(tmp_path / "run" / "recipe.yaml").section.initial == str(folder)
    assert not (tmp_path / "run" / "dm-run").exists()
    assert trained.config.training["initial"]["name"] == model.config.name
    assert read_log(tmp_path / "run" / "diti-run")[-1]["effective_rank"] > 1


def test_other_networks_and_another_dm_are_refused(saved):
    _, folder = saved
    other = random_model(tiny_recipe())
    next(other.dm.parameters()).data += 1
    with pytest.raises(RecipeError, match="frozen DM"):
        initialise_from_model(other, str(folder))
    unlike = random_model(tiny_recipe())
    unlike.config = replace(unlike.config, partition=ditifeat.TimeStepPartition(2, 4), latent_dim=4)
    with pytest.raises(RecipeError, match="partition"):
        initialise_from_model(unlike, str(folder))


@pytest.mark.parametrize("method", ["diffae", "simclr"])
def test_compared_methods_begin_with_the_same_encoder(saved, method):
    model, folder = saved
    recipe = method_recipe(method)
    encoder = tiny_recipe().encoder
    recipe = replace(recipe, encoder=encoder, section=replace(recipe.section, initial=str(folder)))
    task = task_class(recipe.method).build(make_run(None, recipe), recipe.section)
    task.initialise(training_images())
    assert_equal_weights(task.trained["encoder"], model.encoder)
    if method == "diffae":
        assert torch.equal(task.model.unet.unet.conv_in.weight, model.dm.unet.conv_in.weight)


def test_an_encoder_of_another_kind_is_refused(saved):
    recipe = method_recipe("simclr")
    recipe = replace(recipe, encoder=EncoderSpec((32, 32)), section=replace(recipe.section, initial=str(saved[1])))
    task = task_class(recipe.method).build(make_run(None, recipe), recipe.section)
    with pytest.raises(RecipeError, match="whose encoder differ"):
        task.initialise(training_images())


def test_the_frozen_dm_of_a_model():
    assert dm_of_model("celeba64-mini").endswith("celeba64-mini/dm")
