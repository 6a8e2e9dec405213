"""Measures of features and of pictures, as pure functions. AP, AUROC and Pearson's r are scikit-learn's and numpy's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ditifeat.errors import InputError


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error per image `(B,)` of images `(B, 3, H, W)` in [-1, 1], on the scale 0..1 that papers print."""
    return ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean((1, 2, 3))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity per image `(B,)` of images `(B, C, H, W)` in [-1, 1] (Wang et al. 2004).

    Gaussian window of 11 x 11 with sigma 1.5 inside the image, K1 = 0.01, K2 = 0.03, channels apart and averaged.
    """
    a, b = (x.clamp(-1, 1).double() / 2 + 0.5 for x in (a, b))
    channels = a.shape[1]
    offsets = torch.arange(-5, 6, dtype=torch.float64, device=a.device)
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(line, line)
    window = (window / window.sum()).expand(channels, 1, 11, 11)

    def blurred(x: Tensor) -> Tensor:
        return functional.conv2d(x, window, groups=channels)

    mean_a, mean_b = blurred(a), blurred(b)
    var_a, var_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    bottom = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return (top / bottom).mean((1, 2, 3))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared MMD of two samples `(n, f)`, `(m, f)` select_prefix the kernel `(x y / f + 1)^3` (KID, Binkowski 2018).

    Near 0 (and then of either sign) when both are drawn alike.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise InputError(f"samples of shape {a.shape} and {b.shape}: they need equal width and two rows each")

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    n, m = len(a), len(b)
    within_a, within_b = kernel(a, a), kernel(b, b)
    within = (within_a.sum() - np.trace(within_a)) / (n * (n - 1)) + (within_b.sum() - np.trace(within_b)) / (
        m * (m - 1)
    )
    return float(within - 2 * kernel(a, b).mean())


class TAD(NamedTuple):
    """Total AUROC difference, and how many attributes counted in it."""

    tad: float
    captured: int


def tad(codes: np.ndarray, labels: np.ndarray, threshold: float = 0.75, redundancy: float = 0.2) -> TAD:
    """How much the best single dimension of an attribute is ahead of the second best (Yeats et al. 2022, NashAE).

    An attribute counts unless another one alone tells over `redundancy` of its entropy, and if one dimension detects it
    with an AUROC of at least `threshold` (in either sense). TAD sums, over these, best minus second best AUROC.

    Args:
        codes: `(n, d)`, d at least 2.
        labels: 0 or 1, `(n, attributes)`.
    """
    codes, labels = np.asarray(codes), np.asarray(labels).astype(bool)
    if codes.ndim != 2 or labels.ndim != 2 or len(codes) != len(labels) or codes.shape[1] < 2:
        raise InputError(f"codes of shape {codes.shape}, labels of shape {labels.shape}: they need (n, d) and (n, a)")
    told = _entropy_told(labels)
    np.fill_diagonal(told, 0)
    ranks = np.apply_along_axis(_ranks, 0, codes)
    total, captured = 0.0, 0
    for i in np.flatnonzero(told.max(axis=1, initial=0) <= redundancy):
        positive = labels[:, i]
        p, n = positive.sum(), (~positive).sum()
        if min(p, n) == 0:
            continue
        auroc = (ranks[positive].sum(0) - p * (p + 1) / 2) / (p * n)  # Mann and Whitney's U
        second, best = np.sort(np.maximum(auroc, 1 - auroc))[-2:]
        if best >= threshold:
            total, captured = total + best - second, captured + 1
    return TAD(float(total), captured)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _entropy_told(labels: np.ndarray) -> np.ndarray:
    """The share of attribute i's entropy that attribute j tells, `(attributes, attributes)`."""
    y = labels.astype(np.float64)
    both = y.T @ y / len(y)
    ones = np.diag(both)
    joint = np.stack([both, ones[:, None] - both, ones[None] - both, 1 - ones[:, None] - ones[None] + both])

    def entropy(p: np.ndarray) -> np.ndarray:
        return -(p * np.log(np.clip(p, 1e-300, None))).sum(0)

    single = entropy(np.stack([ones, 1 - ones]))
    mutual = single[:, None] + single[None] - entropy(np.clip(joint, 0, 1))
    return mutual / np.maximum(single[:, None], 1e-12)


class DCI(NamedTuple):
    """Disentanglement and completeness, each in 0..1."""

    disentanglement: float
    completeness: float


def dci(importance: np.ndarray) -> DCI:
    """Disentanglement and completeness of an importance matrix (Eastwood & Williams, ICLR 2018).

    Disentanglement: 1 minus the entropy (to base `factors`) of what a dimension is important for, averaged over dimensions
    by their share of all importance. Completeness: the same of a factor over dimensions (to base `d`).

    Args:
        importance: not negative, `(d, factors)`, both at least 2; an L1 probe's absolute weights, say. All zero gives 0.
    """
    importance = np.asarray(importance, dtype=np.float64)
    if importance.ndim != 2 or min(importance.shape) < 2 or not np.isfinite(importance).all() or importance.min() < 0:
        raise InputError(f"importance of shape {importance.shape} must be (d, factors), finite, and not negative")
    return DCI(_concentration(importance), _concentration(importance.T))


def _concentration(importance: np.ndarray) -> float:
    total = importance.sum()
    if total == 0:
        return 0.0
    rows = importance.sum(1, keepdims=True)
    p = importance / np.where(rows > 0, rows, 1)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1) / np.log(importance.shape[1])
    return float(((1 - entropy) * rows[:, 0]).sum() / total)
