"""What codes say of known factors: by range of time-steps, by dimension, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ditifeat.analysis.metrics import dci, tad
from ditifeat.benchmark.scores import lasso_importance
from ditifeat.data.factors import FACTORS, Values, targets

READ = 0.05  # the score, of a range at least, from which a factor counts as read

RIDGE = 1e-3  # of the inputs' variance

Dims = Sequence[np.ndarray]  # the dimensions of each range


def reading(codes: np.ndarray, values: Values, train: np.ndarray, dims: Dims, *, linear: bool = False) -> np.ndarray:
    """Score how well each factor is read from each set of dimensions, by ridge regression on them, their squares and products.

    A continuous factor's score is R^2; a circular one's is R^2 of its sine and cosine together; a categorical one's is the
    accuracy of the largest indicator, above the largest class's share and over what that leaves. All on the rows that do not
    train: 1 is perfect, 0 what a constant does.

    Args:
        codes: `(n, d)`.
        values: `(n,)` per factor.
        train: mask `(n,)`.
        dims: indices of dimensions, per set.
        linear: whether squares and products are left out, which are many of many dimensions.

    Returns:
        `(factors, sets)`, in the order of `FACTORS`.
    """
    found = np.zeros((len(FACTORS), len(dims)))
    wanted = targets(values)
    y = np.stack(list(wanted.values()), axis=1)
    for column, chosen in enumerate(dims):
        inputs = codes[:, chosen] if linear else _quadratic(codes[:, chosen], train)
        predicted = _ridge(inputs, y, train)
        by_name = dict(zip(wanted, predicted.T, strict=True))
        found[:, column] = [factor_score(name, values[name][~train], by_name) for name in FACTORS]
    return found


def factor_score(name: str, truth: np.ndarray, predicted: Values) -> float:
    """Score predictions of a factor's targets, `(n,)` per name as `data.factors.targets` has them; see `reading`.

    >>> from ditifeat.benchmark.factors_scores import factor_score
    >>> factor_score("x", np.array([-1.0, 1.0]), {"x": np.array([-1.0, 1.0])})
    1.0
    >>> factor_score("texture", np.array([0, 1, 0]), {f"texture.{c}": np.ones(3) for c in ("horizontal", "vertical", "checks")})
    0.0
    """
    factor = FACTORS[name]
    true = np.stack(list(factor.targets(truth).values()), axis=1)
    guessed = np.stack([predicted[target] for target in factor.targets(truth)], axis=1)
    if factor.kind == "categorical":
        chance = true.mean(0).max()
        return float(((guessed.argmax(1) == truth).mean() - chance) / max(1 - chance, 1e-12))
    return float(1 - np.square(true - guessed).sum() / max(np.square(true - true.mean(0)).sum(), 1e-12))


def _quadratic(x: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Standardised inputs, their squares and their products."""
    std = x[train].std(0)
    x = (x - x[train].mean(0)) / np.where(std > 1e-8, std, 1.0)
    rows, columns = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, rows] * x[:, columns]], axis=1)


def _ridge(x: np.ndarray, y: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Predictions `(test rows, targets)`."""
    mean, offset = x[train].mean(0), y[train].mean(0)
    inputs = x[train] - mean
    gram = inputs.T @ inputs
    gram[np.diag_indices_from(gram)] += RIDGE * np.trace(gram) / len(gram) + 1e-9
    weights = np.linalg.solve(gram, inputs.T @ (y[train] - offset))
    return (x[~train] - mean) @ weights + offset


def centres(scores: np.ndarray, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """Say at which time-step each factor is: the mean of the ranges' middles, weighted by the scores above 0.

    Args:
        scores: `(factors, ranges)`.
        ranges: of time-steps.

    Returns:
        `(factors,)`; NaN for a factor that no range reads with a score of `READ`.

    >>> from ditifeat.benchmark.factors_scores import centres
    >>> centres(np.array([[0.0, 0.5], [0.5, 0.5], [0.0, 0.01]]), [(0, 500), (500, 1000)])
    array([750., 500.,  nan])
    """
    middles = np.array([(lo + hi) / 2 for lo, hi in ranges])
    weights = scores.clip(0)
    found = weights @ middles / weights.sum(1).clip(1e-12)
    return np.where(weights.max(1) >= READ, found, np.nan)


def order(lost: Sequence[float], found: np.ndarray) -> float:
    """Return Spearman's rank correlation of the time-steps at which factors are lost and found; those not found are left out.

    NaN for fewer than three, or where all are equal.

    >>> from ditifeat.benchmark.factors_scores import order
    >>> round(order([100, 200, 300, 400], np.array([1.0, 2.0, np.nan, 3.0])), 6)
    1.0
    """
    from scipy.stats import spearmanr

    known = np.isfinite(found)
    if known.sum() < 3 or len(np.unique(found[known])) < 2:
        return float("nan")
    return float(spearmanr(np.asarray(lost)[known], found[known]).statistic)


def disentanglement(codes: np.ndarray, values: Values, scores: np.ndarray) -> dict[str, float]:
    """Compute DCI of dimensions (a lasso's weights, summed over a factor's targets) and of ranges (by `reading`), and TAD.

    TAD takes each factor as one attribute, a circular one as two: above the middle, an early category, a sine or cosine above 0.

    Args:
        codes: `(n, d)`.
        values: `(n,)` per factor.
        scores: of `reading`, `(factors, ranges)`; for one range, DCI of ranges is left out.
    """
    wanted = {name: FACTORS[name].targets(values[name]) for name in FACTORS}
    all_targets = np.stack([column for own in wanted.values() for column in own.values()], axis=1)
    weights = lasso_importance(codes, all_targets)
    ends = np.cumsum([len(own) for own in wanted.values()])[:-1]
    importance = np.stack([part.sum(1) for part in np.split(weights, ends, axis=1)], axis=1)
    found: dict[str, float] = {f"{key}_dims": value for key, value in dci(importance)._asdict().items()}
    if scores.shape[1] > 1:
        found |= {f"{key}_ranges": value for key, value in dci(scores.clip(0).T)._asdict().items()}
    separated = tad(codes, np.stack(list(_binary(values).values()), axis=1))
    return found | {"tad": separated.tad, "captured": separated.captured}


def _binary(values: Values) -> dict[str, Any]:
    found = {}
    for name, factor in FACTORS.items():
        if factor.kind == "categorical":
            found[name] = values[name] < len(factor.categories) / 2
        elif factor.kind == "continuous":
            found[name] = values[name] > (factor.low + factor.high) / 2
        else:
            found |= {target: column > 0 for target, column in factor.targets(values[name]).items()}
    return found
