"""Does each range of time-steps hold what is newly lost there? Errors left, and what swapping a range changes, by frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ditifeat.model.diti import DiTi

Range = tuple[int, int]

ERROR_RANGES: tuple[Range, ...] = ((0, 100), (100, 300), (300, 500), (500, 750), (750, 1000))
SWAP_RANGES: tuple[Range, ...] = ((0, 100), (100, 300), (300, 500), (500, 1000))
COARSE_SIDE = 8  # low frequencies are the means of so many blocks per side


@torch.no_grad()
def error_left(
    model: DiTi, images: Tensor, ranges: Sequence[Range] = ERROR_RANGES, *, seed: int = 0, batch_size: int = 64
) -> np.ndarray:
    """Measure the share of the frozen DM's error that remains under the code of ranges 1..i, per range of time-steps.

    The error is `||x_0 - x_0'||^2 / ||x_0 - x_0_hat||^2` per image, at a time-step drawn uniformly from the range, averaged.

    Args:
        model: a DiTi or PDAE model.
        images: `(B, 3, S, S)` in [-1, 1], best ones that it was not trained on.
        ranges: of time-steps (lo, hi), in rising order; also what the code is cut into.
        seed: of time-steps and noise, which all codes share.
        batch_size: images per batch.

    Returns:
        `(ranges, ranges)`: row r the range of time-steps, column i the code that keeps ranges 1..i+1. Since a model sees the
        cumulative code, what lies right of the diagonal equals the diagonal.
    """
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(ranges), len(ranges), dtype=torch.float64)
    ends = [_last_dimension(model, hi) for _, hi in ranges]
    for part in images.split(batch_size):
        x_0, z = model.codec.encode(part), model.encoder(part)
        for row, (lo, hi) in enumerate(ranges):
            t = torch.randint(lo, hi, (len(part),), generator=generator).to(part.device)
            noise = torch.randn(x_0.shape, generator=generator).to(part.device)
            x_t = model.schedule.add_noise(x_0, noise, t)
            before = _squared_error(model, x_0, x_t, t, None)
            for column, end in enumerate(ends):
                kept = z.clone()
                kept[:, end:] = 0
                total[row, column] += (_squared_error(model, x_0, x_t, t, kept) / before).double().sum().cpu()
    return (total / len(images)).numpy()


def _last_dimension(model: DiTi, time_step: int) -> int:
    """The dimensions of subsets that begin before a time-step end here."""
    subsets = [i for i in range(model.partition.k) if model.partition.time_steps_of_subset(i).start < time_step]
    return model.partition.boundaries[len(subsets)]


def _squared_error(model: DiTi, x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor | None) -> Tensor:
    noise = model.noise(x_t, t, z, coefficient="trained")
    estimate = (x_t - model.schedule.at("sigma", t) * noise) / model.schedule.at("signal", t)
    return (x_0 - estimate).square().mean((1, 2, 3))


class SwapChanges(NamedTuple):
    """Shares of each range in the summed squared change that swapping can make, of low and of high frequencies, `(ranges,)`."""

    low: np.ndarray
    high: np.ndarray


@torch.no_grad()
def swap_changes(
    model: DiTi, images: Tensor, ranges: Sequence[Range] = SWAP_RANGES, *, steps: int = 20, seed: int = 0
) -> SwapChanges:
    """Put each range's subsets of another image in, and measure what of the sampled image changes, by spatial frequency.

    Image and swapped image are sampled from one random `x_T`; each image takes the subsets of the next.

    Args:
        model: a DiTi or PDAE model.
        images: `(B, 3, S, S)` in [-1, 1], B at least 2.
        ranges: of time-steps (lo, hi).
        steps: of DDIM.
        seed: of `x_T`.
    """
    z = model.encoder(images)
    other = z.roll(1, 0)
    x_T = torch.randn((len(images), *model.noise_shape), generator=torch.Generator().manual_seed(seed)).to(
        images.device
    )
    unchanged = model.sample(x_T, z, steps)
    changes = []
    for lo, hi in ranges:
        swapped = z.clone()
        dims = slice(_last_dimension(model, lo), _last_dimension(model, hi))
        swapped[:, dims] = other[:, dims]
        changes.append(band_energies(model.sample(x_T, swapped, steps) - unchanged))
    low, high = (np.array([change[band] for change in changes]) for band in (0, 1))
    return SwapChanges(low / max(low.sum(), 1e-12), high / max(high.sum(), 1e-12))


def band_energies(change: Tensor) -> tuple[float, float]:
    """Split the mean squared change of images `(B, 3, S, S)` into that of 8 x 8 block means and that of the rest.

    >>> band_energies(torch.ones(1, 3, 16, 16))
    (1.0, 0.0)
    """
    coarse = functional.interpolate(
        functional.adaptive_avg_pool2d(change, COARSE_SIDE), change.shape[-2:], mode="nearest"
    )
    return float(coarse.square().mean()), float((change - coarse).square().mean())
