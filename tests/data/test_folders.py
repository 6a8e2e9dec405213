"""Folders and tars: which of their files are images, and what is left out."""

import io
import os
import tarfile
from collections import Counter

import numpy as np
import pytest

from ditifeat import InputError
from ditifeat.data.archives import read_tar
from ditifeat.data.decode import HAS_HEIC
from ditifeat.data.folders import list_folder
from ditifeat.data.sources import SourceReport, sources
from tests.conftest import make_image


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match="closed"):
        list_folder(tmp_path)


def test_an_unreadable_folder_is_reported_by_name(tmp_path, monkeypatch):
    def refuse(*_, onerror, **__):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "closed")))
        return iter(())

    monkeypatch.setattr(os, "walk", refuse)
    with pytest.raises(InputError, match=r"closed.*Permission denied"):
        list_folder(tmp_path)


def test_tar(photos, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, "faces")
    names = [name for name, _ in sources(tmp_path / "photos.tar")]
    assert "faces/more/09.png" in names and not any(n.endswith(".txt") for n in names)
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    with pytest.raises(InputError, match=r"broken\.tar"):
        list(sources(tmp_path / "broken.tar"))


# ---- folders


def names_of(images, report=None):
    return [name for name, _ in sources(images, report)]


def png(seed=0):
    file = io.BytesIO()
    make_image(seed, 16, 16).save(file, "PNG")
    return file.getvalue()


def test_links_to_folders_are_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "1.png").write_bytes(png())
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "cats").symlink_to(tmp_path / "far")
    (linked / "2.png").symlink_to(tmp_path / "far" / "1.png")
    assert names_of(linked) == ["2.png", "cats/1.png"]


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "1.png").write_bytes(png())
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "here").symlink_to(".")
    (tmp_path / "a" / "self.png").symlink_to("self.png")
    report = SourceReport()
    assert names_of(tmp_path, report) == ["a/1.png", "a/self.png"]
    assert report.left_out == {"link to a folder above": 2}


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "JPG", "avif", "webp", "dib", "apng", "pnm", "mpo"])
def test_suffixes_that_pillow_reads(tmp_path, suffix):
    (tmp_path / f"1.{suffix}").write_bytes(png())
    assert names_of(tmp_path) == [f"1.{suffix}"]


def test_what_is_left_out_is_counted_and_logged_in_one_line(tmp_path, caplog):
    for name in ("1.png", "face", "old/2.png", ".git/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png())
    for name in ("a.txt", "b.TXT", "README", "BMW", ".DS_Store", "._1.png", "x.svg", "y.zip"):
        (tmp_path / name).write_bytes(b"BMW makes no images")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "lost").symlink_to("nowhere")
    report = SourceReport()
    with caplog.at_level("INFO", "ditifeat"):
        assert names_of(tmp_path, report) == ["1.png", "face", "old/2.png"]
    expected = {".txt": 2, "without suffix": 2, "hidden": 2, "hidden folder": 1, ".svg": 1, ".zip": 1}
    assert report.left_out == {**expected, "special file": 1, "broken link": 1}
    (record,) = caplog.records
    assert "2 .txt" in record.getMessage() and "1 .svg" in record.getMessage()


@pytest.mark.skipif(HAS_HEIC, reason="pillow-heif is here")
def test_heic_without_its_library_is_counted_with_the_fix(tmp_path):
    (tmp_path / "1.heic").write_bytes(b"")
    report = SourceReport()
    assert names_of(tmp_path, report) == [] and report.left_out == {".heic (needs pillow-heif)": 1}


