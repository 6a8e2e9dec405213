"""Short forms of the counts of `python -m tests.hostile`."""

import pytest

from tests.hostile import files, harness, images

QUICK_FILES = ("features-safetensors", "labels-csv")

slow = pytest.mark.slow


def check(kind, count, folder, **limits):
    tally = harness.run(kind, count, folder, harness.Limits(**limits))
    assert tally.failures == [] and tally.tried == count, tally
    return tally


@pytest.mark.parametrize("kind", images.FORMATS)
def test_damaged_images_are_read_or_refused(kind, tmp_path):
    tally = check(f"images:{kind}", 20, tmp_path)
    assert set(tally.outcomes) == {"read", "refused"}  # neither all whole nor all lost


@slow
@pytest.mark.parametrize("kind", (*images.FORMATS, "ppm"))
def test_more_damaged_images(kind, tmp_path):
    check(f"images:{kind}", 150, tmp_path)


@pytest.mark.parametrize("kind", QUICK_FILES)
def test_damaged_files_are_loaded_equal_or_refused(kind, tmp_path):
    check(f"files:{kind}", 60, tmp_path, memory=256 * harness.MIB)


@slow
@pytest.mark.parametrize("kind", files.KINDS)
def test_more_damaged_files(kind, tmp_path):
    if kind == "shards":
        pytest.importorskip("pyarrow")
    check(f"files:{kind}", 100, tmp_path, memory=512 * harness.MIB)


def test_the_counter_sees_raw_errors_hangs_crashes_and_memory(tmp_path):
    tally = harness.run("misbehaving:all", 6, tmp_path, harness.Limits(seconds=3, memory=200 * harness.MIB))
    assert tally.outcomes == {"read": 2} and [index for index, _ in tally.failures] == [1, 2, 3, 4]
    for (_, reason), words in zip(tally.failures, ("IndexError", "no answer", "died", "MiB, over"), strict=True):
        assert words in reason
