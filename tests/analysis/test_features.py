import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from ditifeat import Features, InputError, ModelError, TimeStepPartition
from ditifeat.files import read_tensors

ORIGIN = {
    "model": "made up",
    "weights": "a" * 64,
    "preprocessing": "b" * 12,
    "flip_average": True,
    "skipped": ("bad.png",),
}


@pytest.fixture
def features():
    """Ten rows of eight subsets of four dimensions each."""
    array = np.random.default_rng(0).normal(size=(10, 32)).astype(np.float32)
    names = (*(f"{i:02d}.png" for i in range(7)), *(f"more/{i:02d}.png" for i in range(7, 10)))
    return Features(array, names, TimeStepPartition(8, 32), **ORIGIN)


def origin(features):
    return {key: getattr(features, key) for key in ORIGIN}


def test_time_steps_and_subsets(features):
    p = features.partition
    assert np.array_equal(features.time_steps(0, 1000), features.array)
    assert np.array_equal(features.time_steps(250, 500), features.array[:, p.dims_of_subsets(2, 4)])
    assert np.array_equal(features.subsets(2, 4), features.array[:, 8:16])
    assert features.time_steps(250, 500).base is not None  # a view, not a copy


@pytest.mark.parametrize("select", [("time_steps", 1, 100), ("time_steps", 300, 300), ("subsets", 3, 3)])
def test_empty_selections_are_refused(features, select):
    name, lo, hi = select
    with pytest.raises(InputError):
        getattr(features, name)(lo, hi)


def test_staged_subsets_without_a_dimension_are_refused():
    partition = TimeStepPartition(4, 3, stages=(500, 1000), dims_per_stage=(3, 0))
    with pytest.raises(InputError, match="no dimension"):
        Features(np.zeros((2, 3), np.float32), ("a", "b"), partition).subsets(2, 4)


def test_indexing_keeps_names_and_origin(features):
    assert features[2:4].names == features.names[2:4]
    assert features[[0, 9]].names == ("00.png", "more/09.png")
    assert features[np.arange(10) > 7].shape == (2, 32)
    assert features[[i > 7 for i in range(10)]].names == features.names[8:]
    assert features[0].shape == (32,) and features[0, 1] == features.array[0, 1]
    for part in (features[2:4], features[[0, 9]], features[::-1]):
        assert origin(part) == ORIGIN and part.partition == features.partition


def test_it_is_an_array_to_others(features):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    labels = np.arange(10) % 2
    assert len(cross_val_score(LogisticRegression(), features, labels, cv=2)) == 2
    assert np.concatenate([features, features]).shape == (20, 32)


def test_the_array_protocol(features):
    assert np.asarray(features) is features.array
    assert np.asarray(features, dtype=np.float64).dtype == np.float64
    assert np.array(features, copy=False) is features.array
    assert not np.shares_memory(np.array(features), features.array)
    with pytest.raises(ValueError, match="copy"):
        np.array(features, dtype=np.float64, copy=False)


def test_equality_and_hash_are_the_object_s(features):
    assert features == features and features != replace(features) and len({features, replace(features)}) == 2


def beside(path):
    """What a save to `path` leaves in its folder."""
    return {path.name, path.name + ".json"} if path.suffix == ".npy" else {path.name}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy", ".parquet"])
def test_saved_and_loaded_is_the_same(features, tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    for part in (features, Features(features.array[0], features.names[:1], features.partition), features[:0]):
        part.save(path)
        loaded = Features.load(path)
        expected = np.atleast_2d(part.array) if suffix == ".parquet" else part.array
        assert np.array_equal(loaded.array, expected) and loaded.dtype == np.float32
        assert (loaded.names, loaded.partition) == (part.names, part.partition) and origin(loaded) == origin(part)
        assert {p.name for p in tmp_path.iterdir()} == beside(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".npy", ".parquet"])
@pytest.mark.parametrize("count", [1, 3, 10, 100])
def test_iterating_gives_the_same_rows(features, tmp_path, suffix, count):
    features.save(tmp_path / f"x{suffix}")
    parts = list(Features.iterate(tmp_path / f"x{suffix}", count))
    assert all(len(part) <= count for part in parts) and all(part.origin == features.origin for part in parts)
    assert np.array_equal(np.concatenate([part.array for part in parts]), features.array)
    assert [name for part in parts for name in part.names] == list(features.names)
    assert tuple(name for part in parts for name in part.skipped) == features.skipped


