"""The images of a run: epochs; decoding once, that goes on where it stopped, and notices other images."""

import os
import resource
import shutil
import tarfile

import numpy as np
import pytest

from ditifeat import RecipeError
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import MissingInputError, WriteError
from ditifeat.train import data as module
from ditifeat.train.data import prepare
from tests.conftest import make_image
from tests.train.conftest import training_images

SPEC = Preprocessing(32)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        make_image(i).save(folder / f"{i}.png")
    return folder


def test_epochs_see_each_image_once():
    data = training_images(10)
    first = np.concatenate([data.indices(step, 4) for step in range(5)])
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10)) and list(first[:10]) != list(first[10:])
    assert np.array_equal(data.indices(2, 4), first[8:12])  # whatever was asked for before


def test_images_are_decoded_once(photos, tmp_path):
    decoded = prepare(photos, SPEC, tmp_path)
    assert decoded.array.shape == (10, 32, 32, 3) and decoded.names[-1] == "more/09.png" and not decoded.skipped
    before = (tmp_path / "images.npy").stat().st_mtime_ns
    again = prepare(photos, SPEC, tmp_path)
    assert np.array_equal(decoded.array, again.array) and again.names == decoded.names
    assert (tmp_path / "images.npy").stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.json", "images.npy"]
    with pytest.raises(RecipeError, match="another output folder"):
        prepare(photos, Preprocessing(16), tmp_path)


def test_no_images(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="no images"):
        prepare(tmp_path / "empty", SPEC, tmp_path / "cache")
    with pytest.raises(MissingInputError, match="nowhere"):
        prepare(tmp_path / "nowhere", SPEC, tmp_path / "cache")


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda f: make_image(9).save(f / "9.png"), r"1 added \(9\.png\)"),
        (lambda f: (f / "2.png").unlink(), r"1 deleted \(2\.png\)"),
        (lambda f: (f / "2.png").rename(f / "7.png"), r"1 added \(7\.png\), 1 deleted \(2\.png\)"),
        (lambda f: make_image(9).save(f / "2.png"), r"1 changed \(2\.png\)"),
        (lambda f: (f / "2.png").write_bytes(b""), r"1 changed \(2\.png\)"),
    ],
)
def test_other_images_are_noticed(images, tmp_path, change, words):
    prepare(images, SPEC, tmp_path / "cache")
    change(images)
    with pytest.raises(RecipeError, match=words):
        prepare(images, SPEC, tmp_path / "cache")


def test_other_pixels_in_as_many_bytes_are_noticed(images, tmp_path):
    make_image(0).save(images / "0.bmp")
    prepare(images, SPEC, tmp_path / "cache")
    make_image(8).save(images / "0.bmp")
    with pytest.raises(RecipeError, match=r"1 changed \(0\.bmp\)"):
        prepare(images, SPEC, tmp_path / "cache")


@pytest.mark.parametrize(
    "copy", [shutil.move, shutil.copytree, lambda a, b: shutil.copytree(a, b, copy_function=shutil.copyfile)]
)
def test_an_equal_folder_elsewhere_is_the_same(images, tmp_path, copy):
    (images / "broken.png").write_bytes(b"")
    before = prepare(images, SPEC, tmp_path / "cache")
    copy(images, tmp_path / "moved")
    again = prepare(tmp_path / "moved", SPEC, tmp_path / "cache")
    assert again.names == before.names and again.skipped == before.skipped
    # The times are those of the copy from now on: pixels are compared once.
    assert prepare(tmp_path / "moved", SPEC, tmp_path / "cache").names == before.names


def test_a_tar_follows_the_same_rules(images, tmp_path):
    def pack(name):
        with tarfile.open(tmp_path / name, "w") as tar:
            tar.add(images, ".")

    pack("a.tar")
    names = prepare(tmp_path / "a.tar", SPEC, tmp_path / "cache").names
    assert len(names) == 6
    shutil.copyfile(tmp_path / "a.tar", tmp_path / "b.tar")
    assert prepare(tmp_path / "b.tar", SPEC, tmp_path / "cache").names == names
    make_image(9).save(images / "9.png")
    pack("a.tar")
    with pytest.raises(RecipeError, match=r"1 changed \(a\.tar\)"):
        prepare(tmp_path / "a.tar", SPEC, tmp_path / "cache")


