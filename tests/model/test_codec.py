"""The DM's space: pixels, unshuffled pixels, a VAE's latents; and whole models over the latter."""

import json
from dataclasses import asdict

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from ditifeat import ModelError
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import MissingFileError
from ditifeat.model.codec import CodecSpec, PixelCodec, UnshuffleCodec, VAECodec, load_codec, load_vae
from ditifeat.model.config import ModelConfig, read_config
from ditifeat.model.diffae import DiffAE
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import EncoderSpec, build_encoder
from ditifeat.model.estimator import ConditionalUNet, GradientEstimator
from ditifeat.model.partition import TimeStepPartition

KINDS = {"AutoencoderKL": {}, "VQModel": {"num_vq_embeddings": 16, "vq_embed_dim": 6}}

SCHEDULER = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}


def tiny_vae(kind, **changes):
    torch.manual_seed(0)
    arguments = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (32, 32),
        "latent_channels": 4,
        **KINDS[kind],
        **changes,
    }
    return getattr(diffusers, kind)(**arguments).eval()


def images(count=2, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("codec", [PixelCodec(), UnshuffleCodec(2), UnshuffleCodec(4)])
def test_lossless_codecs_give_the_image_back(codec):
    x = images()
    code = codec.encode(x)
    assert tuple(code.shape[1:]) == codec.shape(16)
    assert torch.equal(codec.decode(code), x)
    assert code.square().sum() == pytest.approx(float(x.square().sum()))  # the same numbers, elsewhere


@pytest.mark.parametrize("changes", [{}, {"scaling_factor": 0.5}, {"latent_channels": 3}])
@pytest.mark.parametrize("kind", KINDS)
def test_vae_folders_of_diffusers(kind, changes, tmp_path):
    vae = tiny_vae(kind, **changes)
    vae.save_pretrained(tmp_path / "vae")
    codec = load_codec(CodecSpec("vae"), tmp_path)
    assert isinstance(codec, VAECodec) and not codec.bounded
    x = images()
    code = codec.encode(x)
    assert tuple(code.shape[1:]) == codec.shape(16)
    assert torch.equal(code, codec.encode(x))  # the mode, not a draw
    expected = vae.encode(x).latents if kind == "VQModel" else vae.encode(x).latent_dist.mode()
    assert torch.allclose(code, expected * vae.config.scaling_factor, atol=1e-6)
    assert torch.allclose(codec.decode(code), vae.decode(expected).sample, atol=1e-5)
    assert not any(p.requires_grad for p in codec.parameters())
    assert not codec.train().vae.training


def test_a_vq_model_without_a_factor_is_unscaled(tmp_path):
    """As CompVis/ldm-celebahq-256's, whose DM learnt unscaled latents; diffusers would take 0.18215."""
    tiny_vae("VQModel").save_pretrained(tmp_path / "vae")
    change(tmp_path / "vae" / "config.json", lambda c: c.pop("scaling_factor"))
    codec = load_codec(CodecSpec("vae"), tmp_path)
    assert codec.scale == 1.0
    codec.save(tmp_path / "again")
    assert load_vae(tmp_path / "again").config.scaling_factor == 1.0


def test_shifted_latents(tmp_path):
    vae = tiny_vae("AutoencoderKL", shift_factor=0.3, scaling_factor=2.0)
    codec, x = VAECodec(vae), images()
    mode = vae.encode(x).latent_dist.mode()
    assert torch.allclose(codec.encode(x), (mode - 0.3) * 2.0, atol=1e-6)
    assert torch.allclose(codec.decode(codec.encode(x)), vae.decode(mode).sample, atol=1e-5)


def test_old_names_of_attention(tmp_path):
    tiny_vae("VQModel").save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(path)
    for new, old in renamed.items():
        tensors = {key.replace(new, old): value for key, value in tensors.items()}
    assert any(".query." in key for key in tensors)
    save_file(tensors, path)
    again = load_vae(tmp_path / "vae")
    assert torch.equal(again.encode(images()).latents, tiny_vae("VQModel").encode(images()).latents)


def change(path, update):
    data = json.loads(path.read_text())
    update(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c.update(_class_name="os.system"), "'os.system' is not one of AutoencoderKL, VQModel"),
        (lambda c: c.update(_class_name=["VQModel"]), "is not one of"),
        (lambda c: c.update(trust_remote_code=True), "unknown key trust_remote_code"),
        (lambda c: c.update(latent_channels=10**9), r"latent_channels = 1000000000 is not within 1\.\.4096"),
        (lambda c: c.update(block_out_channels=[10**9, 32]), r"block_out_channels\[0\]"),
        (lambda c: c.update(layers_per_block=0), "layers_per_block = 0"),
        (lambda c: c.update(down_block_types=["os.system"] * 2), "diffusers cannot build it"),
        (lambda c: c.update(act_fn="os.system"), "diffusers cannot build it"),
        (lambda c: c.update(norm_num_groups=5), "diffusers cannot build it"),
        (lambda c: c.update(scaling_factor=0), "scaling_factor = 0 must be a number above 0"),
        (lambda c: c.update(scaling_factor="1"), "scaling_factor = '1'"),
        (lambda c: c.update(scaling_factor=None), "scaling_factor = None"),
        (lambda c: c.update(scaling_factor=float("nan")), "scaling_factor = nan"),
        (lambda c: c.update(in_channels=1), "encoder.conv_in.weight has shape|maps 1 to 3 channels"),
        (lambda c: c.update(latents_mean=[0.0] * 4), "latents_mean"),
        (lambda c: c.update(latent_channels=8), "has shape"),
        (lambda c: c.update(layers_per_block=2), "missing"),
    ],
)
def test_vae_configurations_that_are_refused(update, words, tmp_path):
    tiny_vae("AutoencoderKL").save_pretrained(tmp_path / "vae")
    change(tmp_path / "vae" / "config.json", update)
    with pytest.raises(ModelError, match=words):
        load_codec(CodecSpec("vae"), tmp_path)