def test_safetensors_are_read_by_their_own_library(features, tmp_path):
    features.save(tmp_path / "x.safetensors")
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert np.array_equal(tensors["features"].numpy(), features.array)
    assert json.loads(metadata["ditifeat"])["model"] == features.model


def test_a_npy_without_its_names_is_refused(features, tmp_path):
    features.save(tmp_path / "x.npy")
    assert isinstance(Features.load(tmp_path / "x.npy").array, np.memmap)
    (tmp_path / "x.npy.json").unlink()
    with pytest.raises(InputError, match=r"x\.npy\.json, which names its rows, is missing"):
        Features.load(tmp_path / "x.npy")


@pytest.mark.parametrize("value", [None, "1", "True", 1])
def test_files_that_do_not_say_whether_flips_were_averaged_are_refused(features, tmp_path, value):
    features.save(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as data:
        array, about = data["features"], json.loads(str(data["about"]))
    del about["flip_average"]
    np.savez(tmp_path / "x.npz", features=array, about=json.dumps(about | ({"flip_average": value} if value else {})))
    with pytest.raises(InputError, match=r"x\.npz: .* make it again with encode"):
        Features.load(tmp_path / "x.npz")


def test_files_that_are_no_features(features, tmp_path):
    with pytest.raises(InputError, match=r"saved as \.npz"):
        features.save(tmp_path / "x.csv")
    for name in ("none.npz", "none.safetensors"):
        with pytest.raises(FileNotFoundError, match="no such file") as error:
            Features.load(tmp_path / name)
        assert isinstance(error.value, InputError)
    (tmp_path / "x.npz").write_bytes(b"garbage")
    with pytest.raises(InputError, match=r"x\.npz"):
        Features.load(tmp_path / "x.npz")
    (tmp_path / "x.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"x\.safetensors"):
        Features.load(tmp_path / "x.safetensors")
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(InputError, match=r"other\.npz"):
        Features.load(tmp_path / "other.npz")


def test_other_files_are_refused_without_advice_to_unpickle(tmp_path):
    (tmp_path / "labels.csv").write_text("name,Smiling\n00.png,1\n")
    for path in (tmp_path / "labels.csv", tmp_path):
        with pytest.raises(InputError, match=r"is no \.npz file of features; make one with encode"):
            Features.load(path)


def test_a_pickle_in_a_feature_file_does_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    array = np.array([Evil()], dtype=object)
    np.savez(tmp_path / "x.npz", features=array, about=array)
    with pytest.raises(InputError):
        Features.load(tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()


def test_a_failed_save_leaves_the_old_file(features, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    features.save(path)
    before = path.read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(OSError, match="disk full"):
        features.save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["x.npz"]


def test_pandas(features):
    frame = features.to_pandas()
    assert frame.shape == (10, 32) and frame.index[0] == "00.png"
    assert frame.columns[0] == "s00_d000" and frame.columns[-1] == "s07_d031"


@pytest.mark.parametrize("array", [np.zeros((2, 8), np.float32), np.zeros((1, 2, 8)), [[0.0] * 8]])
def test_shapes_must_agree(array):
    with pytest.raises(InputError):
        Features(array, ("a",), TimeStepPartition(2, 8))


def test_features_pickle(features):
    loaded = pickle.loads(pickle.dumps(features))
    assert np.array_equal(loaded.array, features.array) and origin(loaded) == ORIGIN


def test_nearest(features):
    query = features.array[3] + 0.01
    found = features.nearest(query, count=10)
    squares = (features.array - query) ** 2
    expected = np.sqrt(squares.sum(1) / features.array.var(0).sum())
    assert found[0][0] == "03.png"
    assert [name for name, _ in found] == [features.names[i] for i in np.argsort(expected)]
    assert [distance for _, distance in found] == pytest.approx(np.sort(expected), abs=1e-5)

    part = features.partition.dims_of_time_steps(500, 1000)
    expected = np.sqrt(squares[:, part].sum(1) / features.array.var(0)[part].sum())
    late = features.nearest(query, time_steps=(500, 1000), count=3)
    assert [name for name, _ in late] == [features.names[i] for i in np.argsort(expected)[:3]]


def test_nearest_of_one_row_and_of_equal_rows(features):
    for rows in (Features(features.array[0], features.names[:1], features.partition), features[[0, 0]]):
        assert rows.nearest(features.array[0] + 2, count=1)[0][1] == pytest.approx(2 * 32**0.5, rel=1e-5)


@pytest.mark.parametrize("time_steps", [5, (0, 100, 200), "ab", (0.0, 100.0), (300, 200)])
def test_ranges_that_are_none(features, time_steps):
    with pytest.raises(InputError, match=r"time.steps"):
        features.nearest(features.array[0], time_steps=time_steps)


def test_nearest_to_a_tensor(features):
    query = torch.nn.Parameter(torch.from_numpy(features.array[:2]))
    assert [row[0][0] for row in features.nearest(query)] == ["00.png", "01.png"]


def test_nearest_takes_many_queries(features):
    found = features.nearest(features[2:5], count=2)
    assert [len(row) for row in found] == [2, 2, 2] and [row[0][0] for row in found] == ["02.png", "03.png", "04.png"]
    assert found[1] == features.nearest(features.array[3], count=2)
    assert features.nearest(features[3:4], count=1) == [[("03.png", 0.0)]]
    assert features.nearest(features[:0]) == []


@pytest.mark.parametrize("count", [0, 11, 2.5, True, "3"])
def test_counts_of_neighbours_that_do_not_fit(features, count):
    with pytest.raises(InputError, match="count"):
        features.nearest(features.array[0], count=count)


@pytest.mark.parametrize(
    "query", [np.zeros(31), np.zeros((1, 2, 32)), np.full(32, np.nan), ["a"] * 32, np.zeros((2, 1))]
)
def test_queries_that_do_not_fit(features, query):
    with pytest.raises(InputError):
        features.nearest(query)


@pytest.mark.parametrize("key,words", [("weights", "other weights"), ("preprocessing", "another way")])
def test_features_of_another_origin_are_not_mixed(features, key, words):
    other = replace(features, **{key: "c" * 12})
    with pytest.raises(InputError, match=words):
        features.nearest(other)
    unknown = replace(features, **{key: ""})
    for query in (features, unknown, other.array):
        assert features.nearest(query, count=1)[0][0][0] == "00.png"


@pytest.mark.parametrize(
    "average,words",
    [
        (True, "plain, not averaged .* flip_average=True"),
        (False, "averaged over flips, not plain.* flip_average=False"),
    ],
)
def test_plain_and_averaged_features_are_not_mixed(features, average, words):
    ours, other = (replace(features, flip_average=f) for f in (average, not average))
    for mix in (lambda: ours.nearest(other), lambda: Features.concatenate([ours, ours, other])):
        with pytest.raises(InputError, match=words):
            mix()
    assert ours.nearest(other.array[0], count=1)[0][0] == "00.png"
    assert ("averaged over flips" in repr(ours)) == average


def test_concatenated_features(features):
    rest = replace(features[4:], skipped=("worse.png",))
    one = replace(features[3:4], array=features.array[3], skipped=())
    both = Features.concatenate(iter([features[:3], rest, one]))
    order = [*range(3), *range(4, 10), 3]
    assert np.array_equal(both.array, features.array[order]) and both.names == features[order].names
    assert both.skipped == ("bad.png", "worse.png") and both.origin == features.origin
    assert both.partition == features.partition and both.model == features.model


@pytest.mark.parametrize(
    "change,words",
    [
        ({"weights": "c" * 64}, "other weights"),
        ({"preprocessing": "c" * 12}, "another way"),
        ({"partition": TimeStepPartition(4, 32)}, "another partition"),
    ],
)
def test_features_that_do_not_belong_together_are_not_concatenated(features, change, words):
    with pytest.raises(InputError, match=words):
        Features.concatenate([features, replace(features, **change)])


@pytest.mark.parametrize("key", ["weights", "preprocessing"])
def test_features_of_unknown_origin_hide_no_other(features, key):
    unknown, other = (replace(features, **{key: value}) for value in ("", "c" * 12))
    for parts in ([unknown, features], [features, unknown]):
        assert getattr(Features.concatenate(parts), key) == ""
    with pytest.raises(InputError):
        Features.concatenate([unknown, features, other])


@pytest.mark.parametrize("parts", [[], [np.zeros((2, 32), np.float32)], np.zeros((2, 32)), iter([]), None, 3])
def test_what_is_no_features_is_not_concatenated(parts):
    with pytest.raises(InputError, match="at least one"):
        Features.concatenate(parts)
