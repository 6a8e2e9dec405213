from dataclasses import fields, replace

import numpy as np
import pandas
import pytest

from ditifeat import Features, InputError, TimeStepPartition
from tests.conftest import without_package

PARTITION = TimeStepPartition(4, 12, stages=(500, 1000), dims_per_stage=(4, 8))


@pytest.fixture
def features():
    array = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    names = ("a/1.png", "a/2.png", "ä b.png", "7", "1.png#2")
    return Features(array, names, PARTITION, "tiny", "ab" * 32, "12ab", True, ("broken.png",))


def equal(one, other):
    assert one.array.dtype == other.array.dtype == np.float32
    assert np.array_equal(one.array, other.array)
    for field in fields(Features):
        if field.name != "array":
            assert getattr(one, field.name) == getattr(other, field.name), field.name


def kinds(features):
    """Several rows, one, one image's, none."""
    one = replace(features, array=features.array[1], names=features.names[1:2])
    return features, features[:1], one, features[:0], replace(features, skipped=(), flip_average=False, weights="")


def test_pandas_and_back(features):
    for each in kinds(features):
        equal(Features.from_pandas(each.to_pandas()), each)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda frame: frame.iloc[::-1], [4, 3, 2, 1, 0]),
        (lambda frame: frame[list(frame.columns[::-1])], [0, 1, 2, 3, 4]),
        (lambda frame: frame.loc[["ä b.png", "a/1.png"]], [2, 0]),
        (lambda frame: frame[frame["s00_d000"] > np.inf], []),
        (lambda frame: frame.assign(label=1).query("label == 1").drop(columns="label"), [0, 1, 2, 3, 4]),
        (lambda frame: pandas.concat([frame.iloc[3:], frame.iloc[:1]]), [3, 4, 0]),
        (lambda frame: frame.reset_index().set_index("name"), [0, 1, 2, 3, 4]),
        (lambda frame: frame.astype(np.float64), [0, 1, 2, 3, 4]),
    ],
)
def test_what_people_do_with_frames(features, change, rows):
    equal(Features.from_pandas(change(features.to_pandas())), features[rows])


def test_frames_in_parquet_keep_what_made_them(features, tmp_path):
    pytest.importorskip("pyarrow")
    features.to_pandas().to_parquet(tmp_path / "frame.parquet")
    equal(Features.from_pandas(pandas.read_parquet(tmp_path / "frame.parquet")), features)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(age=3), "13 columns, the features 12; they differ in age; drop"),
        (
            lambda frame: frame.reset_index(),
            "they differ in name; drop what are no features, and make the images' names",
        ),
        (lambda frame: frame.drop(columns=["s00_d000", "s01_d003"]), "they differ in s00_d000, s01_d003; drop"),
        (lambda frame: frame[[*frame.columns[:-1], frame.columns[0]]], "they differ in s03_d011"),
        (lambda frame: frame.astype(object).replace(frame.iloc[0, 0], "word"), "holds what is no number"),
        (lambda frame: pandas.DataFrame(frame.to_numpy(), frame.index, frame.columns), "attrs do not say what made it"),
        (lambda frame: frame.to_numpy(), "attrs do not say what made it"),
    ],
)
def test_frames_that_hold_something_else(features, change, message):
    with pytest.raises(InputError, match=message):
        Features.from_pandas(change(features.to_pandas()))


@pytest.mark.parametrize("key", ["format_version", "model", "weights", "preprocessing", "flip_average", "partition"])
@pytest.mark.parametrize("value", [None, 7, {"k": 0}, "missing"])
def test_a_header_of_a_stranger_is_refused(features, key, value):
    frame = features.to_pandas()
    frame.attrs["ditifeat"].pop(key)
    if value != "missing":
        frame.attrs["ditifeat"][key] = value
    with pytest.raises(InputError):
        Features.from_pandas(frame)


def test_without_pandas(features, monkeypatch):
    without_package(monkeypatch, "pandas")
    with pytest.raises(ImportError, match="pip install pandas"):
        features.to_pandas()


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets")


def test_datasets_and_back(features, datasets):
    for each in kinds(features):
        dataset = each.to_dataset()
        assert isinstance(dataset, datasets.Dataset) and dataset.column_names == ["name", "features"]
        equal(Features.from_dataset(dataset), each)


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda dataset: dataset.select([3, 1]), [3, 1]),
        (lambda dataset: dataset.add_column("label", list(range(5))).sort("label", reverse=True), [4, 3, 2, 1, 0]),
        (lambda dataset: dataset.filter(lambda row: row["name"].startswith("a/")), [0, 1]),
        (lambda dataset: dataset.with_format("torch"), [0, 1, 2, 3, 4]),
    ],
)
def test_what_people_do_with_datasets(features, datasets, change, rows):
    equal(Features.from_dataset(change(features.to_dataset())), features[rows])


def test_datasets_on_disk(features, datasets, tmp_path):
    features.to_dataset().save_to_disk(tmp_path / "set")
    equal(Features.from_dataset(datasets.load_from_disk(tmp_path / "set")), features)


def test_datasets_that_hold_something_else(features, datasets):
    with pytest.raises(InputError, match="no column 'name'"):
        Features.from_dataset(datasets.Dataset.from_dict({"features": [[1.0] * 12]}))
    with pytest.raises(InputError, match="description does not say what made it"):
        Features.from_dataset(datasets.Dataset.from_dict({"name": ["a"], "features": [[1.0] * 12]}))
    with pytest.raises(InputError, match="no column 'name'"):
        Features.from_dataset([1, 2])


def test_without_datasets(features, monkeypatch):
    without_package(monkeypatch, "datasets")
    with pytest.raises(ImportError, match="pip install datasets"):
        features.to_dataset()
