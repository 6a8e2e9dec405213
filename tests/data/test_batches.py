"""Batches: order, skipping, reading ahead."""

import io
import os
import resource
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ditifeat.data
from ditifeat import ImageDecodeError, InputError
from ditifeat.data.batches import MAX_THREADS, batches
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.sources import SourceReport
from tests.conftest import make_image


def test_one_pixel_holds_nothing(tmp_path):
    make_image(width=1, height=1).save(tmp_path / "dot.png")
    with pytest.raises(ImageDecodeError, match=r"dot\.png.*1 x 1"):
        list(batches(tmp_path / "dot.png", Preprocessing(32), 1))


def test_bad_images_can_be_skipped(tmp_path, caplog):
    for i in range(5):
        make_image(i).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    with pytest.raises(ImageDecodeError, match=r"2\.png"):
        list(batches(tmp_path, Preprocessing(32), 2))
    report = SourceReport()
    stream = batches(tmp_path, Preprocessing(32), 2, on_error="skip", report=report)
    found = [name for names, _ in stream for name in names]
    assert "skipped:" in caplog.text and "2.png" in caplog.text
    assert [name for name, _ in report.skipped] == ["2.png"] and "2.png" in str(report)
    assert found == ["0.png", "1.png", "3.png", "4.png"]


def test_bad_arrays_are_named_by_their_place():
    good, bad = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), np.nan)
    with pytest.raises(InputError, match=r"^1: .*NaN"):
        list(batches([good, bad], Preprocessing(32), 4))


def test_reading_runs_only_a_little_ahead():
    read = []

    def images():
        for i in range(1000):
            read.append(i)
            yield make_image(i % 3)

    stream = batches(images(), Preprocessing(32), 4)
    next(stream)
    stream.close()
    assert len(read) < 20


def test_what_the_system_cannot_read_is_never_skipped(tmp_path):
    for i in range(8):
        make_image(i).save(tmp_path / f"{i}.png")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    assert sum(len(names) for names, _ in batches(paths, Preprocessing(32), 8, on_error="skip")) == 8
    report = SourceReport()
    try:
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        with pytest.raises(InputError, match="Too many open files"):
            list(batches(paths, Preprocessing(32), 8, on_error="skip", report=report))
        with pytest.raises(InputError, match="Too many open files"):
            list(batches(tmp_path, Preprocessing(32), 8, on_error="skip", report=report))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not report.skipped


def test_a_wrong_argument_is_never_skipped():
    good, bad = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.int64)
    for images in ([good, bad], [good, None]):
        with pytest.raises(InputError):
            list(batches(images, Preprocessing(32), 1, on_error="skip"))


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"batch_size": 0}, "batch_size = 0 must be at least 1"),
        ({"batch_size": -1}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size = 2.5 must be an integer"),
        ({"batch_size": 2, "crop": "centre"}, "crop = 'centre' must be model or center"),
        ({"batch_size": 2, "on_error": "ignore"}, "on_error = 'ignore' must be raise or skip"),
    ],
)
def test_impossible_arguments_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        list(batches([make_image()], Preprocessing(32), **arguments))


def test_missing_and_damaged_images_are_reported_by_name(tmp_path):
    make_image().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    images = [
        tmp_path / "a.png",
        tmp_path / "b.png",
        tmp_path / "c.png",
        make_image(),
        b"no image",
        make_image(1, 1, 1),
    ]
    report = SourceReport()
    ((names, rows),) = batches(images, Preprocessing(32), 8, on_error="skip", report=report)
    assert names == [str(tmp_path / "a.png"), "3"] and len(rows) == 2
    assert [name for name, _ in report.skipped] == [str(tmp_path / "b.png"), str(tmp_path / "c.png"), "4", "5"]
    for (_, reason), words in zip(report.skipped, ["damaged", "no such file", "known kind", "1 x 1"], strict=True):
        assert words in reason
    assert str(report).startswith("4 images skipped: ") and str(report).endswith(", ...")


def test_threads_are_bounded_and_nothing_global_changes():
    threads, filters, limits = threading.active_count(), list(warnings.filters), []

    def images():
        for i in range(200):
            limits.append(threading.active_count() - threads)
            yield make_image(i % 3)

    pillow = (Image.MAX_IMAGE_PIXELS, dict(Image.OPEN))
    for _ in batches(images(), Preprocessing(32), 4):
        pass
    assert max(limits) <= MAX_THREADS and threading.active_count() == threads
    assert warnings.filters == filters and (Image.MAX_IMAGE_PIXELS, dict(Image.OPEN)) == pillow


def test_no_module_changes_warning_filters():
    for path in Path(ditifeat.data.__file__).parent.glob("*.py"):
        assert "catch_warnings" not in path.read_text("utf-8") and "simplefilter" not in path.read_text("utf-8")


def test_start_leaves_out_the_first_images_and_nothing_else(photos):
    whole, rest = (list(batches(photos, Preprocessing(16), 4, start=start)) for start in (0, 3))
    names = [name for part, _ in whole for name in part]
    assert [name for part, _ in rest for name in part] == names[3:]
    assert np.array_equal(np.concatenate([rows for _, rows in rest]), np.concatenate([rows for _, rows in whole])[3:])


@pytest.mark.parametrize("limit", [0, 1, 10_000])
def test_images_over_the_memory_that_may_wait_are_not_lost(limit, monkeypatch):
    monkeypatch.setattr("ditifeat.data.batches.MAX_HELD", limit)
    images = []
    for i in range(9):
        file = io.BytesIO()
        make_image(i, 40, 40).save(file, "BMP")
        images.append(file.getvalue())
    found = [name for names, _ in batches(images, Preprocessing(32), 2) for name in names]
    assert found == [str(i) for i in range(9)]
