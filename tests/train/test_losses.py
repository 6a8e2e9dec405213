"""Losses against loops written from their papers."""

from dataclasses import replace

import pytest
import torch

from ditifeat.train.losses import nt_xent, simsiam
from ditifeat.train.tasks.dm import DMTask, build_dm
from tests.conftest import tiny_recipe


def test_nt_xent_against_a_loop():
    torch.manual_seed(0)
    a, b, temperature = torch.randn(5, 7), torch.randn(5, 7), 0.3
    views = [*a, *b]

    def similarity(x, y):
        return (x @ y / (x.norm() * y.norm()) / temperature).exp()

    def one(i, j):
        others = sum(similarity(views[i], views[k]) for k in range(10) if k != i)
        return -(similarity(views[i], views[j]) / others).log()

    expected = torch.stack([(one(i, i + 5) + one(i + 5, i)) / 2 for i in range(5)])
    assert torch.allclose(nt_xent(a, b, temperature), expected, atol=1e-5)


def test_simsiam_against_a_loop():
    torch.manual_seed(0)
    pa, pb, a, b = (torch.randn(4, 6, requires_grad=True) for _ in range(4))
    loss = simsiam(pa, pb, a, b)
    for i in range(4):
        first = pa[i] @ b[i] / (pa[i].norm() * b[i].norm())
        second = pb[i] @ a[i] / (pb[i].norm() * a[i].norm())
        assert loss[i].item() == pytest.approx(-(first + second).item() / 2, abs=1e-6)
    loss.sum().backward()
    assert a.grad is None and b.grad is None and pa.grad.abs().sum() > 0


@pytest.mark.parametrize("loss", ["epsilon", "min_snr"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_dm_losses_against_a_loop(loss, prediction):
    recipe = tiny_recipe()
    dm_recipe = replace(recipe.dm, loss=loss, prediction=prediction, snr_cap=6.0)
    dm = build_dm(replace(recipe, dm=dm_recipe))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1
    t, noise = torch.tensor([5, 400, 950]), torch.randn(3, 12, 16, 16, generator=generator)
    losses = DMTask(dm, dm_recipe, 32)(images, t, noise)["loss"]
    for i in range(3):
        a = dm.schedule.alpha_bar[t[i]]
        x_0 = dm.codec.encode(images[i : i + 1])
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise[i]
        output = dm.unet(x_t, t[i : i + 1]).sample
        if prediction == "v_prediction":  # v = sqrt(a) eps - sqrt(1 - a) x_0
            estimate, eps = a.sqrt() * x_t - (1 - a).sqrt() * output, a.sqrt() * output + (1 - a).sqrt() * x_t
        elif prediction == "sample":
            estimate, eps = output, (x_t - a.sqrt() * output) / (1 - a).sqrt()
        else:
            estimate, eps = (x_t - (1 - a).sqrt() * output) / a.sqrt(), output
        expected = (
            (eps - noise[i]).square().mean()
            if loss == "epsilon"
            else min(1 / (1 - a), 6.0) * (estimate - x_0).square().mean()
        )
        assert float(losses[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-3)
