"""Evaluation of a finished model: reconstructions, probes, and directions that the model's own edits accept."""

import json

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat.train.evaluate import evaluate, reconstruction
from ditifeat.train.tasks.diffae import build_diffae
from tests.conftest import make_image, method_recipe, random_model, tiny_recipe
from tests.train.conftest import training_images


@pytest.fixture
def evaluated(tmp_path, few_steps):
    model, data = random_model(tiny_recipe()), training_images(12)
    model.save(tmp_path)
    labels = {"bright": np.arange(12) % 2, "number": np.arange(12.0), "all": np.ones(12, int)}
    result = evaluate(model, data.array, data.names, 8, tmp_path, labels)
    return tmp_path, result


def test_probes_and_reconstructions(evaluated):
    _, result = evaluated
    assert result["reconstruction"]["held_out"] and result["reconstruction"]["images"] == 4
    assert set(result["reconstruction"]["mse"]) == {
        "inferred_x_T", "fixed_point", "random_x_T", "frozen_dm_inferred_x_T",
    }  # fmt: skip
    assert (result["probe"]["train rows"], result["probe"]["test rows"]) == (8, 4)
    assert set(result["probe"]["scores"]["number"]) == {"r", "mse"}
    json.dumps(result, allow_nan=False)  # NaN is no JSON


def test_the_model_s_own_directions_fit_its_edits(evaluated):
    folder, _ = evaluated
    encoder = ditifeat.load_encoder(folder)
    report = encoder.attributes()
    assert report.about["weights"] == encoder.weights
    assert report.about["preprocessing"] == encoder.config.image.fingerprint()
    edited = ditifeat.edit(encoder, make_image(0), report["bright"], scale=0.2, steps=3)
    assert edited.size == (32, 32)


def test_without_labels_or_held_out_images(tmp_path, few_steps):
    model, data = random_model(tiny_recipe()), training_images(6)
    assert set(evaluate(model, data.array, data.names, 4, tmp_path)) == {"reconstruction"}
    found = evaluate(model, data.array, data.names, 6, tmp_path)
    assert not found["reconstruction"]["held_out"] and found["reconstruction"]["images"] == 6


def test_reconstruction_of_diffae_has_no_frozen_dm():
    model = build_diffae(method_recipe("diffae")).eval()
    images = training_images(2).first(2)
    found = reconstruction(model, images, 3)
    assert set(found["mse"]) == {"inferred_x_T", "fixed_point", "random_x_T"} == set(found["ssim"])
    before = torch.get_rng_state()
    assert found == reconstruction(model, images, 3) and torch.equal(before, torch.get_rng_state())
