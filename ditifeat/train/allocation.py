"""Allocate directions of the features to ranges of time-steps: each where what it explains is first lost.

Pure linear algebra on explained-error matrices: `T_r` `(n, n)` says how much of the frozen DM's error at range r each direction
of whitened features explains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Of the mean eigenvalue of T_{r-1}, added to it: what is small beside that counts as nothing. A share near 0 lets directions
# that explain next to nothing of any range win by their ratio, and leaves the coarse ones, which explain some of all, to the first.
EARLIER_SHARE = 1.0


def without_noise_floor(covariance: Tensor, features: Tensor, error_energy: float) -> Tensor:
    """Estimate `C C^T` without the part that finite samples add: `C` `(n, e)` is the features' sample covariance with the error.

    Args:
        covariance: `(n, e)`, the mean over samples of features times errors.
        features: `(samples, n)`, centred.
        error_energy: mean over samples of the squared norm of an error, less that of the mean error.

    Returns:
        Float64 `(n, n)`; expected to be 0 for errors that the features say nothing of.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x, e = torch.randn(500, 4, generator=generator), torch.randn(500, 30, generator=generator)
    >>> explained = without_noise_floor(x.T @ e / 500, x, float(e.square().sum(1).mean()))
    >>> bool(explained.abs().max() < 0.05)
    True
    """
    samples = len(features)
    own = features.double().T @ features.double() / samples
    covariance = covariance.double()
    return covariance @ covariance.T - own * (error_energy / samples)


def allocate_by_first_loss(explained: Sequence[Tensor], dims: Sequence[int]) -> Tensor:
    """Choose orthonormal directions, and the range that each belongs to.

    Inside the directions of the largest sum over ranges of the root of what they explain (the roots, so that the last range,
    which has most to explain, does not take all), each range from the last to the second takes those with the largest ratio
    of what they explain of its own error to what they explain of the error of the range before; what is left goes to the
    range before, and the first takes the rest. Within a range the largest ratios come first.

    Args:
        explained: per range, early to late, float64 `(n, n)`, symmetric.
        dims: how many directions each range gets.

    Returns:
        `(n, sum(dims))`, columns from the first range to the last.

    >>> early, late = torch.diag(torch.tensor([2.0, 1, 0, 0])), torch.diag(torch.tensor([2.0, 0, 1, 0]))
    >>> allocate_by_first_loss([early.double(), late.double()], (2, 1)).abs().round().argmax(0)
    tensor([0, 1, 2])
    """
    total = torch.stack([_root(each) for each in explained]).sum(0)
    free = torch.linalg.eigh(total)[1][:, -sum(dims) :]
    parts: list[Tensor] = []
    for late in range(len(dims) - 1, 0, -1):
        ordered = free @ _by_ratio(free.T @ explained[late] @ free, free.T @ explained[late - 1] @ free)
        parts.append(ordered[:, : dims[late]])
        free = ordered[:, dims[late] :]
    ranked = torch.linalg.eigh(free.T @ explained[0] @ free)[1].flip(1)
    return torch.cat([free @ ranked, *reversed(parts)], dim=1)


def _root(matrix: Tensor) -> Tensor:
    """The square root of a symmetric matrix; negative eigenvalues, which sampling leaves, count as 0."""
    values, axes = torch.linalg.eigh(matrix)
    return (axes * values.clamp(min=0).sqrt()) @ axes.T


def _by_ratio(late: Tensor, early: Tensor) -> Tensor:
    """An orthonormal basis `(m, m)` whose first columns have the largest ratio `u' late u / u' (early + eps I) u`."""
    variances, axes = torch.linalg.eigh(early)
    variances = variances.clamp(min=0)
    # All zero: nothing explains the earlier range, and the ratio orders by the later one alone.
    least = EARLIER_SHARE * variances.mean() if variances.any() else 1.0
    scaled = axes / (variances + least).sqrt()
    vectors = scaled @ torch.linalg.eigh(scaled.T @ late @ scaled)[1].flip(1)
    basis: Tensor = torch.linalg.qr(vectors)[0]
    return basis
