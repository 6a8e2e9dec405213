"""Patterns, braces, and files that list paths."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ditifeat import ImageDecodeError, InputError
from ditifeat.data.paths import expand, kind_of_path, split_column
from ditifeat.data.sources import SourceReport, is_single, sources
from tests.data.test_folders import names_of, png, rows_of, write_tar


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("photos/b.png", "photos/a.png", "photos/more/c.png", "photos/more/deep/d.JPG", "photos/.hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    (tmp_path / "photos" / "notes.txt").write_text("a.png\n")
    (tmp_path / "photos" / "face").write_bytes(png())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "pattern,names",
    [
        ("photos/*.png", ["photos/a.png", "photos/b.png"]),
        ("photos/[ab].png", ["photos/a.png", "photos/b.png"]),
        ("photos/?.png", ["photos/a.png", "photos/b.png"]),
        ("photos/**/*.png", ["photos/a.png", "photos/b.png", "photos/more/c.png"]),
        ("photos/**", ["photos/a.png", "photos/b.png", "photos/face", "photos/more/c.png", "photos/more/deep/d.JPG"]),
        ("photos/*", ["photos/a.png", "photos/b.png", "photos/face", "photos/more/c.png", "photos/more/deep/d.JPG"]),
        ("photos/{b,a}.png", ["photos/b.png", "photos/a.png"]),
        ("photos/{more,more/deep}/*", ["photos/more/c.png", "photos/more/deep/d.JPG", "photos/more/deep/d.JPG#2"]),
        ("photos/*.txt", ["photos/a.png"]),
        ("ph*/more", ["photos/more/c.png", "photos/more/deep/d.JPG"]),
    ],
)
def test_patterns(here, pattern, names):
    assert names_of(pattern) == names and names_of(Path(pattern)) == names
    assert not is_single(pattern)


def test_what_a_pattern_leaves_out_is_counted(here):
    report = SourceReport()
    assert len(names_of("photos/**", report)) == 5 and report.left_out == {".txt": 1}


@pytest.mark.parametrize("pattern", ["photos/*.gif", "none/*", "photos/x[0-9].png", "photos/{a,c}.png"])
def test_nothing_matched_is_an_error(here, pattern):
    with pytest.raises(FileNotFoundError, match=r"matches no image|there is no such file"):
        names_of(pattern)
    with pytest.raises(InputError):
        names_of(pattern)


def test_a_pattern_of_other_files_says_what_they_are(here):
    (here / "photos" / "x.svg").write_text("")
    with pytest.raises(InputError, match=r"matches no image, but 1 \.svg"):
        names_of("photos/*.svg")


def test_a_file_of_the_patterns_name_wins(here):
    for name in ("photo[1].png", "a{1,2}.png", "b*.png"):
        (here / name).write_bytes(png(1))
        shutil.copy(here / "photos/a.png", here / "photo1.png")
        assert is_single(name) and names_of(name) == [name]
        assert names_of([name]) == [name]


def test_a_missing_path_among_many_is_no_pattern(here):
    """A table may name `1[a].png`, whose file is gone: another file is not taken for it."""
    (here / "1a.png").write_bytes(png())
    ((name, read),) = sources(["1[a].png"])
    with pytest.raises(ImageDecodeError, match="there is no such file"):
        read()
    assert name == "1[a].png"
    ((name, read),) = sources(["none/*.png"])
    with pytest.raises(ImageDecodeError, match="matches no image"):
        read()
    assert names_of(["photos/*.png", "1a.png"]) == ["photos/a.png", "photos/b.png", "1a.png"]


# ---- WebDataset


def shard(path, numbers):
    files = {}
    for number in numbers:
        files |= {f"{number:04d}.png": png(number), f"{number:04d}.cls": b"1", f"{number:04d}.json": b"{}"}
    return write_tar(path, files)


def test_shards_by_braces_keep_their_samples_keys(here):
    for i in range(8, 12):
        shard(here / f"shard-{i:03d}.tar", (2 * i, 2 * i + 1))
    report = SourceReport()
    names = names_of("shard-{008..011}.tar", report)
    assert names == [f"{number:04d}.png" for number in range(16, 24)]
    assert report.left_out == {".cls": 8, ".json": 8}
    assert names_of("shard-{9..8}.tar".replace("{", "0{0").replace("..", "..0")) == names[2:4] + names[:2]
    assert names_of("shard-0{08,10}.tar") == names[:2] + names[4:6]
    paths = sorted(map(str, here.glob("shard-*.tar")))
    assert names_of(paths) == [f"{path}/{names[i]}" for i, path in zip(range(8), np.repeat(paths, 2), strict=True)]
    assert names_of("shard-*.tar")[0] == "shard-008.tar/0016.png"
    with pytest.raises(FileNotFoundError, match=r"shard-012\.tar: there is no such file or folder, which shard-\{010"):
        names_of("shard-{010..012}.tar")


def test_equal_keys_of_two_shards_are_told_apart(here):
    shard(here / "a1.tar", [0])
    shard(here / "a2.tar", [0])
    assert names_of("a{1..2}.tar") == ["0000.png", "0000.png#2"]


@pytest.mark.parametrize(
    "pattern,paths",
    [
        ("{1..3}", ["1", "2", "3"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{a,b}{1..2}", ["a1", "a2", "b1", "b2"]),
        ("{a..c}", ["{a..c}"]),
        ("x{,y}", ["x", "xy"]),
    ],
)
def test_braces(here, pattern, paths):
    for path in paths:
        (here / path).write_bytes(png())
    assert names_of(pattern) == paths


def test_too_many_braces_are_refused():
    with pytest.raises(InputError, match="stands for 1000000000 paths"):
        expand("{0..999999999}.tar", Counter())


@pytest.mark.parametrize("path", ["pipe:curl -s host/shard-{0..1}.tar", "https://host/*.jpg", "s3://b/{0..1}.tar"])
def test_urls_of_shards_are_refused(path):
    for images in (path, [path]):
        with pytest.raises(InputError, match="is a URL"):
            names_of(images)


# ---- lists


def write_list(path, text, **options):
    path.write_text(text, **options)
    return path


@pytest.mark.parametrize("suffix", ["txt", "LST"])
def test_lists(here, suffix):
    path = write_list(here / "photos" / f"list.{suffix}", "b.png\r\n\n  \nmore/c.png\nb.png", newline="")
    assert names_of(path) == ["b.png", "more/c.png", "b.png#2"] and not is_single(path)
    assert names_of([f"photos/list.{suffix}"]) == ["photos/b.png", "photos/more/c.png", "photos/b.png#2"]
    assert len(rows_of(path)) == 3
    absolute = write_list(here / "absolute.txt", f"{here}/photos/a.png\n", encoding="utf-8-sig")
    assert names_of(absolute) == [f"{here}/photos/a.png"] and len(rows_of(absolute)) == 1


def test_names_with_spaces_and_in_any_encoding(here):
    (here / "a b.png").write_bytes(png())
    (here / "ü.png").write_bytes(png())
    (here / "list.txt").write_bytes("a b.png\nü.png\n".encode())
    assert len(rows_of(here / "list.txt")) == 2


@pytest.mark.parametrize(
    "line,reason",
    [
        ("none.png", "there is no such file"),
        ("photos/a.png 1", "there is no such file"),
        ("photos", "is a folder"),
        ("list.txt", "is not an image"),
    ],
)
def test_what_is_wrong_with_a_line_is_said_with_its_number(here, line, reason):
    path = write_list(here / "list.txt", f"photos/a.png\n\n{line}\n")
    read = list(sources(path))[1][1]
    with pytest.raises(ImageDecodeError, match=rf"list\.txt, line 3: .*{reason}"):
        read()


def test_lists_that_are_none_are_refused(here):
    path = write_list(here / "list.txt", "photos/a.png\nhttps://host/1.png\n")
    with pytest.raises(InputError, match=r"list\.txt, line 2: https://host/1\.png: is a URL"):
        names_of(path)
    path.write_bytes("photos/a.png\n".encode("utf-16"))
    with pytest.raises(InputError, match="line 1: is not text in UTF-8"):
        names_of(path)
    assert names_of(write_list(here / "list.txt", "")) == []
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        names_of("none.txt")
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        names_of(["none.txt"])


@pytest.mark.parametrize(
    "path,kind",
    [
        ("x.tar.gz", "tar"),
        ("x.ZIP", "zip"),
        ("x.parquet", "table"),
        ("x.parquet#a", "table"),
        ("x.MP4", "video"),
        ("x.gif", "image"),
        ("x#1.png", "image"),
        ("photos", "folder"),
        ("photos#image", "table"),
    ],
)
def test_kinds(here, path, kind):
    assert kind_of_path(path) == kind
    assert is_single(path) == (kind == "image")


def test_a_column_is_split_off_tables_alone(here):
    assert split_column("a#b.parquet#c#d") == ("a#b.parquet", "c#d")
    assert split_column("a#1.png") == ("a#1.png", None) and split_column("a.parquet#") == ("a.parquet#", None)
    assert split_column("photos#image") == ("photos", "image")
    (here / "x.parquet#a").write_bytes(png())
    assert split_column("x.parquet#a") == ("x.parquet#a", None)
