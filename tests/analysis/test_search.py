"""Features are searched in their files as in memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from ditifeat import Features, InputError
from ditifeat.analysis.search import origin, search
from tests.analysis.conftest import PARTITION

SUFFIXES = [".npz", ".safetensors", ".npy", ".parquet"]


def codes(rows=700, weights="a" * 64, flip_average=False):
    array = np.random.default_rng(0).normal(size=(rows, 40)).astype(np.float32) + 5
    names = tuple(f"{i:03d} ü.png" for i in range(rows))
    return Features(array, names, PARTITION, "made up", weights, "b" * 12, flip_average)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for suffix in SUFFIXES:
        codes().save(folder / f"x{suffix}")
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_is_searched_as_features_are(saved, suffix):
    features = codes()
    query = features.array[:3] + 0.1
    for time_steps in (None, (500, 1000)):
        expected = features.nearest(query, time_steps=time_steps, count=4)
        found = search(saved / f"x{suffix}", query, time_steps=time_steps, count=4)
        assert [[name for name, _ in row] for row in found] == [[name for name, _ in row] for row in expected]
        for one, other in zip(found, expected, strict=True):
            assert [d for _, d in one] == pytest.approx([d for _, d in other], rel=1e-5)
    assert search(saved / f"x{suffix}", features[7], count=1) == [("007 ü.png", 0.0)]
    assert origin(saved / f"x{suffix}") == features.origin


def test_of_few_rows_all_are_found(tmp_path):
    few = codes(3)
    few.save(tmp_path / "few.parquet")
    assert len(search(tmp_path / "few.parquet", few[0])) == 3
    with pytest.raises(InputError, match="count = 4 is over the 3 rows"):
        search(tmp_path / "few.parquet", few[0], count=4)


def test_rows_with_an_error_are_left_out(tmp_path):
    replace(codes(5), skipped=("bad.png",)).save(tmp_path / "x.parquet")
    assert len(search(tmp_path / "x.parquet", codes()[0], count=5)) == 5


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_other_weights_are_refused(saved, suffix):
    with pytest.raises(InputError, match="of other weights"):
        search(saved / f"x{suffix}", codes(weights="c" * 64)[:1])
    with pytest.raises(InputError, match="averaged over flips"):
        search(saved / f"x{suffix}", codes(flip_average=True)[:1])


def test_memory_does_not_grow(tmp_path):
    peaks = []
    for rows in (20_000, 60_000):
        codes(rows).save(tmp_path / f"{rows}.npy")
        tracemalloc.start()
        search(tmp_path / f"{rows}.npy", codes(1)[0])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 60_000 * 200  # the names of a .npy are read whole
