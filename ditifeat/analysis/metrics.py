"""Metrics of features and of images, as pure functions."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ditifeat.errors import InputError


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Compute the mean squared error per image `(B,)` of images `(B, 3, H, W)` in [-1, 1], on the scale 0..1 of papers.

    Raises:
        InputError: for shapes that differ.

    >>> from ditifeat.analysis.metrics import mse
    >>> mse(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8))
    tensor([0.2500])
    """
    _check_pair(a, b, 1)
    return ((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean((1, 2, 3))


def _check_pair(a: Tensor, b: Tensor, side: int) -> None:
    if a.ndim != 4 or a.shape != b.shape or min(a.shape[2:]) < side:
        raise InputError(
            f"images of shape {tuple(a.shape)} and {tuple(b.shape)}: they must agree, (B, C, H, W) of {side} pixels or more"
        )


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Compute the structural similarity per image `(B,)`, float64 on the CPU, of images `(B, C, H, W)` in [-1, 1].

    As Wang et al. (2004): Gaussian window of 11 x 11 with sigma 1.5 inside the image, K1 = 0.01, K2 = 0.03, channels apart
    and averaged.

    Raises:
        InputError: for shapes that differ, or less than 11 pixels.

    >>> from ditifeat.analysis.metrics import ssim
    >>> images = torch.linspace(-1, 1, 3 * 16 * 16).view(1, 3, 16, 16)
    >>> ssim(images, images)
    tensor([1.], dtype=torch.float64)
    """
    # On the CPU: float64, which MPS has not.
    _check_pair(a, b, 11)
    a, b = (x.detach().cpu().clamp(-1, 1).double() / 2 + 0.5 for x in (a, b))
    channels = a.shape[1]
    offsets = torch.arange(-5, 6, dtype=torch.float64)
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


class Ranking(NamedTuple):
    """Average precision, and area under the ROC curve."""

    ap: float
    auroc: float


def ranking_scores(predicted: np.ndarray, truth: np.ndarray) -> Ranking:
    """Compute AP and AUROC as scikit-learn's `average_precision_score` and `roc_auc_score`, by one sort.

    Args:
        predicted: larger where 1 is more likely, `(n,)`; equal predictions are one threshold.
        truth: 0 or 1, `(n,)`; both nan where one of them does not occur.

    >>> from ditifeat.analysis.metrics import ranking_scores
    >>> ranking_scores(np.array([3.0, 2.0, 1.0, 0.0]), np.array([1, 0, 1, 0]))
    Ranking(ap=0.8333333333333333, auroc=0.75)
    """
    order = np.argsort(predicted)[::-1]
    ranked, hits = predicted[order], np.cumsum(truth[order] > 0)
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of each threshold
    if not len(ranked) or hits[-1] in (0, len(ranked)):
        return Ranking(float("nan"), float("nan"))
    positive, negative = hits[last], last + 1 - hits[last]
    gained = np.diff(positive, prepend=0)
    ap = (gained * positive / (last + 1)).sum() / positive[-1]
    area = (np.diff(negative, prepend=0) * (positive - gained / 2)).sum()
    return Ranking(float(ap), float(area / (positive[-1] * negative[-1])))


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Estimate the squared MMD of two samples `(n, f)`, `(m, f)` under the kernel `(x y / f + 1)^3` (KID, Binkowski 2018).

    Unbiased: near 0, and then of either sign, when both come from one distribution.

    Raises:
        InputError: for other shapes, or fewer than two rows.

    >>> from ditifeat.analysis.metrics import kernel_distance
    >>> kernel_distance(np.zeros((4, 2)), np.full((4, 2), 2.0))
    124.0
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
    """Total AUROC difference of the best and the second best dimension per attribute (Yeats et al. 2022, NashAE).

    An attribute counts if no other one explains over `redundancy` of its entropy, and if one dimension detects it with an
    AUROC of at least `threshold` (in either sense). TAD sums, over these, best minus second best AUROC.

    Args:
        codes: `(n, d)`, d at least 2.
        labels: 0 or 1, `(n, attributes)`.
        threshold: AUROC above which an attribute counts as detected.
        redundancy: share of an attribute's entropy, above which it is left out.

    Raises:
        InputError: for other shapes, codes that are not finite, or other labels.

    >>> from ditifeat.analysis.metrics import tad
    >>> labels = np.arange(8)[:, None] >> np.arange(3) & 1
    >>> tad(labels, labels)
    TAD(tad=1.5, captured=3)
    """
    from scipy.stats import rankdata

    codes, labels = np.asarray(codes), np.asarray(labels)
    if codes.ndim != 2 or labels.ndim != 2 or len(codes) != len(labels) or codes.shape[1] < 2:
        raise InputError(f"codes of shape {codes.shape}, labels of shape {labels.shape}: they need (n, d) and (n, a)")
    if not (np.isfinite(codes).all() and np.isin(labels, (0, 1)).all()):
        raise InputError("codes must be finite, and labels 0 or 1")
    labels = labels.astype(bool)
    ranks = rankdata(codes, axis=0)
    total, captured = 0.0, 0
    for i in np.flatnonzero(_explained_entropy(labels).max(axis=1, initial=0) <= redundancy):
        positive = labels[:, i]
        p, n = positive.sum(), (~positive).sum()
        if min(p, n) == 0:
            continue
        auroc = (ranks[positive].sum(0) - p * (p + 1) / 2) / (p * n)  # Mann and Whitney's U
        second, best = np.sort(np.maximum(auroc, 1 - auroc))[-2:]
        if best >= threshold:
            total, captured = total + best - second, captured + 1
    return TAD(float(total), captured)


def _explained_entropy(labels: np.ndarray) -> np.ndarray:
    """The share of attribute i's entropy that attribute j explains, `(attributes, attributes)`; 0 of an attribute itself."""
    from scipy.stats import entropy
    from sklearn.metrics import mutual_info_score

    count = labels.shape[1]
    prevalence = labels.mean(0)
    own = np.maximum(entropy([prevalence, 1 - prevalence]), 1e-12)
    shares = np.zeros((count, count))
    for i, j in combinations(range(count), 2):
        shares[i, j] = shares[j, i] = mutual_info_score(labels[:, i], labels[:, j])
    return shares / own[:, None]


class DCI(NamedTuple):
    """Disentanglement and completeness, each in 0..1."""

    disentanglement: float
    completeness: float


def dci(importance: np.ndarray) -> DCI:
    """Compute disentanglement and completeness of an importance matrix (Eastwood & Williams, ICLR 2018).

    Disentanglement: 1 minus the entropy (to base `factors`) of what a dimension is important for, averaged over dimensions
    by their share of all importance. Completeness: the same of a factor over dimensions (to base `d`).

    Args:
        importance: not negative, `(d, factors)`, both at least 2; an L1 probe's absolute weights, say. All zero gives 0.

    Raises:
        InputError: for another shape, or values that are negative or not finite.

    >>> from ditifeat.analysis.metrics import dci
    >>> dci(np.eye(3))
    DCI(disentanglement=1.0, completeness=1.0)
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


def effective_rank(codes: np.ndarray) -> float:
    """Compute how many dimensions codes `(n, d)` fill: e to the entropy of the shares of their covariance's eigenvalues.

    d for codes of the same variance in all directions, 1 for codes on a line, 0 for constant ones (Roy & Vetterli 2007, of
    the covariance). Of n codes it is at most n - 1.

    >>> from ditifeat.analysis.metrics import effective_rank
    >>> round(effective_rank(np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])), 3)
    2.0
    """
    centred = np.asarray(codes, dtype=np.float64)
    centred = centred - centred.mean(0)
    variances = np.linalg.eigvalsh(centred.T @ centred).clip(0)
    if variances.sum() == 0:
        return 0.0
    shares = variances / variances.sum()
    return float(np.exp(-(shares * np.log(np.where(shares > 0, shares, 1))).sum()))
