"""The diffusion model: a U-Net, its noise schedule and the space it works in. Frozen wherever DiTi uses it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from ditifeat.errors import ModelError
from ditifeat.files import write_text
from ditifeat.model.codec import PixelCodec, VAECodec
from ditifeat.model.config import ModelConfig
from ditifeat.model.diffusers_folder import build_from_config, read_weights, write_network
from ditifeat.model.sampling import ddim_sample
from ditifeat.model.schedule import NoiseSchedule, ddpm_config, read_scheduler, scheduler_betas, with_defaults
from ditifeat.model.unet import DownPath, attention_layers, check_unet, cut_learned_variance, down_path, up_path

LEARNED_VARIANCES = ("learned", "learned_range")


class DiffusionModel(nn.Module):
    """An unconditional DM `eps_theta(x_t, t)`, whatever its U-Net predicts.

    Args:
        unet: a diffusers `UNet2DModel` over the codec's space.
        scheduler: a diffusers scheduler's configuration: `num_train_timesteps`, `beta_*`, `prediction_type`.
        codec: images to the U-Net's space and back; pixels by default.

    Raises:
        ModelError: for a U-Net that is no unconditional DDPM or gives other channels than it takes, or a schedule without signal
            at its end.
    """

    def __init__(self, unet: UNet2DModel, scheduler: dict[str, Any], codec: PixelCodec | None = None):
        super().__init__()
        check_unet(unet)
        _check_channels(unet)
        self.unet = unet
        self.scheduler = with_defaults(scheduler)
        self.schedule = NoiseSchedule(scheduler_betas(scheduler), self.scheduler["prediction_type"])
        self.codec = codec if codec is not None else PixelCodec()

    def features(self, x_t: Tensor, t: Tensor) -> DownPath:
        """Return the U-Net's down path at `x_t` `(B, C, h, w)`, `t` int `(B,)`, shared by the DM and the estimator."""
        return down_path(self.unet, x_t, t)

    def noise_from(self, features: DownPath, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `eps_theta(x_t, t)` from the down path's features."""
        return self.schedule.to_noise(up_path(self.unet, features, features.time_embedding), x_t, t)

    def noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `eps_theta(x_t, t)`, `(B, C, h, w)`."""
        return self.noise_from(self.features(x_t, t), x_t, t)

    @torch.no_grad()
    def sample(self, x_T: Tensor, steps: int = 50) -> Tensor:
        """Sample unconditional images `(B, 3, H, W)` in [-1, 1] from `x_T` `(B, C, h, w)`, by DDIM."""
        return self.codec.decode(ddim_sample(self.noise, self.schedule, x_T, steps, bounded=self.codec.bounded))

    @classmethod
    def load(cls, folder: Path, codec: PixelCodec | None = None, heads: int | None = None) -> DiffusionModel:
        """Read a diffusers folder (`unet/` and `scheduler/`, or both flat as google/ddpm-* have them).

        A variance that the U-Net learnt beside its prediction is cut off: DDIM needs none.

        Args:
            folder: the folder.
            codec: the space that the U-Net works in.
            heads: of every attention layer, where the U-Net's configuration cannot say.

        Raises:
            ModelError: if a file is missing, a configuration unknown, or the weights do not fit it.
        """
        unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
        scheduler_folder = folder / "scheduler" if (folder / "scheduler").is_dir() else folder
        unet = read_unet_config(unet_folder)
        read_weights(unet, unet_folder)
        scheduler = read_scheduler(scheduler_folder)
        if (
            scheduler.get("variance_type") in LEARNED_VARIANCES
            and unet.config.out_channels == 2 * unet.config.in_channels
        ):
            cut_learned_variance(unet)
            del scheduler["variance_type"]
        unet.eval()
        if heads is not None:
            for layer in attention_layers(unet):
                if layer.to_q.out_features % heads:
                    raise ModelError(
                        f"dm: attention_heads = {heads} does not divide {layer.to_q.out_features} channels"
                    )
                layer.heads = heads
        return cls(unet, scheduler, codec)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32, *, vae: bool = True) -> None:
        """Write a diffusers folder, which `DDPMPipeline` reads over pixels, and `LDMPipeline` over a VAE's latents.

        Args:
            folder: the folder.
            dtype: of the weights.
            vae: whether the VAE of a DM over latents is written beside the U-Net.
        """
        parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
        write_network(self.unet, folder / "unet", dtype)
        whole = DDPMScheduler.from_config(ddpm_config(self.scheduler)).config
        scheduler = {"_class_name": "DDPMScheduler", **{k: v for k, v in whole.items() if not k.startswith("_")}}
        write_text(folder / "scheduler" / "scheduler_config.json", json.dumps(scheduler, indent=2) + "\n")
        if vae and isinstance(self.codec, VAECodec):
            self.codec.save(folder / "vqvae", dtype)  # the name that LDMPipeline gives any of them
            parts["vqvae"] = ["diffusers", type(self.codec.vae).__name__]
        index = {"_class_name": "LDMPipeline" if "vqvae" in parts else "DDPMPipeline", **parts}
        write_text(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def read_unet_config(folder: Path) -> UNet2DModel:
    """Return the U-Net of a folder's `config.json` on the meta device, without weights; every key and bound checked.

    Raises:
        ModelError: for a configuration that is no unconditional DDPM's.
    """
    unet: UNet2DModel = build_from_config(folder, {"UNet2DModel": UNet2DModel})
    check_unet(unet)
    return unet


def _check_channels(unet: UNet2DModel) -> None:
    given, made = unet.config.in_channels, unet.config.out_channels
    if given != made:
        raise ModelError(
            f"the frozen DM maps {given} to {made} channels; it must give as many as it takes, or twice as many where its "
            f"scheduler's variance_type is one of {', '.join(LEARNED_VARIANCES)}"
        )


def check_fit(unet: UNet2DModel, codec: PixelCodec, config: ModelConfig, folder: Path) -> None:
    """Refuse a U-Net that cannot read what the codec makes of the model's images.

    Raises:
        ModelError: with the numbers that differ.
    """
    _check_channels(unet)
    channels, side, _ = codec.shape(config.image.size)
    if unet.config.in_channels != channels:
        raise ModelError(
            f"{folder}: the DM reads {unet.config.in_channels} channels, the codec {config.codec.kind} gives {channels}; "
            + _fitting_codec(unet.config.in_channels)
        )
    halved = 2 ** (len(unet.config.block_out_channels) - 1)
    if side % halved:
        raise ModelError(
            f"{folder}: the DM halves its maps to 1/{halved}, which the {side} x {side} of {config.image.size} px images are not"
        )


def _fitting_codec(channels: int) -> str:
    """What the channels of a DM say of its space."""
    factor = math.isqrt(channels // 3)
    if channels == 1:
        return "it is one of greyscale images, which are not supported"
    if channels == 3:
        return "a DM over RGB images needs codec: {kind: pixels}, one over latents codec: {kind: vae}"
    blocks = f"codec: {{kind: unshuffle, factor: {factor}}} gives as many, " if 3 * factor**2 == channels else ""
    return f"{blocks}a DM over latents needs codec: {{kind: vae}}"
