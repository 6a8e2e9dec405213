"""Recipes: those of the package, YAML as people write it, what is refused, and overrides."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import ditifeat
from ditifeat import ModelError, RecipeError
from ditifeat.train import train
from ditifeat.train.recipe import (
    load_recipe,
    model_config,
    recipe_from_dict,
    recipe_names,
    recipe_to_dict,
    with_overrides,
)
from ditifeat.train.tasks.diti import DiTiRecipe
from tests.conftest import method_recipe, tiny_recipe

FOLDER = Path(ditifeat.__file__).parent / "train" / "recipes"


def test_recipes_of_the_package():
    pretrained = ["pretrained256", "pretrained256-latent", "pretrained32"]
    mini = [f"celeba64-mini{system}" for system in ("", "-diffae", "-off", "-pdae", "-simclr")]
    drawn = ["factors32", "factors32-off", "factors32-pdae"]
    assert recipe_names() == ["bedroom128", "celeba64", *mini, *drawn, "ffhq128", "images64", *pretrained]
    assert [load_recipe(name).method for name in mini] == ["diti", "diffae", "diti", "diti", "contrastive"]
    paper = load_recipe("celeba64").section.optimiser
    assert (paper.batch, paper.lr, paper.ema) == (128, 1e-4, 0.9999)
    images = {name: load_recipe(name).section.optimiser.images for name in ("celeba64", "ffhq128", "bedroom128")}
    assert images == {"celeba64": 38_000_000, "ffhq128": 64_000_000, "bedroom128": 70_000_000}
    for name in ("celeba64", "ffhq128", "bedroom128"):
        recipe = load_recipe(name)
        assert recipe.partition.k == 64 and recipe.partition.dims_per_stage == (10, 25, 327, 100, 50)
        assert not recipe.section.warm_start  # what the paper does not do is off


def test_the_recipes_for_drawn_images_differ_in_one_thing_each():
    on, off, pdae = (load_recipe(name) for name in ("factors32", "factors32-off", "factors32-pdae"))
    assert replace(off, name=on.name, section=replace(off.section, detach="on")) == on
    assert replace(pdae, name=on.name, partition=on.partition) == on and pdae.partition.k == 1


def test_the_recipe_for_anybody_s_images_cuts_no_face():
    recipe = load_recipe("images64")
    assert recipe.image.box(400, 300) == (50, 0, 350, 300) and recipe.image.resampling == "lanczos"
    assert recipe.method == "diti" and recipe.holdout == 0


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_survive_writing_and_reading(name):
    recipe = load_recipe(name)
    assert recipe_from_dict(yaml.safe_load(yaml.safe_dump(recipe_to_dict(recipe)))) == recipe


@pytest.mark.parametrize(
    "text,expected",
    [("on", "on"), ("off", "off"), ("yes", "on"), ("false", "off"), ('"on"', "on"), ("both", "both")],
)
def test_detach_needs_no_quotes(tmp_path, text, expected):
    path = tmp_path / "mine.yaml"
    path.write_text((FOLDER / "images64.yaml").read_text().replace("detach: on", f"detach: {text}"))
    assert load_recipe(path).section.detach == expected


def test_on_is_still_true_elsewhere(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((FOLDER / "images64.yaml").read_text() + "\nflip: off\n")
    assert load_recipe(path).flip is False


@pytest.mark.parametrize(
    "written,lr,images", [("1e-4", 1e-4, "1e6"), ("1.0e-4", 1e-4, "1.0e+6"), ("0.0001", 1e-4, "1_000_000")]
)
def test_numbers_as_people_write_them(tmp_path, written, lr, images):
    text = (FOLDER / "images64.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("images: 64000, batch: 64, lr: 5.0e-4", f"images: {images}, batch: 64, lr: {written}"))
    optimiser = load_recipe(path).section.optimiser
    assert (optimiser.lr, optimiser.images) == (lr, 1_000_000) and isinstance(optimiser.images, int)


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda r: r.update(trick=True), "unknown key trick"),
        (lambda r: r["diti"].update(detach="maybe"), "off, on, both"),
        (lambda r: r["diti"].update(weighting="heavy"), "published, relative"),
        (lambda r: r.update(encoder="resnet9000"), "resnet9000"),
        (lambda r: r["dm"].pop("unet"), "either `pretrained`"),
        (lambda r: r["dm"].pop("optimiser"), "no optimiser"),
        (lambda r: r.pop("dm"), "missing key dm"),
        (lambda r: r["diti"]["optimiser"].update(lr=-1.0), "lr"),
        (lambda r: r["diti"]["optimiser"].update(images=3), "at least one batch"),
        (lambda r: r["diti"]["optimiser"].update(images=50_000.5), "type int"),
        (lambda r: r["partition"].update(k="many"), "type int"),
        (lambda r: r["dm"]["unet"].update(channels=[7]), "multiples of 32"),
        (lambda r: r["dm"]["unet"].update(head_dim=0), "head_dim"),
        (lambda r: r["dm"]["unet"].update(dropout=1.5), "dropout"),
        (lambda r: r["dm"].update(snr_cap=0), "snr_cap"),
        (lambda r: r.update(codec={"kind": "vae"}), "codec: give path"),
        (lambda r: r.update(codec={"kind": "pixels", "path": "vae"}), "belongs to the kind vae"),
        (lambda r: r.update(codec={"kind": "unshuffle", "factor": 99}), "factor = 99"),
        (lambda r: r["image"].update(size=66), "does not divide|of 16 px|halve"),
        (lambda r: r["dm"]["unet"].update(channels=[32] * 6), "halve maps to 1/32"),
        (lambda r: r["encoder"].update(channels=[32] * 8), "encoder: 64 px"),
        (lambda r: r["encoder"].update(channels=[32, 192, 288]), "encoder_from_dm needs"),
        (lambda r: r["dm"]["unet"].update(attention=[1]), "encoder_from_dm needs"),
        (lambda r: r.update(partition={"k": 1, "d": 8000}), "at most 7680"),
        (lambda r: r.update(partition={"k": 4, "d": 8, "num_time_steps": 500}), "num_time_steps = 500"),
        (lambda r: r.update(seed=-1), "seed = -1"),
        (lambda r: r.update(seed=2**32), "seed"),
        (lambda r: r.update(holdout=-5), "holdout = -5"),
        (lambda r: r.update(contrastive=deepcopy(r["diti"])), "one of the sections"),
        (lambda r: r.pop("diti"), "one of the sections diti, diffae, contrastive"),
    ],
)
def test_recipes_that_are_refused(tmp_path, update, words):
    data = yaml.safe_load((FOLDER / "celeba64-mini.yaml").read_text())
    update(data)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError, match=words) as error:
        load_recipe(path)
    assert "mine.yaml" in str(error.value)


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "must be a mapping"),
        ("- a\n- b", "must be a mapping"),
        ("name: [", "mine.yaml"),
        ("name: a\nname: b", "name given twice"),
        ("name: a\nditi: {}", "missing key"),
        ("name: a\nimage: {size: 64}\npartition: {k: 1, d: 8}\nditi: 3", "diti must be a mapping"),
        ("name: \x00", "mine.yaml"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)


def test_recipes_run_nothing_and_must_exist(tmp_path):
    with pytest.raises(RecipeError, match=r"neither a recipe file nor one of bedroom128") as error:
        load_recipe("nothing")
    assert isinstance(error.value, FileNotFoundError)
    path = tmp_path / "x.yaml"
    path.write_text(f'!!python/object/apply:os.mkdir ["{tmp_path}/ran"]')
    with pytest.raises(RecipeError):
        load_recipe(path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(b"\xff\xfe\x00n")
    with pytest.raises(RecipeError, match=r"x\.yaml"):
        load_recipe(path)


@pytest.mark.parametrize(
    "method,changes,words",
    [
        ("diti", {"method": "diffae"}, "cannot be a DiTiRecipe"),
        ("diti", {"method": "magic"}, "not one of diti"),
        ("diti", {"dm": None}, "missing key dm"),
        ("diffae", {"dm": tiny_recipe().dm}, "no dm.optimiser"),
        ("simclr", {"dm": tiny_recipe().dm}, "leave out dm"),
    ],
)
def test_a_method_says_what_it_lacks(method, changes, words):
    recipe = recipe_to_dict(tiny_recipe() if method == "diti" else method_recipe(method))
    assert recipe_from_dict(recipe).name
    with pytest.raises(RecipeError, match=words):
        values = vars(tiny_recipe() if method == "diti" else method_recipe(method))
        type(tiny_recipe())(**{**values, **changes})


def test_overrides(tmp_path):
    recipe = with_overrides("images64", dm="org/name", seed=3, images=64000)
    assert recipe.dm.pretrained == "org/name" and recipe.dm.optimiser is None and recipe.seed == 3
    assert recipe.section.optimiser.images == 64000 and isinstance(recipe.section, DiTiRecipe)
    with pytest.raises(RecipeError, match="seed = -1"):
        train("images64", tmp_path, tmp_path / "run", seed=-1)
    with pytest.raises(RecipeError, match="no frozen DM"):
        train(method_recipe("simclr"), "nowhere", "nowhere", dm="somewhere")
    with pytest.raises(RecipeError, match="trains its own DM"):
        train(method_recipe("diffae"), "nowhere", "nowhere", dm="somewhere")


def test_a_configuration_of_an_unknown_method():
    with pytest.raises(ModelError, match="method = 'typo' is not one of diti, diffae, contrastive"):
        model_config(load_recipe("images64"), method="typo")
    with pytest.raises(ModelError, match="estimator = 'none' is not one of published, decoded"):
        model_config(load_recipe("images64"), estimator="none")
