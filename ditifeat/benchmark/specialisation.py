"""Does each range of time-steps hold what is newly lost there?

Errors left under the code of the first ranges; what swapping the subsets of one range changes, by spatial frequency and by
attribute; the AP of each range; and the effective rank of codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ditifeat.analysis.metrics import effective_rank, mse
from ditifeat.benchmark.classifier import AttributeClassifier, logits
from ditifeat.benchmark.scores import ridge_mean_aps
from ditifeat.benchmark.split import Split
from ditifeat.data.batches import load_images
from ditifeat.data.drawing import to_pixels
from ditifeat.model.diti import DiTi
from ditifeat.model.partition import TimeStepPartition

Range = tuple[int, int]

# In thousandths of a model's time-steps.
ERROR_RANGES: tuple[Range, ...] = ((0, 100), (100, 300), (300, 500), (500, 750), (750, 1000))
SWAP_RANGES: tuple[Range, ...] = ((0, 100), (100, 300), (300, 500), (500, 1000))

COARSE_SIDE = 8  # low frequencies are the means of so many blocks per side

ERROR_IMAGES = 512  # test images, each at one time-step per range

SAMPLED = 64  # test images that are sampled, and swapped

STEPS = 20  # evaluations, also each way of the round trip


def specialisation(
    model: DiTi, codes: np.ndarray, split: Split, classifier: Callable[[], AttributeClassifier]
) -> dict[str, Any]:
    """Measure a model's specialisation on the test images of a split.

    Args:
        model: a DiTi or PDAE model. Nothing is swapped in a code of one subset, as PDAE's.
        codes: `(n, d)`, whose AP and effective rank are measured, averaged over flips or not; all else is of plain codes.
        split: the images that they are the codes of.
        classifier: gives the attribute classifier, if something is swapped.

    Returns:
        "ranges" of time-steps: of "error_left", of "swaps", and of the "probe". And "values", numbers in dicts and lists:
        "error_left" as the function, one column for a code of one subset; "mse_random" and "round_trip", MSE (0..1) of images
        sampled from a random `x_T`, and of the fixed-point solver from their own; "attributes", each range's shares by
        attribute, as `attribute_shares`; "swaps", each range's as `frequency_shares`, and the mean over "attributes"; "alone"
        and "cumulative", the mean AP of ridge regression on each range, and on it and all before; and "effective_rank".

    >>> from ditifeat.benchmark.specialisation import specialisation
    >>> specialisation(model, codes, split, lambda: classifier)["values"]["effective_rank"]  # doctest: +SKIP
    458.1
    """
    device, partition, test = model.mean.device, model.partition, split.images[split.test]
    error_ranges, swap_ranges = (scaled(ranges, partition) for ranges in (ERROR_RANGES, SWAP_RANGES))
    errors = error_left(model, load_images(test[:ERROR_IMAGES], device), error_ranges)
    images = load_images(test[:SAMPLED], device)
    swapped = sample_swapped(model, images, swap_ranges if partition.k > 1 else ())
    sampled = next(swapped)
    columns = [partition.dims_of_time_steps(lo, hi) for lo, hi in partition.ranges]
    values: dict[str, Any] = {
        "error_left": (errors if partition.k > 1 else errors[:, -1:]).tolist(),
        "mse_random": float(mse(sampled, images).mean()),
        "round_trip": _round_trip(model, images),
        "alone": ridge_mean_aps(codes, split.targets, split.train, columns),
        "cumulative": ridge_mean_aps(codes, split.targets, split.train, [slice(0, c.stop) for c in columns]),
        "effective_rank": effective_rank(codes[split.test]),
    }
    if partition.k > 1:
        changed = list(swapped)
        by_attribute = attribute_shares(classifier(), sampled, changed)
        values["swaps"] = frequency_shares([image - sampled for image in changed])
        values["swaps"]["attributes"] = np.mean(by_attribute, axis=0).tolist()
        values["attributes"] = dict(zip(split.attributes, by_attribute, strict=True))
    ranges = {"error_left": error_ranges, "swaps": swap_ranges, "probe": partition.ranges}
    return {"ranges": ranges, "values": values}


def scaled(ranges: Sequence[Range], partition: TimeStepPartition) -> list[Range]:
    """Scale ranges in thousandths to a partition's time-steps; those that hold none are left out.

    >>> from ditifeat.benchmark.specialisation import SWAP_RANGES, scaled
    >>> scaled(SWAP_RANGES, ditifeat.TimeStepPartition(4, 8, num_time_steps=100))
    [(0, 10), (10, 30), (30, 50), (50, 100)]
    """
    found = [tuple(t * partition.num_time_steps // 1000 for t in ends) for ends in ranges]
    return [(lo, hi) for lo, hi in found if lo < hi]


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
        cumulative code, what lies right of the diagonal equals the diagonal, and is not measured again.
    """
    generator = torch.Generator().manual_seed(seed)
    total = np.zeros((len(ranges), len(ranges)))
    for part in images.split(batch_size):
        x_0, z = model.codec.encode(part), model.encoder(part)
        for row, (lo, hi) in enumerate(ranges):
            t = torch.randint(lo, hi, (len(part),), generator=generator).to(part.device)
            noise = torch.randn(x_0.shape, generator=generator).to(part.device)
            x_t = model.schedule.add_noise(x_0, noise, t)
            before = _squared_error(model, x_0, x_t, t, None)
            for column, (_, end) in enumerate(ranges[: row + 1]):
                kept = z.clone()
                kept[:, _last_dimension(model, end) :] = 0
                total[row, column] += float((_squared_error(model, x_0, x_t, t, kept) / before).double().sum())
            total[row, row + 1 :] = total[row, row]
    return total / len(images)


