"""The model card: metadata that the Hub accepts, and figures of the run that wrote it."""

import inspect
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from ditifeat import RecipeError
from ditifeat.model.config import DMReference
from ditifeat.train.card import write_card
from ditifeat.train.recipe import load_recipe, model_config, recipe_names
from ditifeat.train.sections import CardFacts
from tests.conftest import method_recipe, tiny_recipe

FACTS = {
    "seed": 0, "training_images": 7, "diti_images": 80, "diti_seconds": 3, "diti_precision": "float32",
    "diti_device": "NVIDIA L4", "diti_networks": "encoder, estimator", "diti_parameters": 1234,
}  # fmt: skip

EVALUATION = {
    "reconstruction": {
        "images": 3, "held_out": True, "steps": 100,
        "mse": {"inferred_x_T": 0.00012345, "random_x_T": 0.05}, "ssim": {"inferred_x_T": 0.98765, "random_x_T": 0.4},
    },
    "probe": {
        "protocol": "sklearn", "train rows": 7, "test rows": 3, "mean_ap": 0.75,
        "scores": {
            "bright": {"ap": 0.75, "auroc": 0.5, "prevalence": 0.3333},
            "age": {"r": 0.25, "mse": 0.9},
            "rare": {"ap": None, "auroc": None, "prevalence": 0.0},
        },
    },
}  # fmt: skip


def card(tmp_path, recipe, evaluation=EVALUATION, **facts):
    config = model_config(recipe, method="diti", dm=DMReference(), training=FACTS | facts)
    write_card(tmp_path, recipe, config, evaluation)
    head, body = (tmp_path / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(head), body


def test_figures(tmp_path):
    metadata, body = card(tmp_path, tiny_recipe())
    assert metadata["library_name"] == "ditifeat" and "disentanglement" in metadata["tags"]
    assert "32-dimensional image features in 8 subsets" in body
    assert "| diti: encoder, estimator | 80 | 3 | float32 | NVIDIA L4 | 1234 |" in body and "| dm:" not in body
    assert "Reconstruction of 3 held-out images" in body and "| its inferred x_T | 0.000123 | 0.988 |" in body
    assert "7 rows to train, 3 held out" in body and "**Mean AP 0.750**" in body
    for settings in ("detach `on`", "warm_start `True`"):
        assert settings in body


def test_the_initial_model_is_named(tmp_path):
    before = {"name": "first", "diti_networks": "encoder, estimator", "diti_images": 4096}
    body = card(tmp_path, tiny_recipe(), initial=before)[1]
    assert "| diti of `first`, before: encoder, estimator | 4096 | unknown |" in body
    assert "began with the weights of `first`" in body


def test_each_kind_of_attribute_has_its_own_columns(tmp_path):
    body = card(tmp_path, tiny_recipe())[1]
    binary = body[body.index("| attribute | ap | auroc | prevalence |") :]
    assert binary.index("| bright | 0.750 | 0.500 | 0.333 |") < binary.index("| rare | - | - | 0.000 |")
    real = binary[binary.index("| attribute | r | mse |\n|---|---|---|\n| age | 0.250 | 0.900 |") :]
    assert "bright" not in real and "rare" not in real


def test_features_of_one_subset_belong_to_no_time_steps(tmp_path):
    metadata, body = card(tmp_path, method_recipe("pdae"))
    assert "disentanglement" not in metadata["tags"] and "time-steps (" not in body and "32-dimensional" in body


def test_what_was_not_measured_is_not_claimed(tmp_path):
    body = card(tmp_path, tiny_recipe(), {}, skipped_images=2)[1]
    assert "None: there were no labels." in body and "2 more could not be decoded" in body
    recipe = tiny_recipe()
    pretrained = replace(recipe, dm=replace(recipe.dm, unet=None, optimiser=None, pretrained="org/name"))
    assert "`org/name`, not trained here" in card(tmp_path, pretrained)[1]


def test_licences(tmp_path):
    """The Hub wants name and link of a licence that it does not know."""
    assert card(tmp_path, tiny_recipe())[0]["license"] == "unknown"
    named = CardFacts(license="other", license_name="mine", license_link="https://example.org/mine")
    metadata = card(tmp_path, tiny_recipe(card=named))[0]
    assert (metadata["license"], metadata["license_name"], metadata["license_link"]) == (
        "other",
        "mine",
        "https://example.org/mine",
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"license": "other"},
        {"license": "other", "license_name": "mine"},
        {"license": "other", "license_name": "mine", "license_link": "somewhere"},
        {"license": "mit", "license_name": "mine"},
    ],
)
def test_licences_without_what_the_hub_wants(facts):
    with pytest.raises(RecipeError, match="license"):
        CardFacts(**facts)


@pytest.mark.parametrize("name", recipe_names())
def test_licences_of_the_package_s_recipes(name):
    facts = load_recipe(name).card
    if name.startswith(("images", "pretrained")):  # whoever runs these knows the images
        assert facts.license == "unknown"
    elif name.startswith("factors"):
        assert facts.license == "cc0-1.0"
    else:
        assert facts.license in ("other", "cc-by-nc-sa-4.0")


@pytest.mark.skipif(
    "huggingface.co" in inspect.getsource(ModelCard.validate), reason="this version of the client asks no other address"
)
@pytest.mark.parametrize("name", recipe_names())
def test_the_client_s_validation(hub, tmp_path, name):
    """`ModelCard.validate` posts the card to the Hub, whose rules the server on the loopback has."""
    recipe = load_recipe(name)
    card(tmp_path, recipe)
    made = ModelCard.load(tmp_path / "README.md")
    made.validate()
    assert (made.data.pipeline_tag, made.data.library_name) == ("image-feature-extraction", "ditifeat")
    if made.data.license == "other":
        assert made.data.license_name and made.data.license_link.startswith("https://")
        made.data.license_link = None
        with pytest.raises(ValueError, match="license_link"):
            made.validate()
