"""Runs and tasks that train in a second or two."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from ditifeat.model.config import DMReference
from ditifeat.train.data import TrainingImages
from ditifeat.train.recipe import recipe_to_dict
from ditifeat.train.run import Run
from ditifeat.train.sections import Optimiser
from ditifeat.train.tasks.contrastive import ContrastiveTask
from ditifeat.train.tasks.diffae import DiffAETask, build_diffae
from ditifeat.train.tasks.diti import DiTiRecipe, DiTiTask, build_diti
from ditifeat.train.tasks.dm import DMTask, build_dm
from tests.conftest import make_image, method_recipe, random_model, tiny_recipe

OPTIMISER = Optimiser(20 * 4, batch=4, lr=1e-3, decay="cosine", warmup=3, weight_decay=0.01, ema=0.9)


def training_images(count=12, flip=True):
    rows = np.stack([np.asarray(make_image(i, 32, 32)) for i in range(count)])
    return TrainingImages(rows, [f"{i}.png" for i in range(count)], flip=flip)


def make_run(folder, recipe=None, **values):
    return Run(recipe or tiny_recipe(), values.pop("images", None) or training_images(), folder, **values)


def with_dropout(recipe, dropout=0.3):
    return replace(recipe, dm=replace(recipe.dm, unet=replace(recipe.dm.unet, dropout=dropout)))


def make_task(kind):
    """A task by its name: "dm", "diti", "diffae", "simclr", "simsiam"; with "+dropout", or "diti+settings"."""
    kind, _, more = kind.partition("+")
    recipe = tiny_recipe() if kind in ("dm", "diti") else method_recipe(kind)
    if more == "dropout":
        recipe = with_dropout(recipe)
    if kind == "dm":
        recipe = replace(recipe, dm=replace(recipe.dm, prediction="sample", loss="min_snr"))
        return DMTask(build_dm(recipe), recipe.dm, 32)
    if kind == "diffae":
        return DiffAETask(build_diffae(recipe), recipe.dm)
    if kind in ("simclr", "simsiam"):
        return ContrastiveTask.build(make_run(None, recipe), recipe.section)
    if more == "dropout":
        return DiTiTask(build_diti(recipe, build_dm(recipe).eval(), DMReference()), recipe.section)
    model = random_model(recipe)
    model.encoder.requires_grad_(True), model.estimator.requires_grad_(True)
    section = DiTiRecipe(OPTIMISER, "on")
    return DiTiTask(model, replace(section, weighting="relative", encoder_lr=0.5) if more else section)


def write_recipe(folder, recipe=None, **changes):
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(recipe or tiny_recipe(holdout=3, **changes))))
    return path


def read_log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_equal_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr("ditifeat.train.evaluate.STEPS", 5)


@pytest.fixture
def no_previews(monkeypatch):
    monkeypatch.setattr("ditifeat.train.loop.Trainer._preview", lambda trainer: None)