@pytest.mark.parametrize("config", ["[]", "{", "3"])
def test_vae_configurations_that_are_none(config, tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"vae/config\.json"):
        load_codec(CodecSpec("vae"), tmp_path)


def test_vaes_that_are_not_there(tmp_path):
    with pytest.raises(MissingFileError, match=r"vae/config\.json: there is no such file"):
        load_codec(CodecSpec("vae"), tmp_path)
    with pytest.raises(MissingFileError, match="holds no VAE: neither vqvae nor vae"):
        load_codec(CodecSpec("vae", vae="dm"), tmp_path, tmp_path)
    tiny_vae("VQModel").save_pretrained(tmp_path / "vae", safe_serialization=False)
    with pytest.raises(MissingFileError, match=r"other than safetensors .*are never read"):
        load_codec(CodecSpec("vae"), tmp_path)


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"kind": "unshuffle", "factor": 0}, "factor = 0"),
        ({"kind": "unshuffle", "factor": 10**6}, "factor = 1000000"),
        ({"factor": 2}, "factor = 2"),
        ({"kind": "vae", "factor": 2}, "factor = 2"),
        ({"vae": "dm"}, "belongs to the kind vae"),
    ],
)
def test_specifications_that_are_refused(arguments, words):
    with pytest.raises(ModelError, match=words):
        CodecSpec(**arguments)


@pytest.mark.parametrize("codec", [UnshuffleCodec(4), VAECodec(tiny_vae("VQModel", block_out_channels=(32, 32)))])
def test_sizes_that_cannot_be_divided(codec):
    with pytest.raises(ModelError, match="15 px cannot be divided"):
        codec.shape(15)


# Whole models over a VAE's latents.


def latent_model(kind, place="model", method="diti"):
    codec = VAECodec(tiny_vae(kind))
    channels, side, _ = codec.shape(16)
    config = ModelConfig(
        "latent", Preprocessing(16), EncoderSpec((32,)), 8, TimeStepPartition(4, 8), CodecSpec("vae", vae=place),
        method=method,
    )  # fmt: skip
    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(
        sample_size=side, in_channels=channels, out_channels=channels, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, attention_head_dim=8,
    )  # fmt: skip
    encoder = build_encoder(config.encoder, 16, 8)
    if method == "diffae":
        return DiffAE(config, ConditionalUNet(unet, 8), encoder, SCHEDULER, codec).eval()
    return DiTi(config, DiffusionModel(unet, SCHEDULER, codec), encoder, GradientEstimator(unet, 8)).eval()


