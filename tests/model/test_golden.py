"""Every figure of the published method, to float32 rounding, on checkpoints in the official layout."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ditifeat.editing.edit import attribute_edit, subset_edit
from ditifeat.model.diti import DiTi
from ditifeat.model.sampling import slerp
from ditifeat.pretrained.official import convert

HERE = Path(__file__).parents[1] / "golden"
SHARED = Path(os.environ.get("DITIFEAT_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
DETACH = {"base": "off", "stop_grad": "on", "dual": "both"}


def _folder(name):
    for root in (HERE, SHARED):
        if (root / name).is_dir():
            return root / name
    pytest.skip(f"{name} lies in ../shared/golden, which is not here")


@pytest.fixture(scope="module", params=["official_tiny_b", "official_tiny_a"])
def case(request, tmp_path_factory):
    """The converted model, saved and loaded again, and what to expect of it."""
    folder = _folder(request.param)
    saved = tmp_path_factory.mktemp(request.param)
    convert(folder / "checkpoint", folder / "pre-trained-dpm").save(saved)
    return DiTi.load(saved), load_file(folder / "expected.safetensors")


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-4


def test_partition(case):
    model, expected = case
    assert torch.equal(model.partition.subset(expected["t"]), expected["partition_index"])
    assert torch.equal(model.cumulative_masks, expected["masks"])
    assert torch.equal(model.subset_masks, expected["k_masks"])


def test_coefficients(case):
    model, expected = case
    assert_close(model.dm.schedule.alpha_bar, expected["coef.alphas_cumprod"])
    assert_close(model.dm.schedule.shift_coefficient, expected["coef.shift"])
    assert_close(model.dm.schedule.loss_weight, expected["coef.weight"])


def test_networks(case):
    model, expected = case
    x_t, t = expected["xt"], expected["t"]
    assert_close(model.encoder(expected["x0"]), expected["z"])
    assert_close(model.dm.schedule.add_noise(expected["x0"], expected["noise"], t), x_t)
    assert_close(model.frozen_noise(x_t, t), expected["eps"])
    assert_close(model.shift(x_t, t, expected["z"]), expected["shift"])


@pytest.mark.parametrize("name", DETACH)
def test_loss_and_gradients(case, name):
    model, expected = case
    arguments = expected["x0"], expected["t"], expected["noise"], DETACH[name]
    assert_close(model.losses(*arguments)[0], expected[f"loss_per_sample.{name}"])
    codes = []

    def keep(module, inputs, output):
        codes.append(output.detach().requires_grad_())
        return codes[0]

    hook = model.encoder.register_forward_hook(keep)
    weight = model.estimator.code_embedding.weight.requires_grad_()
    try:
        loss = model.loss(*arguments)
        grad_z, grad_weight = torch.autograd.grad(loss, [codes[0], weight])
    finally:
        hook.remove()
        weight.requires_grad_(False)
    assert_close(loss, expected[f"loss.{name}"])
    assert_close(grad_z, expected[f"grad_z.{name}"])
    assert_close(grad_weight, expected[f"grad_label_emb_weight.{name}"])


def test_inversion_and_sampling(case):
    model, expected = case
    z, noise = expected["z"][:2], expected["noise"][:2]
    x_T = model.invert(expected["x0"][:2], z, 20)
    assert_close(x_T, expected["ddim.invert20"])
    assert_close(model.sample(expected["ddim.invert20"], z, 10), expected["ddim.sample10"])
    assert_close(model.sample(noise, torch.zeros_like(z), 10), expected["ddim.sample10_zero_z"])
    assert_close(model.sample(noise, z, 10, cumulative=False), expected["ddim.sample10_all_z"])


def test_zero_code_is_not_unconditional(case):
    model, expected = case
    noise = expected["noise"][:1]
    z = torch.zeros_like(expected["z"][:1])
    assert not torch.allclose(model.sample(noise, None, 10), model.sample(noise, z, 10), atol=1e-3)


def test_interpolation_of_subsets(case):
    model, expected = case
    z, x_T = expected["z"], expected["ddim.invert20"]
    lo, hi = (int(i) for i in expected["interp.range"])
    mixed = subset_edit(model.partition, z[:1], z[1:2], range(lo, hi), 0.5)
    assert_close(mixed, expected["interp.z"])
    start = slerp(x_T[:1], x_T[1:2], 0.5)
    assert_close(start, expected["interp.x_T"])
    assert_close(model.sample(start, mixed, 10), expected["interp.image"])


def test_attribute_edit(case):
    model, expected = case
    edited = attribute_edit(expected["z"][:2], expected["manip.w"], expected["manip.std"], 0.3)
    assert_close(edited, expected["manip.z"])
    assert_close(model.sample(expected["ddim.invert20"], edited, 10, cumulative=False), expected["manip.image"])
