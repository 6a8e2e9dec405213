"""Zips and tars: streamed, bounded, and nothing silently wrong."""

import gzip
import io
import os
import stat
import tarfile
import tracemalloc
import zipfile
from collections import Counter

import numpy as np
import pytest

from ditifeat import ImageDecodeError, InputError
from ditifeat.data.archives import read_tar, read_zip
from ditifeat.data.sources import SourceReport, is_single, sources
from tests.data.test_folders import names_of, png, rows_of, write_tar


def write_zip(path, files, links=(), compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        for name, target in dict(links).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
    return path


def read_of(path, name):
    return dict(sources(path))[name]


def test_zip_names_order_and_pixels(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"cats/1.png": png(1), "0.png": png(0), "face": png(2), "a/": b""})
    assert names_of(path) == ["cats/1.png", "0.png", "face"] and not is_single(path)
    assert names_of([path, path]) == [f"{path}/{n}" for n in ("cats/1.png", "0.png", "face")] + [
        f"{path}/{n}#2" for n in ("cats/1.png", "0.png", "face")
    ]
    with open(tmp_path / "1.png", "wb") as file:
        file.write(png(1))
    assert np.array_equal(rows_of(path)["cats/1.png"], rows_of(tmp_path / "1.png")[str(tmp_path / "1.png")])


def test_readers_outlive_the_listing(tmp_path):
    for path in (write_zip(tmp_path / "x.zip", {"0.png": png()}), write_tar(tmp_path / "x.tar", {"0.png": png()})):
        (found,) = list(sources(path))
        assert found[1]().size == found[1]().size == (16, 16)


def test_what_a_zip_leaves_out(tmp_path):
    junk = {"__MACOSX/._1.png": b"x", "._1.png": b"x", ".DS_Store": b"x", "a.txt": b"x", "y.zip": b"x", "z.tar": b"x"}
    path = write_zip(tmp_path / "x.zip", {"1.png": png(), **junk, "README": b"text", "c.tar.gz": b"x"})
    report = SourceReport()
    assert names_of(path, report) == ["1.png"]
    expected = {"hidden": 3, ".txt": 1, ".zip": 1, ".tar": 1, "without suffix": 1, ".gz": 1}
    assert report.left_out == expected


def test_what_macos_adds_is_left_out_of_folders_and_tars(tmp_path):
    folder = tmp_path / "photos" / "__MACOSX"
    folder.mkdir(parents=True)
    for name in ("1.png", "._1.png"):
        (folder / name).write_bytes(png())
    assert names_of(tmp_path / "photos") == []
    left_out = Counter()
    tar = write_tar(tmp_path / "x.tar", {"__MACOSX/1.png": png(), "1.png": png()})
    assert [name for name, _ in read_tar(tar, left_out)] == ["1.png"] and left_out == {"hidden": 1}


def test_names_in_zips_stay_inside_and_equal_ones_are_told_apart(tmp_path):
    names = ["../up.png", "/root.png", "a//b/../c.png", "a\\d.png"]
    path = write_zip(tmp_path / "x.zip", {name: png() for name in names})
    assert names_of(path) == ["up.png", "root.png", "a/c.png", "a/d.png"]
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("/root.png", png(3))
    rows = rows_of(path)
    assert list(rows)[-1] == "root.png#2" and not np.array_equal(rows["root.png"], rows["root.png#2"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zip"]


def test_links_in_zips(tmp_path):
    links = {"a/soft.png": "../0.png", "chain.png": "a/soft.png", "far.png": "/etc/hostname", "up.png": "../0.png"}
    path = write_zip(tmp_path / "x.zip", {"0.png": png(4)}, {**links, "self.png": "self.png", "lost": "nowhere"})
    report = SourceReport()
    found = dict(sources(path, report))
    assert list(found) == ["0.png", "a/soft.png", "chain.png", "far.png", "up.png", "self.png"]
    assert np.array_equal(np.asarray(found["chain.png"]()), np.asarray(found["0.png"]()))
    for name in ("far.png", "up.png", "self.png"):
        with pytest.raises(ImageDecodeError, match=rf"x\.zip/{name}: links to what is not in the zip"):
            found[name]()
    assert report.left_out == {"without suffix": 1}


def encrypt(path):
    """Mark every member as encrypted, as the flag in both of its headers does."""
    data = bytearray(path.read_bytes())
    for header, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(header, at + 1)) >= 0:
            data[at + place] |= 1
    path.write_bytes(data)
    return path


def test_encrypted_zips_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"x\.zip: is encrypted; unpack it"):
        names_of(encrypt(write_zip(tmp_path / "x.zip", {"0.png": png()})))
    assert names_of(encrypt(write_zip(tmp_path / "y.zip", {"a.txt": b"text"}))) == []


def test_zips_that_are_none_or_cut_are_refused(tmp_path):
    data = write_zip(tmp_path / "x.zip", {f"{i}.png": png(i) for i in range(3)}).read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 23, len(data) - 1):
        (tmp_path / "cut.zip").write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"cut\.zip: cannot be read as a zip"):
            names_of(tmp_path / "cut.zip")
    with pytest.raises(FileNotFoundError, match=r"none\.zip"):
        names_of([tmp_path / "none.zip"])


