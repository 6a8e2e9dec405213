"""Scores of codes: AP select_prefix several probes, k-NN AP, TAD, DCI."""

from __future__ import annotations

from typing import Any

import numpy as np

from ditifeat.analysis.linear import RIDGE_PER_DIM, size
from ditifeat.analysis.metrics import dci, tad
from ditifeat.analysis.probe import _deviation, _scores, probe


def ridge_mean_ap(codes: np.ndarray, targets: np.ndarray, first: int) -> float:
    """Mean AP of one ridge regression for all attributes, trained on the first rows and scored on the others.

    Args:
        codes: `(n, d)`; centred and scaled here, on the first rows, by one number.
        targets: 0 or 1, `(n, attributes)`; those with one value alone among the test rows are left out.
        first: how many rows train.
    """
    from sklearn.linear_model import Ridge

    scaled = (codes - codes[:first].mean(0)) / _deviation(codes[:first])
    predicted = Ridge(RIDGE_PER_DIM * size(scaled[:first])).fit(scaled[:first], targets[:first]).predict(scaled[first:])
    scores = [_scores(predicted[:, i], targets[first:, i], "binary")["ap"] for i in range(targets.shape[1])]
    return float(np.nanmean(scores))


SEEDS = (0, 1, 2)

LASSO_PENALTY = 0.01  # on standardised codes and attributes

NEIGHBOURS = 50


def score(codes: np.ndarray, targets: dict[str, np.ndarray], first: int) -> dict[str, Any]:
    """All scores of codes, those per attribute, and the sizes of the probe's weights."""
    binary = np.stack([(y == y.max()) for y in targets.values()], axis=1).astype(np.float64)
    report = probe(codes, targets, train_rows=np.arange(first))
    paper = [
        probe(codes, targets, train_rows=np.arange(first), random_state=s, protocol="paper").mean_ap for s in SEEDS
    ]
    attributes = {name: report[name].scores["ap"] for name in report}
    weights = np.abs(np.stack([report[name].weights for name in report], axis=1))
    measured = tad(codes[first:], binary[first:])
    importance = dci(_importance(codes[:first], binary[:first]))
    values = {
        "ap": report.mean_ap,
        "ridge_ap": ridge_mean_ap(codes, binary, first),
        "paper_ap": float(np.mean(paper)),
        "paper_ap_seed_std": float(np.std(paper)),
        "nearest_ap": nearest_mean_ap(codes, binary, first),
        "auroc": float(np.nanmean([report[name].scores["auroc"] for name in report])),
        "tad": measured.tad,
        "captured": measured.captured,
        **importance._asdict(),
    }
    chance = {name: report[name].scores["prevalence"] for name in report}
    histogram = np.histogram(weights / weights.max(0).clip(1e-12), bins=50, range=(0, 1))[0] / weights.size
    return {"values": values, "attributes": attributes, "chance": chance, "weights": histogram.tolist()}


def nearest_mean_ap(codes: np.ndarray, binary: np.ndarray, first: int) -> float:
    """Mean AP where a row's score is how many of its `NEIGHBOURS` nearest among the first rows have the attribute.

    Args:
        codes: `(n, d)`, compared by Euclidean distance as they are.
        binary: 0 or 1, `(n, attributes)`; those with one value alone among the test rows are left out.
        first: how many rows are looked among.
    """
    from sklearn.metrics import average_precision_score
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, first)).fit(codes[:first])
    scores = binary[:first][neighbours.kneighbors(codes[first:], return_distance=False)].mean(1)
    truth = binary[first:]
    both = truth.min(0) < truth.max(0)
    if not both.any():
        return float("nan")
    return float(average_precision_score(truth[:, both], scores[:, both], average="macro"))


def _importance(codes: np.ndarray, binary: np.ndarray) -> np.ndarray:
    """Absolute weights of a lasso per attribute, `(d, attributes)`, as DCI's authors take them."""
    from sklearn.linear_model import Lasso

    def standard(x: np.ndarray) -> np.ndarray:
        std = x.std(0)
        return (x - x.mean(0)) / np.where(std > 1e-8, std, 1.0)

    fitted = Lasso(LASSO_PENALTY, precompute=True, max_iter=10_000).fit(standard(codes), standard(binary))
    return np.abs(np.atleast_2d(fitted.coef_)).T
