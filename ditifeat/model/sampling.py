"""DDIM sampling and inversion (Song et al. 2021): as published, and with an (almost) exact round trip by a fixed point."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ditifeat.errors import InputError
from ditifeat.model.schedule import NoiseSchedule
from ditifeat.schema import integer

Solver = Literal["ddim", "fixed_point"]

# (x_t (B, C, H, W), t int64 (B,)) -> noise (B, C, H, W)
NoiseFunction = Callable[[Tensor, Tensor], Tensor]


def ddim_grid(num_time_steps: int, steps: int) -> list[int]:
    """Return rising time-steps of DDIM, exactly `steps`: `range(0, T, T // steps)` as published where `steps` divides T.

    Elsewhere `floor(i T / steps)`, evenly spaced (the published range would have more: 31 for 30, 500 for 400).

    Raises:
        InputError: if `steps` is not an integer within 1..T.

    Example:
        >>> from ditifeat.model.sampling import ddim_grid
        >>> ddim_grid(1000, 4)
        [0, 250, 500, 750]
        >>> ddim_grid(1000, 3)
        [0, 333, 666]
    """
    steps = integer("steps", steps, 1, num_time_steps)
    return [i * num_time_steps // steps for i in range(steps)]


def _ddim_step(
    noise: NoiseFunction, schedule: NoiseSchedule, x: Tensor, t: int, target: Tensor, *, bounded: bool
) -> Tensor:
    """One deterministic step from `alpha_bar_t` to the `alpha_bar` given as `target` (DDIM eq. 12)."""
    signal, sigma = schedule.signal[t], schedule.sigma[t]
    eps = noise(x, torch.full((len(x),), t, device=x.device))
    x_0_hat = (x - sigma * eps) / signal
    if bounded:
        x_0_hat = x_0_hat.clamp(-1, 1)
        eps = (x - signal * x_0_hat) / sigma
    return target.sqrt() * x_0_hat + (1 - target).sqrt() * eps


@torch.no_grad()
def ddim_sample(
    noise: NoiseFunction, schedule: NoiseSchedule, x_T: Tensor, steps: int, *, bounded: bool = True
) -> Tensor:
    """Sample by DDIM as published: from `x_T` to `x_0`, both `(B, C, h, w)`; the last step goes to alpha_bar = 1.

    Args:
        noise: `eps(x_t, t)`.
        schedule: of the DM.
        x_T: where it starts.
        steps: evaluations of `noise`, within 1..T.
        bounded: whether each estimate of `x_0` is clamped to [-1, 1], and the noise recomputed from it.

    Raises:
        InputError: for another number of steps.
    """
    grid = ddim_grid(schedule.num_time_steps, steps)
    targets = torch.cat([schedule.alpha_bar.new_ones(1), schedule.alpha_bar[grid][:-1]])
    x = x_T
    for t, target in zip(reversed(grid), reversed(list(targets)), strict=True):
        x = _ddim_step(noise, schedule, x, t, target, bounded=bounded)
    return x


@torch.no_grad()
def ddim_invert(
    noise: NoiseFunction, schedule: NoiseSchedule, x_0: Tensor, steps: int, *, bounded: bool = True
) -> Tensor:
    """Invert by DDIM as published: from `x_0` to `x_T`, both `(B, C, h, w)`; the last step goes to alpha_bar = 0.

    Args and errors are those of `ddim_sample`.
    """
    grid = ddim_grid(schedule.num_time_steps, steps)
    targets = torch.cat([schedule.alpha_bar[grid][1:], schedule.alpha_bar.new_zeros(1)])
    x = x_0
    for t, target in zip(grid, targets, strict=True):
        x = _ddim_step(noise, schedule, x, t, target, bounded=bounded)
    return x


def fixed_point_grid(num_time_steps: int, steps: int) -> list[int]:
    """Return `steps + 1` rising time-steps of the fixed-point solver, denser early: `0.01 T + 0.94 T (i / steps)^1.5`.

    Below its first, the DM's noise of a real image is mostly the DM's own error, and would be carried into `x_T`.

    Raises:
        InputError: if `steps` is not an integer, or there are not so many different time-steps.

    Example:
        >>> from ditifeat.model.sampling import fixed_point_grid
        >>> fixed_point_grid(1000, 4)
        [10, 128, 342, 621, 950]
    """
    steps = integer("steps", steps)
    if not _rises(num_time_steps, steps):
        most = next((n for n in range(num_time_steps, 0, -1) if _rises(num_time_steps, n)), 0)
        raise InputError(f"steps = {steps}: the fixed-point solver takes 1 to {most} for {num_time_steps} time-steps")
    return _spaced(num_time_steps, steps)


def _spaced(num_time_steps: int, steps: int) -> list[int]:
    first, last = round(0.01 * num_time_steps), min(round(0.95 * num_time_steps), num_time_steps - 1)
    return [round(first + (last - first) * (i / steps) ** 1.5) for i in range(steps + 1)]


def _rises(num_time_steps: int, steps: int) -> bool:
    return 1 <= steps <= num_time_steps and len(set(_spaced(num_time_steps, steps))) == steps + 1


def _transfer(x: Tensor, eps: Tensor, alpha_bar: Tensor, target: Tensor) -> Tensor:
    """What `x` at `alpha_bar` is at `target` when its noise is `eps` (DDIM eq. 12 with sigma = 0)."""
    x_0_hat = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    return target.sqrt() * x_0_hat + (1 - target).sqrt() * eps


@torch.no_grad()
def fixed_point_sample(noise: NoiseFunction, schedule: NoiseSchedule, x_T: Tensor, steps: int) -> Tensor:
    """Sample by DDIM from the last time-step of `fixed_point_grid` to its first, without clamping.

    Args:
        noise: `eps(x_t, t)`.
        schedule: of the DM.
        x_T: `(B, C, h, w)` at the grid's last time-step, 0.95 T.
        steps: evaluations of `noise`.

    Returns:
        `x_0` `(B, C, h, w)`: what is there at the first time-step over its signal's scale.

    Raises:
        InputError: if the grid has not so many time-steps.
    """
    grid = fixed_point_grid(schedule.num_time_steps, steps)
    x = x_T
    for t, target in zip(grid[:0:-1], grid[-2::-1], strict=True):
        eps = noise(x, torch.full((len(x),), t, device=x.device))
        x = _transfer(x, eps, schedule.alpha_bar[t], schedule.alpha_bar[target])
    return x / schedule.signal[grid[0]]


@torch.no_grad()
def fixed_point_invert(noise: NoiseFunction, schedule: NoiseSchedule, x_0: Tensor, steps: int) -> Tensor:
    """Invert `fixed_point_sample`, in as many evaluations: from `x_0` to `x_T`, both `(B, C, h, w)`.

    A step of sampling takes its noise where it starts. So its inverse needs the noise where it ends, and evaluates it at a
    prediction of that place by the last step's noise: one round of the fixed-point iteration of exact inversion (Pan et
    al. 2023, AIDI), from a better start.

    Raises:
        InputError: as `fixed_point_sample`.
    """
    grid = fixed_point_grid(schedule.num_time_steps, steps)
    x = schedule.signal[grid[0]] * x_0
    eps = None
    for t, target in pairwise(grid):
        here, there = schedule.alpha_bar[t], schedule.alpha_bar[target]
        predicted = x if eps is None else _transfer(x, eps, here, there)
        eps = noise(predicted, torch.full((len(x),), target, device=x.device))
        x = _transfer(x, eps, here, there)
    return x


def slerp(a: Tensor, b: Tensor, amount: float) -> Tensor:
    """Interpolate spherically between two batches `(B, ...)`, image by image (Shoemake 1985; DDIM eq. 68).

    Args:
        a, b: what 0 and 1 give.
        amount: between 0 and 1. Where the two have one direction, the interpolation is linear.

    Example:
        >>> from ditifeat.model.sampling import slerp
        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
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
