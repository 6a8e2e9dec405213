"""Import of checkpoints that the official DiTi and PDAE code wrote.

Their U-Net is guided-diffusion's (scale-and-shift time embedding, residual blocks between levels), which diffusers has
as `UNet2DModel`; only names and the layout of attention differ. Pickles are read with `weights_only=True`, YAML by
`parse_yaml`, so nothing in either can run.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import UNet2DModel
from torch import Tensor

from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import DitifeatError, MissingFileError, ModelError
from ditifeat.files import load_strictly, select_prefix
from ditifeat.model.config import DMReference, ModelConfig
from ditifeat.model.diffusers_folder import build_network
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import EncoderNetwork, EncoderSpec, build_encoder
from ditifeat.model.estimator import GradientEstimator
from ditifeat.model.partition import TimeStepPartition
from ditifeat.model.schedule import NoiseSchedule, scheduler_betas
from ditifeat.model.unet import attention_layers
from ditifeat.pretrained.official_layout import Layout
from ditifeat.schema import parse_yaml

# The published images: CelebA's aligned 178 x 218, cut at left 25, top 57, 128 x 128.
CELEBA_CROP = (25 / 178, 57 / 218, 153 / 178, 185 / 218)

CELEBA_ALIGNMENT = "CelebA's aligned faces (178 x 218 or the same at another scale)"


def convert(checkpoint: str | Path, dm: str | Path) -> DiTi:
    """Read a training run and its frozen DM as the official code wrote them; `DiTi.save` then writes the model folder.

    Args:
        checkpoint: a run's folder (`config.yml`, `checkpoints/latest.pt`).
        dm: the pre-trained DM's folder (`config.yml`, `checkpoint.pt`).

    Raises:
        MissingFileError: if a file does not exist.
        ModelError: if one holds code, or describes a network that this package cannot hold.
    """
    checkpoint, dm = Path(checkpoint), Path(dm)
    run, dm_config = _read_yaml(checkpoint / "config.yml"), _read_yaml(dm / "config.yml")
    dm_path, path = dm / "checkpoint.pt", checkpoint / "checkpoints" / "latest.pt"
    dm_weights = _section(_read_pickle(dm_path), "ema_denoise_fn", dm_path)
    trained = _read_pickle(path)
    encoder_tensors = select_prefix(_section(trained, "ema_encoder", path), "encoder.")
    with _configured(dm):
        layout = Layout(dm_config["denoise_fn_config"], int(run["train_dataset_config"]["image_size"]))
    with _configured(checkpoint):
        config = _config(checkpoint.resolve().name, run, trained, encoder_tensors, layout)
        scheduler = _scheduler(run["diffusion_config"])
        # Nothing that a configuration says takes memory before its tensors are there.
        with torch.device("meta"):
            encoder = build_encoder(config.encoder, config.image.size, config.latent_dim)
    unet = build_network(UNet2DModel, layout.unet_config, str(dm / "config.yml"))
    model = _assemble(config, layout, DiffusionModel(unet, scheduler), encoder)
    load_strictly(model.encoder, _named_as(encoder_tensors, model.encoder, path), str(path))
    load_strictly(model.dm.unet, layout.unet_tensors(dm_weights), str(dm_path))
    estimator = layout.estimator_tensors(
        _section(trained, "ema_decoder", path), cast(GradientEstimator, model.estimator)
    )
    load_strictly(model.estimator, estimator, str(path))
    return model.requires_grad_(False).eval()


@contextmanager
def _configured(folder: Path) -> Iterator[None]:
    """Says in which folder a configuration lacks or misstates what is read of it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = str(error) if isinstance(error, DitifeatError) else f"its configuration lacks or misstates {error}"
        raise ModelError(f"{folder}: {reason}") from error


def _config(
    name: str, run: dict[str, Any], trained: dict[str, Any], encoder: dict[str, Tensor], layout: Layout
) -> ModelConfig:
    size = int(run["train_dataset_config"]["image_size"])
    latent_dim = int(run["encoder_config"]["latent_dim"])
    return ModelConfig(
        name=name,
        image=_preprocessing(str(run["train_dataset_config"].get("name", "")), size),
        encoder=_encoder_spec(encoder),
        latent_dim=latent_dim,
        partition=_partition(run, latent_dim),
        dm=DMReference(attention_heads=layout.heads_override),
        training={"imported_from": "official checkpoint", "step": int(trained.get("step", 0))},
    )


def _assemble(config: ModelConfig, layout: Layout, dm: DiffusionModel, encoder: EncoderNetwork) -> DiTi:
    """The model without weights."""
    for layer in attention_layers(dm.unet):
        layer.heads = layout.heads_for(layer.to_q.out_features)
    with torch.device("meta"):
        estimator = GradientEstimator(dm.unet, config.latent_dim, warm_start=True)
    return DiTi(config, dm, encoder, estimator)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = parse_yaml(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as plain YAML ({error})") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: is not a mapping")
    return data


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("it is compressed, and could unpack to any size")
        data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path}: holds more than tensors, so nothing of it was run or read ({error})") from error
    except Exception as error:  # a damaged archive raises whatever its bytes lead to
        raise ModelError(f"{path}: cannot be read as a checkpoint ({error})") from error
    if not isinstance(data, dict):
        raise ModelError(f"{path}: is not a dictionary of weights")
    return data


def _section(data: dict[str, Any], key: str, path: Path) -> dict[str, Tensor]:
    section = data.get(key)
    if not isinstance(section, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in section.items()
    ):
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
    config = {
        "num_train_timesteps": int(diffusion["timesteps"]),
        "beta_start": float(diffusion["linear_beta_start"]),
        "beta_end": float(diffusion["linear_beta_end"]),
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
    }
    NoiseSchedule(scheduler_betas(config))  # which refuses what is none
    return config


def _preprocessing(dataset: str, size: int) -> Preprocessing:
    if dataset.upper().startswith("CELEBA") and "HQ" not in dataset.upper():
        return Preprocessing(size, CELEBA_CROP, alignment=CELEBA_ALIGNMENT)
    return Preprocessing(size, alignment=f"{dataset or 'unknown'}: the central square")


def _encoder_spec(tensors: dict[str, Tensor]) -> EncoderSpec:
    """The published encoders are plain stacks, so their tensors say all but the heads, which are 4."""
    convolutions = [i for i in _positions(tensors) if tensors.get(f"{i}.weight", torch.empty(0)).ndim == 4]
    attention = tuple(n for n, i in enumerate(convolutions) if f"{i + 1}.qkv.weight" in tensors)
    channels = tuple(tensors[f"{i}.weight"].shape[0] for i in convolutions)
    return EncoderSpec(channels, attention, heads=4 if attention else 1)


def _positions(tensors: dict[str, Tensor]) -> list[int]:
    """The positions in the stack of the layers with weights."""
    return sorted({int(key.split(".")[0]) for key in tensors})


def _named_as(tensors: dict[str, Tensor], encoder: EncoderNetwork, path: Path) -> dict[str, Tensor]:
    """Theirs is one stack of our trunk's layers and our head; only the positions differ, and by layers without weights."""
    theirs = _positions(tensors)
    ours = [f"trunk.{name}" for name, layer in encoder.trunk.named_children() if layer.state_dict()] + ["head"]
    if len(theirs) != len(ours):
        raise ModelError(f"{path}: the encoder has {len(theirs)} layers with weights, expected {len(ours)}")
    renamed = dict(zip(theirs, ours, strict=True))
    return {f"{renamed[int(key.split('.')[0])]}.{key.partition('.')[2]}": value for key, value in tensors.items()}
