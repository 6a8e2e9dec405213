"""The noise schedule and the coefficients of the method (DiTi eq. 3-6; PDAE eq. 10-13)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditifeat.errors import ModelError
from ditifeat.files import read_json
from ditifeat.model.partition import MAX_TIME_STEPS

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


# Those whose betas say all. Others (flow matching, EDM) have none, and would be read as a linear schedule.
SCHEDULERS = (
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler", "LCMScheduler", "DDPMParallelScheduler",
    "DDIMParallelScheduler", "DDIMInverseScheduler",
)  # fmt: skip

# What a scheduler's configuration says of the noise; the rest is about steps.
NOISE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type")


def read_scheduler(folder: Path) -> dict[str, Any]:
    """Return a diffusers scheduler's `scheduler_config.json`, checked, with its class's defaults for what it does not say.

    Raises:
        MissingFileError: if it does not exist.
        ModelError: if it is no noise schedule.
    """
    path = folder / "scheduler_config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise ModelError(f"{path}: is not the configuration of a scheduler")
    try:
        config = with_defaults(config)
        NoiseSchedule(scheduler_betas(config), config["prediction_type"])
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return config


def with_defaults(config: dict[str, Any]) -> dict[str, Any]:
    """Return a scheduler's configuration with what its class takes for the noise where it says nothing.

    The classes differ: an `LCMScheduler` without betas has those of Stable Diffusion.

    Raises:
        ModelError: for a class whose noise does not follow from betas.

    Example:
        >>> from ditifeat.model.schedule import with_defaults
        >>> with_defaults({"_class_name": "LCMScheduler"})["beta_schedule"]
        'scaled_linear'
    """
    kind = config.get("_class_name", SCHEDULERS[0])
    if kind not in SCHEDULERS:
        raise ModelError(
            f"the scheduler {kind!r} is not one of {', '.join(SCHEDULERS)}: its noise does not follow from betas, as flow "
            "matching's and EDM's does not, or is not known"
        )
    parameters = _parameters(kind)
    return {key: parameters[key].default for key in NOISE_KEYS} | config


def _parameters(kind: str) -> Mapping[str, inspect.Parameter]:
    import diffusers

    return inspect.signature(getattr(diffusers, kind).__init__).parameters


def ddpm_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a `DDPMScheduler` takes of a scheduler's configuration: diffusers prints a line for every other key."""
    known = _parameters("DDPMScheduler")
    said = {key: value for key, value in with_defaults(config).items() if key in known and value is not None}
    # By default a DDPMScheduler clips estimates of x_0; some classes do not, and those without that key never do.
    clip = _parameters(config.get("_class_name", SCHEDULERS[0])).get("clip_sample")
    return {"clip_sample": clip is not None and clip.default} | said


