import numpy as np
import pytest

from ditifeat import InputError
from ditifeat.analysis.rows import training_rows


@pytest.mark.parametrize("size,expected", [(None, 80), (0.5, 50), (np.float32(0.25), 25), (30, 30), (np.int64(98), 98)])
def test_a_share_or_a_number_is_drawn(size, expected):
    mask = training_rows(size, None, 100, 0)
    assert mask.dtype == bool and mask.sum() == expected and np.flatnonzero(mask).tolist() != list(range(expected))
    assert np.array_equal(mask, training_rows(size, None, 100, 0))
    assert not np.array_equal(mask, training_rows(size, None, 100, 1))


@pytest.mark.parametrize(
    "rows", [range(3), [2, 1, 0], np.array([0, 1, 2, 2]), np.arange(10) < 3, [True] * 3 + [False] * 7]
)
def test_rows_are_taken_as_given(rows):
    assert np.flatnonzero(training_rows(None, rows, 10, 0)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "size,rows,words",
    [
        (0.0, None, "share"),
        (1.0, None, "share"),
        (10, None, "number of rows"),
        (True, None, "neither a share"),
        ("0.8", None, "neither a share"),
        (float("nan"), None, "share"),
        (1, None, "at least 2"),
        (9, None, "at least 2"),
        (None, [0], "at least 2"),
        (None, [], "0 rows to train on"),
        (None, [-1, 2], "outside"),
        (None, [0.0, 1.0], "row indices"),
        (None, [[0, 1]], "row indices"),
        (None, ["a", "b"], "row indices"),
        (None, np.ones(9, bool), "mask"),
        (None, np.ones(10, bool), "at least 2"),
        (0.5, [0, 1], "either"),
    ],
)
def test_rows_that_do_not_fit(size, rows, words):
    with pytest.raises(InputError, match=words):
        training_rows(size, rows, 10, 0)
