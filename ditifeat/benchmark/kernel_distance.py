"""Kernel distance of two sets of images over features of EfficientNet-Lite0, with its standard error.

The kernel is KID's (Binkowski et al., ICLR 2018), the features are not: KID reads Inception-v3's. So these numbers compare with
each other, and with no published KID or FID.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ditifeat.errors import InputError

SCALE = 1000  # squared MMDs of features are small

BLOCKS = 10  # that the standard error leaves out, one after the other


class KernelDistance(NamedTuple):
    """A squared maximum mean discrepancy times 1000, and its standard error."""

    distance: float
    error: float


def kernel_distance_with_error(a: np.ndarray, b: np.ndarray) -> KernelDistance:
    """Estimate the squared MMD of two samples under the kernel `(x y / f + 1)^3`, times 1000, and its standard error.

    The distance is unbiased, from all pairs of rows: near 0, and then of either sign, when both come from one distribution.
    The error is the jackknife's: each of ten random blocks of both is left out in turn (fewer where there are under 30 rows).

    Args:
        a, b: features `(n, f)` and `(m, f)`.

    Raises:
        InputError: for other shapes, or fewer than 6 rows in one.

    >>> from ditifeat.benchmark.kernel_distance import kernel_distance_with_error
    >>> kernel_distance_with_error(np.zeros((8, 2)), np.full((8, 2), 2.0))
    KernelDistance(distance=124000.0, error=0.0)
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 6:
        raise InputError(f"features of shape {a.shape} and {b.shape}: they need equal width and six rows each")
    blocks = min(BLOCKS, min(len(a), len(b)) // 3)
    parts_a, parts_b = (_random_blocks(x, blocks) for x in (a, b))
    pairs = _Pairs(
        _kernel_sums(parts_a, parts_a),
        _kernel_sums(parts_b, parts_b),
        _kernel_sums(parts_a, parts_b),
        np.array([_diagonal(part) for part in parts_a]),
        np.array([_diagonal(part) for part in parts_b]),
        np.array([len(part) for part in parts_a]),
        np.array([len(part) for part in parts_b]),
    )
    without = np.array([_squared_mmd(pairs, np.arange(blocks) != i) for i in range(blocks)])
    error = np.sqrt((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum())
    return KernelDistance(SCALE * _squared_mmd(pairs, np.full(blocks, True)), SCALE * float(error))


def _random_blocks(x: np.ndarray, blocks: int) -> list[np.ndarray]:
    """Random, as the order of files may be that of what they show."""
    order = np.random.default_rng(0).permutation(len(x))
    return [x[order[i::blocks]].astype(np.float64) for i in range(blocks)]


class _Pairs(NamedTuple):
    """Sums of the kernel over pairs of blocks `(blocks, blocks)`, over rows with themselves `(blocks,)`, and blocks' sizes."""

    aa: np.ndarray
    bb: np.ndarray
    ab: np.ndarray
    diagonal_a: np.ndarray
    diagonal_b: np.ndarray
    size_a: np.ndarray
    size_b: np.ndarray


def _kernel_sums(a: list[np.ndarray], b: list[np.ndarray]) -> np.ndarray:
    return np.array([[((x @ y.T / x.shape[1] + 1) ** 3).sum() for y in b] for x in a])


def _diagonal(x: np.ndarray) -> float:
    return float((((x * x).sum(1) / x.shape[1] + 1) ** 3).sum())


def _squared_mmd(pairs: _Pairs, kept: np.ndarray) -> float:
    """Binkowski's eq. 4 over the blocks that are kept."""
    n, m = pairs.size_a[kept].sum(), pairs.size_b[kept].sum()
    within_a = (pairs.aa[kept][:, kept].sum() - pairs.diagonal_a[kept].sum()) / (n * (n - 1))
    within_b = (pairs.bb[kept][:, kept].sum() - pairs.diagonal_b[kept].sum()) / (m * (m - 1))
    return float(within_a + within_b - 2 * pairs.ab[kept][:, kept].sum() / (n * m))
