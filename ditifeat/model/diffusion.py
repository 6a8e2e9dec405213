"""The diffusion model: a U-Net, its noise schedule and the space it works in. Frozen wherever DiTi uses it."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from ditifeat.errors import ModelError
from ditifeat.files import load_strictly, read_json, read_tensors, write_tensors, write_text
from ditifeat.model.codec import PixelCodec
from ditifeat.model.sampling import ddim_sample
from ditifeat.model.schedule import NoiseSchedule, scheduler_betas
from ditifeat.model.unet import DownPath, attention_layers, check_unet, down_path, up_path

WEIGHTS = "diffusion_pytorch_model.safetensors"

# Names that diffusers gave attention's layers before 0.15; google/ddpm-* still have them.
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class DiffusionModel(nn.Module):
    """An unconditional DM `eps_theta(x_t, t)`, whatever its U-Net predicts.

    Args:
        unet: a diffusers `UNet2DModel` over the codec's space.
        scheduler: a diffusers scheduler's configuration: `num_train_timesteps`, `beta_*`, `prediction_type`.
        codec: images to the U-Net's space and back; pixels by default.

    Raises:
        ModelError: for a U-Net that is no unconditional DDPM, or a schedule without signal at its end.
    """

    def __init__(self, unet: UNet2DModel, scheduler: dict[str, Any], codec: PixelCodec | None = None):
        super().__init__()
        check_unet(unet)
        self.unet = unet
        self.scheduler = scheduler
        self.schedule = NoiseSchedule(scheduler_betas(scheduler), scheduler.get("prediction_type", "epsilon"))
        self.codec = codec if codec is not None else PixelCodec()

    def features(self, x_t: Tensor, t: Tensor) -> DownPath:
        """The U-Net's down path at `x_t` `(B, C, h, w)`, `t` int `(B,)`, shared by the DM and the estimator."""
        return down_path(self.unet, x_t, t)

    def noise_from(self, features: DownPath, x_t: Tensor, t: Tensor) -> Tensor:
        """`eps_theta(x_t, t)` from the down path's features."""
        return self.schedule.to_noise(up_path(self.unet, features, features.time_embedding), x_t, t)

    def noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """`eps_theta(x_t, t)`, `(B, C, h, w)`."""
        return self.noise_from(self.features(x_t, t), x_t, t)

    @torch.no_grad()
    def sample(self, x_T: Tensor, steps: int = 50) -> Tensor:
        """Unconditional images `(B, 3, H, W)` in [-1, 1] from `x_T` `(B, C, h, w)`, by DDIM."""
        return self.codec.decode(ddim_sample(self.noise, self.schedule, x_T, steps, self.codec.bounded))

    @classmethod
    def load(cls, folder: Path, codec: PixelCodec | None = None, heads: int | None = None) -> DiffusionModel:
        """Reads a diffusers folder (`unet/` and `scheduler/`, or both flat as google/ddpm-* have them).

        Args:
            folder: the folder.
            codec: the space that the U-Net works in.
            heads: of every attention layer, where the U-Net's configuration cannot say.

        Raises:
            ModelError: if a file is missing, a configuration unknown, or the weights do not fit it.
        """
        unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
        scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
        unet = _read_unet(unet_folder)
        if heads is not None:
            for layer in attention_layers(unet):
                if layer.to_q.out_features % heads:
                    raise ModelError(
                        f"dm: attention_heads = {heads} does not divide {layer.to_q.out_features} channels"
                    )
                layer.heads = heads
        return cls(unet, read_json(scheduler_folder / "scheduler_config.json"), codec)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes a diffusers folder, which `DDPMPipeline.from_pretrained` reads when the codec is pixels."""
        config = {"_class_name": "UNet2DModel", **{k: v for k, v in self.unet.config.items() if not k.startswith("_")}}
        scheduler = {"_class_name": "DDPMScheduler", **DDPMScheduler.from_config(self.scheduler).config}
        index = {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        }
        tensors = {key: value.to(dtype) for key, value in self.unet.state_dict().items()}
        write_tensors(folder / "unet" / WEIGHTS, tensors, {"format": "pt"})
        write_text(folder / "unet" / "config.json", json.dumps(config, indent=2) + "\n")
        write_text(folder / "scheduler" / "scheduler_config.json", json.dumps(dict(scheduler), indent=2) + "\n")
        write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def read_unet_config(folder: Path) -> UNet2DModel:
    """The U-Net of a folder's `config.json` on the meta device, without weights; every key and bound checked.

    Raises:
        ModelError: for a configuration that is no unconditional DDPM's.
    """
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ModelError(f"{folder}/config.json: is not the configuration of a UNet2DModel")
    known = inspect.signature(UNet2DModel.__init__).parameters
    values = {key: value for key, value in config.items() if not key.startswith("_")}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ModelError(f"{folder}/config.json: unknown key {', '.join(unknown)}")
    _check_bounds(values, f"{folder}/config.json")
    try:
        with torch.device("meta"):
            unet = UNet2DModel(**values)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        raise ModelError(f"{folder}/config.json: diffusers cannot build it ({error})") from error
    check_unet(unet)
    return unet


def _read_unet(folder: Path) -> UNet2DModel:
    unet = read_unet_config(folder)
    if not (folder / WEIGHTS).exists():
        raise ModelError(f"{folder / WEIGHTS}: there is no such file; weights other than safetensors are never read")
    tensors, _ = read_tensors(folder / WEIGHTS)
    for old, new in OLD_ATTENTION.items():
        tensors = {key.replace(old, new) if "attentions" in key else key: value for key, value in tensors.items()}
    load_strictly(unet, tensors, str(folder / WEIGHTS))
    return unet.eval()


def _check_bounds(config: dict[str, Any], where: str) -> None:
    """Numbers that a U-Net could have, before anything is built from them."""
    channels = config.get("block_out_channels", ())
    if not isinstance(channels, list | tuple) or len(channels) > 10:
        raise ModelError(f"{where}: block_out_channels must list at most 10 levels")
    numbers = {f"block_out_channels[{i}]": (c, 8192) for i, c in enumerate(channels)}
    limits = {"in_channels": 4096, "out_channels": 4096, "layers_per_block": 32, "time_embedding_dim": 65536}
    numbers |= {key: (config[key], limit) for key, limit in limits.items() if config.get(key) is not None}
    for key, (value, limit) in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise ModelError(f"{where}: {key} = {value!r} is not within 1..{limit}")
