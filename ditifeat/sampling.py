"""DDIM, there and back (Song et al. 2021; DESIGN.md section 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ditifeat.errors import InputError
from ditifeat.schedule import NoiseSchedule

# (x_t (B, C, H, W), t int64 (B,)) -> noise (B, C, H, W)
NoiseFunction = Callable[[Tensor, Tensor], Tensor]


def time_steps(num_time_steps: int, steps: int) -> range:
    """`range(0, T, T // steps)`, the published spacing.

    Raises:
        InputError: if `steps` is not within 1..T.
    """
    if not 1 <= steps <= num_time_steps:
        raise InputError(f"steps = {steps} is not within 1..{num_time_steps}")
    return range(0, num_time_steps, num_time_steps // steps)


def _ddim_step(
    noise: NoiseFunction, schedule: NoiseSchedule, x: Tensor, t: int, target: Tensor, bounded: bool
) -> Tensor:
    """One deterministic step from `alpha_bar_t` to the `alpha_bar` given as `target`."""
    signal, sigma = schedule.signal[t], schedule.sigma[t]
    eps = noise(x, torch.full((len(x),), t, device=x.device))
    x_0_hat = (x - sigma * eps) / signal
    if bounded:
        x_0_hat = x_0_hat.clamp(-1, 1)
        eps = (x - signal * x_0_hat) / sigma
    return target.sqrt() * x_0_hat + (1 - target).sqrt() * eps


@torch.no_grad()
def ddim_sample(noise: NoiseFunction, schedule: NoiseSchedule, x_T: Tensor, steps: int, bounded: bool = True) -> Tensor:
    """From `x_T` to `x_0`, both `(B, C, H, W)`, in `len(time_steps(T, steps))` evaluations; ends at alpha_bar = 1."""
    ladder = time_steps(schedule.num_time_steps, steps)
    targets = torch.cat([schedule.alpha_bar.new_ones(1), schedule.alpha_bar[list(ladder)][:-1]])
    x = x_T
    for t, target in zip(reversed(ladder), reversed(list(targets)), strict=True):
        x = _ddim_step(noise, schedule, x, t, target, bounded)
    return x


@torch.no_grad()
def ddim_invert(noise: NoiseFunction, schedule: NoiseSchedule, x_0: Tensor, steps: int, bounded: bool = True) -> Tensor:
    """From `x_0` to the `x_T` whose reverse gives it back; ends at alpha_bar = 0."""
    ladder = time_steps(schedule.num_time_steps, steps)
    targets = torch.cat([schedule.alpha_bar[list(ladder)][1:], schedule.alpha_bar.new_zeros(1)])
    x = x_0
    for t, target in zip(ladder, targets, strict=True):
        x = _ddim_step(noise, schedule, x, t, target, bounded)
    return x


def slerp(a: Tensor, b: Tensor, amount: float) -> Tensor:
    """Spherical interpolation of two batches `(B, ...)`, image by image (Shoemake 1985; DDIM eq. 68)."""
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(flat_a, flat_b).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    parallel = sine < 1e-6
    safe = torch.where(parallel, torch.ones_like(sine), sine)
    weight_a = torch.where(parallel, torch.full_like(sine, 1 - amount), torch.sin((1 - amount) * angle) / safe)
    weight_b = torch.where(parallel, torch.full_like(sine, amount), torch.sin(amount * angle) / safe)
    shape = (-1, *[1] * (a.ndim - 1))
    return weight_a.view(shape) * a + weight_b.view(shape) * b
