"""A damaged or hostile model folder gives one clear error, and nothing of it is built or run."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import ditifeat
from ditifeat import ModelError
from ditifeat.errors import MissingFileError
from ditifeat.model.config import ModelConfig, configured_last, read_config
from ditifeat.model.diti import DiTi


@pytest.fixture
def folder(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "model")


def change(path, update):
    data = json.loads(path.read_text())
    update(data)
    path.write_text(json.dumps(data))


def test_config_round_trip(folder, tmp_path):
    config = read_config(folder)
    assert isinstance(config, ModelConfig)
    with configured_last(tmp_path, config):
        pass
    assert read_config(tmp_path) == config
    assert hash(read_config(tmp_path)) == hash(config) and config != replace(config, name="other")
    assert json.loads((folder / "config.json").read_text())["format_version"] == 2


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c.update(extra=1), "unknown key extra"),
        (lambda c: c["image"].update(module="os"), r"unknown key image\.module"),
        (lambda c: c["encoder"].update(_target_="os.system"), r"unknown key encoder\._target_"),
        (lambda c: c.pop("partition"), "missing key partition"),
        (lambda c: c["partition"].update(d=10**12), "d = 1000000000000"),
        (lambda c: c["partition"].update(k=-1), "k = -1"),
        (lambda c: c["partition"].update(num_time_steps=10**12), "num_time_steps"),
        (lambda c: c.update(latent_dim=31), "latent_dim = 31"),
        (lambda c: c.update(latent_dim="32"), "latent_dim = '32' must be of type int"),
        (lambda c: c.update(latent_dim=True), "must be of type int"),
        (lambda c: c["image"].update(size=10**9), "size"),
        (lambda c: c["image"].update(crop=[0, 0, 1]), "4 entries"),
        (lambda c: c["image"].update(crop=[0, 0, 1, float("nan")]), "crop"),
        (lambda c: c["encoder"].update(channels=[2048] * 11), "channels"),
        (lambda c: c["codec"].update(kind="pickle"), "one of pixels, unshuffle, vae"),
        (lambda c: c["codec"].update(factor=5), "does not divide"),
        (lambda c: c["dm"].update(repo="../../etc", commit="0" * 40), "org/name"),
        (lambda c: c["dm"].update(repo="a/b"), "needs its commit"),
        (lambda c: c["dm"].update(repo="a/b", commit="main"), "40 hex"),
        (lambda c: c["dm"].update(attention_heads=10**6), "attention_heads"),
        (lambda c: c.update(format_version=3), "format_version = 3, .* reads 2; upgrade ditifeat"),
        (lambda c: c.update(format_version="2"), "format_version = '2'"),
        (
            lambda c: c.update(format_version=1) or c["encoder"].update(flip_average=True),
            "format_version = 1, .* reads 2; train or convert the model again",
        ),
        (lambda c: c["encoder"].update(flip_average=True), r"unknown key encoder\.flip_average"),
        (lambda c: c["image"].update(crop=[0, 0, 1, True]), r"image\.crop\[3\] = True"),
        (lambda c: c.update(method="pdae"), "method = 'pdae' is not one of diti, diffae, contrastive"),
        (lambda c: c["encoder"].update(style=3), r"encoder\.style = 3 must be of type str"),
        (lambda c: c.update(training=[]), "training = .* must be of type dict"),
    ],
)
def test_configurations_that_are_refused(folder, update, words):
    change(folder / "config.json", update)
    with pytest.raises(ModelError, match=words) as error:
        ditifeat.load_encoder(folder)
    assert "config.json" in str(error.value)


def test_folders_that_are_no_model(tmp_path):
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        ditifeat.load_encoder(tmp_path)
    with pytest.raises(MissingFileError, match="no such folder"):
        DiTi.load(tmp_path / "none")
    for text in ("{", "[]", "\xff"):
        (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ModelError, match=r"config\.json"):
            ditifeat.load_encoder(tmp_path)


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda t: t.pop("encoder.trunk.0.weight"), r"missing: trunk\.0\.weight"),
        (lambda t: t.update({"encoder.trunk.9.weight": torch.zeros(3)}), r"unknown: trunk\.9\.weight"),
        (lambda t: t.update({"optimiser": torch.zeros(3)}), "unknown tensor optimiser"),
        (
            lambda t: t.update({"encoder.trunk.0.weight": torch.zeros(2, 3, 3, 3)}),
            r"trunk\.0\.weight has shape \(2, 3, 3, 3\)",
        ),
        (lambda t: t.update({"encoder.trunk.0.bias": torch.zeros(32, dtype=torch.int32)}), r"of type torch\.int32"),
        (lambda t: t.update({"encoder.trunk.0.bias": torch.full((32,), float("nan"))}), "NaN"),
        (lambda t: t.pop("code.mean"), r"code\.mean and code\.std must be there"),
        (lambda t: t.update({"code.std": torch.zeros(32)}), "std above 0"),
    ],
)
def test_encoder_weights_that_are_refused(folder, update, words):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    update(tensors)
    save_file(tensors, path)
    with pytest.raises(ModelError, match=words):
        ditifeat.load_encoder(folder)


def test_estimator_weights_that_are_refused(folder):
    path = folder / "estimator.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    encoder = ditifeat.load_encoder(folder)  # which does not read it
    with pytest.raises(ModelError, match=r"estimator\.safetensors.*unknown: extra"):
        encoder.model  # noqa: B018


@pytest.mark.parametrize("cut", [0, 7, 1000])
def test_truncated_weights(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match=r"model\.safetensors.*not a whole safetensors"):
        ditifeat.load_encoder(folder)


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match="no such file"):
        ditifeat.load_encoder(folder)


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c.update(trust_remote_code=True), "unknown key trust_remote_code"),
        (lambda c: c.update(_class_name="StableDiffusionPipeline"), "UNet2DModel"),
        (lambda c: c.update(block_out_channels=[10**9, 32]), "8192"),
        (lambda c: c.update(layers_per_block=10**9), "layers_per_block"),
        (lambda c: c.update(down_block_types=["os.system", "DownBlock2D"]), "cannot build it|os.system"),
        (lambda c: c.update(block_out_channels=[64, 32]), "shape|fit"),
    ],
)
def test_dm_configurations_that_are_refused(folder, update, words):
    change(folder / "dm" / "unet" / "config.json", update)
    with pytest.raises(ModelError, match=words):
        DiTi.load(folder)


def test_dm_without_safetensors_is_refused(folder):
    weights = folder / "dm" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"other than safetensors .*are never read"):
        DiTi.load(folder)


def test_encode_needs_the_encoder_s_files_alone(folder, photos):
    shutil.rmtree(folder / "dm")
    (folder / "estimator.safetensors").unlink()
    encoder = ditifeat.load_encoder(folder)
    assert ditifeat.encode(encoder, photos).shape == (10, 32)
    with pytest.raises(ModelError):
        encoder.model  # noqa: B018


def test_flat_dm_folders_with_old_attention_names(tiny_model, tmp_path):
    """google/ddpm-* keep both configurations at the top, and attention's names of before diffusers 0.15."""
    from ditifeat.model.diffusers_folder import OLD_ATTENTION
    from ditifeat.model.diffusion import DiffusionModel

    tiny_model.dm.save(tmp_path / "new")
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(tmp_path / "new" / "scheduler" / "scheduler_config.json", flat)
    shutil.copy(tmp_path / "new" / "unet" / "config.json", flat)
    tensors = load_file(tmp_path / "new" / "unet" / "diffusion_pytorch_model.safetensors")
    for old, new in OLD_ATTENTION.items():
        tensors = {key.replace(new, old): value for key, value in tensors.items()}
    assert any(".query." in key for key in tensors)
    save_file(tensors, flat / "diffusion_pytorch_model.safetensors")
    loaded = DiffusionModel.load(flat, tiny_model.dm.codec)
    for key, value in tiny_model.dm.unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[key], value)


