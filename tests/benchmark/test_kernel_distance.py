import numpy as np
import pytest

from ditifeat import InputError
from ditifeat.analysis.metrics import kernel_distance
from ditifeat.benchmark.kernel_distance import SCALE, kernel_distance_with_error


def naive(a, b):
    """The estimator, pair by pair."""

    def kernel(x, y):
        return (float(x @ y) / len(x) + 1) ** 3

    def within(rows):
        return np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])

    return within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])


@pytest.mark.parametrize("sizes", [(6, 6), (31, 47), (40, 7)])
def test_the_distance_is_that_of_all_pairs(sizes):
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(n, 5)).astype(np.float32) for n in sizes)
    found = kernel_distance_with_error(a, b + 1)
    assert found.distance == pytest.approx(SCALE * naive(a, b + 1), rel=1e-5)
    assert found.distance == pytest.approx(SCALE * kernel_distance(a.astype(float), (b + 1).astype(float)), rel=1e-5)


def test_the_error_is_the_spread_of_distances_of_fresh_samples():
    rng = np.random.default_rng(0)
    found = [kernel_distance_with_error(rng.normal(size=(200, 4)), rng.normal(size=(300, 4)) + 0.5) for _ in range(100)]
    spread = np.std([one.distance for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.2)


def test_samples_of_one_distribution_are_near_0_within_the_error():
    rng = np.random.default_rng(0)
    same = [kernel_distance_with_error(rng.normal(size=(60, 8)), rng.normal(size=(90, 8))) for _ in range(40)]
    assert min(one.distance for one in same) < 0 < max(one.distance for one in same)
    assert abs(np.mean([one.distance for one in same])) < 3 * np.std([one.distance for one in same]) / np.sqrt(40)
    assert sum(abs(one.distance) < 3 * one.error for one in same) > 34


@pytest.mark.parametrize(
    "shapes", [((8, 3), (8, 4)), ((5, 3), (8, 3)), ((8, 3), (5, 3)), ((8,), (8,)), ((0, 3), (8, 3))]
)
def test_other_shapes_are_refused(shapes):
    with pytest.raises(InputError, match="six rows each"):
        kernel_distance_with_error(*map(np.zeros, shapes))
