"""An index finds nearly all that the exact search finds, and is of no other features than it says."""

import json
import logging
import os
import shutil

import numpy as np
import pytest

from ditifeat import Features, InputError, TimeStepPartition
from ditifeat.analysis import index as module
from ditifeat.analysis.index import Index, build_index
from ditifeat.analysis.search import origin, search
from ditifeat.errors import MissingInputError
from tests.conftest import without_package

pytest.importorskip("faiss", reason="faiss is not installed: pip install 'ditifeat[index]'")
WIDE = TimeStepPartition(10, 200)  # 20 dimensions per 100 time-steps


def codes(rows=4000, weights="a" * 64, seed=0):
    rng = np.random.default_rng(seed)
    array = rng.normal(size=(rows, 200)).astype(np.float32) * np.linspace(0.3, 3, 200, dtype=np.float32) + 50
    return Features(array, tuple(f"ü{i}.png" for i in range(rows)), WIDE, "made up", weights, "b" * 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("index")
    codes().save(folder / "x.parquet")
    build_index(folder / "x.parquet", folder / "all.index")
    build_index(folder / "x.parquet", folder / "late.index", time_steps=(500, 1000))
    return folder


@pytest.mark.parametrize("name,time_steps", [("all", None), ("late", (500, 1000))])
def test_it_finds_what_the_exact_search_finds(folder, name, time_steps):
    features, queries = codes(), codes(40, seed=1).array
    expected = features.nearest(queries, time_steps=time_steps, count=10)
    found = Index.open(folder / f"{name}.index").nearest(queries, count=10)
    shared = [len({n for n, _ in a} & {n for n, _ in b}) for a, b in zip(found, expected, strict=True)]
    assert np.mean(shared) > 9.8
    for one, other in zip(found, expected, strict=True):
        assert one[0][1] == pytest.approx(other[0][1], rel=2e-3)
    assert search(folder / f"{name}.index", features[5], count=2)[0][0] == "ü5.png"


@pytest.mark.parametrize("dims", [1, 3, 5, 11])
def test_of_few_dimensions_and_of_an_odd_number(tmp_path, dims):
    """And of fewer rows than there are codewords."""
    for rows in (5, 400):
        array = np.random.default_rng(0).normal(size=(rows, dims)).astype(np.float32)
        Features(array, tuple(map(str, range(rows))), TimeStepPartition(1, dims)).save(tmp_path / "x.npz")
        index = build_index(tmp_path / "x.npz", tmp_path / "x.index")
        assert [name for name, _ in index.nearest(array[3], count=1)] == ["3"]


def test_it_says_what_it_is(folder):
    index = Index.open(folder / "late.index")
    assert index.time_steps == (500, 1000) and index.rows == 4000 and index.partition == WIDE
    assert index.origin == origin(folder / "late.index") == codes(1).origin
    assert "4000 rows, time-steps 500-1000" in repr(index)


def test_rows_in_pieces_are_sampled_evenly(folder, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 300)
    moments = module._moments(folder / "x.parquet", slice(0, 200))
    array = codes().array
    assert np.array_equal(moments.sample, array[:: 4000 // len(moments.sample)])
    assert np.allclose(moments.mean, array.mean(0), atol=1e-3)
    assert moments.scale == pytest.approx(array.var(0).sum() ** 0.5, rel=1e-5)


def test_other_features_and_other_time_steps_are_refused(folder):
    index = Index.open(folder / "late.index")
    with pytest.raises(InputError, match="of other weights"):
        index.nearest(codes(1, weights="c" * 64))
    with pytest.raises(InputError, match="is of time-steps 500-1000; make another"):
        index.nearest(codes(1), time_steps=(0, 500))
    assert index.nearest(codes(1), time_steps=(500, 1000), count=1)[0][0][0] == "ü0.png"
    assert Index.open(folder / "all.index").nearest(codes(1), time_steps=(0, 1000), count=1)[0][0][0] == "ü0.png"
    with pytest.raises(InputError, match="count = 4001"):
        index.nearest(codes(1), count=4001)


@pytest.fixture
def copy(folder, tmp_path):
    for name in ("x.parquet", "all.index"):
        shutil.copytree(folder / name, tmp_path / name, copy_function=shutil.copyfile)  # with new times
    return tmp_path


def test_a_copy_of_both_is_good_and_a_change_is_not(copy):
    assert Index.open(copy / "all.index").rows == 4000
    (copy / "x.parquet" / "part-00001.parquet").write_bytes((copy / "x.parquet" / "part-00000.parquet").read_bytes())
    with pytest.raises(InputError, match=r"x\.parquet has changed since the index was made"):
        Index.open(copy / "all.index")


def test_features_of_the_same_size_that_differ_are_a_change(tmp_path):
    codes(50).save(tmp_path / "x.npy")
    build_index(tmp_path / "x.npy", tmp_path / "x.index")
    codes(50, seed=3).save(tmp_path / "x.npy")
    os.utime(tmp_path / "x.npy", ns=(0, 0))
    with pytest.raises(InputError, match="has changed"):
        Index.open(tmp_path / "x.index")


def test_an_index_alone_is_good(copy, caplog):
    shutil.rmtree(copy / "x.parquet")
    with caplog.at_level(logging.INFO, "ditifeat"):
        assert Index.open(copy / "all.index").rows == 4000
    assert "nobody knows whether they have changed" in caplog.text


@pytest.mark.parametrize("file", [module.CODES, module.NAMES, module.NAME_ENDS, module.VECTORS, module.ABOUT])
def test_a_damaged_index_is_refused(copy, file):
    path = copy / "all.index" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises((InputError, ValueError), match=r"all\.index"):
        Index.open(copy / "all.index")


def test_of_another_version_or_of_other_files(copy):
    path = copy / "all.index" / module.ABOUT
    about = json.loads(path.read_text())
    path.write_text(json.dumps(about | {"format_version": 9}))
    with pytest.raises(InputError, match="format_version 9, not 1"):
        Index.open(copy / "all.index")


def test_what_cannot_be_indexed(folder, tmp_path):
    with pytest.raises(MissingInputError):
        build_index(tmp_path / "none.parquet", tmp_path / "x.index")
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is no index"):
        build_index(folder / "x.parquet", tmp_path / "mine")
    with pytest.raises(InputError, match="no subset begins there"):
        build_index(folder / "x.parquet", tmp_path / "x.index", time_steps=(3, 7))
    with pytest.raises(MissingInputError, match="ditifeat index"):
        Index.open(tmp_path)


def test_one_row_and_equal_rows(tmp_path):
    for rows in (1, 30):
        Features(np.ones((rows, 200), np.float32), tuple(map(str, range(rows))), WIDE).save(tmp_path / "x.npz")
        index = build_index(tmp_path / "x.npz", tmp_path / "x.index")
        assert index.nearest(np.ones(200), count=1) == [("0", 0.0)]


def test_without_faiss(folder, monkeypatch):
    without_package(monkeypatch, "faiss")
    with pytest.raises(ImportError, match=r"ditifeat\[index\]"):
        Index.open(folder / "all.index")
