"""A run's folder: claimed by a recipe, resumed by it alone, summed up for the card."""

import json

import pytest

from ditifeat import RecipeError
from ditifeat.train.run import claim
from tests.conftest import tiny_recipe
from tests.train.conftest import make_run


def test_a_folder_belongs_to_one_recipe(tmp_path):
    folder = tmp_path / "run"
    claim(folder, tiny_recipe(), resume=False)
    with pytest.raises(RecipeError, match="--resume"):
        claim(folder, tiny_recipe(), resume=False)
    claim(folder, tiny_recipe(), resume=True)
    with pytest.raises(RecipeError, match="another recipe"):
        claim(folder, tiny_recipe(seed=1), resume=True)


def test_recipes_are_compared_as_recipes(tmp_path):
    """A comment, or a key that is not there yet and has its default, makes no other recipe."""
    folder = tmp_path / "run"
    claim(folder, tiny_recipe(), resume=False)
    path = folder / "recipe.yaml"
    text = path.read_text()
    assert "flip: true\n" in text and "  encoder_lr: 1.0\n" in text
    path.write_text("# mine\n" + text.replace("flip: true\n", "").replace("  encoder_lr: 1.0\n", ""))
    claim(folder, tiny_recipe(), resume=True)
    with pytest.raises(RecipeError, match="another recipe"):
        claim(folder, tiny_recipe(flip=False), resume=True)


def test_nothing_precious_is_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(RecipeError, match="not empty"):
        claim(tmp_path, tiny_recipe(), resume=False)


def test_the_summary_counts_what_was_spent_and_what_was_seen(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "diti-run").mkdir()
    record = {
        "step": 50,
        "images": 200,
        "seconds": 2.0,
        "precision": "float32",
        "networks": ["encoder"],
        "parameters": 7,
    }
    # The run was killed after 100 steps, and went on from step 50 in another precision.
    later = [record | {"step": 100, "images": 400}, record | {"step": 100, "images": 400, "precision": "bf16"}]
    (tmp_path / "diti-run" / "log.jsonl").write_text("\n".join(map(json.dumps, [record, *later])))
    assert run.summary() == {
        "recipe": "tiny", "seed": 0, "training_images": 12, "diti_images": 400, "diti_seconds": 6,
        "diti_precision": "float32, then bf16", "diti_networks": "encoder", "diti_parameters": 7,
    }  # fmt: skip