def _last_dimension(model: DiTi, time_step: int) -> int:
    """The dimensions of subsets that begin before a time-step end here."""
    subsets = [i for i in range(model.partition.k) if model.partition.time_steps_of_subset(i).start < time_step]
    return model.partition.boundaries[len(subsets)]


def _squared_error(model: DiTi, x_0: Tensor, x_t: Tensor, t: Tensor, z: Tensor | None) -> Tensor:
    noise = model.noise(x_t, t, z, coefficient="trained")
    estimate = (x_t - model.schedule.at("sigma", t) * noise) / model.schedule.at("signal", t)
    return (x_0 - estimate).square().mean((1, 2, 3))


@torch.no_grad()
def _round_trip(model: DiTi, images: Tensor, batch_size: int = 32) -> float:
    """MSE (0..1) of images inverted and sampled by the fixed-point solver."""
    errors = []
    for part in images.split(batch_size):
        z = model.encoder(part)
        x_T = model.invert(part, z, STEPS, "fixed_point")
        errors.append(mse(model.sample(x_T, z, STEPS, solver="fixed_point"), part))
    return float(torch.cat(errors).mean())


@torch.no_grad()
def sample_swapped(
    model: DiTi, images: Tensor, ranges: Sequence[Range], *, steps: int = STEPS, seed: int = 0, batch_size: int = 32
) -> Iterator[Tensor]:
    """Sample images from a random `x_T`: under their own code, then, per range, with that range's subsets of the next image.

    Args:
        model: a DiTi or PDAE model.
        images: `(B, 3, S, S)` in [-1, 1], at least 2 for a swap to change anything.
        ranges: of time-steps (lo, hi). Subsets belong to the range that holds their first time-step.
        steps: of DDIM.
        seed: of `x_T`, one per image, which all of an image's samples share.
        batch_size: images per batch.

    Returns:
        An iterator over images `(B, 3, S, S)`: `1 + ranges` of these.
    """
    z = torch.cat([model.encoder(part) for part in images.split(batch_size)])
    generator = torch.Generator().manual_seed(seed)
    x_T = torch.randn((len(images), *model.noise_shape), generator=generator).to(images.device)
    for lo, hi in ((0, 0), *ranges):
        dims = slice(_last_dimension(model, lo), _last_dimension(model, hi))
        swapped = z.clone()
        swapped[:, dims] = z.roll(1, 0)[:, dims]
        parts = zip(x_T.split(batch_size), swapped.split(batch_size), strict=True)
        yield torch.cat([model.sample(noise, code, steps) for noise, code in parts])


def frequency_shares(changes: Sequence[Tensor]) -> dict[str, list[float]]:
    """Split the squared change of each range's swap into low frequencies and the rest.

    Args:
        changes: differences of images, `(B, 3, S, S)` per range.

    Returns:
        Per range "low" and "rest", its shares in the sum over ranges; and "ratio", its low over its other energy, which is NaN
        where it changes nothing.

    >>> from ditifeat.benchmark.specialisation import frequency_shares
    >>> frequency_shares([torch.ones(1, 3, 16, 16), 2 * torch.ones(1, 3, 16, 16)])["low"]
    [0.2, 0.8]
    """
    low, rest = np.array([band_energies(change) for change in changes]).T
    ratio = np.divide(low, rest, out=np.full(len(changes), np.nan), where=rest > 0)
    shares = {name: (band / max(band.sum(), 1e-12)).tolist() for name, band in (("low", low), ("rest", rest))}
    return {**shares, "ratio": ratio.tolist()}


def attribute_shares(classifier: AttributeClassifier, sampled: Tensor, swapped: Sequence[Tensor]) -> list[list[float]]:
    """Say where in the time-steps attributes are: what swapping each range does to their logits.

    Args:
        classifier: of images, trained on others.
        sampled: images `(B, 3, S, S)` in [-1, 1].
        swapped: the same with a range's subsets of other images, per range.

    Returns:
        Per attribute, each range's share in the sum over ranges of the logit's mean absolute change.
    """
    before = logits(classifier, to_pixels(sampled))
    changes = np.stack([np.abs(logits(classifier, to_pixels(images)) - before).mean(0) for images in swapped])
    shares: list[list[float]] = (changes / changes.sum(0).clip(1e-12)).T.tolist()
    return shares


def band_energies(change: Tensor) -> tuple[float, float]:
    """Split the mean squared change of images `(B, 3, S, S)` into that of 8 x 8 block means and that of the rest.

    >>> band_energies(torch.ones(1, 3, 16, 16))
    (1.0, 0.0)
    """
    coarse = functional.interpolate(
        functional.adaptive_avg_pool2d(change, COARSE_SIDE), change.shape[-2:], mode="nearest"
    )
    return float(coarse.square().mean()), float((change - coarse).square().mean())
