import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from ditifeat import InputError
from ditifeat.analysis.linear import (
    LOGIT_VARIANCE,
    RIDGE_PER_DIM,
    fit_paper,
    fit_promask,
    fit_sklearn,
    ridge_predictions,
    size,
)


@pytest.fixture
def data():
    """Codes, a binary and a real-valued target, and codes to predict for."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 12)).astype(np.float32) * np.linspace(0.5, 2, 12, dtype=np.float32) + 3
    targets = np.stack([x[:, 3] + rng.normal(size=300) > 3, x[:, 5] - 2 * x[:, 7]], axis=1).astype(np.float64)
    return x, targets, np.array([True, False]), rng.normal(size=(40, 12)).astype(np.float32) + 3


def test_one_gram_matrix_gives_what_scikit_learn_s_ridge_gives(data):
    x, targets, _, unseen = data
    columns = [slice(0, 3), slice(3, 4), slice(2, 12), slice(0, 12)]
    found = ridge_predictions(x, targets, unseen, columns)
    for column, predicted in zip(columns, found, strict=True):
        ridge = Ridge(RIDGE_PER_DIM * size(x[:, column])).fit(x[:, column].astype(np.float64), targets)
        assert np.allclose(predicted, ridge.predict(unseen[:, column]), atol=1e-5)


def test_constant_columns_predict_the_mean(data):
    x, targets, _, unseen = data
    (predicted,) = ridge_predictions(np.ones_like(x), targets, unseen, [slice(0, 12)])
    assert np.allclose(predicted, targets.mean(0))


def test_logistic_and_ridge_regression_are_scikit_learn_s(data):
    x, targets, binary, _ = data
    weights, biases = fit_sklearn(x, targets, binary)
    logistic = LogisticRegression(C=LOGIT_VARIANCE / size(x), max_iter=1000).fit(x, targets[:, 0])
    ridge = Ridge(RIDGE_PER_DIM * size(x)).fit(x, targets[:, 1])
    assert np.allclose(weights, np.stack([logistic.coef_[0], ridge.coef_]), atol=1e-3)
    assert np.allclose(biases, [logistic.intercept_[0], ridge.intercept_], atol=5e-3)


def test_the_paper_s_layer_keeps_its_best_epoch(data):
    x, targets, binary, _ = data
    x = (x - x.mean(0)) / x.std(0)
    weights, biases = fit_paper(x, targets, binary, 0)
    assert weights.shape == (2, 12) and biases.shape == (2,)
    assert np.abs(weights[0]).argmax() == 3 and set(np.abs(weights[1]).argsort()[-2:]) == {5, 7}
    again, other = fit_paper(x, targets, binary, 0)[0], fit_paper(x, targets, binary, 1)[0]
    assert np.array_equal(weights, again) and not np.array_equal(weights, other)


def test_promask_takes_binary_attributes_alone(data):
    x, targets, binary, _ = data
    with pytest.raises(InputError, match="two values"):
        fit_promask(x, targets, binary, 0, 4)


def test_ridge_leaves_out_the_rows_without_a_label(data):
    """Where few labels are missing, where most are, and where all are."""
    x, targets, _, unseen = data
    rng = np.random.default_rng(2)
    targets = np.concatenate([targets, targets[:, :1]], axis=1)
    targets[rng.random(300) < 0.1, 0] = np.nan
    targets[rng.random(300) < 0.8, 1] = np.nan
    targets[:, 2] = np.nan
    columns = [slice(0, 3), slice(2, 12)]
    for column, predicted in zip(columns, ridge_predictions(x, targets, unseen, columns), strict=True):
        for i in (0, 1):
            rows = np.isfinite(targets[:, i])
            part = x[rows, column].astype(np.float64)
            ridge = Ridge(RIDGE_PER_DIM * size(part)).fit(part, targets[rows, i])
            assert np.allclose(predicted[:, i], ridge.predict(unseen[:, column]), atol=1e-5)
        assert np.isnan(predicted[:, 2]).all()
