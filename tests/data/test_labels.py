import numpy as np
import pandas
import pytest

from ditifeat import InputError
from ditifeat.data.labels import read_labels

NAMES = ("a/1.jpg", "a/2.jpg", "a/3.jpg")
CELEBA = "3\nSmiling Male\n3.jpg  1 -1\n1.jpg -1 -1\n2.jpg  1  1\n"


def test_celeba_file_is_matched_by_name(tmp_path):
    (tmp_path / "list_attr.txt").write_text(CELEBA)
    labels = read_labels(tmp_path / "list_attr.txt", NAMES)
    assert {k: v.tolist() for k, v in labels.items()} == {"Smiling": [-1, 1, 1], "Male": [-1, 1, -1]}


def test_csv(tmp_path):
    (tmp_path / "x.csv").write_text("name,age\na/2.jpg,20\na/1.jpg,10.5\na/3.jpg,30\n")
    assert read_labels(str(tmp_path / "x.csv"), NAMES)["age"].tolist() == [10.5, 20, 30]


def test_other_forms():
    assert read_labels([0, 1, 0], NAMES)["label"].tolist() == [0, 1, 0]
    assert list(read_labels(np.zeros((3, 2)), NAMES)) == ["label0", "label1"]
    assert read_labels({"x": [True, False, True]}, NAMES)["x"].tolist() == [1, 0, 1]
    frame = pandas.DataFrame({"x": [1, 2, 3]})
    assert read_labels(frame, NAMES)["x"].tolist() == [1, 2, 3]
    frame.index = ["3.jpg", "2.jpg", "1.jpg"]
    assert read_labels(frame, NAMES)["x"].tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    "labels,words",
    [
        ([0, 1], "2 labels for 3 rows"),
        ({"x": ["yes", "no", "no"]}, "must be numbers"),
        ([0, np.nan, 1], "missing"),
        (np.zeros((3, 2, 2)), "shape"),
        ("none.txt", "no such file"),
    ],
)
def test_labels_that_do_not_fit(labels, words):
    with pytest.raises(InputError, match=words):
        read_labels(labels, NAMES)


@pytest.mark.parametrize(
    "text,words",
    [
        ("3\nSmiling\n1.jpg 1\n", r"no labels for 2 of 3.*a/2\.jpg"),
        ("hello\n", "neither a .csv"),
        ("3\nSmiling Male\n1.jpg 1\n", "1 labels, expected 2"),
        ("3\nSmiling\n", "no labels"),
    ],
)
def test_files_that_do_not_fit(tmp_path, text, words):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(InputError, match=words):
        read_labels(tmp_path / "x.txt", NAMES)
