"""Diff-AE (Preechakul et al., CVPR 2022): an encoder and the DM that its code conditions, trained together.

The face of `ditifeat.model.DiTi`, as far as a model without a frozen DM has one: `encoder`, `noise`, `invert`, `sample`,
`load`, `save`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ditifeat.errors import InputError, ModelError
from ditifeat.files import load_strictly, read_json, read_tensors, write_tensors, write_text
from ditifeat.model.codec import PixelCodec, VAECodec, load_codec
from ditifeat.model.config import ModelConfig, read_config, write_config
from ditifeat.model.diffusers_folder import write_network_config
from ditifeat.model.diffusion import check_fit, read_unet_config
from ditifeat.model.encoders import EncoderNetwork, read_encoder, write_encoder
from ditifeat.model.estimator import ConditionalUNet
from ditifeat.model.generative import GenerativeModel
from ditifeat.model.sampling import Solver
from ditifeat.model.schedule import NoiseSchedule, scheduler_betas

WEIGHTS = "conditional.safetensors"


class DiffAE(GenerativeModel):
    """Encoder and conditional DM.

    Attributes:
        config: of the model folder.
        unet: the conditional U-Net; what it predicts is the schedule's `prediction_type`.
        encoder: image -> code `(B, d)`.
        mean, std: of the training images' codes, `(d,)`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        unet: ConditionalUNet,
        encoder: EncoderNetwork,
        scheduler: dict[str, object],
        codec: PixelCodec,
    ):
        super().__init__()
        self.config = config
        self.partition = config.partition
        self.scheduler = scheduler
        self.schedule = NoiseSchedule(scheduler_betas(scheduler), str(scheduler.get("prediction_type", "epsilon")))
        self.codec = codec
        self.unet = unet
        self.encoder = encoder
        self.noise_shape = codec.shape(config.image.size)
        self.register_buffer("mean", torch.zeros(config.latent_dim))
        self.register_buffer("std", torch.ones(config.latent_dim))

    @torch.no_grad()
    def noise(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """The noise that the DM sees in `x_t` `(B, C, h, w)` under the code `z` `(B, d)`."""
        return self.schedule.to_noise(self.unet(x_t, t, z), x_t, t)

    def _noise_function(self, z: Tensor | None, cumulative: bool, solver: Solver) -> Callable[[Tensor, Tensor], Tensor]:
        if z is None:
            raise InputError("Diff-AE has no unconditional DM: it needs a code")
        return lambda x_t, t: self.noise(x_t, t, z)

    @classmethod
    def load(cls, folder: str | Path) -> DiffAE:
        """Reads a model folder.

        Raises:
            ModelError: if anything is missing, unknown or does not fit.
        """
        folder = Path(folder)
        config = read_config(folder)
        if config.method != "diffae":
            raise ModelError(f"{folder}: is a model of the method {config.method}, not diffae")
        encoder, mean, std = read_encoder(folder, config.encoder, config.image.size, config.latent_dim)
        tensors, _ = read_tensors(folder / WEIGHTS)
        base = read_unet_config(folder / "dm" / "unet")
        codec = load_codec(config.codec, folder, folder / "dm")
        check_fit(base, codec, config, folder / "dm")
        with torch.device("meta"):
            unet = ConditionalUNet(base, config.latent_dim)
        load_strictly(unet, tensors, str(folder / WEIGHTS))
        scheduler = read_json(folder / "dm" / "scheduler" / "scheduler_config.json")
        model = cls(config, unet, encoder, scheduler, codec)
        model.mean.copy_(mean)
        model.std.copy_(std)
        return model.requires_grad_(False).eval()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a model folder: configuration, encoder, conditional DM."""
        folder = Path(folder)
        write_encoder(folder, self.encoder, self.mean, self.std, dtype)
        write_tensors(folder / WEIGHTS, {key: value.to(dtype) for key, value in self.unet.state_dict().items()})
        write_network_config(self.unet.unet, folder / "dm" / "unet")
        write_text(folder / "dm" / "scheduler" / "scheduler_config.json", json.dumps(self.scheduler) + "\n")
        if isinstance(self.codec, VAECodec):
            self.codec.save(folder / "vae" if self.config.codec.vae == "model" else folder / "dm" / "vqvae", dtype)
        # Last, so that a folder with a configuration is a whole one.
        write_config(folder, self.config)