def scheduler_betas(config: dict[str, Any]) -> Tensor:
    """Return betas, float64 `(T,)`, of a diffusers scheduler's configuration (linear, scaled, cosine, trained).

    Raises:
        ModelError: for numbers out of bounds, or a schedule that diffusers does not know.

    Example:
        >>> from ditifeat.model.schedule import scheduler_betas
        >>> scheduler_betas({"num_train_timesteps": 3, "beta_start": 0.1, "beta_end": 0.3})
        tensor([0.1000, 0.2000, 0.3000], dtype=torch.float64)
    """
    from diffusers import DDPMScheduler

    config = with_defaults(config)
    total = config["num_train_timesteps"]
    if not isinstance(total, int) or isinstance(total, bool) or not 1 <= total <= MAX_TIME_STEPS:
        raise ModelError(f"num_train_timesteps = {total!r} is not within 1..{MAX_TIME_STEPS}")
    for key in ("beta_start", "beta_end"):
        value = config[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise ModelError(f"{key} = {value!r} is not within 0..1")
    plain = config["trained_betas"] is None and not config.get("rescale_betas_zero_snr")
    if plain and config["beta_schedule"] == "linear":
        # diffusers computes in float32; the published schedule is worth its full precision.
        return torch.linspace(config["beta_start"], config["beta_end"], total, dtype=torch.float64)
    try:
        betas = torch.as_tensor(DDPMScheduler.from_config(ddpm_config(config)).betas, dtype=torch.float64)
    except Exception as error:  # whatever a wrong value leads to inside diffusers
        raise ModelError(f"diffusers cannot make the noise schedule {config['beta_schedule']!r} ({error})") from error
    if betas.shape != (total,):
        raise ModelError(f"trained_betas are {betas.numel()}, num_train_timesteps = {total}")
    return betas


class NoiseSchedule(nn.Module):
    """`alpha_bar_t` and what follows from it. Tables are computed in float64 and held in float32.

    Args:
        betas: float64 `(T,)`, each in (0, 1).
        prediction_type: what the frozen DM's U-Net gives: "epsilon", "sample" or "v_prediction".

    Raises:
        ModelError: for an unknown prediction type, or a schedule that ends without any signal.
    """

    alpha_bar: Tensor
    signal: Tensor
    sigma: Tensor
    shift_coefficient: Tensor
    loss_weight: Tensor
    image_shift: Tensor

    def __init__(self, betas: Tensor, prediction_type: str = "epsilon"):
        super().__init__()
        if not isinstance(prediction_type, str) or prediction_type not in PREDICTION_TYPES:
            raise ModelError(f"prediction type {prediction_type!r} is not one of {', '.join(PREDICTION_TYPES)}")
        alpha_bar = torch.cumprod(1 - betas.double(), 0)
        if not (torch.isfinite(alpha_bar).all() and alpha_bar[-1] > 0 and alpha_bar[0] < 1):
            raise ModelError("the noise schedule must keep some signal at every time-step (betas strictly within 0..1)")
        self.prediction_type = prediction_type
        self.num_time_steps = len(betas)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        snr = alpha_bar / (1 - alpha_bar)
        # c_t, the mean shift of PDAE expressed on the noise, and w_t, its down-weighting of both ends.
        shift_coefficient = -torch.sqrt(1 - betas.double()) * (1 - previous) / torch.sqrt(1 - alpha_bar)
        loss_weight = snr**0.1 / (1 + snr)
        # G of a correction of x_0 in units of sigma: c_t G = -signal correction. c_0 = 0, so there G can correct nothing.
        image_shift = torch.where(shift_coefficient < 0, -alpha_bar.sqrt() / shift_coefficient, 0.0)
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)
        self.register_buffer("signal", alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - alpha_bar).sqrt().float(), persistent=False)
        self.register_buffer("shift_coefficient", shift_coefficient.float(), persistent=False)
        self.register_buffer("loss_weight", loss_weight.float(), persistent=False)
        self.register_buffer("image_shift", image_shift.float(), persistent=False)

    def at(self, table: str, t: Tensor) -> Tensor:
        """Return a table's values at `t`, int `(B,)`, shaped `(B, 1, 1, 1)` to multiply images."""
        values: Tensor = getattr(self, table)[t]
        return values[:, None, None, None]

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return `x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps`; all `(B, C, H, W)`, `t` int `(B,)`."""
        return self.at("signal", t) * x_0 + self.at("sigma", t) * noise

    def to_noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the DM's output means at `x_t`, whatever it predicts (Salimans & Ho 2022, appendix D)."""
        if self.prediction_type == "epsilon":
            return output
        signal, sigma = self.at("signal", t), self.at("sigma", t)
        if self.prediction_type == "sample":
            return (x_t - signal * output) / sigma
        return signal * output + sigma * x_t

    def to_image(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the image `x_0` that the DM's output means at `x_t`."""
        if self.prediction_type == "sample":
            return output
        signal, sigma = self.at("signal", t), self.at("sigma", t)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * output) / signal
        return signal * x_t - sigma * output

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the DM's output should be: the noise, the image, or `v`."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        return self.at("signal", t) * noise - self.at("sigma", t) * x_0
