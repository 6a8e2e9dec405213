"""DiTi: a frozen DM, an encoder, a gradient estimator and the partition that ties them (DiTi eq. 3-8).

Every random number comes in as an argument. Images are `(B, 3, H, W)` in [-1, 1]; `x_t`, `x_T` and noise live in the
frozen DM's space, `(B, *model.noise_shape)`, which for a DM on pixels is the image's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ditifeat.errors import InputError, ModelError
from ditifeat.files import load_strictly, read_tensors, write_tensors
from ditifeat.model.codec import VAECodec, load_codec
from ditifeat.model.config import ModelConfig, configured_last, read_config
from ditifeat.model.decoded import DecodedEstimator
from ditifeat.model.diffusion import DiffusionModel, check_fit
from ditifeat.model.encoders import EncoderNetwork, read_encoder, write_encoder
from ditifeat.model.estimator import GradientEstimator
from ditifeat.model.generative import GenerativeModel
from ditifeat.model.sampling import NoiseFunction, Solver
from ditifeat.model.schedule import NoiseSchedule
from ditifeat.model.unet import DownPath

Detach = Literal["off", "on", "both"]

# Weights `(B,)` of squared errors of the noise, given the schedule, the time-steps `(B,)` and the frozen DM's errors `(B,)`.
WEIGHTINGS: dict[str, Callable[[NoiseSchedule, Tensor, Tensor], Tensor]] = {
    "published": lambda schedule, t, frozen: schedule.loss_weight[t],  # w_t
    # Each image's error as a share of the frozen DM's: all time-steps count alike, also where most of it is unpredictable.
    "relative": lambda schedule, t, frozen: 1 / frozen.clamp(min=1e-12),
}

Estimator = GradientEstimator | DecodedEstimator

Coefficient = Literal["published", "trained"]


class Losses(NamedTuple):
    """Losses per image of a batch, `(B,)`: the model's, and the frozen DM's without any shift."""

    loss: Tensor
    frozen: Tensor


class DiTi(GenerativeModel):
    """The model of *Exploring Diffusion Time-steps for Unsupervised Representation Learning* (ICLR 2024).

    Attributes:
        config: what `config.json` says.
        dm: the frozen diffusion model; it takes no gradients and stays in eval mode.
        encoder: images `(B, 3, S, S)` in [-1, 1] to codes `(B, d)`: `head(inputs(images))`.
        estimator: the gradient estimator G, of the DM's features and an embedded code.
        partition: time-step -> subset -> dimensions.
        mean, std: of the training images' codes, float32 `(d,)`.
        noise_shape: `(C, h, w)` of `x_t`, `x_T` and noise.

    Raises:
        ModelError: if DM and partition differ in their time-steps.

    Example:
        >>> from ditifeat.model import DiTi
        >>> model = DiTi.load(encoder.folder)
        >>> x_0 = torch.zeros(2, 3, 64, 64)
        >>> z = model.encoder(x_0)
        >>> x_T = model.invert(x_0, z, steps=4, solver="fixed_point")
        >>> z.shape, x_T.shape[1:] == model.noise_shape
        (torch.Size([2, 512]), True)
        >>> model.sample(x_T, z, steps=4, solver="fixed_point").shape
        torch.Size([2, 3, 64, 64])
        >>> float(model.loss(x_0, torch.tensor([100, 900]), torch.randn(2, *model.noise_shape))) > 0
        True

        Noise as the DM and the model predict it, and `G`, of the cumulative code:

        >>> t = torch.tensor([100, 900])
        >>> frozen, shift = model.frozen_noise(x_T, t), model.shift(x_T, t, z)
        >>> frozen.shape == shift.shape == model.noise(x_T, t, z).shape == x_T.shape
        True
        >>> kept = model.cumulative_code(z, t) != 0
        >>> bool(kept[0].sum() < kept[1].sum())
        True
        >>> model.losses(x_0, t, torch.randn(2, *model.noise_shape), detach="on")[0].shape  # per image
        torch.Size([2])
        >>> model.save("copy")
    """

    estimator: Estimator
    mean: Tensor
    std: Tensor
    cumulative_masks: Tensor
    subset_masks: Tensor

    def __init__(self, config: ModelConfig, dm: DiffusionModel, encoder: EncoderNetwork, estimator: Estimator):
        super().__init__()
        if dm.schedule.num_time_steps != config.partition.num_time_steps:
            raise ModelError(
                f"the DM has {dm.schedule.num_time_steps} time-steps, the partition {config.partition.num_time_steps}"
            )
        self.config = config
        self.partition = config.partition
        self.dm = dm.requires_grad_(False).eval()
        self.encoder = encoder
        self.estimator = estimator
        self.schedule, self.codec = dm.schedule, dm.codec
        self.noise_shape = dm.codec.shape(config.image.size)
        self.register_buffer("mean", torch.zeros(config.latent_dim))
        self.register_buffer("std", torch.ones(config.latent_dim))
        self.register_buffer("cumulative_masks", torch.from_numpy(self.partition.cumulative_masks()).float(), False)
        self.register_buffer("subset_masks", torch.from_numpy(self.partition.subset_masks()).float(), False)

    def train(self, mode: bool = True) -> DiTi:
        """As `nn.Module.train`, but the frozen DM stays in eval mode."""
        super().train(mode)
        self.dm.eval()
        return self

    def _shift(self, features: DownPath, x_t: Tensor, t: Tensor, code: Tensor, frozen: Tensor) -> Tensor:
        """G in the published units, whatever the estimator's network gives; `frozen` is the frozen DM's noise."""
        if not isinstance(self.estimator, DecodedEstimator):
            output: Tensor = self.estimator(features, code)
            return output
        signal, sigma = self.schedule.at("signal", t), self.schedule.at("sigma", t)
        correction: Tensor = self.estimator(features, code, (x_t - sigma * frozen) / signal, sigma)
        # x_0' = x_0_hat + correction means c_t G = -signal / sigma * correction.
        return self.schedule.at("image_shift", t) / sigma * correction

    def cumulative_code(self, z: Tensor, t: Tensor, *, detach: bool = False) -> Tensor:
        """Return `z_bar_t` `(B, d)`: the code with every dimension of a later subset set to 0 (DiTi section 4.2).

        Args:
            z: codes `(B, d)`.
            t: time-steps, int `(B,)` in `[0, T)`.
            detach: whether gradients reach the current subset alone (the paper's "Detach").
        """
        subset = self.partition.subset(t)
        if not detach:
            return z * self.cumulative_masks[subset]
        current = self.subset_masks[subset]
        return z * current + z.detach() * (self.cumulative_masks[subset] - current)

    @torch.no_grad()
    def frozen_noise(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `eps_theta(x_t, t)` of the frozen DM, `(B, *noise_shape)`.

        Args:
            x_t: noisy images in the DM's space, `(B, *noise_shape)`.
            t: time-steps, int `(B,)` in `[0, T)`.

        Raises:
            InputError: for other shapes, or time-steps out of range.
        """
        self._check(x_t, t)
        return self.dm.noise(x_t, t)

    def shift(self, x_t: Tensor, t: Tensor, z: Tensor, *, cumulative: bool = True) -> Tensor:
        """Return `G(x_t, z_bar_t, t)`, `(B, *noise_shape)` (DiTi eq. 5), with gradients to `z` and the estimator.

        Args:
            x_t, t: as `frozen_noise`.
            z: codes `(B, d)`.
            cumulative: whether later subsets are set to 0; otherwise G is that of the whole code.

        Raises:
            InputError: as `frozen_noise`.
        """
        self._check(x_t, t, z)
        with torch.no_grad():
            features = self.dm.features(x_t, t)
            frozen = self.dm.noise_from(features, x_t, t)
        return self._shift(features, x_t, t, self.cumulative_code(z, t) if cumulative else z, frozen)

    @torch.no_grad()
    def noise(
        self,
        x_t: Tensor,
        t: Tensor,
        z: Tensor | None,
        *,
        cumulative: bool = True,
        coefficient: Coefficient = "published",
    ) -> Tensor:
        """Return the shifted noise `eps_theta - sqrt(1 - alpha_bar_t) G`, `(B, *noise_shape)`.

        Args:
            x_t, t: as `frozen_noise`.
            z: codes `(B, d)`; None for the frozen DM's own noise.
            cumulative: as `shift`.
            coefficient: of G: "published", `-sqrt(1 - alpha_bar_t)`, or "trained", the `c_t` of the loss. A decoded estimator
                knows the latter alone, so that the noise is that of its `x_0'`.

        Raises:
            InputError: as `frozen_noise`, and for another coefficient.
        """
        if coefficient not in get_args(Coefficient):
            raise InputError(f"coefficient = {coefficient!r} is not one of {', '.join(get_args(Coefficient))}")
        self._check(x_t, t, z)
        features = self.dm.features(x_t, t)
        frozen = self.dm.noise_from(features, x_t, t)
        if z is None:
            return frozen
        shift = self._shift(features, x_t, t, self.cumulative_code(z, t) if cumulative else z, frozen)
        if coefficient == "trained" or isinstance(self.estimator, DecodedEstimator):
            return frozen + self.schedule.at("shift_coefficient", t) * shift
        return frozen - self.schedule.at("sigma", t) * shift

    def losses(
        self, x_0: Tensor, t: Tensor, noise: Tensor, detach: Detach = "off", weighting: str = "published"
    ) -> Losses:
        """Return losses per image; see `loss`. `weighting`, one of `WEIGHTINGS`, takes the place of `w_t`."""
        if detach not in ("off", "on", "both"):
            raise InputError(f"detach = {detach!r} is not one of off, on, both")
        self._check_images(x_0)
        self._check(noise, t)
        schedule = self.dm.schedule
        z = self.encoder(x_0)
        with torch.no_grad():
            x_t = schedule.add_noise(self.dm.codec.encode(x_0), noise, t)
            features = self.dm.features(x_t, t)
            frozen_noise = self.dm.noise_from(features, x_t, t)
            error = noise - frozen_noise
        frozen = error.square().mean((1, 2, 3))
        weight = error_weight(schedule, weighting, t, frozen)
        coefficient = schedule.at("shift_coefficient", t)
        total = torch.zeros_like(weight)
        for stop in {"off": (False,), "on": (True,), "both": (False, True)}[detach]:
            shift = self._shift(features, x_t, t, self.cumulative_code(z, t, detach=stop), frozen_noise)
            total = total + weight * (error - coefficient * shift).square().mean((1, 2, 3))
        return Losses(total, weight * frozen)

    def loss(self, x_0: Tensor, t: Tensor, noise: Tensor, detach: Detach = "off") -> Tensor:
        """Return `mean w_t || eps - (eps_theta(x_t, t) + c_t G(x_t, z_bar_t, t)) ||^2` (DiTi eq. 6), a scalar.

        Args:
            x_0: images `(B, 3, H, W)` in [-1, 1].
            t: time-steps, int `(B,)` in `[0, T)`.
            noise: standard normal `(B, *noise_shape)`.
            detach: "off" (base), "on" (gradients reach the current subset alone), "both" (the two losses added).

        Raises:
            InputError: for another `detach`, other shapes, or time-steps out of range.
        """
        return self.losses(x_0, t, noise, detach).loss.mean()

    def _noise_function(self, z: Tensor | None, solver: Solver, *, cumulative: bool) -> NoiseFunction:
        coefficient: Coefficient = "published" if solver == "ddim" else "trained"
        return lambda x_t, t: self.noise(x_t, t, z, cumulative=cumulative, coefficient=coefficient)

    @classmethod
    def load(cls, folder: str | Path) -> DiTi:
        """Read a model folder whose DM lies in it; `ditifeat.load_encoder(name).model` fetches one that does not.

        Returns:
            The model on the CPU, in float32 and eval mode, without gradients.

        Raises:
            MissingFileError: if the folder or a file of it does not exist.
            ModelError: if anything is unknown or does not fit.
        """
        folder = Path(folder)
        config = read_config(folder)
        if config.method != "diti":
            raise ModelError(f"{folder}: is a model of the method {config.method}, not diti")
        if config.dm.repo is not None:
            raise ModelError(
                f"{folder}: its DM is {config.dm.repo} on the Hub; use ditifeat.load_encoder({str(folder)!r}).model"
            )
        return cls.assemble(config, folder, folder / "dm")

    @classmethod
    def assemble(cls, config: ModelConfig, folder: Path, dm_folder: Path) -> DiTi:
        """Read a model whose frozen DM lies in `dm_folder`; otherwise as `load`."""
        dm = DiffusionModel.load(dm_folder, load_codec(config.codec, folder, dm_folder), config.dm.attention_heads)
        check_fit(dm.unet, dm.codec, config, dm_folder)
        encoder, mean, std = read_encoder(folder, config.encoder, config.image.size, config.latent_dim)
        tensors, _ = read_tensors(folder / "estimator.safetensors")
        with torch.device("meta"):  # what the configuration says takes no memory before its tensors are there
            estimator = build_estimator(config, dm, warm_start=True)
        load_strictly(estimator, tensors, str(folder / "estimator.safetensors"))
        model = cls(config, dm, encoder, estimator)
        model.mean.copy_(mean)
        model.std.copy_(std)
        return model.requires_grad_(False).eval()

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the model folder: configuration, encoder, estimator and, unless it is a reference, the DM.

        Args:
            folder: the model folder; one that is there is overwritten.
            dtype: of the weights; half precision is read back as float32.

        Raises:
            WriteError: if it cannot be written.
        """
        folder = Path(folder)
        with configured_last(folder, self.config):
            write_encoder(folder, self.encoder, self.mean, self.std, dtype)
            estimator = {key: value.to(dtype) for key, value in self.estimator.state_dict().items()}
            write_tensors(folder / "estimator.safetensors", estimator)
            if self.config.dm.repo is None:
                self.dm.save(folder / "dm", dtype, vae=self.config.codec.vae == "dm")
            if isinstance(self.codec, VAECodec) and self.config.codec.vae == "model":
                self.codec.save(folder / "vae", dtype)


def build_estimator(config: ModelConfig, dm: DiffusionModel, *, warm_start: bool) -> Estimator:
    """Build the estimator that a configuration names, over a DM; a decoded one is always initialised as the DM's half U-Net.

    Raises:
        ModelError: if the DM is no unconditional DDPM.
    """
    if config.estimator == "published":
        return GradientEstimator(dm.unet, config.latent_dim, warm_start)
    return DecodedEstimator(dm.unet, config.latent_dim, dm.codec.shape(config.image.size), dm.codec.bounded)


def error_weight(schedule: NoiseSchedule, weighting: str, t: Tensor, frozen: Tensor) -> Tensor:
    """Return the weights `(B,)` of squared errors of the noise at `t`; `frozen` `(B,)` are the frozen DM's.

    Raises:
        InputError: for an unknown weighting.
    """
    if weighting not in WEIGHTINGS:
        raise InputError(f"weighting = {weighting!r} is not one of {', '.join(WEIGHTINGS)}")
    return WEIGHTINGS[weighting](schedule, t, frozen)
