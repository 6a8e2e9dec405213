import pytest
import torch

import ditifeat
from ditifeat.model.diffae import DiffAE
from ditifeat.model.estimator import ConditionalUNet
from ditifeat.train.recipe import model_config
from ditifeat.train.tasks.diffae import build_diffae
from tests.conftest import method_recipe


def test_diffae_loss_against_a_loop():
    recipe = method_recipe("diffae")
    model = build_diffae(recipe, model_config(recipe)).eval()
    torch.manual_seed(0)
    x_0, t, noise = torch.rand(3, 3, 32, 32) * 2 - 1, torch.tensor([3, 400, 999]), torch.randn(3, 12, 16, 16)
    losses = model.losses(x_0, t, noise)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    for i in range(3):
        target = model.codec.encode(x_0[i : i + 1])
        x_t = alpha_bar[t[i]] ** 0.5 * target + (1 - alpha_bar[t[i]]) ** 0.5 * noise[i]
        output = model.unet(x_t.float(), t[i : i + 1], model.encoder(x_0[i : i + 1]))
        expected = min(6.0, 1 / (1 - alpha_bar[t[i]].item())) * (output - target).square().mean()
        assert losses[i].item() == pytest.approx(expected.item(), rel=1e-3)


def test_diffae_saves_loads_and_gives_images_back(tmp_path):
    recipe = method_recipe("diffae")
    model = build_diffae(recipe, model_config(recipe)).eval()
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
    unet = build_diffae(method_recipe("diffae"), model_config(method_recipe("diffae"))).unet
    assert isinstance(unet, ConditionalUNet)
    torch.manual_seed(0)
    x, t = torch.randn(2, 12, 16, 16), torch.tensor([5, 700])
    unet(x, t, torch.randn(2, 32)).square().sum().backward()
    weights = [p for name, p in unet.named_parameters() if name.endswith("code_proj.weight")]
    assert len(weights) == 8 and all(p.grad.abs().sum() > 0 for p in weights)  # 2 down, 2 middle, 4 up
