"""Scores of codes: AP of several probes and of the nearest neighbours, AUROC, TAD, DCI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ditifeat.analysis.attributes import alike
from ditifeat.analysis.linear import ridge_predictions
from ditifeat.analysis.metrics import dci, ranking_scores, tad
from ditifeat.analysis.probe import probe
from ditifeat.benchmark.split import Split

SEEDS = (0, 1, 2)

LASSO_PENALTY = 0.01  # on standardised codes and attributes

NEIGHBOURS = 50


def score(codes: np.ndarray, split: Split) -> dict[str, Any]:
    """Score a split's codes by all probes and measures.

    Args:
        codes: `(n, d)`.
        split: the images that they are the codes of.

    Returns:
        "values" by the names of `tables.COLUMNS`; by attribute the AP of the logistic probe ("attributes") and the
        prevalence among the test rows ("prevalence"); and "weights", the share of the logistic probes' absolute weights
        in each fiftieth of their attribute's largest.

    >>> from ditifeat.benchmark.scores import score
    >>> score(codes, split)["values"]["ap"]  # doctest: +SKIP
    0.619
    """
    train, targets = split.train, split.targets
    labels = dict(zip(split.attributes, targets.T, strict=True))
    report = probe(codes, labels, train_rows=train)
    paper = [probe(codes, labels, train_rows=train, random_state=seed, protocol="paper").mean_ap for seed in SEEDS]
    weights = np.abs(np.stack([report[name].weights for name in report], axis=1))
    values = {
        "ap": report.mean_ap,
        "ridge_ap": ridge_mean_ap(codes, targets, train),
        "paper_ap": float(np.mean(paper)),
        "paper_ap_seed_std": float(np.std(paper)),
        "knn_ap": knn_mean_ap(codes, targets, train),
        "auroc": _mean([report[name].scores["auroc"] for name in report]),
        **_disentanglement(codes, targets, train),
    }
    histogram = np.histogram(weights / weights.max(0).clip(1e-12), bins=50, range=(0, 1))[0] / weights.size
    return {
        "values": values,
        "attributes": {name: report[name].scores["ap"] for name in report},
        "prevalence": {name: report[name].scores["prevalence"] for name in report},
        "weights": histogram.tolist(),
    }


def ridge_mean_ap(codes: np.ndarray, targets: np.ndarray, train: np.ndarray) -> float:
    """Compute the mean AP of ridge regressions of the attributes, fitted on the training rows and scored on the others.

    Args:
        codes: `(n, d)`; the penalty follows their summed variance, so their scale does not matter.
        targets: 0, 1 or NaN, `(n, attributes)`; rows of NaN are left out, for that attribute alone.
        train: mask `(n,)`.

    >>> from ditifeat.benchmark.scores import ridge_mean_ap
    >>> odd = np.arange(12).reshape(12, 1) % 2.0
    >>> ridge_mean_ap(odd + 3, odd, np.arange(12) < 8)
    1.0
    """
    return ridge_mean_aps(codes, targets, train, [slice(None)])[0]


def ridge_mean_aps(codes: np.ndarray, targets: np.ndarray, train: np.ndarray, columns: Sequence[slice]) -> list[float]:
    """Compute `ridge_mean_ap` of each set of columns of codes, which share most of the work."""
    predicted = ridge_predictions(codes[train], targets[train], codes[~train], columns)
    return [mean_ap(np.nan_to_num(scores), targets[~train]) for scores in predicted]


def knn_mean_ap(codes: np.ndarray, targets: np.ndarray, train: np.ndarray) -> float:
    """Compute the mean AP of scores that are the share of a row's `NEIGHBOURS` nearest training rows with the attribute.

    Args:
        codes: `(n, d)`, compared by Euclidean distance as they are.
        targets: 0, 1 or NaN, `(n, attributes)`; rows of NaN are left out, for that attribute alone.
        train: mask `(n,)`.

    >>> from ditifeat.benchmark.scores import knn_mean_ap
    >>> late = np.arange(200).reshape(200, 1) >= 100.0
    >>> knn_mean_ap(np.arange(200.0).reshape(200, 1), late.astype(float), np.arange(200) % 2 == 0)
    1.0
    """
    from sklearn.neighbors import NearestNeighbors

    scores = np.zeros((int((~train).sum()), targets.shape[1]))
    for columns, known in alike(np.isfinite(targets)):
        rows = train & known
        if rows.any():
            neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, int(rows.sum()))).fit(codes[rows])
            nearest = neighbours.kneighbors(codes[~train], return_distance=False)
            scores[:, columns] = targets[rows][:, columns][nearest].mean(1)
    return mean_ap(scores, targets[~train])


def mean_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    """Average the AP over attributes.

    Args:
        scores: `(n, attributes)`.
        targets: 0, 1 or NaN, `(n, attributes)`; attributes that all known rows have, or none, are left out.

    Returns:
        The mean; NaN if no attribute is left.

    >>> from ditifeat.benchmark.scores import mean_ap
    >>> mean_ap(np.array([[0.9], [0.1]]), np.array([[1.0], [0.0]]))
    1.0
    """
    found = []
    for column, truth in zip(scores.T, targets.T, strict=True):
        known = np.isfinite(truth)
        found.append(ranking_scores(column[known], truth[known]).ap)
    return _mean(found)


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _disentanglement(codes: np.ndarray, targets: np.ndarray, train: np.ndarray) -> dict[str, float]:
    """TAD on the test rows and DCI on the training rows whose attributes are all known; nothing of a single attribute."""
    known = np.isfinite(targets).all(1)
    if targets.shape[1] < 2 or min((known & train).sum(), (known & ~train).sum()) < 2:
        return {}
    separated = tad(codes[known & ~train], targets[known & ~train])
    importance = dci(lasso_importance(codes[known & train], targets[known & train]))
    return {"tad": separated.tad, "captured": separated.captured, **importance._asdict()}


def lasso_importance(codes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Fit a lasso per attribute, and return its absolute weights `(d, attributes)`, which DCI's authors take for importance.

    Args:
        codes: `(n, d)`.
        targets: `(n, attributes)`, real or 0 and 1; both are standardised.

    >>> from ditifeat.benchmark.scores import lasso_importance
    >>> signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    >>> lasso_importance(signs, signs).round(2).tolist()
    [[0.99, 0.0], [0.0, 0.99]]
    """
    from sklearn.linear_model import Lasso

    def standardised(x: np.ndarray) -> np.ndarray:
        std = x.std(0)
        return (x - x.mean(0)) / np.where(std > 1e-8, std, 1.0)

    fitted = Lasso(LASSO_PENALTY, precompute=True, max_iter=10_000).fit(standardised(codes), standardised(targets))
    return np.abs(np.atleast_2d(fitted.coef_)).T
