import json

import numpy as np
import pytest
import torch
from torch import nn

from ditifeat import ModelError
from ditifeat.benchmark.baselines import _build
from ditifeat.benchmark.frozen_dm import down_path_features, initial_noise, load_frozen_dm, sample_images
from ditifeat.benchmark.split import in_batches
from ditifeat.data.drawing import to_pixels
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.model.codec import PixelCodec, UnshuffleCodec, VAECodec
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.train.initialise import initialise_from_dm
from ditifeat.train.sections import UNetSpec
from ditifeat.train.tasks.diffae import build_diffae
from ditifeat.train.tasks.dm import SCHEDULER, build_unet
from tests.benchmark.conftest import residual_recipe
from tests.conftest import method_recipe, random_model
from tests.model.test_codec import tiny_vae


@pytest.fixture
def folder(tmp_path):
    """A model whose DM's output is not 0, with it in `dm/`."""
    model = random_model(residual_recipe(image=Preprocessing(32, (0.1, 0.1, 0.9, 0.9))))
    nn.init.normal_(model.dm.unet.conv_out.weight, std=0.05, generator=torch.Generator().manual_seed(0))
    model.save(tmp_path / "run" / "model")
    return tmp_path / "run" / "model"


def test_a_folder_says_what_the_dm_reads(folder):
    found = load_frozen_dm(folder / "dm")
    assert isinstance(found.dm.codec, UnshuffleCodec) and found.dm.codec.factor == 2
    assert found.image == Preprocessing(32) and found.name == str(folder / "dm")
    assert not any(parameter.requires_grad for parameter in found.dm.parameters())


@pytest.mark.parametrize("place", [".", ".."])
def test_a_model_and_a_run_give_their_frozen_dm_and_crop(folder, place):
    model, bare = load_frozen_dm(folder / place), load_frozen_dm(folder / "dm")
    assert model.image.crop == (0.1, 0.1, 0.9, 0.9)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(down_path_features(model, images), down_path_features(bare, images))
    assert model.key() == bare.key()


def test_another_dm_has_another_key(folder):
    found = load_frozen_dm(folder / "dm")
    before = found.key()
    found.dm.unet.conv_out.bias.data += 1
    assert found.key() != before


def test_features_are_what_an_encoder_from_the_dm_starts_with(folder):
    model = random_model(residual_recipe())
    encoder = _build(model)
    initialise_from_dm(encoder, model.config.encoder, model.dm)
    model.save(folder.parent / "other")
    found = load_frozen_dm(folder.parent / "other")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    expected = in_batches(encoder.inputs, images)
    assert expected.std() > 0.01
    np.testing.assert_allclose(down_path_features(found, images), expected, atol=1e-4)
    averaged = (expected + in_batches(encoder.inputs, images[:, :, ::-1])) / 2
    np.testing.assert_allclose(down_path_features(found, images, flip_average=True), averaged, atol=1e-4)


def test_samples_depend_on_the_seed_and_not_on_the_batch(folder):
    found = load_frozen_dm(folder / "dm")
    x_T = initial_noise(found, 5)
    assert x_T.shape == (5, 12, 16, 16) and not torch.equal(x_T, initial_noise(found, 5, seed=1))
    samples = sample_images(found, x_T, 3, batch=2)
    assert samples.shape == (5, 32, 32, 3) and samples.dtype == np.uint8
    assert abs(sample_images(found, x_T, 3).astype(int) - samples).max() <= 1  # rounding of other matrix products
    np.testing.assert_array_equal(sample_images(found, x_T, 3), to_pixels(found.dm.sample(x_T, 3)))


def test_bfloat16_is_near_and_another_key(folder):
    exact, near = (load_frozen_dm(folder / "dm", bf16=bf16) for bf16 in (False, True))
    assert exact.key() != near.key()
    x_T = initial_noise(exact, 4)
    samples = [sample_images(frozen, x_T, 3).astype(float) for frozen in (exact, near)]
    assert 0 < abs(samples[0] - samples[1]).mean() < 0.05 * samples[0].std()
    images = samples[0].astype(np.uint8)
    features = [down_path_features(frozen, images) for frozen in (exact, near)]
    assert features[1].dtype == np.float32
    assert 0 < abs(features[0] - features[1]).mean() < 0.05 * features[0].std()


@pytest.mark.parametrize(
    "change", [{"in_channels": 4, "out_channels": 4}, {"sample_size": None}, {"sample_size": [16, 8]}]
)
def test_what_a_folder_does_not_say_is_not_guessed(change, folder):
    path = folder / "dm" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match="4 channels, which are neither" if "in_channels" in change else "sample_size"):
        load_frozen_dm(folder / "dm")


def test_models_without_a_frozen_dm_are_refused(tmp_path):
    build_diffae(method_recipe("diffae")).save(tmp_path)
    with pytest.raises(ModelError, match="has no frozen DM"):
        load_frozen_dm(tmp_path)
    with pytest.raises(ModelError, match="neither a folder"):
        load_frozen_dm("nonsense")


@pytest.mark.parametrize(
    ("codec", "factor", "flat"),
    [(PixelCodec(), 1, False), (PixelCodec(), 1, True), (UnshuffleCodec(4), 4, False), (UnshuffleCodec(3), 3, False)],
)
def test_pixels_and_blocks_of_them(codec, factor, flat, tmp_path):
    channels, side, _ = codec.shape(8 * factor)
    DiffusionModel(build_unet(UNetSpec((32, 32), layers=1, head_dim=16), channels, side), SCHEDULER, codec).save(
        tmp_path
    )
    if flat:
        for file in [*(tmp_path / "unet").iterdir(), *(tmp_path / "scheduler").iterdir()]:
            file.rename(tmp_path / file.name)
        (tmp_path / "unet").rmdir()
        (tmp_path / "scheduler").rmdir()
    found = load_frozen_dm(tmp_path)
    assert type(found.dm.codec) is type(codec) and found.image.size == 8 * factor
    assert sample_images(found, initial_noise(found, 2), 2).shape == (2, 8 * factor, 8 * factor, 3)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_latents(kind, tmp_path):
    codec = VAECodec(tiny_vae(kind))
    channels, side, _ = codec.shape(16)
    unet = build_unet(UNetSpec((32, 32), layers=1, head_dim=16), channels, side)
    DiffusionModel(unet, SCHEDULER, codec).save(tmp_path)
    found = load_frozen_dm(tmp_path)
    assert isinstance(found.dm.codec, VAECodec) and found.image.size == 16
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    assert down_path_features(found, images).std() > 0 and sample_images(found, initial_noise(found, 2), 2).shape == (
        2,
        16,
        16,
        3,
    )
