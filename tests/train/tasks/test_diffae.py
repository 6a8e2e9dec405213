"""Diff-AE's loss against a loop."""

from dataclasses import replace

import pytest
import torch

from ditifeat.train.tasks.diffae import DiffAETask, build_diffae
from tests.conftest import method_recipe


@pytest.mark.parametrize("loss,snr_cap", [("min_snr", 6.0), ("min_snr", 2.0), ("epsilon", 5.0)])
def test_diffae_loss_against_a_loop(loss, snr_cap):
    """It is the loss that the recipe's section `dm` asks for."""
    recipe = method_recipe("diffae")
    recipe = replace(recipe, dm=replace(recipe.dm, loss=loss, snr_cap=snr_cap))
    model = build_diffae(recipe).eval()
    torch.manual_seed(0)
    x_0, t, noise = torch.rand(3, 3, 32, 32) * 2 - 1, torch.tensor([3, 400, 999]), torch.randn(3, 12, 16, 16)
    losses = DiffAETask(model, recipe.dm)(x_0, t, noise)["loss"]
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    for i in range(3):
        a = alpha_bar[t[i]].item()
        target = model.codec.encode(x_0[i : i + 1])
        x_t = a**0.5 * target + (1 - a) ** 0.5 * noise[i]
        output = model.unet(x_t.float(), t[i : i + 1], model.encoder(x_0[i : i + 1]))
        expected = min(snr_cap, 1 / (1 - a)) * (output - target).square().mean()
        if loss == "epsilon":
            expected = ((x_t - a**0.5 * output) / (1 - a) ** 0.5 - noise[i]).square().mean()
        assert losses[i].item() == pytest.approx(expected.item(), rel=2e-3)