def test_damaged_images_are_left_out_and_listed(images, tmp_path, caplog):
    (images / "1.png").write_bytes(b"")
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:60])
    decoded = prepare(images, SPEC, tmp_path / "cache")
    assert decoded.names == ["0.png", "2.png", "4.png", "5.png"] and decoded.array.shape == (4, 32, 32, 3)
    assert [name for name, _ in decoded.skipped] == ["1.png", "3.png"] and all(reason for _, reason in decoded.skipped)
    assert np.array_equal(decoded.array[3], prepare(images, SPEC, tmp_path / "other").array[3])
    assert sum("2 of 6 images left out" in record.message for record in caplog.records) == 2  # a line per decoding
    assert prepare(images, SPEC, tmp_path / "cache").skipped == decoded.skipped
    for path in images.iterdir():
        path.write_bytes(b"")
    with pytest.raises(RecipeError, match="none of 6 images can be used"):
        prepare(images, SPEC, tmp_path / "third")


def test_images_added_while_decoding_are_noticed(images, tmp_path, monkeypatch):
    real = module.sources
    monkeypatch.setattr(module, "sources", lambda data: list(real(data))[:-1])
    with pytest.raises(RecipeError, match="added while it was decoded"):
        prepare(images, SPEC, tmp_path / "cache")


@pytest.mark.parametrize("damaged", [False, True])
def test_decoding_goes_on_where_it_was_stopped(images, tmp_path, monkeypatch, damaged):
    if damaged:
        (images / "1.png").write_bytes(b"")
    whole = prepare(images, SPEC, tmp_path / "whole")
    monkeypatch.setattr(module, "DECODED", 2)
    monkeypatch.setattr(module, "SAVE_SECONDS", -1)
    real, starts = module.batches, []

    def stopping(*arguments, **options):
        starts.append(options["start"])
        for i, batch in enumerate(real(*arguments, **options)):
            if i == 1 and len(starts) == 1:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(module, "batches", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(images, SPEC, tmp_path / "cache")
    decoded = prepare(images, SPEC, tmp_path / "cache")
    assert starts == [0, 3 if damaged else 2]
    assert decoded.names == whole.names and np.array_equal(decoded.array, whole.array)
    assert decoded.skipped == whole.skipped
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["images.json", "images.npy"]


def test_a_stopped_decoding_of_other_images_begins_again(images, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DECODED", 2)
    monkeypatch.setattr(module, "SAVE_SECONDS", -1)
    monkeypatch.setattr(module.os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(module, "write_text", lambda path, text: path.write_text(text))
    with pytest.raises(KeyboardInterrupt):
        prepare(images, SPEC, tmp_path / "cache")
    monkeypatch.undo()
    make_image(9).save(images / "0.png")
    decoded = prepare(images, SPEC, tmp_path / "cache")
    assert np.array_equal(decoded.array, prepare(images, SPEC, tmp_path / "whole").array)


def test_space_is_reserved_before_anything_is_decoded(images, tmp_path, monkeypatch):
    """A full disk would kill who writes to a memory map whose space is not there."""
    monkeypatch.setattr(module, "batches", lambda *a, **k: pytest.fail("decoded"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(WriteError, match="decoded images cannot be had"):
            prepare(images, SPEC, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "cache").iterdir())


def test_the_space_is_really_taken(tmp_path):
    path = tmp_path / "array.npy"
    module._reserve(path, (100, 32, 32, 3))
    assert path.stat().st_blocks * 512 >= 100 * 32 * 32 * 3


@pytest.mark.parametrize("number", [None, 95])  # macOS has no such function, some file systems no such operation
def test_space_is_checked_where_it_cannot_be_reserved(tmp_path, monkeypatch, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    if number is None:
        monkeypatch.delattr(module.os, "posix_fallocate")
    else:
        monkeypatch.setattr(module.os, "posix_fallocate", refuse)
    module._reserve(tmp_path / "small.npy", (2, 8, 8, 3))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(WriteError, match="No space left"):
        module._reserve(tmp_path / "large.npy", (2, 8, 8, 3))


def test_a_folder_of_parquet_is_known_by_its_files(tmp_path):
    pytest.importorskip("pyarrow")
    from tests.data.test_tables import structs, write

    (tmp_path / "tables").mkdir()
    write(tmp_path / "tables" / "a.parquet", image=structs())
    assert len(prepare(tmp_path / "tables", Preprocessing(8), tmp_path / "cache").names) == 4
    write(tmp_path / "tables" / "b.parquet", image=structs())
    with pytest.raises(RecipeError, match=r"1 added \(b\.parquet\)"):
        prepare(tmp_path / "tables", Preprocessing(8), tmp_path / "cache")


@pytest.mark.parametrize("data", ["photos/*.png", "list.txt", "clip.mp4"])
def test_what_could_change_unseen_is_not_trained_on(tmp_path, data):
    with pytest.raises(RecipeError, match="training takes a folder, tar, zip or Parquet file"):
        prepare(tmp_path / data, Preprocessing(8), tmp_path / "cache")
