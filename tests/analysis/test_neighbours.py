"""One pass over pieces finds what scikit-learn finds in all rows."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from ditifeat.analysis import neighbours
from ditifeat.analysis.neighbours import Nearest


@pytest.mark.parametrize("piece", [1, 7, 64, 8192])
@pytest.mark.parametrize("mean", [0, 1000])
def test_pieces_find_what_scikit_learn_finds(monkeypatch, piece, mean):
    monkeypatch.setattr(neighbours, "PIECE", piece)
    rng = np.random.default_rng(0)
    rows, queries = (rng.normal(size=(n, 20)).astype(np.float32) + mean for n in (300, 4))
    nearest = Nearest(queries, 9)
    for start in range(0, 300, 90):
        nearest.add([str(i) for i in range(start, min(300, start + 90))], rows[start : start + 90])
    exact = NearestNeighbors(n_neighbors=9, algorithm="brute").fit(rows.astype(np.float64))
    distances, indices = exact.kneighbors(queries.astype(np.float64))
    scale = rows.astype(np.float64).var(0).sum() ** 0.5
    for found, names, expected in zip(nearest.finish(), indices, distances / scale, strict=True):
        assert [int(name) for name, _ in found] == names.tolist()
        assert [distance for _, distance in found] == pytest.approx(expected, rel=1e-6)


def test_of_equal_rows_the_earlier_comes_first(monkeypatch):
    monkeypatch.setattr(neighbours, "PIECE", 3)
    nearest = Nearest(np.ones((1, 2)), 4)
    nearest.add(list("abcdefgh"), np.ones((8, 2), np.float32))
    assert nearest.finish() == [[("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)]] and nearest.scale == 1


def test_fewer_rows_than_asked_for():
    nearest = Nearest(np.zeros((2, 3)), 5)
    assert nearest.finish() == [[], []]
    nearest.add(["a"], np.ones((1, 3)))
    assert [[name for name, _ in row] for row in nearest.finish()] == [["a"], ["a"]]
