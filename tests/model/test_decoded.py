from dataclasses import replace

import pytest
import torch
from torch import nn

from ditifeat.model.codec import PixelCodec
from ditifeat.model.decoded import CodeDecoder, DecodedEstimator
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi, build_estimator
from ditifeat.train.sections import UNetSpec
from ditifeat.train.tasks.dm import SCHEDULER, build_unet
from tests.conftest import random_model, tiny_recipe


def decoded_model(recipe=None):
    """A tiny model with a decoded estimator as it is before training."""
    model = random_model(recipe or tiny_recipe())
    torch.manual_seed(0)
    config = replace(model.config, estimator="decoded")
    return DiTi(config, model.dm, model.encoder, build_estimator(config, model.dm, warm_start=True))


def trained(model, seed=0):
    """As after training: every output layer that begins at 0 has weights."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.estimator.parameters():
        if not parameter.any():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    return model


def batch(model, n=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.rand(n, 3, 32, 32, generator=generator) * 2 - 1
    t = torch.tensor([0, 1, 60, 400, 800, 999])[:n]
    return x_0, t, torch.randn(n, *model.noise_shape, generator=generator)


def test_before_training_the_relative_loss_is_one():
    model = decoded_model()
    x_0, t, noise = batch(model)
    loss, frozen = model.losses(x_0, t, noise, "off", "relative")
    assert torch.allclose(loss, torch.ones(6), atol=1e-6)
    assert torch.allclose(frozen, torch.ones(6), atol=1e-6)


def test_the_shift_is_the_correction_in_published_units():
    model = trained(decoded_model())
    x_0, t, noise = batch(model)
    x_t, z = model.schedule.add_noise(model.codec.encode(x_0), noise, t), model.encoder(x_0)
    signal, sigma = model.schedule.at("signal", t), model.schedule.at("sigma", t)
    frozen = model.frozen_noise(x_t, t)
    x_0_hat = (x_t - sigma * frozen) / signal
    features = model.dm.features(x_t, t)
    corrected = x_0_hat + model.estimator(features, model.cumulative_code(z, t), x_0_hat, sigma)
    ours = (x_t - sigma * model.noise(x_t, t, z)) / signal
    assert torch.allclose(ours[1:], corrected[1:], rtol=1e-3, atol=1e-3)
    assert torch.equal(model.shift(x_t, t, z)[0], torch.zeros(model.noise_shape))  # c_0 = 0: G can correct nothing
    with_shift = frozen + model.schedule.at("shift_coefficient", t) * model.shift(x_t, t, z)
    assert torch.allclose(with_shift, model.noise(x_t, t, z), atol=1e-5)


def test_the_loss_is_the_error_left_of_the_image():
    model = trained(decoded_model())
    x_0, t, noise = batch(model)
    inside = model.codec.encode(x_0)
    x_t, z = model.schedule.add_noise(inside, noise, t), model.encoder(x_0)
    signal, sigma = model.schedule.at("signal", t), model.schedule.at("sigma", t)
    left = (inside - (x_t - sigma * model.noise(x_t, t, z)) / signal).square().mean((1, 2, 3))
    before = (inside - (x_t - sigma * model.frozen_noise(x_t, t)) / signal).square().mean((1, 2, 3))
    assert torch.allclose(model.losses(x_0, t, noise, "off", "relative").loss, left / before, rtol=1e-3)


def test_detached_gradients_reach_the_current_subset_alone_in_every_path():
    model = trained(decoded_model())
    x_0, _, noise = batch(model, 1)
    t = torch.tensor([600])
    z = torch.randn(1, model.partition.d, generator=torch.Generator().manual_seed(2)).requires_grad_()
    model.encoder = nn.Sequential()  # identity, so that the gradient at z is the encoder's
    model.encoder.forward = lambda images: z
    for parameter in model.estimator.parameters():
        parameter.requires_grad_(True)
    model.losses(x_0, t, noise, "on", "relative").loss.sum().backward()
    current = model.partition.subset_masks()[int(model.partition.subset(600))]
    assert z.grad[0, current].abs().min() > 0
    assert z.grad[0, ~torch.from_numpy(current)].abs().max() == 0
    assert model.estimator.decoder.linear.weight.grad.abs().sum() > 0  # D's own weights learn at all time-steps


def test_later_subsets_do_not_matter():
    model = trained(decoded_model())
    x_0, t, noise = batch(model)
    x_t, z = model.schedule.add_noise(model.codec.encode(x_0), noise, t), model.encoder(x_0)
    later = z.clone()
    later[:, model.partition.boundaries[1] :] += 5
    assert torch.equal(model.noise(x_t, t, z)[1], model.noise(x_t, t, later)[1])  # t = 1 sees the first subset alone
    assert not torch.allclose(model.noise(x_t, t, z)[5], model.noise(x_t, t, later)[5])


def test_save_and_load(tmp_path):
    model = trained(decoded_model()).eval()
    model.save(tmp_path / "model")
    again = DiTi.load(tmp_path / "model")
    assert isinstance(again.estimator, DecodedEstimator)
    x_0, t, noise = batch(model)
    x_t, z = model.schedule.add_noise(model.codec.encode(x_0), noise, t), model.encoder(x_0)
    assert torch.allclose(model.noise(x_t, t, z), again.noise(x_t, t, z), atol=1e-6)


@pytest.mark.parametrize("style", ["ddpm", "guided"])
@pytest.mark.parametrize("layers", [1, 2])
def test_any_unet_gives_the_pyramid_its_places(style, layers):
    unet = build_unet(UNetSpec((32, 64, 64), layers=layers, attention=(1,), head_dim=32, style=style), 3, 16)
    dm = DiffusionModel(unet, {**SCHEDULER, "prediction_type": "epsilon"}, PixelCodec()).eval()
    estimator = trained_estimator(DecodedEstimator(dm.unet, 8, (3, 16, 16)))
    x_t, t = torch.randn(2, 3, 16, 16), torch.tensor([10, 900])
    out = estimator(dm.features(x_t, t), torch.randn(2, 8), x_t, dm.schedule.at("sigma", t))
    assert out.shape == x_t.shape and torch.isfinite(out).all() and out.abs().max() > 0


def trained_estimator(estimator):
    for parameter in estimator.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return estimator


def test_large_maps_are_decoded_small_and_upsampled():
    decoder = CodeDecoder(4, (3, 128, 128))
    assert decoder.linear.out_features == 3 * 64 * 64
    assert decoder(torch.randn(2, 4)).shape == (2, 3, 128, 128)
