import numpy as np
import pytest

from ditifeat.benchmark.scores import NEIGHBOURS, knn_mean_ap, mean_ap, ridge_mean_ap, ridge_mean_aps, score
from tests.benchmark.conftest import make_split


@pytest.fixture
def coded():
    """Codes whose first dimension is the first attribute, and noise; 200 rows, of which 120 train."""
    rng = np.random.default_rng(0)
    split = make_split(200, 120)
    codes = rng.normal(size=(200, 6)).astype(np.float32)
    codes[:, 0] += 6 * split.targets[:, 0]
    return codes, split


@pytest.mark.parametrize("scored_by", [ridge_mean_ap, knn_mean_ap])
def test_what_is_in_the_codes_is_found(coded, scored_by):
    codes, split = coded
    seen, coin = (scored_by(codes, split.targets[:, [i]], split.train) for i in range(2))
    assert seen > 0.99 and coin < 0.7
    assert scored_by(codes, split.targets, split.train) == pytest.approx((seen + coin) / 2)


@pytest.mark.parametrize("scored_by", [ridge_mean_ap, knn_mean_ap])
def test_rows_of_unknown_labels_are_left_out_for_that_attribute_alone(coded, scored_by):
    codes, split = coded
    unknown = np.arange(200) % 5 == 0
    targets = split.targets.copy()
    targets[unknown, 1] = np.nan
    alone = [scored_by(codes, split.targets[:, [0]], split.train)]
    known = ~unknown
    # The codes' scale is that of all training rows, whose labels do not matter to it.
    if scored_by is knn_mean_ap:
        alone.append(scored_by(codes[known], split.targets[known][:, [1]], split.train[known]))
        assert scored_by(codes, targets, split.train) == pytest.approx(np.mean(alone))
    other = targets.copy()
    other[unknown, 0] = targets[unknown, 0]
    assert scored_by(codes, targets, split.train) == scored_by(codes, other, split.train)
    assert np.isfinite(scored_by(codes, targets, split.train))


def test_ridge_scores_of_sets_of_columns(coded):
    codes, split = coded
    targets = split.targets.copy()
    targets[::7, 1] = np.nan
    columns = [slice(0, 1), slice(1, 4), slice(0, 4)]
    found = ridge_mean_aps(codes, targets, split.train, columns)
    assert found == pytest.approx([ridge_mean_ap(codes[:, column], targets, split.train) for column in columns])
    assert found[0] > found[1] + 0.1


def test_neighbours_against_a_loop(coded):
    codes, split = coded
    train, test = np.flatnonzero(split.train), np.flatnonzero(split.test)
    scores = []
    for row in test:
        distances = [np.linalg.norm(codes[row] - codes[other]) for other in train]
        nearest = train[np.argsort(distances)[:NEIGHBOURS]]
        scores.append(split.targets[nearest].mean(0))
    expected = mean_ap(np.array(scores), split.targets[test])
    assert knn_mean_ap(codes, split.targets, split.train) == pytest.approx(expected)


def test_test_rows_do_not_change_how_codes_are_scaled(coded):
    codes, split = coded
    other = codes.copy()
    other[np.flatnonzero(split.test)[1:]] *= 1e3
    first = np.flatnonzero(split.test)[0]
    rows = np.append(np.flatnonzero(split.train), first)
    targets = split.targets[rows]
    a, b = (ridge_mean_ap(x[rows], targets, split.train[rows]) for x in (codes, other))
    assert np.isnan(a) and np.isnan(b)  # one test row alone has no AP


@pytest.mark.parametrize(
    "scores,targets,expected",
    [
        ([[0.9], [0.1]], [[1], [0]], 1.0),
        ([[0.1], [0.9]], [[1], [0]], 0.5),
        ([[0.9, 0.0], [0.1, 0.0]], [[1, 1], [0, 1]], 1.0),  # nobody lacks the second attribute
        ([[0.9], [0.1], [5.0]], [[1], [0], [np.nan]], 1.0),
        ([[0.9], [0.1]], [[1], [1]], np.nan),
    ],
)
def test_mean_ap(scores, targets, expected):
    assert mean_ap(np.array(scores), np.array(targets, float)) == pytest.approx(expected, nan_ok=True)


def test_all_scores(coded):
    codes, split = coded
    found = score(codes, split)
    values = found["values"]
    assert found["attributes"]["Bright"] > 0.99 and found["prevalence"]["Bright"] == pytest.approx(0.5)
    assert values["ap"] == pytest.approx(np.mean(list(found["attributes"].values())))
    assert values["captured"] == 1 and values["tad"] > 0.3  # one dimension alone tells the first attribute
    assert 0 < values["disentanglement"] <= 1 and sum(found["weights"]) == pytest.approx(1)
    assert all(np.isfinite(list(values.values())))


def test_one_attribute_has_no_disentanglement(coded):
    codes, split = coded
    one = make_split(200, 120, attributes=("Bright",), targets=split.targets[:, :1])
    values = score(codes, one)["values"]
    assert values["ap"] > 0.99 and "tad" not in values and "completeness" not in values
