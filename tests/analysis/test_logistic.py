"""All attributes at once find what scikit-learn finds one by one."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from ditifeat.analysis import logistic
from ditifeat.analysis.logistic import fit_logistic

VARIANCE = 3.0


def faces(n=3000, d=40, attributes=9, seed=0):
    """Codes with a few directions of high variance, and attributes of 50 % down to 1 % prevalence that they predict in part."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * np.geomspace(3, 0.03, d)
    x = ((x - x.mean(0)) / np.sqrt(x.var(0).mean())).astype(np.float32)
    logits = x @ rng.normal(size=(d, attributes)) * 0.3 + rng.logistic(size=(n, attributes))
    levels = [np.quantile(column, q) for column, q in zip(logits.T, np.linspace(0.5, 0.99, attributes), strict=True)]
    return x, (logits > levels).astype(float)


def one_by_one(x, targets, **options):
    """Scikit-learn's weights and biases."""
    weights, biases = [], []
    for y in targets.T:
        rows = np.isfinite(y)
        model = LogisticRegression(C=VARIANCE / x[rows].var(0).sum(), max_iter=1000, **options).fit(x[rows], y[rows])
        weights.append(model.coef_[0])
        biases.append(model.intercept_[0])
    return np.array(weights), np.array(biases)


def aps(x, targets, weights, biases):
    scores = x @ weights.T + biases
    known = np.isfinite(targets)
    return [average_precision_score(y[k], s[k]) for y, s, k in zip(targets.T, scores.T, known.T, strict=True)]


def test_each_attribute_agrees_with_the_loop():
    x, targets = faces()
    train, test = slice(0, 2000), slice(2000, 3000)
    found = fit_logistic(x[train], targets[train], VARIANCE)
    default = one_by_one(x[train], targets[train])
    exact = one_by_one(x[train].astype(np.float64), targets[train], solver="newton-cholesky", tol=1e-9)
    scores = [aps(x[test], targets[test], *fit) for fit in (found, default, exact)]
    assert np.abs(np.subtract(scores[0], scores[1])).max() < 0.002
    assert np.abs(np.subtract(scores[0], scores[2])).max() < 0.001
    assert np.allclose(found[0], exact[0], atol=2e-3) and np.allclose(found[1], exact[1], atol=1e-2)


def test_missing_labels_leave_their_rows_out_for_their_attribute_alone():
    x, targets = faces()
    targets[np.random.default_rng(1).random(targets.shape) < np.linspace(0, 0.8, 9)] = np.nan
    found = fit_logistic(x, targets, VARIANCE)
    exact = one_by_one(x.astype(np.float64), targets, solver="newton-cholesky", tol=1e-9)
    assert np.allclose(found[0], exact[0], atol=4e-3) and np.allclose(found[1], exact[1], atol=2e-2)


def test_an_attribute_does_not_depend_on_the_others():
    x, targets = faces()
    together, alone = fit_logistic(x, targets, VARIANCE), fit_logistic(x, targets[:, [8]], VARIANCE)
    assert np.allclose(together[0][8], alone[0][0], atol=1e-4)


def test_it_is_deterministic():
    x, targets = faces()
    assert np.array_equal(fit_logistic(x, targets, VARIANCE)[0], fit_logistic(x, targets, VARIANCE)[0])


@pytest.mark.parametrize("n,d", [(60, 200), (5, 3), (2, 1), (300, 30)])
def test_classes_that_a_plane_separates(n, d):
    """The penalty keeps the weights finite, also with more dimensions than rows."""
    x = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    x -= x.mean(0)
    targets = (x[:, :1] > x[:, :1].mean()).astype(float)
    found = fit_logistic(x, targets, VARIANCE)
    exact = one_by_one(x.astype(np.float64), targets, solver="newton-cholesky", tol=1e-9)
    assert np.allclose(found[0], exact[0], atol=5e-3 * np.abs(exact[0]).max())


def test_codes_need_not_be_centred():
    x, targets = faces()
    exact = one_by_one(x.astype(np.float64), targets, solver="newton-cholesky", tol=1e-9)
    weights, biases = fit_logistic(x + 3, targets, VARIANCE)
    assert np.allclose(weights, exact[0], atol=4e-3)
    assert np.allclose(biases + 3 * weights.sum(1), exact[1], atol=2e-2)


def test_very_many_dimensions_do_without_eigenvectors(monkeypatch):
    x, targets = faces()
    expected = aps(x, targets, *fit_logistic(x, targets, VARIANCE))
    monkeypatch.setattr(logistic, "BASIS_DIMS", 10)
    assert np.allclose(aps(x, targets, *fit_logistic(x, targets, VARIANCE)), expected, atol=2e-3)
