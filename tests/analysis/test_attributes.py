import numpy as np
import pytest

from ditifeat import InputError
from ditifeat.analysis.attributes import alike, read_attributes

NAN = np.nan


def read(values):
    (attribute,) = read_attributes(np.asarray(values, dtype=np.float64), [str(i) for i in range(len(values))])
    return attribute


@pytest.mark.parametrize(
    "values,expected",
    [
        ([0, 1, 1, 0], [0, 1, 1, 0]),
        ([-1, 1, 1, -1], [0, 1, 1, 0]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([-1, -1, -1, -1], [0, 0, 0, 0]),
        ([1, 1, 1, 1], [1, 1, 1, 1]),
        ([2, 1, 1, 2], [1, 0, 0, 1]),
        ([-1, 0, 0, -1], [0, 1, 1, 0]),
        ([0, NAN, 1, 1], [0, NAN, 1, 1]),
        ([NAN, -1, NAN, -1], [NAN, 0, NAN, 0]),
    ],
)
def test_labels_with_two_values_are_binary(values, expected):
    attribute = read(values)
    assert attribute.kind == "binary" and np.array_equal(attribute.values, expected, equal_nan=True)


@pytest.mark.parametrize(
    "values",
    [
        [0.5, 1.5, 0.5, 2.5] * 5,  # not whole
        list(range(20, 70)) * 3,  # ages of many rows
        list(range(12)),  # whole, but hardly two rows alike
        [5, 5, 5, 5],
        [20.0, NAN, 31.0, 47.0],
    ],
)
def test_others_are_real_valued(values):
    attribute = read(values)
    assert attribute.kind == "real" and np.array_equal(attribute.values, values, equal_nan=True)


@pytest.mark.parametrize(
    "values", [[0, 1, 2] * 4, [1, 2, 3, 4, 5] * 2, [-1, 0, 1] * 9, [0, 1, NAN, 2] * 3, list(range(20)) * 2]
)
def test_the_codes_of_classes_are_refused(values):
    with pytest.raises(InputError, match=r"attribute label: \d+ whole numbers .*get_dummies.*scale a quantity"):
        read(values)


def test_attributes_are_grouped_by_their_labelled_rows():
    labels = {"a": [0, 1, 0, 1], "b": [0, NAN, 1, 1], "c": [1.5, NAN, 2, 3], "d": [1, 1, 0, 0]}
    known = np.isfinite(np.stack([a.values for a in read_attributes(labels, list("wxyz"))], axis=1))
    groups = [(columns.tolist(), mask.tolist()) for columns, mask in alike(known)]
    assert groups == [([0, 3], [True] * 4), ([1, 2], [True, False, True, True])]
