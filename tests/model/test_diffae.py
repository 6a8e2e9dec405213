"""Diff-AE: its model folder, its conditional U-Net."""

import pytest
import torch

import ditifeat
from ditifeat.model.diffae import DiffAE
from ditifeat.model.estimator import ConditionalUNet
from ditifeat.train.tasks.diffae import build_diffae
from tests.conftest import method_recipe


def test_diffae_saves_loads_and_gives_images_back(tmp_path):
    recipe = method_recipe("diffae")
    model = build_diffae(recipe).eval()
    model.save(tmp_path)
    again = DiffAE.load(tmp_path)
    assert all(torch.equal(x, again.state_dict()[key]) for key, x in model.state_dict().items())
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    z = again.encoder(images)
    assert again.sample(again.invert(images, z, 5), z, 5).shape == images.shape
    x_T = again.invert(images, z, 5, "fixed_point")
    assert again.sample(x_T, z, 5, solver="fixed_point").shape == images.shape
    with pytest.raises(ditifeat.InputError, match="needs a code"):
        again.sample(torch.zeros(2, 12, 16, 16), None)
    (tmp_path / "conditional.safetensors").unlink()
    with pytest.raises(ditifeat.ModelError, match="conditional"):
        _ = ditifeat.load_encoder(tmp_path).model


def test_the_code_conditions_every_block_of_a_conditional_unet():
    unet = build_diffae(method_recipe("diffae")).unet
    assert isinstance(unet, ConditionalUNet)
    torch.manual_seed(0)
    x, t = torch.randn(2, 12, 16, 16), torch.tensor([5, 700])
    unet(x, t, torch.randn(2, 32)).square().sum().backward()
    weights = [p for name, p in unet.named_parameters() if name.endswith("code_proj.weight")]
    assert len(weights) == 8 and all(p.grad.abs().sum() > 0 for p in weights)  # 2 down, 2 middle, 4 up
