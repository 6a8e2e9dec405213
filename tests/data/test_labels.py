"""Labels of every form, in the rows' order; what could be read in two ways is refused."""

import tarfile

import numpy as np
import pandas
import pytest
import torch

from ditifeat import InputError
from ditifeat.data.labels import read_labels
from ditifeat.data.sources import sources
from tests.conftest import make_image

NAMES = ("a/1.jpg", "a/2.jpg", "a/3.jpg")
UNNAMED = ("0", "1", "2")
SHUFFLED = ["3.jpg", "1.jpg", "2.jpg"]
CELEBA = "3\nSmiling Male\n3.jpg  1 -1\n1.jpg -1 -1\n2.jpg  1  1\n"
KAGGLE = "image_id,Smiling,Male\n3.jpg,1,-1\n1.jpg,-1,-1\n2.jpg,1,1\n"


def write(folder, text, name="labels.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def listed(labels):
    return {name: values.tolist() for name, values in labels.items()}


# ---- files


@pytest.mark.parametrize(
    "text,name,encoding",
    [
        (CELEBA, "list_attr_celeba.txt", "utf-8"),
        (CELEBA, "list_attr_celeba.txt", "utf-8-sig"),
        (CELEBA, "list_attr_celeba.txt", "utf-16"),
        (CELEBA.replace("\n", "\r\n"), "labels.txt", "utf-8"),
        (KAGGLE, "labels.csv", "utf-8"),
        (KAGGLE, "labels.csv", "utf-8-sig"),
        (KAGGLE, "labels.csv", "utf-16"),
        (KAGGLE, "labels.csv", "utf-16-le"),
        (KAGGLE, "LABELS.CSV", "utf-8"),
        (KAGGLE.replace("\n", "\r\n"), "labels.csv", "utf-8"),
        (KAGGLE.replace("\n", "\n\n") + "\n", "labels.csv", "utf-8"),
        (KAGGLE.replace(",", ";"), "labels.csv", "utf-8"),
        ("sep=;\n" + KAGGLE.replace(",", ";"), "labels.csv", "utf-8"),
        (KAGGLE.replace(",", "\t"), "labels.tsv", "utf-8"),
        (KAGGLE.replace(",", "\t"), "labels.txt", "utf-8"),
        (KAGGLE.replace(",", ", "), "labels.csv", "utf-8"),
        (KAGGLE.replace("\n", ",\n"), "labels.csv", "utf-8"),
        (KAGGLE.replace("3.jpg", '"3.jpg"'), "labels.csv", "utf-8"),
        ("i,".join(["", KAGGLE.replace("\n", "\n0,").removesuffix("0,")])[1:], "labels.csv", "utf-8"),
    ],
)
def test_files_are_matched_by_name(tmp_path, text, name, encoding):
    labels = read_labels(write(tmp_path, text, name, encoding), NAMES)
    assert listed(labels) == {"Smiling": [-1, 1, 1], "Male": [-1, 1, -1]}
    assert all(values.dtype == np.float64 for values in labels.values())


def test_equal_file_names_in_two_folders(tmp_path):
    path = write(tmp_path, "name,cat\ncats/1.png,1\ncats/2.png,1\ndogs/1.png,0\ndogs/2.png,0\n")
    names = ["/data/cats/1.png", "/data/cats/2.png", "/data/dogs/1.png", "/data/dogs/2.png"]
    assert read_labels(path, names)["cat"].tolist() == [1, 1, 0, 0]
    assert read_labels(path, [f"./{name[6:]}" for name in names])["cat"].tolist() == [1, 1, 0, 0]
    with pytest.raises(InputError, match="no labels for 1 of 1"):
        read_labels(path, ["/data/birds/1.png"])


def test_pngs_of_what_labels_call_jpg(tmp_path):
    path = write(tmp_path, "name,y\n2.jpg,2\n1.jpg,1\n")
    assert read_labels(path, ["x/1.png", "x/2.png"])["y"].tolist() == [1, 2]


def test_file_names_with_spaces(tmp_path):
    path = write(tmp_path, "2\nSmiling Male\nmy face 1.jpg -1 1\n  my face 2.jpg 1 -1\n", "attr.txt")
    assert listed(read_labels(path, ["my face 2.jpg", "my face 1.jpg"])) == {"Smiling": [1, -1], "Male": [-1, 1]}


def test_header_that_names_its_first_column(tmp_path):
    path = write(tmp_path, "2\nimage_id x_1 y_1\n1.jpg 95 71\n2.jpg 72 94\n", "list_bbox_celeba.txt")
    assert listed(read_labels(path, ["2.jpg", "1.jpg"])) == {"x_1": [72, 95], "y_1": [94, 71]}


def test_booleans_and_empty_cells(tmp_path):
    path = write(tmp_path, "name,cat,age\n1.jpg,True,\n2.jpg,FALSE,2.5\n3.jpg,true,NA\n")
    labels = read_labels(path, NAMES)
    assert labels["cat"].tolist() == [1, 0, 1]
    assert np.array_equal(labels["age"], [np.nan, 2.5, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    "text,words",
    [
        ("1.jpg,0\n2.jpg,1\n3.jpg,1\n", r"first row \(1\.jpg, 0\) is no header"),
        ("1,0\n2,1\n3,1\n", "is no header"),
        ("face,True\nbody,False\n", "is no header"),
        ("1.jpg,cat\n2.jpg,dog\n", "is no header"),
        ("name,y\n1.jpg,0\n1.jpg,1\n2.jpg,0\n3.jpg,0\n", "two labels"),
        ("name,y\n1.jpg,0\n./1.jpg,1\n2.jpg,0\n3.jpg,0\n", "two labels"),
        ("name,y,y\n1.jpg,0,1\n", "two columns are called 'y'"),
        ("name,,y\n1.jpg,0,1\n", "column 2 has labels but no name"),
        ("name,y\n,0\n1.jpg,0\n", "has no image name"),
        ("name,y\n1.jpg,0\n", r"no labels for 2 of 3.*a/2\.jpg"),
        ("name,y\n1.jpg,0,1\n", "2 labels, expected 1"),
        ("name,y\n1.jpg,yes\n2.jpg,no\n3.jpg,no\n", "attribute y.*not words.*get_dummies"),
        ("y,name\n1,1.jpg\n2,2.jpg\n3,3.jpg\n", "holds image names; make them"),
        ("name;y\n1.jpg;1,5\n2.jpg;2\n3.jpg;1\n", "decimal point"),
        ("name,y\n1.jpg,1_0\n2.jpg,2\n3.jpg,1\n", "not words"),
        ("name,y\n1.jpg,inf\n2.jpg,2\n3.jpg,1\n", "infinite"),
        ("name,y\n1.jpg,\n2.jpg,\n3.jpg,\n", "every label is missing"),
        ('name,y\n"1.jpg,0\n2.jpg,1\n', "is not CSV"),
        ("index,y\n0,1\n1,0\n2,1\n", "numbered"),
        (",y\n0,1\n1,0\n2,1\n", "numbered"),  # pandas' default index, whose rows are not the files' numbers
        ("name,y\n", "holds no labels"),
        ("hello\n", "neither CSV"),
        ("", "empty"),
        ("3\nSmiling Male\n1.jpg 1\n2.jpg 1\n3.jpg 1\n", "1 labels, expected 2"),
        ("2\nSmiling Male\n1.jpg 1 1\n2.jpg 1 1\n3.jpg 1 1\n", "says that it holds 2 images but has 3 rows"),
        ("3\nSmiling\n", "0 rows"),
        ("0\nSmiling\n", "holds no labels"),
        ("2\nSmiling Smiling\n1.jpg 1 1\n2.jpg 1 1\n", "two columns"),
        ("000001.jpg 2880\n000002.jpg 2937\n", "neither CSV"),
    ],
)
def test_files_that_are_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        read_labels(write(tmp_path, text), NAMES)


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0", "name,y\n\u00fc.jpg,1\n".encode("latin-1")])
def test_bytes_that_are_no_text(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.csv.*UTF-8"):
        read_labels(tmp_path / "x.csv", NAMES)


def test_missing_file_is_also_the_builtin_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv") as error:
        read_labels(tmp_path / "none.csv", NAMES)
    assert isinstance(error.value, InputError)
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(tmp_path, NAMES)


# ---- pandas objects and dicts

VALUES = [3, 1, 2]  # of SHUFFLED: the number in each name


@pytest.mark.parametrize(
    "labels",
    [
        pandas.Series(VALUES, SHUFFLED, name="y"),
        pandas.DataFrame({"y": VALUES}, SHUFFLED),
        pandas.DataFrame({"image_id": SHUFFLED, "y": VALUES}),
        pandas.DataFrame({"image_id": SHUFFLED, "y": VALUES}, index=[2, 0, 1]),
        pandas.DataFrame({"y": VALUES, "file": [f"/data/a/{name}" for name in SHUFFLED]}),
        pandas.DataFrame({"y": VALUES}, pandas.Index(SHUFFLED, dtype="string")),
        {"y": pandas.Series(VALUES, SHUFFLED)},
        {"y": dict(zip(SHUFFLED, VALUES, strict=True))},
        pandas.Series(VALUES, SHUFFLED, dtype="Int64", name="y"),
        pandas.Series([str(value) for value in VALUES], SHUFFLED, name="y"),
        pandas.Series([*VALUES, 9], [*SHUFFLED, "unused.jpg"], name="y"),
    ],
)
def test_labels_with_names_are_matched_by_name(labels):
    assert listed(read_labels(labels, NAMES)) == {"y": [1, 2, 3]}


def test_one_label_per_image_name():
    assert read_labels(dict(zip(SHUFFLED, VALUES, strict=True)), NAMES)["label"].tolist() == [1, 2, 3]


def test_attributes_of_different_order():
    labels = {"x": pandas.Series(VALUES, SHUFFLED), "y": pandas.Series([1, 2, 3], NAMES), "z": [7, 8, 9]}
    assert listed(read_labels(labels, NAMES)) == {"x": [1, 2, 3], "y": [1, 2, 3], "z": [7, 8, 9]}


@pytest.mark.parametrize(
    "labels,name",
    [
        ([0, 1, 0], "label"),
        (np.array([0, 1, 0], dtype=np.int8), "label"),
        (np.array([[0], [1], [0]]), "label0"),
        (np.array([False, True, False]), "label"),
        (np.array(["0", "1", "0"]), "label"),
        (torch.tensor([0.0, 1.0, 0.0], requires_grad=True), "label"),
        (pandas.Index([0, 1, 0]), "label"),
        ({"x": [False, True, False]}, "x"),
        ({"x": torch.tensor([0, 1, 0])}, "x"),
        ({1: [0, 1, 0]}, "1"),
    ],
)
@pytest.mark.parametrize("names", [NAMES, UNNAMED])
def test_labels_that_cannot_have_names_go_by_order(labels, name, names):
    assert listed(read_labels(labels, names)) == {name: [0, 1, 0]}


@pytest.mark.parametrize(
    "labels",
    [pandas.Series([5, 6, 7]), pandas.DataFrame({"y": [5, 6, 7]}), {0: 5, 1: 6, 2: 7}, {"y": pandas.Series([5, 6, 7])}],
)
def test_default_index_goes_by_order_only_where_nothing_has_names(labels):
    (values,) = read_labels(labels, UNNAMED).values()
    assert values.tolist() == [5, 6, 7]
    for names in (NAMES, ("0.png", "1.png", "2.png"), ("5", "6", "7")):
        with pytest.raises(InputError, match="to_numpy"):
            read_labels(labels, names)


def test_rows_picked_of_unnamed_features_and_labels_alike():
    assert read_labels(pandas.Series(range(10))[[3, 7]], ("3", "7"))["label"].tolist() == [3, 7]


@pytest.mark.parametrize("names", [NAMES, UNNAMED, ("0.png", "1.png", "2.png")])
def test_shuffled_row_numbers_could_be_read_in_two_ways(names):
    """By index, if the features stand in the original order; by order, if they were encoded after shuffling."""
    frame = pandas.DataFrame({"y": [3, 1, 2]}, index=[2, 0, 1])
    for labels in (frame, frame["y"], {"y": frame["y"]}):
        with pytest.raises(InputError, match="to_numpy"):
            read_labels(labels, names)


def test_names_for_features_without_names():
    for keys in (SHUFFLED, ["0.png", "1.png", "2.png"]):
        with pytest.raises(InputError, match="encode paths"):
            read_labels(pandas.Series(VALUES, keys), UNNAMED)


def test_missing_values_are_kept():
    for values in ([1, None, 0], [1, pandas.NA, 0], [1.0, np.nan, 0.0], ["1", "", "0"]):
        assert np.array_equal(read_labels(values, NAMES)["label"], [1, np.nan, 0], equal_nan=True)


@pytest.mark.parametrize(
    "labels,words",
    [
        (pandas.Series([1, 2, 3, 4], [*SHUFFLED, "3.jpg"]), r"two labels, '3\.jpg' and '3\.jpg'"),
        (pandas.DataFrame({"image_id": [*SHUFFLED, "3.jpg"], "y": [1, 2, 3, 4]}), "two labels"),
        (pandas.DataFrame([[1, 2]] * 3, NAMES, columns=["y", "y"]), "two columns.*'y'"),
        ({1: [0, 1, 0], "1": [1, 1, 0]}, "two attributes are called '1'"),
        ({"y": np.zeros((3, 2))}, "2 columns"),
        ({"y": "labels.csv", "z": [0, 1, 0]}, "str holds no labels"),
        ({"y": 5}, "no labels for 3 of 3"),
        ({}, "no attribute"),
        ([0, 1], "2 labels for 3 rows"),
        ({"x": ["yes", "no", "no"]}, "attribute x.*not words"),
        (pandas.DataFrame({"split": ["train", "train", "test"], "y": [1, 2, 3]}, NAMES), "attribute split.*not words"),
        (np.array([1, 2, 3], dtype="datetime64[D]"), "not words: type datetime64"),
        (np.array([1j, 2, 3]), "complex"),
        ([0, np.inf, 1], "infinite"),
        ([np.nan] * 3, "every label is missing"),
        ([[1, 2], [1], [1]], "no array"),
        (np.zeros((3, 2, 2)), "shape"),
        (5, "shape"),
        ({1.0, 0.0}, "shape"),
        (iter([1, 0, 1]), "shape"),
        ("none.txt", "no such file"),
    ],
)
def test_labels_that_are_refused(labels, words):
    with pytest.raises(InputError, match=words):
        read_labels(labels, NAMES)


def test_equal_names_of_features_are_refused():
    with pytest.raises(InputError, match="both match"):
        read_labels(pandas.Series([1, 2], ["1.png", "2.png"]), ["1.png", "1.png"])


def test_forty_attributes_of_many_images(tmp_path):
    rows = "".join(f"{i:06d}.jpg " + " ".join(["-1", "1"] * 20) + "\n" for i in range(2_000))
    path = write(tmp_path, "2000\n" + " ".join(f"a{i}" for i in range(40)) + "\n" + rows, "list_attr_celeba.txt")
    labels = read_labels(path, [f"{i:06d}.jpg" for i in range(2_000)])
    assert len(labels) == 40 and labels["a0"].sum() == -2_000


# ---- from images to labels


@pytest.mark.parametrize(
    "keys", ["{}/{}.png", "./{}/{}.png", "{}\\{}.png", "/elsewhere/{}/{}.png", "{}/{}.jpg", "{}/{}"]
)
@pytest.mark.parametrize("images", ["folder", "paths", "folders", "tar", "tars"])
def test_images_of_equal_file_names_get_their_own_labels(tmp_path, images, keys):
    rows = [(animal, i) for animal in ("cats", "dogs") for i in range(2)]
    for animal, i in rows:
        (tmp_path / "src" / animal).mkdir(parents=True, exist_ok=True)
        make_image(i, 8, 8).save(tmp_path / "src" / animal / f"{i}.png")
    for name in ("x.tar", "y.tar"):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(tmp_path / "src", ".")
    folder = tmp_path / "src"
    given = {
        "folder": folder,
        "paths": [folder / animal / f"{i}.png" for animal, i in rows],
        "folders": [f"{folder}/cats/", f"{folder}/dogs/"],
        "tar": tmp_path / "x.tar",
        "tars": [tmp_path / "x.tar", tmp_path / "y.tar"],
    }[images]
    names = [name for name, _ in sources(given)]
    text = "".join(f"{keys.format(animal, i)},{int(animal == 'cats')}\n" for animal, i in reversed(rows))
    path = write(tmp_path, f"name,cat\n{text}")
    if images == "tars":  # both hold cats/0.png
        with pytest.raises(InputError, match=r"x\.tar/.*y\.tar/.* both match|no labels"):
            read_labels(path, names)
    elif keys.startswith("/elsewhere") and images in ("paths", "folders"):  # two whole paths that differ
        with pytest.raises(InputError, match="no labels"):
            read_labels(path, names)
    else:
        assert read_labels(path, names)["cat"].tolist() == ["cats" in name for name in names] and len(names) == 4


def test_two_folders_and_labels_without_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        make_image(0, 8, 8).save(tmp_path / folder / "1.png")
    names = [name for name, _ in sources([tmp_path / "a", tmp_path / "b"])]
    with pytest.raises(InputError, match=r"a/1\.png' and '.*b/1\.png' both match the one label of '1\.png'"):
        read_labels({"1.png": 1}, names)
    assert read_labels({"b/1.png": 1, "a/1.png": 0}, names)["label"].tolist() == [0, 1]
