"""Recipes with `align`, and what a folder of holiday photos meets."""

import logging
import shutil

import numpy as np
import pytest

from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import RecipeError
from ditifeat.train.data import prepare
from ditifeat.train.recipe import model_config, recipe_from_dict, recipe_to_dict
from tests.align.conftest import make_photo
from tests.conftest import make_image, tiny_recipe

CELEBA = Preprocessing(32, (25 / 178, 57 / 218, 153 / 178, 185 / 218))


@pytest.fixture(scope="module")
def holiday(tmp_path_factory):
    """Faces in photos of several sizes, one of them twice; a scene, a damaged photo, notes."""
    folder = tmp_path_factory.mktemp("holiday")
    for i, size in enumerate([(300, 300), (320, 260), (280, 400)]):
        make_photo(i + 2, size=size, place=(150, 130), side=160)[0].save(folder / f"{i}.png")
    shutil.copy(folder / "0.png", folder / "again.png")
    make_image(0, 240, 200).save(folder / "scene.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_aligned(holiday, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "ditifeat"):
        found = prepare(holiday, CELEBA, tmp_path, align=True)
    assert found.names == ["0.png", "1.png", "2.png", "again.png"]
    assert [name for name, _ in found.skipped] == ["broken.jpg", "scene.png"]
    assert "2 of 6 images left out" in caplog.text and "shows no face" in caplog.text
    assert "1 images are copies of others" in caplog.text and "1 .txt" in caplog.text
    again = prepare(holiday, CELEBA, tmp_path, align=True)
    assert np.array_equal(again.array, found.array)
    with pytest.raises(RecipeError, match="cut or resized in another way"):
        prepare(holiday, CELEBA, tmp_path)


def test_no_face_at_all(tmp_path):
    (tmp_path / "scenes").mkdir()
    make_image(0, 240, 200).save(tmp_path / "scenes" / "scene.png")
    with pytest.raises(RecipeError, match=r"none of 1 images can be used; the first: .*scene\.png: shows no face"):
        prepare(tmp_path / "scenes", CELEBA, tmp_path / "cache", align=True)


@pytest.mark.parametrize("align", [True, "largest", "one", False])
def test_in_a_recipe(align):
    recipe = recipe_from_dict(recipe_to_dict(tiny_recipe()) | {"align": align})
    assert recipe.align == align
    words = model_config(recipe, method="diti").image.alignment
    assert ("align=True" in words) == (align is not False)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="align = 'all' is not one of one, largest"):
        recipe_from_dict(recipe_to_dict(tiny_recipe()) | {"align": "all"})