def test_a_folder_beside_another_keeps_its_name(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(png())
    assert names_of(tmp_path / "a") == ["1.png"]
    assert names_of([tmp_path / "a", f"{tmp_path}/b/"]) == [f"{tmp_path}/a/1.png", f"{tmp_path}/b/1.png"]


# ---- tars

LINKS = {"hard.png": (tarfile.LNKTYPE, "./cats/0.png"), "cats/soft.png": (tarfile.SYMTYPE, "0.png")}
FORWARD = {"cats/soft.png": (tarfile.SYMTYPE, "../dogs/../later.png"), "chain.png": (tarfile.SYMTYPE, "cats/soft.png")}


def write_tar(path, files, links=(), mode="w", first=()):
    """A tar of files {name: bytes} and links {name: (kind, target)}; `first` links stand before the files."""
    with tarfile.open(path, mode) as tar:
        for entries in (first, files, links):
            for name in entries:
                member = tarfile.TarInfo(name)
                if entries is files:
                    member.size = len(files[name])
                    tar.addfile(member, io.BytesIO(files[name]))
                else:
                    member.type, member.linkname = entries[name]
                    tar.addfile(member)
    return path


def rows_of(images):
    return {name: np.asarray(read()) for name, read in sources(images)}


@pytest.mark.parametrize("suffix,mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("TAR.XZ", "w:xz")])
def test_links_in_tars_are_followed(tmp_path, suffix, mode):
    files = {"./cats/0.png": png(0), "later.png": png(1)}
    rows = rows_of(write_tar(tmp_path / f"x.{suffix}", files, LINKS, mode))
    assert list(rows) == ["cats/0.png", "later.png", "hard.png", "cats/soft.png"]
    for name in ("hard.png", "cats/soft.png"):
        assert np.array_equal(rows[name], rows["cats/0.png"])
    rows = rows_of(write_tar(tmp_path / f"x.{suffix}", files, mode=mode, first=FORWARD))
    assert list(rows) == ["cats/soft.png", "chain.png", "cats/0.png", "later.png"]
    assert np.array_equal(rows["chain.png"], rows["later.png"])
    assert not np.array_equal(rows["chain.png"], rows["cats/0.png"])


@pytest.mark.parametrize(
    "kind,target",
    [
        (tarfile.SYMTYPE, "/etc/hostname"),
        (tarfile.SYMTYPE, "../../0.png"),
        (tarfile.SYMTYPE, "none.png"),
        (tarfile.SYMTYPE, "link.png"),
        (tarfile.LNKTYPE, "none.png"),
    ],
)
def test_links_out_of_a_tar_are_damaged_images(tmp_path, kind, target):
    path = write_tar(tmp_path / "x.tar", {"0.png": png()}, {"link.png": (kind, target)})
    (_, (name, read)) = sources(path)
    assert name == "link.png"
    with pytest.raises(ValueError, match=r"x\.tar/link\.png: links to what is not in the tar"):
        read()


def test_what_a_tar_leaves_out(tmp_path):
    files = {"0.png": png(), "face": png(), "README": b"text", "a.txt": b"", "._0.png": b"", ".git/1.png": b""}
    links = {"cats.png": (tarfile.SYMTYPE, "folder"), "folder": (tarfile.DIRTYPE, ""), "p.png": (tarfile.FIFOTYPE, "")}
    left_out = Counter()
    found = dict(read_tar(write_tar(tmp_path / "x.tar", files, links), left_out))
    assert list(found) == ["0.png", "face"]
    expected = {"without suffix": 1, ".txt": 1, "hidden": 2, "link to a folder": 1, "special file": 1}
    assert left_out == expected


def test_names_in_tars_stay_inside(tmp_path):
    files = {"../up.png": png(), "/root.png": png(), "a//b/../c.png": png()}
    assert names_of(write_tar(tmp_path / "x.tar", files)) == ["up.png", "root.png", "a/c.png"]


def test_a_tar_beside_another_keeps_its_name(tmp_path):
    paths = [write_tar(tmp_path / f"{i}.tar", {"0.png": png()}) for i in range(2)]
    assert names_of(paths) == [f"{path}/0.png" for path in paths]


def test_a_member_that_was_added_again_gets_a_name_of_its_own(tmp_path):
    path = write_tar(tmp_path / "x.tar", {"0.png": png(0)})
    write_tar(path, {"0.png": png(1)}, mode="a")
    assert names_of(path) == ["0.png", "0.png#2"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("last", ["4.png", "notes.txt"])
def test_a_tar_that_is_cut_anywhere_is_refused(tmp_path, mode, last):
    whole = write_tar(tmp_path / "x.tar", {**{f"{i}.png": png(i) for i in range(4)}, last: png(4)}, mode=mode)
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        members = tar.getmembers()
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    edges = [m.offset for m in members[1:]] + [m.offset + 512 for m in members] + [end, end - 512, end + 100]
    for cut in edges if mode == "w" else range(0, len(data), 97):
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"cut\.tar: cannot be read as a tar"):
            list(sources(tmp_path / "cut.tar"))
    if mode == "w":
        (tmp_path / "cut.tar").write_bytes(data[: end + 512])  # within the end itself: no image is lost
        assert len(list(sources(tmp_path / "cut.tar"))) == (5 if last == "4.png" else 4)


def test_a_damaged_header_within_a_tar_is_refused(tmp_path):
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": png(i) for i in range(3)})
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        data[tar.getmembers()[1].offset + 5] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged or incomplete"):
        list(sources(path))


def test_joined_tars_are_refused(tmp_path):
    parts = [write_tar(tmp_path / f"{i}.tar", {f"{i}.png": png(i)}).read_bytes() for i in range(2)]
    (tmp_path / "both.tar").write_bytes(b"".join(parts))
    with pytest.raises(InputError, match="more follows after its end"):
        list(sources(tmp_path / "both.tar"))


def test_missing_tar(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.tar"):
        list(sources(tmp_path / "none.tar"))
    with pytest.raises(FileNotFoundError, match=r"none\.tar"):
        list(sources([tmp_path / "none.tar"]))
