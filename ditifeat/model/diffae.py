"""Diff-AE (Preechakul et al., CVPR 2022): an encoder and the DM that its code conditions, trained together.

It has what `ditifeat.model.DiTi` has, as far as a model without a frozen DM can: `encoder`, `noise`, `invert`, `sample`,
`load`, `save`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditifeat.errors import InputError, ModelError
from ditifeat.files import load_strictly, read_tensors, write_tensors, write_text
from ditifeat.model.codec import PixelCodec, VAECodec, load_codec
from ditifeat.model.config import ModelConfig, configured_last, read_config
from ditifeat.model.diffusers_folder import write_network_config
from ditifeat.model.diffusion import check_fit, read_unet_config
from ditifeat.model.encoders import EncoderNetwork, read_encoder, write_encoder
from ditifeat.model.estimator import ConditionalUNet
from ditifeat.model.generative import GenerativeModel
from ditifeat.model.sampling import NoiseFunction, Solver
from ditifeat.model.schedule import NoiseSchedule, read_scheduler, scheduler_betas

WEIGHTS = "conditional.safetensors"


class DiffAE(GenerativeModel):
    """Encoder and conditional DM.

    Attributes:
        config: what `config.json` says.
        unet: the conditional U-Net; what it predicts is the schedule's `prediction_type`.
        encoder: images `(B, 3, S, S)` in [-1, 1] to codes `(B, d)`.
        mean, std: of the training images' codes, float32 `(d,)`.
        noise_shape: `(C, h, w)` of `x_t`, `x_T` and noise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        unet: ConditionalUNet,
        encoder: EncoderNetwork,
        scheduler: dict[str, Any],
        codec: PixelCodec,
    ):
        super().__init__()
        self.config = config
        self.partition = config.partition
        self.scheduler = scheduler
        self.schedule = NoiseSchedule(scheduler_betas(scheduler), scheduler.get("prediction_type", "epsilon"))
        self.codec = codec
        self.unet = unet
        self.encoder = encoder
        self.noise_shape = codec.shape(config.image.size)
        self.register_buffer("mean", torch.zeros(config.latent_dim))
        self.register_buffer("std", torch.ones(config.latent_dim))

    @torch.no_grad()
    def noise(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return the noise that the DM predicts in `x_t` under the code, `(B, *noise_shape)`.

        Args:
            x_t: noisy images in the DM's space, `(B, *noise_shape)`.
            t: time-steps, int `(B,)` in `[0, T)`.
            z: codes `(B, d)`.

        Raises:
            InputError: for other shapes, or time-steps out of range.
        """
        self._check(x_t, t, z)
        return self.schedule.to_noise(self.unet(x_t, t, z), x_t, t)

    def _noise_function(self, z: Tensor | None, solver: Solver, *, cumulative: bool) -> NoiseFunction:
        if z is None:
            raise InputError("Diff-AE has no unconditional DM: it needs a code")
        return lambda x_t, t: self.noise(x_t, t, z)

    @classmethod
    def load(cls, folder: str | Path) -> DiffAE:
        """Read a model folder.

        Returns:
            The model on the CPU, in float32 and eval mode, without gradients.

        Raises:
            MissingFileError: if the folder or a file of it does not exist.
            ModelError: if anything is unknown or does not fit.
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
        scheduler = read_scheduler(folder / "dm" / "scheduler")
        model = cls(config, unet, encoder, scheduler, codec)
        model.mean.copy_(mean)
        model.std.copy_(std)
        return model.requires_grad_(False).eval()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the model folder: configuration, encoder, conditional DM, and the VAE if there is one.

        Args:
            folder: the model folder; one that is there is overwritten.
            dtype: of the weights; half precision is read back as float32.

        Raises:
            WriteError: if it cannot be written.
        """
        folder = Path(folder)
        with configured_last(folder, self.config):
            write_encoder(folder, self.encoder, self.mean, self.std, dtype)
            write_tensors(folder / WEIGHTS, {key: value.to(dtype) for key, value in self.unet.state_dict().items()})
            write_network_config(self.unet.unet, folder / "dm" / "unet")
            write_text(folder / "dm" / "scheduler" / "scheduler_config.json", json.dumps(self.scheduler) + "\n")
            if isinstance(self.codec, VAECodec):
                self.codec.save(folder / "vae" if self.config.codec.vae == "model" else folder / "dm" / "vqvae", dtype)