@pytest.mark.parametrize("place", ["model", "dm"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_over_latents_is_saved_and_loaded(kind, place, tmp_path):
    model = latent_model(kind, place)
    model.save(tmp_path)
    folders = {"model": "vae", "dm": "dm/vqvae"}
    assert [p for p in folders if (tmp_path / folders[p] / "config.json").exists()] == [place]
    loaded = DiTi.load(tmp_path)
    assert read_config(tmp_path).codec == CodecSpec("vae", vae=place)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    x = images()
    z = loaded.encoder(x)
    x_T = loaded.invert(x, z, 4, "fixed_point")
    assert tuple(x_T.shape[1:]) == loaded.noise_shape == (KINDS[kind].get("vq_embed_dim", 4), 8, 8)
    made = loaded.sample(x_T, z, 4, solver="fixed_point")
    assert torch.allclose(made, model.sample(x_T, z, 4, solver="fixed_point"), atol=1e-5) and made.shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_over_latents_learns_and_its_vae_does_not(kind):
    model = latent_model(kind).train()
    assert not model.codec.vae.training
    before = {key: value.clone() for key, value in model.codec.state_dict().items()}
    x, t = images(4), torch.tensor([10, 300, 600, 900])
    noise = torch.randn(4, *model.noise_shape, generator=torch.Generator().manual_seed(0))
    trained = [*model.encoder.parameters(), *model.estimator.parameters()]
    adam = torch.optim.Adam(trained, lr=1e-3)
    losses = []
    for _ in range(8):
        loss = model.loss(x, t, noise)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[key]) for key, value in model.codec.state_dict().items())
    assert all(p.grad is None for p in model.dm.parameters())


def test_inversion_and_sampling_go_through_the_latents():
    """A DM whose noise is 0 keeps the latents, so the round trip is the VAE's own."""
    model = latent_model("AutoencoderKL")
    torch.nn.init.zeros_(model.dm.unet.conv_out.weight)
    torch.nn.init.zeros_(model.dm.unet.conv_out.bias)
    x = images()
    made = model.sample(model.invert(x, None, 4, "fixed_point"), None, 4, solver="fixed_point")
    assert torch.allclose(made, model.codec.decode(model.codec.encode(x)), atol=1e-4)


def test_latents_are_not_clamped():
    model = latent_model("AutoencoderKL")
    x_T = 50 * torch.randn(1, *model.noise_shape, generator=torch.Generator().manual_seed(0))
    seen = []
    model.codec.decode = lambda code: seen.append(code.abs().max().item()) or code
    model.sample(x_T, None, 4)
    assert seen[0] > 1


@pytest.mark.parametrize("place", ["model", "dm"])
def test_diffae_over_latents(place, tmp_path):
    model = latent_model("VQModel", place, "diffae")
    model.save(tmp_path)
    loaded = DiffAE.load(tmp_path)
    x = images()
    z = loaded.encoder(x)
    assert loaded.sample(loaded.invert(x, z, 3), z, 3).shape == x.shape
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_a_latent_dm_is_a_folder_that_diffusers_reads(tmp_path):
    model = latent_model("VQModel")
    model.dm.save(tmp_path)
    pipeline = diffusers.LDMPipeline.from_pretrained(tmp_path)
    assert type(pipeline.vqvae).__name__ == "VQModel" and pipeline.scheduler.config.beta_schedule == "scaled_linear"
    again = DiffusionModel.load(tmp_path, load_codec(CodecSpec("vae", vae="dm"), None, tmp_path))
    noise = torch.randn(1, *model.noise_shape)
    assert torch.equal(again.sample(noise, 2), model.dm.sample(noise, 2))


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c["codec"].update(kind="pixels"), "the DM reads 4 channels, the codec pixels gives 3"),
        (lambda c: c["image"].update(size=30), "halves its maps to 1/2, which the 15 x 15 of 30 px"),
        (lambda c: c["image"].update(size=15), "15 px cannot be divided by 2"),
        (lambda c: c["codec"].update(vae="../.."), r"codec\.vae = '\.\./\.\.' is not one of model, dm"),
    ],
)
def test_models_over_latents_that_are_refused(update, words, tmp_path):
    latent_model("AutoencoderKL").save(tmp_path)
    config = json.loads(json.dumps(asdict(read_config(tmp_path))))
    update(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=words):
        DiTi.load(tmp_path)
