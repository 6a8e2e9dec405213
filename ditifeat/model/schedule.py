"""The noise schedule and the coefficients of the method (DiTi eq. 3-6; PDAE eq. 10-13)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ditifeat.errors import ModelError

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def scheduler_betas(config: dict[str, Any]) -> Tensor:
    """Betas, float64 `(T,)`, of a diffusers scheduler's configuration (linear, scaled, cosine, trained)."""
    from diffusers import DDPMScheduler

    if config.get("beta_schedule", "linear") == "linear" and config.get("trained_betas") is None:
        # diffusers computes in float32; the published schedule is worth its full precision.
        start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
        return torch.linspace(start, end, config.get("num_train_timesteps", 1000), dtype=torch.float64)
    return DDPMScheduler.from_config(config).betas.double()


V_WEIGHT_CAP = 6.0  # as the bundled DM was trained; lower favours late time-steps


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
    v_shift: Tensor
    v_weight: Tensor

    def __init__(self, betas: Tensor, prediction_type: str = "epsilon"):
        super().__init__()
        if prediction_type not in PREDICTION_TYPES:
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
        # An estimator that corrects the DM's v (Salimans & Ho 2022) instead of its mean has outputs of one size at every
        # time-step: c_t G = -sqrt(alpha_bar_t) v. c_0 = 0, so there G can correct nothing.
        v_shift = torch.where(shift_coefficient < 0, -alpha_bar.sqrt() / shift_coefficient, 0.0)
        # Errors of the noise to errors of v, capped as min-SNR caps them.
        v_weight = (1 / (1 - alpha_bar)).clamp(max=V_WEIGHT_CAP) / snr
        self.register_buffer("alpha_bar", alpha_bar.float(), persistent=False)
        self.register_buffer("signal", alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - alpha_bar).sqrt().float(), persistent=False)
        self.register_buffer("shift_coefficient", shift_coefficient.float(), persistent=False)
        self.register_buffer("loss_weight", loss_weight.float(), persistent=False)
        self.register_buffer("v_shift", v_shift.float(), persistent=False)
        self.register_buffer("v_weight", v_weight.float(), persistent=False)

    def at(self, table: str, t: Tensor) -> Tensor:
        """A table's values at `t`, int `(B,)`, shaped `(B, 1, 1, 1)` to multiply images."""
        values: Tensor = getattr(self, table)[t]
        return values[:, None, None, None]

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps`; all `(B, C, H, W)`, `t` int `(B,)`."""
        return self.at("signal", t) * x_0 + self.at("sigma", t) * noise

    def to_noise(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise that the DM's output means at `x_t`, whatever it predicts (Salimans & Ho 2022, appendix D)."""
        if self.prediction_type == "epsilon":
            return output
        signal, sigma = self.at("signal", t), self.at("sigma", t)
        if self.prediction_type == "sample":
            return (x_t - signal * output) / sigma
        return signal * output + sigma * x_t

    def to_image(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The image `x_0` that the DM's output means at `x_t`."""
        if self.prediction_type == "sample":
            return output
        signal, sigma = self.at("signal", t), self.at("sigma", t)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * output) / signal
        return signal * x_t - sigma * output

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the DM's output should be: the noise, the image, or `v`."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return x_0
        return self.at("signal", t) * noise - self.at("sigma", t) * x_0
