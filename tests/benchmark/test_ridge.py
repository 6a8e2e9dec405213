import numpy as np
import pytest
from sklearn.linear_model import Ridge

from ditifeat.benchmark import ridge as module
from ditifeat.benchmark.ridge import ridge_with_chosen_penalty
from ditifeat.benchmark.scores import mean_ap


def noisy(count=400, d=60, noise=3.0, seed=0):
    """Features of which few say something of two attributes; three quarters train."""
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(count, d)) * np.geomspace(3, 0.1, d)).astype(np.float32) + 5
    signal = features[:, :2] + noise * rng.normal(size=(count, 2))
    return features, (signal > np.median(signal, axis=0)).astype(float), np.arange(count) < 300


@pytest.mark.parametrize("penalty", module.PENALTIES)
def test_predictions_are_those_of_scikit_learn(penalty):
    features, targets, train = noisy()
    (found,) = module._predictions(features, targets, train, ~train, (penalty,))
    variance = float(features[train].astype(float).var(0).mean())
    expected = Ridge(penalty * variance).fit(features[train].astype(float), targets[train]).predict(features[~train])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_penalty_is_the_best_of_training_rows_that_are_not_fitted():
    features, targets, train = noisy()
    choosing = np.zeros(400, bool)
    choosing[:300:10] = True
    tried = module._predictions(features, targets, train & ~choosing, choosing, module.PENALTIES)
    best = module.PENALTIES[int(np.argmax([mean_ap(one, targets[choosing]) for one in tried]))]
    found = ridge_with_chosen_penalty(features, targets, train)
    (predicted,) = module._predictions(features, targets, train, ~train, (best,))
    assert found == (mean_ap(predicted, targets[~train]), best)
    relabelled = np.where(train[:, None], targets, 1 - targets)
    assert ridge_with_chosen_penalty(features, relabelled, train).penalty == best  # the scored rows choose nothing


def test_unknown_labels_are_left_out_for_their_attribute_alone():
    features, targets, train = noisy()
    unknown = targets.copy()
    unknown[::3, 1] = np.nan
    known = np.isfinite(unknown[:, 1])
    (found,) = module._predictions(features, unknown, train, ~train, (10.0,))
    (whole,) = module._predictions(features, targets, train, ~train, (10.0,))
    (part,) = module._predictions(features[known], targets[known], train[known], ~train[known], (10.0,))
    np.testing.assert_allclose(found[:, 0], whole[:, 0], atol=1e-8)
    np.testing.assert_allclose(found[known[~train], 1], part[:, 1], atol=1e-8)
