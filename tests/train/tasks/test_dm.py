"""The DM's U-Net, and where a DM comes from."""

import shutil
from dataclasses import replace

import pytest
import torch

from ditifeat import ModelError, RecipeError
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.train.sections import CodecRecipe, DMRecipe, UNetSpec
from ditifeat.train.tasks.dm import build_dm, frozen_dm
from tests.conftest import method_recipe, tiny_recipe
from tests.train.conftest import assert_equal_weights, make_run


def test_guided_style():
    unet = build_dm(
        tiny_recipe(dm=replace(tiny_recipe().dm, unet=UNetSpec((32, 64), 1, (1,), 16, style="guided")))
    ).unet
    assert unet.config.resnet_time_scale_shift == "scale_shift" and unet.config.down_block_types[1] == "AttnDownBlock2D"
    assert unet.mid_block.attentions[0].group_norm is not None


def test_a_dm_that_changed_since_the_run_began_is_noticed(tiny_folder, tmp_path):
    folder = tmp_path / "somebody-s"
    shutil.copytree(tiny_folder / "dm", folder)
    run = make_run(tmp_path / "run", tiny_recipe(dm=DMRecipe(pretrained=str(folder))))
    dm, reference = frozen_dm(run)
    assert_equal_weights(dm, frozen_dm(run)[0])
    assert reference.repo is None
    with torch.no_grad():
        dm.unet.conv_in.bias += 1e-3
    dm.save(folder)
    with pytest.raises(RecipeError, match="not those that the run was begun with"):
        frozen_dm(run)


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_are_drawn_from_the_seed_alone(seed):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = build_dm(tiny_recipe(seed=seed)), build_dm(tiny_recipe(seed=1))
    assert torch.equal(a.unet.conv_in.weight, b.unet.conv_in.weight) == (seed == 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_built(tmp_path):
    with pytest.raises(RecipeError, match="no unet"):
        build_dm(method_recipe("simclr"))
    with pytest.raises(RecipeError, match="missing key dm"):
        frozen_dm(make_run(tmp_path, method_recipe("simclr")))
    with pytest.raises(ModelError, match="nowhere"):
        build_dm(tiny_recipe(codec=CodecRecipe("vae", path=str(tmp_path / "nowhere"))))
    dm = build_dm(tiny_recipe())
    assert isinstance(dm, DiffusionModel) and dm.schedule.num_time_steps == 1000
