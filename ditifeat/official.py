"""Import of checkpoints that the official DiTi and PDAE code wrote.

Their U-Net is guided-diffusion's (scale-and-shift time embedding, residual blocks between levels), which diffusers has
as `UNet2DModel`; only names and the layout of attention differ. Pickles are read with `weights_only=True`, YAML with
`safe_load`, so nothing in either can run.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import UNet2DModel
from torch import Tensor

from ditifeat.artefact import load_strictly, under
from ditifeat.config import DMReference, ModelConfig
from ditifeat.diffusion import DiffusionModel
from ditifeat.encoders import EncoderSpec, build_encoder
from ditifeat.errors import ModelError
from ditifeat.images import Preprocessing
from ditifeat.model import DiTi
from ditifeat.partition import TimeStepPartition
from ditifeat.unet import CodeResnetBlock, GradientEstimator, attention_layers

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
# The published pictures: CelebA's aligned 178 x 218, cut at left 25, top 57, 128 x 128.
CELEBA_CROP = (25 / 178, 57 / 218, 153 / 178, 185 / 218)
CELEBA_ALIGNMENT = "CelebA's aligned faces (178 x 218 or the same at another scale)"


def convert(checkpoint: str | Path, dm: str | Path) -> DiTi:
    """Reads a training run and its frozen DM as the official code wrote them; `DiTi.save` then writes the artefact.

    Args:
        checkpoint: a run's folder (`config.yml`, `checkpoints/latest.pt`).
        dm: the pre-trained DM's folder (`config.yml`, `checkpoint.pt`).

    Raises:
        ModelError: if a file is missing, holds code, or describes a network that this package cannot hold.
    """
    checkpoint, dm = Path(checkpoint), Path(dm)
    run, dm_config = _read_yaml(checkpoint / "config.yml"), _read_yaml(dm / "config.yml")
    dm_path, path = dm / "checkpoint.pt", checkpoint / "checkpoints" / "latest.pt"
    dm_weights = _section(_read_pickle(dm_path), "ema_denoise_fn", dm_path)
    trained = _read_pickle(path)
    try:
        size = int(run["train_dataset_config"]["image_size"])
        latent_dim = int(run["encoder_config"]["latent_dim"])
        partition = _partition(run, latent_dim)
        scheduler = _scheduler(run["diffusion_config"])
        spec = dm_config["denoise_fn_config"]
        layout = _Layout(spec, size)
        encoder_tensors = under(_section(trained, "ema_encoder", path), "encoder.")
        config = ModelConfig(
            name=checkpoint.resolve().name,
            image=_preprocessing(str(run["train_dataset_config"].get("name", "")), size),
            encoder=_encoder_spec(encoder_tensors),
            latent_dim=latent_dim,
            partition=partition,
            dm=DMReference(attention_heads=layout.heads_override),
            training={"imported_from": "official checkpoint", "step": int(trained.get("step", 0))},
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{checkpoint}: its configuration lacks or misstates {error}") from error
    model = _build(config, layout, scheduler)
    load_strictly(model.encoder, _named_as(encoder_tensors, model.encoder), str(path))
    load_strictly(model.dm.unet, layout.unet_tensors(dm_weights), str(dm_path))
    estimator = layout.estimator_tensors(_section(trained, "ema_decoder", path), model.estimator)
    load_strictly(model.estimator, estimator, str(path))
    return model.requires_grad_(False).eval()


def _build(config: ModelConfig, layout: _Layout, scheduler: dict[str, Any]) -> DiTi:
    unet = UNet2DModel(**layout.unet_config)
    for layer in attention_layers(unet):
        layer.heads = layout.heads_for(layer.to_q.out_features)
    encoder = build_encoder(config.encoder, config.image.size, config.latent_dim)
    dm = DiffusionModel(unet, scheduler)
    return DiTi(config, dm, encoder, GradientEstimator(unet, config.latent_dim, warm_start=True))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path}: cannot be read as plain YAML ({error})") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: is not a mapping")
    return data


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: holds more than tensors, so nothing of it was run or read ({error})") from error
    except Exception as error:  # a damaged archive raises whatever its bytes lead to
        raise ModelError(f"{path}: cannot be read as a checkpoint ({error})") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: is not a dictionary of weights")
    return data


def _section(data: dict[str, Any], key: str, path: Path) -> dict[str, Tensor]:
    section = data.get(key)
    if not isinstance(section, dict) or not all(isinstance(v, Tensor) for v in section.values()):
        raise ModelError(f"{path}: has no weights under {key!r}; it holds {', '.join(map(str, data))}")
    return section


def _partition(run: dict[str, Any], latent_dim: int) -> TimeStepPartition:
    """PDAE has no partition, which is one subset."""
    ssl = run.get("ssl_config") or {"k": 1}
    stages, dims = (_numbers(ssl.get(key)) for key in ("stages", "dims_per_stage"))
    time_steps = int(run["diffusion_config"]["timesteps"])
    return TimeStepPartition(int(ssl["k"]), latent_dim, time_steps, stages, dims)


def _numbers(value: Any) -> tuple[int, ...]:
    """Written as "50,100,1000", or as a list."""
    if value is None or value == "":
        return ()
    return tuple(int(item) for item in (value.split(",") if isinstance(value, str) else value))


def _scheduler(diffusion: dict[str, Any]) -> dict[str, Any]:
    if diffusion.get("betas_type", "linear") != "linear":
        raise ModelError(f"diffusion_config: betas_type {diffusion['betas_type']!r} is not linear")
    return {
        "num_train_timesteps": int(diffusion["timesteps"]),
        "beta_start": float(diffusion["linear_beta_start"]),
        "beta_end": float(diffusion["linear_beta_end"]),
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
    }


def _preprocessing(dataset: str, size: int) -> Preprocessing:
    if dataset.upper().startswith("CELEBA") and "HQ" not in dataset.upper():
        return Preprocessing(size, CELEBA_CROP, alignment=CELEBA_ALIGNMENT)
    return Preprocessing(size, alignment=f"{dataset or 'unknown'}: the central square")


def _encoder_spec(tensors: dict[str, Tensor]) -> EncoderSpec:
    """The published encoders are plain stacks, so their tensors say all but the heads, which are 4."""
    positions = sorted({int(key.split(".")[0]) for key in tensors})
    convolutions = [i for i in positions if tensors.get(f"{i}.weight", torch.empty(0)).ndim == 4]
    attention = tuple(n for n, i in enumerate(convolutions) if f"{i + 1}.qkv.weight" in tensors)
    channels = tuple(tensors[f"{i}.weight"].shape[0] for i in convolutions)
    return EncoderSpec(channels, attention, heads=4 if attention else 1)


def _named_as(tensors: dict[str, Tensor], encoder: torch.nn.Module) -> dict[str, Tensor]:
    """Both are `nn.Sequential`s of the same layers; should theirs hold one more without weights, only numbers differ."""
    theirs, ours = (sorted({int(key.split(".")[0]) for key in keys}) for keys in (tensors, encoder.state_dict()))
    if len(theirs) != len(ours):
        raise ModelError(f"the encoder has {len(theirs)} layers with weights, expected {len(ours)}")
    renamed = dict(zip(theirs, ours, strict=True))
    return {f"{renamed[int(key.split('.')[0])]}.{key.split('.', 1)[1]}": value for key, value in tensors.items()}


class _Layout:
    """Where each block of guided-diffusion's U-Net lies in diffusers' `UNet2DModel`."""

    def __init__(self, spec: dict[str, Any], image_size: int):
        multipliers = [float(m) for m in spec["channel_multiplier"]]
        if multipliers[0] != 1:
            raise ModelError(f"denoise_fn_config: a first multiplier of {multipliers[0]} cannot be held; only 1 can")
        self.channels = tuple(int(int(spec["base_channel"]) * m) for m in multipliers)
        self.layers = int(spec["num_residual_blocks_of_a_block"])
        resolutions = {int(r) for r in spec.get("attention_resolutions") or ()}
        self.attention = [2**level in resolutions for level in range(len(multipliers))]
        self.head_channels = int(spec.get("head_channel", -1))
        self.num_heads = int(spec.get("num_heads", 1))
        self.new_order = bool(spec.get("use_new_attention_order", False))
        input_channels = int(spec.get("input_channel", 3))
        levels = range(len(multipliers))
        self.unet_config: dict[str, Any] = {
            "sample_size": image_size,
            "in_channels": input_channels,
            "out_channels": input_channels,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "down_block_types": tuple(
                "AttnDownBlock2D" if self.attention[i] else "ResnetDownsampleBlock2D" for i in levels
            ),
            "up_block_types": tuple(
                "AttnUpBlock2D" if self.attention[i] else "ResnetUpsampleBlock2D" for i in reversed(levels)
            ),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": self._head_dim(),
            "attn_norm_num_groups": 32,
            "dropout": float(spec.get("dropout", 0.0)),
        }

    def _attended(self) -> set[int]:
        return {self.channels[-1], *(c for c, attends in zip(self.channels, self.attention, strict=True) if attends)}

    def heads_for(self, channels: int) -> int:
        return self.num_heads if self.head_channels == -1 else channels // self.head_channels

    def _head_dim(self) -> int:
        return self.head_channels if self.head_channels != -1 else math.gcd(*self._attended()) // self.num_heads

    @property
    def heads_override(self) -> int | None:
        """One number of heads over several widths is what `attention_head_dim` cannot say."""
        return self.num_heads if self.head_channels == -1 and len(self._attended()) > 1 else None

    def _blocks(self) -> Iterator[tuple[str, str]]:
        """(their block, our block) of the down path."""
        n = 1
        for level in range(len(self.channels)):
            for j in range(self.layers):
                yield f"input_blocks.{n}.0", f"down_blocks.{level}.resnets.{j}"
                if self.attention[level]:
                    yield f"input_blocks.{n}.1", f"down_blocks.{level}.attentions.{j}"
                n += 1
            if level < len(self.channels) - 1:
                yield f"input_blocks.{n}.0", f"down_blocks.{level}.downsamplers.0"
                n += 1

    def _half_blocks(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(their block, our block) of the middle and the up path, of the DM or (prefix "shift_") of the estimator."""
        for theirs, ours in (("0", "resnets.0"), ("1", "attentions.0"), ("2", "resnets.1")):
            yield f"{prefix}middle_block.{theirs}", f"mid_block.{ours}"
        n = 0
        for up, level in enumerate(reversed(range(len(self.channels)))):
            for j in range(self.layers + 1):
                block = f"{prefix}output_blocks.{n}"
                yield f"{block}.0", f"up_blocks.{up}.resnets.{j}"
                if self.attention[level]:
                    yield f"{block}.1", f"up_blocks.{up}.attentions.{j}"
                if j == self.layers and level > 0:
                    yield f"{block}.{2 if self.attention[level] else 1}", f"up_blocks.{up}.upsamplers.0"
                n += 1

    def unet_tensors(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The DM's tensors under diffusers' names."""
        names = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
        names |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
        return self._rename(theirs, {**names, **dict(self._blocks()), **dict(self._half_blocks(""))})

    def estimator_tensors(self, theirs: dict[str, Tensor], estimator: GradientEstimator) -> dict[str, Tensor]:
        """The estimator's tensors under our names; the decoder's other tensors are the frozen DM's."""
        names = {"label_emb": "code_embedding", "shift_out.0": "conv_norm_out", "shift_out.2": "conv_out"}
        names |= dict(self._half_blocks("shift_"))
        ours = {key: value for key, value in theirs.items() if key.startswith(("shift_", "label_emb."))}
        wrapped = {name for name, module in estimator.named_modules() if isinstance(module, CodeResnetBlock)}
        return self._rename(ours, names, wrapped)

    def _rename(
        self, theirs: dict[str, Tensor], names: dict[str, str], wrapped: set[str] | None = None
    ) -> dict[str, Tensor]:
        renamed: dict[str, Tensor] = {}
        for key, value in theirs.items():
            block = next((k for k in _prefixes(key) if k in names), None)
            if block is None:
                raise ModelError(
                    f"the checkpoint's tensor {key} has no place in the network that its configuration describes"
                )
            ours, rest = names[block], key.removeprefix(f"{block}.")
            inner, kind = rest.rpartition(".")[::2]
            if inner == "qkv":
                for projection, part in zip(("to_q", "to_k", "to_v"), self._split(value), strict=True):
                    renamed[f"{ours}.{projection}.{kind}"] = part
            elif inner in ("norm", "proj_out"):
                name = {"norm": "group_norm", "proj_out": "to_out.0"}[inner]
                renamed[f"{ours}.{name}.{kind}"] = (
                    value.squeeze(-1) if inner == "proj_out" and value.ndim == 3 else value
                )
            elif inner == "emb_z_layers.1":
                renamed[f"{ours}.code_proj.{kind}"] = value
            elif inner in RESIDUAL:
                renamed[f"{ours}{'.block' if ours in (wrapped or ()) else ''}.{RESIDUAL[inner]}.{kind}"] = value
            else:
                renamed[f"{ours}.{rest}"] = value
        return renamed

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Rows of `qkv` to q, k, v: head by head in the old order, all heads of each in the new one."""
        qkv = qkv.squeeze(-1) if qkv.ndim == 3 else qkv
        if self.new_order:
            return qkv.chunk(3)
        heads = self.heads_for(qkv.shape[0] // 3)
        parts = qkv.unflatten(0, (heads, 3, -1)).transpose(0, 1)
        return tuple(part.flatten(0, 1) for part in parts)


def _prefixes(key: str) -> Iterator[str]:
    """The key's dotted beginnings, longest first."""
    parts = key.split(".")
    return (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
