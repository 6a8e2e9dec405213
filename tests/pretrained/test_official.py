"""Checkpoints in the official layout, of many shapes, against a second reading of their tensors.

`reference` computes guided-diffusion's U-Net straight from the official names, without diffusers, and makes the tensors
that it asks for; `convert` must then give a model that computes the same.
"""

import os
import pickle

import pytest
import torch
import yaml
from torch.nn import functional

from ditifeat import ModelError
from ditifeat.errors import MissingFileError
from ditifeat.model.diti import DiTi
from ditifeat.pretrained.official import convert


class Tensors(dict):
    """Random tensors by official name, made at their first use."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, name, *shape):
        if name not in self:
            self[name] = torch.randn(shape, generator=self.generator) * (0.1 if len(shape) > 1 else 0.3)
        return self[name]

    def linear(self, name, x, out):
        return functional.linear(x, self.get(f"{name}.weight", out, x.shape[1]), self.get(f"{name}.bias", out))

    def conv(self, name, x, out, size=3, stride=1):
        weight, bias = self.get(f"{name}.weight", out, x.shape[1], size, size), self.get(f"{name}.bias", out)
        return functional.conv2d(x, weight, bias, stride, size // 2)


class Reference:
    def __init__(self, spec, latent_dim, tensors):
        self.spec, self.latent_dim, self.p = spec, latent_dim, tensors

    def norm(self, name, x):
        # Weights near 1 keep the activations alive.
        if f"{name}.weight" not in self.p:
            self.p.get(f"{name}.weight", x.shape[1]).add_(1)
        return functional.group_norm(x, 32, self.p[f"{name}.weight"], self.p.get(f"{name}.bias", x.shape[1]))

    def residual(self, name, x, emb, out, code=None, change=None):
        p, silu = self.p, functional.silu
        h = silu(self.norm(f"{name}.in_layers.0", x))
        if change is not None:
            x, h = change(x), change(h)
        h = p.conv(f"{name}.in_layers.2", h, out)
        scale, shift = p.linear(f"{name}.emb_layers.1", silu(emb), 2 * out)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        if code is not None:
            scale, shift = p.linear(f"{name}.emb_z_layers.1", silu(code), 2 * out)[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        h = p.conv(f"{name}.out_layers.3", silu(h), out)
        return (p.conv(f"{name}.skip_connection", x, out, 1) if x.shape[1] != out else x) + h

    def attention(self, name, x, heads, new_order):
        p, (b, c, height, width) = self.p, x.shape
        flat = self.norm(f"{name}.norm", x).flatten(2)
        qkv = functional.conv1d(flat, p.get(f"{name}.qkv.weight", 3 * c, c, 1), p.get(f"{name}.qkv.bias", 3 * c))
        if new_order:
            q, k, v = (part.reshape(b * heads, c // heads, -1) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(b * heads, 3 * c // heads, -1).split(c // heads, dim=1)
        weights = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / (c // heads) ** 0.5, dim=-1)
        h = torch.einsum("bts,bcs->bct", weights, v).reshape(b, c, -1)
        h = functional.conv1d(h, p.get(f"{name}.proj_out.weight", c, c, 1), p.get(f"{name}.proj_out.bias", c))
        return x + h.reshape(b, c, height, width)

    def attend(self, name, x):
        s = self.spec
        heads = s["num_heads"] if s["head_channel"] == -1 else x.shape[1] // s["head_channel"]
        return self.attention(name, x, heads, s["use_new_attention_order"])

    def down(self, x, t):
        s, p = self.spec, self.p
        base = s["base_channel"]
        frequencies = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(base // 2) / (base // 2))
        angles = t[:, None] * frequencies[None]
        emb = p.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()], dim=1), 4 * base)
        emb = p.linear("time_embed.2", functional.silu(emb), 4 * base)
        h = p.conv("input_blocks.0.0", x, base)
        skips, n = [h], 1
        for level, multiplier in enumerate(s["channel_multiplier"]):
            for _ in range(s["num_residual_blocks_of_a_block"]):
                h = self.residual(f"input_blocks.{n}.0", h, emb, base * multiplier)
                if 2**level in s["attention_resolutions"]:
                    h = self.attend(f"input_blocks.{n}.1", h)
                skips.append(h)
                n += 1
            if level < len(s["channel_multiplier"]) - 1:
                h = self.residual(
                    f"input_blocks.{n}.0", h, emb, h.shape[1], change=lambda y: functional.avg_pool2d(y, 2)
                )
                skips.append(h)
                n += 1
        return h, skips, emb

    def up(self, state, prefix="", code=None):
        s, (h, skips, emb) = self.spec, state
        skips = list(skips)
        h = self.residual(f"{prefix}middle_block.0", h, emb, h.shape[1], code)
        h = self.attend(f"{prefix}middle_block.1", h)
        h = self.residual(f"{prefix}middle_block.2", h, emb, h.shape[1], code)
        n = 0
        for level, multiplier in reversed(list(enumerate(s["channel_multiplier"]))):
            for j in range(s["num_residual_blocks_of_a_block"] + 1):
                name, place = f"{prefix}output_blocks.{n}", 1
                h = self.residual(
                    f"{name}.0", torch.cat([h, skips.pop()], 1), emb, s["base_channel"] * multiplier, code
                )
                if 2**level in s["attention_resolutions"]:
                    h = self.attend(f"{name}.1", h)
                    place = 2
                if level and j == s["num_residual_blocks_of_a_block"]:
                    twice = lambda y: functional.interpolate(y, scale_factor=2, mode="nearest")  # noqa: E731
                    h = self.residual(f"{name}.{place}", h, emb, h.shape[1], code, twice)
                n += 1
        out = f"{prefix}out"
        return self.p.conv(f"{out}.2", functional.silu(self.norm(f"{out}.0", h)), 3)

    def code(self, z_bar):
        return self.p.linear("label_emb", z_bar, 4 * self.spec["base_channel"])

    def encode(self, x, convolutions, attention):
        h, n = x, 0
        for i, channels in enumerate(convolutions):
            h = self.p.conv(f"encoder.{n}", h, channels, stride=2)
            if i in attention:
                n += 1
                h = self.attention(f"encoder.{n}", h, 4, False)
            h = functional.silu(self.norm(f"encoder.{n + 1}", h))
            n += 3
        return self.p.linear(f"encoder.{n + 1}", h.flatten(1), self.latent_dim)


SPEC = {
    "base_channel": 32,
    "channel_multiplier": [1, 2],
    "num_residual_blocks_of_a_block": 1,
    "attention_resolutions": [2],
    "num_heads": 1,
    "head_channel": -1,
    "use_new_attention_order": False,
    "dropout": 0.0,
    "input_channel": 3,
}
CASES = {
    "plain": {},
    "three heads levels": {"num_heads": 4, "channel_multiplier": [1, 2, 3], "attention_resolutions": [2, 4]},
    "new order": {"num_heads": 2, "use_new_attention_order": True},
    "head channels": {"head_channel": 16, "attention_resolutions": [1, 2]},
    "two blocks": {"num_residual_blocks_of_a_block": 2, "channel_multiplier": [1, 1, 2], "attention_resolutions": [1]},
    "no attention": {"attention_resolutions": [], "num_heads": 2, "channel_multiplier": [1, 2, 2]},
}
ENCODERS = {64: ((64, 128, 128, 128), (1,)), 128: ((64, 128, 256, 256, 256), (2,))}


def write(folder, spec, size=64, ssl=None, latent_dim=48):
    """A checkpoint with random tensors, and what it should compute at some inputs."""
    tensors, frozen, encoder = Tensors(0), Tensors(1), Tensors(2)
    generator = torch.Generator().manual_seed(3)
    x, t = torch.randn(2, 3, size, size, generator=generator), torch.tensor([100, 900])
    dm = Reference(spec, latent_dim, frozen)
    state = dm.down(x, t)
    eps = dm.up(state)
    z = Reference(spec, latent_dim, encoder).encode(x, *ENCODERS[size])
    estimator = Reference(spec, latent_dim, tensors)
    shift = estimator.up(state, "shift_", estimator.code(z))
    run, dpm = folder / "run", folder / "dpm"
    (run / "checkpoints").mkdir(parents=True)
    dpm.mkdir()
    decoder = {**frozen, **tensors}
    torch.save({"step": 5, "ema_encoder": dict(encoder), "ema_decoder": decoder}, run / "checkpoints" / "latest.pt")
    torch.save({"ema_denoise_fn": dict(frozen)}, dpm / "checkpoint.pt")
    config = {
        "encoder_config": {"latent_dim": latent_dim, "model": "FFHQ128Encoder"},
        "diffusion_config": {
            "betas_type": "linear",
            "linear_beta_start": 1e-4,
            "linear_beta_end": 0.02,
            "timesteps": 1000,
        },
        "train_dataset_config": {"image_size": size, "name": "FFHQ128"},
    }
    (run / "config.yml").write_text(yaml.safe_dump(config | ({"ssl_config": ssl} if ssl else {})))
    (dpm / "config.yml").write_text(yaml.safe_dump({"denoise_fn_config": spec}))
    return x, t, eps, z, shift


@torch.no_grad()
def compare(folder, x, t, eps, z, shift):
    convert(folder / "run", folder / "dpm").save(folder / "model")
    model = DiTi.load(folder / "model")
    for ours, theirs in (
        (model.encoder(x), z),
        (model.frozen_noise(x, t), eps),
        (model.shift(x, t, z, cumulative=False), shift),
    ):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-4
    return model


@pytest.mark.parametrize("case", CASES)
def test_layouts(tmp_path, case):
    compare(tmp_path, *write(tmp_path, {**SPEC, **CASES[case]}))


def test_128_px_encoder_and_partitions(tmp_path):
    ssl = {"k": 16, "stages": "50,100,300,500,1000", "dims_per_stage": "2,4,30,8,4"}
    model = compare(tmp_path, *write(tmp_path, SPEC, 128, ssl))
    assert model.partition.stages == (50, 100, 300, 500, 1000) and model.partition.k == 16
    assert model.config.image.size == 128 and model.config.training["step"] == 5


def test_pdae_has_one_subset(tmp_path):
    model = compare(tmp_path, *write(tmp_path, SPEC))
    assert model.partition.k == 1 and model.cumulative_masks.all()


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("way", ["torch", "pickle"])
@pytest.mark.parametrize("place", ["run/checkpoints/latest.pt", "dpm/checkpoint.pt"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, way, place):
    write(tmp_path, SPEC)
    content = {"ema_encoder": Evil(str(tmp_path / "ran"))}
    if way == "torch":
        torch.save(content, tmp_path / place)
    else:
        (tmp_path / place).write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match=r"holds more than tensors|cannot be read"):
        convert(tmp_path / "run", tmp_path / "dpm")
    assert not (tmp_path / "ran").exists()


def test_code_in_a_configuration_is_refused_and_does_not_run(tmp_path):
    write(tmp_path, SPEC)
    (tmp_path / "run" / "config.yml").write_text(f'!!python/object/apply:os.mkdir ["{tmp_path}/ran"]')
    with pytest.raises(ModelError, match="plain YAML"):
        convert(tmp_path / "run", tmp_path / "dpm")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c["ema_decoder"].pop("shift_out.2.weight"), "missing: conv_out.weight"),
        (lambda c: c["ema_decoder"].update({"shift_new.0.weight": torch.zeros(1)}), "no place"),
        (lambda c: c["ema_encoder"].update({"encoder.0.weight": torch.zeros(64, 1, 3, 3)}), "shape"),
        (lambda c: c.pop("ema_encoder"), "no weights under 'ema_encoder'"),
        (lambda c: c.update(ema_encoder=[]), "no weights under 'ema_encoder'"),
        (lambda c: c.update(ema_encoder={"encoder.0.weight": 3}), "no weights under 'ema_encoder'"),
        (lambda c: c.update(ema_encoder={0: torch.zeros(1)}), "no weights under 'ema_encoder'"),
        (lambda c: c.update(ema_encoder={}), "channels"),
        (lambda c: c["ema_encoder"].update({"encoder.x.weight": torch.zeros(1)}), "invalid literal"),
        (lambda c: c["ema_encoder"].update({"encoder.99.weight": torch.zeros(1)}), "layers with weights, expected"),
        (
            lambda c: c["ema_decoder"].update({"shift_middle_block.1.qkv.weight": torch.zeros(5, 1)}),
            "qkv.weight has shape",
        ),
        (lambda c: c["ema_decoder"].update({"shift_middle_block.1.qkv.bias": torch.tensor(1.0)}), "qkv.bias has shape"),
        (lambda c: c["ema_decoder"].update({"label_emb.bias": torch.zeros(128).double()}), "float64"),
        (lambda c: c["ema_decoder"]["label_emb.bias"].fill_(float("nan")), "NaN"),
        (lambda c: c.update(step="many"), "many"),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, update, words):
    write(tmp_path, SPEC)
    path = tmp_path / "run" / "checkpoints" / "latest.pt"
    content = torch.load(path, weights_only=True)
    update(content)
    torch.save(content, path)
    with pytest.raises(ModelError, match=words):
        convert(tmp_path / "run", tmp_path / "dpm")


def test_missing_files(tmp_path):
    with pytest.raises(MissingFileError, match=r"config\.yml: there is no such file") as error:
        convert(tmp_path / "run", tmp_path / "dpm")
    assert isinstance(error.value, FileNotFoundError)
    write(tmp_path, SPEC)
    (tmp_path / "dpm" / "checkpoint.pt").unlink()
    with pytest.raises(MissingFileError, match=r"checkpoint\.pt: there is no such file"):
        convert(tmp_path / "run", tmp_path / "dpm")


def rewrite(path, update):
    content = yaml.safe_load(path.read_text())
    update(content)
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c.pop("train_dataset_config"), "train_dataset_config"),
        (lambda c: c.update(train_dataset_config=[]), "run|dpm"),
        (lambda c: c["train_dataset_config"].update(image_size="large"), "large"),
        (lambda c: c["train_dataset_config"].update(image_size=10**9), "size"),
        (lambda c: c["train_dataset_config"].update(image_size=100), "halved"),
        (lambda c: c["train_dataset_config"].update(image_size=float("inf")), "infinity"),
        (lambda c: c["encoder_config"].update(latent_dim=10**9), "d = 1000000000"),
        (lambda c: c["encoder_config"].update(latent_dim=47), "has shape"),
        (lambda c: c.update(diffusion_config=None), "misstates"),
        (lambda c: c["diffusion_config"].update(timesteps=0), "num_time_steps = 0"),
        (lambda c: c["diffusion_config"].update(timesteps=10**9), "num_time_steps = 1000000000"),
        (lambda c: c["diffusion_config"].update(linear_beta_end=float("nan")), "beta_end = nan"),
        (lambda c: c["diffusion_config"].update(linear_beta_start=2.0), r"beta_start = 2\.0"),
        (lambda c: c["diffusion_config"].update(betas_type="cosine"), "betas_type 'cosine' is not linear"),
        (lambda c: c.update(ssl_config={"k": 0}), "k = 0"),
        (lambda c: c.update(ssl_config={"stages": "1,2"}), "'k'"),
        (lambda c: c.update(ssl_config={"k": 4, "stages": "a,b", "dims_per_stage": "1"}), "invalid literal"),
        (lambda c: c.update(ssl_config="k"), "misstates"),
    ],
)
def test_runs_that_are_refused(tmp_path, update, words):
    write(tmp_path, SPEC)
    rewrite(tmp_path / "run" / "config.yml", update)
    with pytest.raises(ModelError, match=words) as error:
        convert(tmp_path / "run", tmp_path / "dpm")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda c: c.pop("denoise_fn_config"), "denoise_fn_config"),
        (lambda c: c.update(denoise_fn_config=None), "misstates"),
        (lambda c: c["denoise_fn_config"].update(channel_multiplier=[]), "channel_multiplier"),
        (lambda c: c["denoise_fn_config"].update(channel_multiplier=[2, 4]), "the first must be 1"),
        (lambda c: c["denoise_fn_config"].update(channel_multiplier=None), "misstates"),
        (lambda c: c["denoise_fn_config"].update(base_channel=10**9), "is not within 1..8192"),
        (lambda c: c["denoise_fn_config"].update(base_channel=-32), "is not within 1..8192"),
        (lambda c: c["denoise_fn_config"].update(num_residual_blocks_of_a_block=10**9), "layers_per_block"),
        (lambda c: c["denoise_fn_config"].update(input_channel=10**9), "in_channels"),
        (lambda c: c["denoise_fn_config"].update(num_heads=0), "num_heads must be at least 1"),
        (lambda c: c["denoise_fn_config"].update(head_channel=0), "head_channel"),
        (lambda c: c["denoise_fn_config"].update(attention_resolutions="all"), "misstates"),
        (lambda c: c["denoise_fn_config"].update(dropout="much"), "misstates"),
        (lambda c: c["denoise_fn_config"].update(base_channel=64), "has shape"),
    ],
)
def test_dms_that_are_refused(tmp_path, update, words):
    write(tmp_path, SPEC)
    rewrite(tmp_path / "dpm" / "config.yml", update)
    with pytest.raises(ModelError, match=words) as error:
        convert(tmp_path / "run", tmp_path / "dpm")
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "", "{", "a: [", "\x00", "[" * 10_000])
def test_configurations_that_are_none(tmp_path, text):
    write(tmp_path, SPEC)
    (tmp_path / "dpm" / "config.yml").write_text(text)
    with pytest.raises(ModelError, match=r"dpm/config\.yml: (is not a mapping|cannot be read)"):
        convert(tmp_path / "run", tmp_path / "dpm")
