"""Folders of Parquet shards."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed; it comes with the extra parquet")

import pyarrow as pa
import pyarrow.parquet as pq

from ditifeat import Features, TimeStepPartition
from ditifeat.analysis import shards
from ditifeat.analysis.shards import Rows, iterate_rows, list_shards, shard_path, write_shard
from ditifeat.errors import InputError, MissingDependencyError
from tests.conftest import without_package

PARTITION = TimeStepPartition(4, 8)


@pytest.fixture
def features():
    codes = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)
    return Features(codes, tuple(f"é{i}.png" for i in range(10)), PARTITION, "made up", "a" * 64, "b" * 12, True)


def write(folder, features, *, dtype=np.float32, bad=()):
    errors = ["is damaged" if i in bad else None for i in range(len(features))]
    array = np.where([[i in bad] for i in range(len(features))], np.nan, features.array).astype(dtype)
    for number, start in enumerate(range(0, len(features), 4)):
        here = slice(start, start + 4)
        rows = Rows(list(features.names[here]), array[here], errors[here])
        write_shard(shard_path(folder, number), rows, features.header)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_file_is_what_other_readers_expect(features, tmp_path, dtype):
    write(tmp_path / "x.parquet", features, dtype=dtype, bad={1, 9})
    table = pq.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["name", "features", "error"]
    assert table.schema.field("features").type == pa.list_(pa.from_numpy_dtype(dtype), 8)
    assert table["name"].to_pylist() == list(features.names)
    assert [error is not None for error in table["error"].to_pylist()] == [i in (1, 9) for i in range(10)]
    assert json.loads(table.schema.metadata[b"ditifeat"]) == features.header
    frame = table.to_pandas()
    np.testing.assert_allclose(
        np.stack(frame["features"][frame["error"].isna()]), features.array[[0, *range(2, 9)]], 2e-3
    )
    assert np.isnan(np.stack(frame["features"][frame["error"].notna()])).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("bad", [(), (0,), range(4), range(10)])
def test_loaded_and_iterated(features, tmp_path, dtype, bad):
    write(tmp_path / "x.parquet", features, dtype=dtype, bad=bad)
    good = [i for i in range(10) if i not in bad]
    expected = features.array[good].astype(dtype).astype(np.float32)
    loaded = Features.load(tmp_path / "x.parquet")
    assert loaded.dtype == np.float32 and np.array_equal(loaded.array, expected)
    assert loaded.names == features[good].names and loaded.skipped == features[list(bad)].names
    assert (loaded.origin, loaded.partition, loaded.model) == (features.origin, PARTITION, "made up")
    parts = list(Features.iterate(tmp_path / "x.parquet", 3))
    assert all(part.dtype == np.float32 for part in parts)
    assert np.array_equal(np.concatenate([part.array for part in parts]), expected)
    assert tuple(name for part in parts for name in part.skipped) == loaded.skipped


def test_shards_come_in_the_order_of_their_numbers(features, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_ROWS", 1)
    for number in range(10):
        rows = Rows([features.names[number]], features.array[number : number + 1], [None])
        write_shard(shard_path(tmp_path / "x.parquet", number), rows, features.header)
    assert Features.load(tmp_path / "x.parquet").names == features.names
    assert [path.name for path in list_shards(tmp_path / "x.parquet")][-1] == "part-00009.parquet"


def damaged(folder):
    shard_path(folder, 1).write_bytes(shard_path(folder, 1).read_bytes()[:-9])


def foreign(folder):
    pq.write_table(pa.table({"name": ["a"]}), shard_path(folder, 0))


def without_features(folder):
    about = pq.read_schema(shard_path(folder, 0)).metadata
    pq.write_table(pa.table({"name": ["a"]}).replace_schema_metadata(about), shard_path(folder, 0))


def other_model(folder):
    about = {b"ditifeat": b'{"model": "other"}'}
    pq.write_table(pq.read_table(shard_path(folder, 1)).replace_schema_metadata(about), shard_path(folder, 1))


def unfinished(folder):
    (folder / "_encoding.json").write_text('{"finished": false}')


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda folder: shard_path(folder, 1).unlink(), r"part-00001\.parquet is missing"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], r"holds no part-00000\.parquet"),
        (damaged, r"part-00001\.parquet: is no whole Parquet file"),
        (foreign, "does not say which model"),
        (without_features, "cannot be read as features"),
        (other_model, r"part-00001\.parquet: was made in another way"),
        (unfinished, "is not finished"),
    ],
)
def test_folders_that_are_no_features(features, tmp_path, change, words):
    write(tmp_path / "x.parquet", features)
    change(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=words):
        Features.load(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=words):
        list(Features.iterate(tmp_path / "x.parquet"))


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.parquet: there is no such folder"):
        Features.load(tmp_path / "x.parquet")


def test_without_pyarrow(features, tmp_path, monkeypatch):
    without_package(monkeypatch, "pyarrow.parquet")
    with pytest.raises(MissingDependencyError, match=r"ditifeat\[parquet\]"):
        features.save(tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())


def test_a_save_replaces_the_folder_at_its_end(features, tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    write(path, features)
    features[:2].save(path)
    assert Features.load(path).names == features.names[:2]

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="disk full"):
        features.save(path)
    assert Features.load(path).names == features.names[:2] and [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_skipped_names_are_kept(features, tmp_path):
    replace(features, skipped=("bad.png",)).save(tmp_path / "x.parquet")
    assert Features.load(tmp_path / "x.parquet").skipped == ("bad.png",)
    assert [rows.errors for rows in iterate_rows(tmp_path / "x.parquet")][-1][-1] == "could not be decoded"


def test_lists_of_any_length_are_no_features(features, tmp_path):
    about = {b"ditifeat": json.dumps(features.header).encode()}
    table = pa.table({"name": ["a"], "features": [[1.0, 2.0]], "error": pa.array([None], pa.string())})
    (tmp_path / "x.parquet").mkdir()
    pq.write_table(table.replace_schema_metadata(about), shard_path(tmp_path / "x.parquet", 0))
    with pytest.raises(InputError, match="no features of a fixed length"):
        Features.load(tmp_path / "x.parquet")
