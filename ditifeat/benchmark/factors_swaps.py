"""What putting in another image's range of subsets changes, factor by factor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ditifeat.benchmark.factors_regressor import Regressor, accuracy, predict
from ditifeat.benchmark.factors_scores import Dims
from ditifeat.data.factors import FACTORS, Values
from ditifeat.model.diti import DiTi


@torch.no_grad()
def sample_with_swapped(
    model: DiTi, images: Tensor, dims: Dims, *, steps: int = 20, seed: int = 0, batch_size: int = 64
) -> list[Tensor]:
    """Sample images from a random `x_T`: under their own codes, then, per set of dimensions, with these of the image before.

    Args:
        model: a DiTi or PDAE model.
        images: `(B, 3, S, S)` in [-1, 1]; the first one's donor is the last.
        dims: indices of dimensions, per set.
        steps: of DDIM.
        seed: of `x_T`, one per image, which all of an image's samples share.
        batch_size: images per batch.

    Returns:
        `1 + sets` of images `(B, 3, S, S)`.
    """
    z = torch.cat([model.encoder(part) for part in images.split(batch_size)])
    x_T = torch.randn((len(images), *model.noise_shape), generator=torch.Generator().manual_seed(seed)).to(z.device)
    found = []
    for chosen in (np.zeros(0, np.int64), *dims):
        swapped = z.clone()
        swapped[:, chosen] = z.roll(1, 0)[:, chosen]
        parts = zip(x_T.split(batch_size), swapped.split(batch_size), strict=True)
        found.append(torch.cat([model.sample(noise, code, steps) for noise, code in parts]))
    return found


def transfer(own: Values, swapped: Values, values: Values) -> np.ndarray:
    """Say how far a swap takes each factor from an image's value to its donor's: 0 keeps it, 1 makes it the donor's.

    The least-squares slope, through 0, of what the swap changes in the predicted targets on what it would change if the factor
    were the donor's; over all of a factor's targets. Where the swap does nothing, or anything that has nothing to do with the
    donor's factor, it is 0.

    Args:
        own: predicted targets `(n,)` of samples under their own codes.
        swapped: the same with dimensions of the image before (`numpy.roll` by 1).
        values: the true values of the factors, `(n,)` per factor.

    Returns:
        `(factors,)`.

    >>> from ditifeat.benchmark.factors_swaps import transfer
    >>> from ditifeat.data.factors import sample_values, targets
    >>> values = sample_values(8)
    >>> own = targets(values)
    >>> float(transfer(own, {name: np.roll(column, 1) for name, column in own.items()}, values).min().round(6))
    1.0
    """
    found = []
    for name, factor in FACTORS.items():
        top = bottom = 0.0
        for target, true in factor.targets(values[name]).items():
            wanted = np.roll(true, 1) - true
            top += float((swapped[target] - own[target]) @ wanted)
            bottom += float(wanted @ wanted)
        found.append(top / max(bottom, 1e-12))
    return np.array(found)


def swaps(
    model: DiTi, regressor: Regressor, images: Tensor, values: Values, dims: Dims, steps: int = 20
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Measure what swapping each set of dimensions transfers.

    Returns:
        `(factors, sets)`, as `transfer`; `(factors,)` of all dimensions swapped; and, per factor, the score of the regressor's
        reading of the samples under their own codes, against the truth.
    """
    everything = np.arange(model.partition.d)
    own, *others = sample_with_swapped(model, images, [*dims, everything], steps=steps)
    before = predict(regressor, own)
    moved = [transfer(before, predict(regressor, other), values) for other in others]
    return np.stack(moved[:-1], axis=1), moved[-1], accuracy(regressor, own, values)


def selectivity(transferred: np.ndarray, ranges: Sequence[tuple[int, int]], lost: Sequence[int]) -> dict[str, float]:
    """Average what is transferred by the range in which a factor is lost, by theory, and by the others.

    Args:
        transferred: `(factors, ranges)`.
        ranges: of time-steps.
        lost: the time-step at which each factor is lost.

    >>> from ditifeat.benchmark.factors_swaps import selectivity
    >>> selectivity(np.array([[0.8, 0.2], [0.0, 1.0]]), [(0, 500), (500, 1000)], [300, 600])
    {'own': 0.9, 'other': 0.1}
    """
    mine = np.array([[lo <= t < hi for lo, hi in ranges] for t in lost])
    return {"own": float(transferred[mine].mean()), "other": float(transferred[~mine].mean())}