def test_a_damaged_member_is_a_damaged_image(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"0.png": png(0), "1.png": png(1)}, compression=zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 0xFF
    path.write_bytes(data)
    found = dict(sources(path))
    with pytest.raises(ImageDecodeError, match=r"x\.zip/0\.png: is damaged \(Bad CRC-32"):
        found["0.png"]()
    assert found["1.png"]().size == (16, 16)


def test_a_packing_that_python_does_not_know(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"0.png": png()})
    data = bytearray(path.read_bytes())
    for header, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(header) + place] = 9  # Deflate64, as Windows uses from 2 GB on
    path.write_bytes(data)
    with pytest.raises(ImageDecodeError, match=r"packed by a method \(9\) that Python does not know; unpack it"):
        read_of(path, "0.png")()


def test_bombs_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("ditifeat.data.archives.SMALL", 2**20)
    zeros = bytes(2**23)
    zipped = write_zip(tmp_path / "x.zip", {"0.png": zeros, "face": zeros, "1.png": png()})
    packed = tmp_path / "x.tar.gz"
    with gzip.open(packed, "wb", compresslevel=1) as file:
        member = tarfile.TarInfo("0.png")
        member.size = 2**40
        file.write(member.tobuf())
    tracemalloc.start()
    found = dict(sources(zipped))
    with pytest.raises(ImageDecodeError, match="unpacks to 8388608 bytes from"):
        found["0.png"]()
    assert list(found) == ["0.png", "1.png"]
    stream = read_tar(str(packed))
    with pytest.raises(ImageDecodeError, match=r"0\.png: has 1099511627776 bytes, over the limit"):
        next(stream)[1]()
    with pytest.raises(InputError, match="cannot be read as a tar"):
        next(stream)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
def test_a_header_of_a_gigabyte_is_refused(tmp_path, kind):
    member = tarfile.TarInfo("0.png")
    member.type, member.size = kind, 2**30
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(member.tobuf() + bytes(2**20)))
    with pytest.raises(InputError, match="a member's header has 1073741824 bytes"):
        names_of(tmp_path / "x.tar.gz")


@pytest.mark.parametrize("suffix,mode", [("tar", "w"), ("tar.gz", "w:gz"), ("tar.bz2", "w:bz2"), ("zip", "")])
def test_images_are_listed_one_by_one(tmp_path, suffix, mode):
    """The first image is there before the last is read, and what is kept of each is small."""
    files = {f"{i}.png": png(i % 7) + os.urandom(5_000) for i in range(100)}
    path = tmp_path / f"x.{suffix}"
    _ = write_tar(path, files, mode=mode) if mode else write_zip(path, files)
    tracemalloc.start()
    stream = (read_tar if mode else read_zip)(str(path))
    next(stream)
    peaks = []
    for number, _ in enumerate(stream):
        if number in (20, 90):
            peaks.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert number == 98 and peaks[1] - peaks[0] < 50_000


def test_a_tar_is_read_forwards_once(tmp_path, monkeypatch):
    class Forwards(gzip.GzipFile):
        def seek(self, *_):
            raise AssertionError("a compressed file that is sought in is unpacked anew")

    path = write_tar(tmp_path / "x.tgz", {f"{i}.png": png(i) for i in range(5)}, mode="w:gz")
    monkeypatch.setattr("ditifeat.data.archives.COMPRESSIONS", {b"\x1f\x8b": lambda file: Forwards(fileobj=file)})
    assert len(rows_of(path)) == 5


def test_a_tar_without_images_is_empty(tmp_path):
    report = SourceReport()
    assert names_of(write_tar(tmp_path / "x.tar", {"a.tar": b"", "notes.md": b""}), report) == []
    assert report.left_out == {".tar": 1, ".md": 1}
    assert names_of(write_zip(tmp_path / "x.zip", {})) == []


def test_sparse_members(tmp_path):
    """GNU tar stores the holes of a file apart."""
    data = png() + bytes(2**16)
    header = tarfile.TarInfo("0.png")
    header.size = len(data)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(header, io.BytesIO(data))
    (tmp_path / "x.tar").write_bytes(file.getvalue())
    assert rows_of(tmp_path / "x.tar")["0.png"].shape == (16, 16, 3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("size", [-5, -512, 2**62, -(2**62)])
@pytest.mark.parametrize("by_note", [False, True])
def test_sizes_that_no_member_has_are_refused(tmp_path, pack, size, by_note):
    member = tarfile.TarInfo("0.png")
    if by_note:
        member.pax_headers = {"size": str(size)}
    else:
        member.size = size
    kind = tarfile.PAX_FORMAT if by_note else tarfile.GNU_FORMAT
    (tmp_path / "x.tar").write_bytes(pack(member.tobuf(kind) + bytes(4096)))
    with pytest.raises(InputError, match=r"x\.tar: cannot be read as a tar"):
        names_of(tmp_path / "x.tar")
