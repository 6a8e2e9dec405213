"""Counts agree with what is read."""

import io

import numpy as np
import pytest

from ditifeat.data.counting import count_images
from ditifeat.data.sources import sources
from tests.data.test_archives import write_zip
from tests.data.test_folders import png, write_tar
from tests.data.test_paths import write_list


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.png", "b.png", "more/c.png", "face", "notes.txt"):
        (tmp_path / "photos" / name).write_bytes(png())
    write_zip(tmp_path / "x.zip", {"1.png": png(), "__MACOSX/._1.png": b"", "__MACOSX/2.png": b"", "a.txt": b""})
    write_tar(tmp_path / "x.tar", {"1.png": png()})
    write_list(tmp_path / "list.txt", "photos/a.png\n\nphotos/b.png\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "images,count",
    [
        ("photos", 4),
        ("photos/a.png", 1),
        ("photos/*.png", 2),
        ("photos/{b,a}.png", 2),
        ("list.txt", 2),
        ("x.zip", 1),
        (["photos", "photos/a.png", "x.zip", "list.txt", np.zeros((8, 8, 3)), np.zeros((3, 8, 8, 3))], 12),
        (np.zeros((3, 8, 8, 3)), 3),
        (np.zeros((9, 8, 3)), 1),
        (png(), 1),
        ({"bytes": png(), "path": None}, 1),
        ([["photos/a.png"], {"bytes": png(), "path": None}], 2),
        ([], 0),
    ],
)
def test_known_counts_are_those_of_what_is_read(here, images, count):
    assert count_images(images) == count == len(list(sources(images)))


@pytest.mark.parametrize("images", ["x.tar", ["x.tar", "photos"], "none.zip", "none/*.png", iter([]), "*.tar"])
def test_what_is_not_known(here, images):
    assert count_images(images) is None


def test_damaged_zips_are_left_to_those_who_read_them(here):
    (here / "x.zip").write_bytes(b"no zip")
    assert count_images("x.zip") is None


def test_tables_and_videos(here):
    pytest.importorskip("pyarrow")
    from tests.data.test_tables import structs, write

    path = write(here / "x.parquet", image=structs())
    assert count_images(path) == count_images(f"{path}#image") == 4
    (here / "tables").mkdir()
    write(here / "tables" / "x.parquet", image=structs())
    assert count_images("tables") == len(list(sources("tables"))) == 4
    pytest.importorskip("av")
    from tests.data.test_video import write_video

    assert count_images(write_video(here / "x.mp4", 7)) == 7
    assert count_images([write_video(here / "x.mkv", 7)]) is None


def test_one_image_in_memory():
    file = io.BytesIO(png())
    assert count_images([file, png(), b""]) == 3
