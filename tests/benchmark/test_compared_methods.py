"""Losses of the other systems against loops written from their papers, and SimCLR's augmentations."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat.benchmark.benchmark import benchmark
from ditifeat.benchmark.cache import cached
from ditifeat.benchmark.tables import table
from ditifeat.model.diffae import DiffAE
from ditifeat.model.estimator import ConditionalUNet
from ditifeat.train.augment import DRAWS, augment
from ditifeat.train.losses import nt_xent, simsiam
from ditifeat.train.recipe import model_config
from ditifeat.train.tasks.diffae import build_diffae
from tests.conftest import method_recipe, random_model, tiny_recipe


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


def test_diffae_saves_loads_and_gives_pictures_back(tmp_path):
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


def test_augmentations():
    torch.manual_seed(0)
    images = torch.rand(64, 3, 32, 32) * 2 - 1
    draws = torch.rand(64, DRAWS)
    views = augment(images, draws)
    assert views.shape == images.shape and views.abs().max() <= 1
    assert torch.equal(views, augment(images, draws))
    assert torch.allclose(augment(images[5:6], draws[5:6]), views[5:6], atol=1e-6)  # whatever the batch
    nothing = torch.ones(1, DRAWS).expand(64, DRAWS) * 0.999
    assert torch.allclose(augment(images, nothing), images, atol=1e-6)
    flipped = nothing.clone()
    flipped[:, 0] = 0
    assert torch.allclose(augment(images, flipped), images.flip(-1), atol=1e-6)
    grey = nothing.clone()
    grey[:, 6] = 0
    assert (augment(images, grey).std(1) < 1e-6).all()
    blurred = nothing.clone()
    blurred[:, 7] = 0
    assert augment(images, blurred).std() < 0.8 * images.std()
    jittered = nothing.clone()
    jittered[:, 1:6] = torch.rand(64, 5) * 0.8
    change = (augment(images, jittered) - images).abs().mean((1, 2, 3))
    assert change.min() > 1e-3 and change.max() < 1


def test_benchmark(photos, tmp_path):
    mirrored = {"encoder": replace(tiny_recipe().encoder_spec, flip_average=True)}
    random_model(tiny_recipe(**mirrored)).save(tmp_path / "a" / "model")
    random_model(tiny_recipe(seed=1, **mirrored)).save(tmp_path / "b" / "model")
    random_model(method_recipe("pdae")).save(tmp_path / "c" / "model")
    folder = tmp_path / "data"
    folder.mkdir()
    from tests.conftest import make_picture

    for i in range(40):
        make_picture(i).save(folder / f"{i:02d}.png")
    labels = {"odd": np.arange(40) % 2, "third": (np.arange(40) % 3 == 0).astype(int)}
    runs = [tmp_path / name for name in "abc"]
    result = benchmark(runs, folder, labels, tmp_path / "out", first=24, steps=3)
    systems = result["systems"]
    assert systems["tiny"]["runs"] == 2 and systems["pdae"]["runs"] == 1
    assert set(systems["tiny"]["std"]) >= {"ap", "mse"} and not systems["pdae"]["std"]
    assert sum(name.startswith("floor") for name in systems) == 5
    pixels, both = (systems[f"floor: PCA of 32 x 32 pixels{kind}"]["mean"]["ap"] for kind in ("", ", mirrored"))
    assert pixels != both
    each = [values["ap"] for values in systems["tiny"]["each"]]
    assert systems["tiny"]["mean"]["ap"] == pytest.approx(np.mean(each)) and each[0] != each[1]
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert table(result) in text and f"| odd | {(np.arange(24, 40) % 2).mean():.3f} |" in text
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 5000
    with pytest.raises(ditifeat.InputError, match="train and to test"):
        benchmark(runs, folder, labels, tmp_path / "out", first=40)


def test_scores_are_remembered_until_they_are_worked_out_in_another_way(tmp_path, monkeypatch):
    worked_out = []

    def score():
        worked_out.append(0.5)
        return [{"values": {"ap": 0.5}}]

    for _ in range(2):
        assert cached(tmp_path, "a run", score) == [{"values": {"ap": 0.5}}]
    assert len(worked_out) == 1
    cached(tmp_path, "another run", score)
    monkeypatch.setattr("ditifeat.benchmark.cache.SCORING", 0)
    cached(tmp_path, "a run", score)
    assert len(worked_out) == 3
