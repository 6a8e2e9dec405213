"""A ridge probe that chooses its penalty: thousands of raw features want another one than codes do."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ditifeat.analysis.attributes import alike
from ditifeat.benchmark.scores import mean_ap

# Of squared weights, beside squared errors summed over rows; in units of the features' mean variance.
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)

CHOOSING = 10  # each tenth training row chooses the penalty, before all are fitted


class RidgeScore(NamedTuple):
    """Mean AP over attributes, and the penalty that it was reached with."""

    ap: float
    penalty: float


def ridge_with_chosen_penalty(features: np.ndarray, targets: np.ndarray, train: np.ndarray) -> RidgeScore:
    """Compute the mean AP of ridge regressions of the attributes, scored on the rows that do not train.

    The penalty, one for all attributes, is the best of `PENALTIES` for a tenth of the training rows, which are not fitted then;
    the other rows choose nothing.

    Args:
        features: `(n, d)`.
        targets: 0, 1 or NaN, `(n, attributes)`; rows of NaN are left out, for that attribute alone.
        train: mask `(n,)`.

    >>> from ditifeat.benchmark.ridge import ridge_with_chosen_penalty
    >>> odd = np.arange(60).reshape(60, 1) % 2.0
    >>> ridge_with_chosen_penalty(odd + 3, odd, np.arange(60) < 48).ap
    1.0
    """
    choosing = np.zeros_like(train)
    choosing[np.flatnonzero(train)[::CHOOSING]] = True
    tried = _predictions(features, targets, train & ~choosing, choosing, PENALTIES)
    scores = [mean_ap(predicted, targets[choosing]) for predicted in tried]
    penalty = PENALTIES[int(np.argmax(np.nan_to_num(scores)))]
    (predicted,) = _predictions(features, targets, train, ~train, (penalty,))
    return RidgeScore(mean_ap(predicted, targets[~train]), penalty)


def _predictions(
    features: np.ndarray, targets: np.ndarray, fitted: np.ndarray, scored: np.ndarray, penalties: tuple[float, ...]
) -> list[np.ndarray]:
    """Predictions `(scored rows, attributes)` per penalty; one eigendecomposition of the Gram matrix serves them all."""
    found = [np.zeros((int(scored.sum()), targets.shape[1])) for _ in penalties]
    for columns, known in alike(np.isfinite(targets)):
        rows = fitted & known
        if not rows.any():
            continue
        inputs = features[rows].astype(np.float64)
        mean, offset = inputs.mean(0), targets[rows][:, columns].mean(0)
        inputs -= mean
        values, vectors = np.linalg.eigh(inputs.T @ inputs)
        cross = vectors.T @ (inputs.T @ (targets[rows][:, columns] - offset))
        unseen = (features[scored] - mean) @ vectors
        unit = max(float(values.mean()) / len(inputs), 1e-12)
        for predicted, penalty in zip(found, penalties, strict=True):
            predicted[:, columns] = unseen @ (cross / (values.clip(0) + penalty * unit)[:, None]) + offset
    return found