def test_a_model_that_was_not_written_to_its_end_is_none(folder):
    """Overwritten half: the old configuration would describe the old weights beside the new."""
    with pytest.raises(RuntimeError), configured_last(folder, read_config(folder)):
        raise RuntimeError("killed here")
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        ditifeat.load_encoder(folder)


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c.update(num_train_timesteps=10**12), "num_train_timesteps = 1000000000000 is not within"),
        (lambda c: c.update(num_train_timesteps="1000"), "num_train_timesteps = '1000'"),
        (lambda c: c.update(num_train_timesteps=999), "999 time-steps, the partition 1000"),
        (lambda c: c.update(beta_start="1"), "beta_start = '1'"),
        (lambda c: c.update(beta_end=float("nan")), "beta_end = nan"),
        (lambda c: c.update(beta_end=1.5), r"beta_end = 1\.5"),
        (lambda c: c.update(beta_schedule="os.system"), "diffusers cannot make the noise schedule 'os.system'"),
        (lambda c: c.update(trained_betas=["x"]), "diffusers cannot make"),
        (lambda c: c.update(rescale_betas_zero_snr=True), "keep some signal"),
        (lambda c: c.update(prediction_type=["sample"]), "prediction type"),
        (lambda c: c.update(prediction_type="flow_prediction"), "'flow_prediction' is not one of epsilon"),
        (lambda c: c.update(_class_name="FlowMatchEulerDiscreteScheduler"), "FlowMatchEulerDiscreteScheduler' is not"),
        (lambda c: c.update(_class_name="os.system"), "'os.system' is not one of DDPMScheduler"),
    ],
)
def test_schedules_that_are_refused(folder, update, words):
    change(folder / "dm" / "scheduler" / "scheduler_config.json", update)
    with pytest.raises(ModelError, match=words):
        DiTi.load(folder)


def test_a_schedule_that_is_no_mapping(folder):
    (folder / "dm" / "scheduler" / "scheduler_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"scheduler_config\.json: is not the configuration"):
        DiTi.load(folder)
