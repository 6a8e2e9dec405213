"""Archives: the images of a tar or zip one after another, in its order; nothing is extracted to a disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from io import BytesIO
from typing import IO, Any

from PIL import Image

from ditifeat.data.decode import MAX_BYTES, Reduction, decode, is_image
from ditifeat.data.folders import is_hidden, kind_of_name
from ditifeat.data.readers import Failing, FromBytes, Reader, Source
from ditifeat.errors import DitifeatError, ImageDecodeError, InputError, MissingInputError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

MAX_LINKS = 40  # as Linux follows

MAX_HEADER = 2**20  # bytes of a member's name and notes

SMALL, MAX_RATIO = 2**26, 100  # bytes, and their number per packed byte, from which a member is a bomb, and no image

COMPRESSIONS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}

DAMAGED = (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def is_tar(path: str | os.PathLike[str]) -> bool:
    """Whether a path's name is that of a tar, compressed or not.

    >>> is_tar("photos.tar"), is_tar("photos.TGZ"), is_tar("photos.zip")
    (True, True, False)
    """
    return os.fspath(path).lower().endswith(TAR_SUFFIXES)


def read_tar(path: str, left_out: Counter[str] | None = None) -> Iterator[Source]:
    """Name the images of a tar, plain or compressed by gzip, bzip2 or xz, with what reads each.

    The tar is read once, from its beginning to its end. Links to members are followed; an image that links elsewhere, or is
    too large, fails when it is read.

    Args:
        path: of the tar.
        left_out: counts the other members, by suffix or kind.

    Raises:
        InputError: where it is damaged, and at the end of an incomplete one.
    """
    left_out = Counter() if left_out is None else left_out
    try:
        with ExitStack() as stack:
            tar, packed = _open_tar(path, stack)
            links = _Links(path, packed)
            while member := tar.next():
                tar.members.clear()  # type: ignore[attr-defined]  # it would grow
                name = _member_name(member.name)
                kind, read = _tar_member(tar, member, name, path, packed, links)
                if read is not None:
                    yield name, read
                elif kind:
                    left_out[kind] += 1
                if packed:
                    _skip(tar)
            assert tar.fileobj is not None
            while rest := tar.fileobj.read(2**20):
                if any(rest):
                    raise tarfile.ReadError(
                        "more follows after its end; if it is several tars in one, pass them one by one"
                    )
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except (*DAMAGED, ValueError, OverflowError) as error:  # of sizes that no file has
        raise InputError(f"{path}: cannot be read as a tar of images ({error})") from error


class _Header(tarfile.TarInfo):
    """Of a member. A damaged or missing one is an error: `tarfile` takes it for the tar's end, without a word."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Header:
        try:
            header = super().fromtarfile(tar)
            if header.size < 0 or tar.offset < header.offset:  # it would be read again and again
                raise tarfile.ReadError(f"a member has {header.size} bytes")
            return header
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"it is damaged or incomplete: {error}, at byte {tar.offset}") from None

    def _proc_member(self, tar: tarfile.TarFile) -> Any:  # which tarfile invites to override
        notes = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE)
        if self.type in (*notes, tarfile.SOLARIS_XHDTYPE) and self.size > MAX_HEADER:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"a member's header has {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


def _open_tar(path: str, stack: ExitStack) -> tuple[tarfile.TarFile, bool]:
    """The tar, and whether it is compressed, and so can be read forwards alone."""
    file: IO[bytes] = stack.enter_context(open(path, "rb"))  # noqa: SIM115
    head = file.read(6)
    file.seek(0)
    for magic, unpack in COMPRESSIONS.items():
        if head.startswith(magic):
            file = stack.enter_context(unpack(file))
            return stack.enter_context(tarfile.open(fileobj=file, mode="r|", tarinfo=_Header)), True
    return stack.enter_context(tarfile.open(fileobj=file, mode="r:", tarinfo=_Header)), False


def _skip(tar: tarfile.TarFile) -> None:
    """Read on to the next header: `tarfile` would go on behind the end, for as long as a member says that it is."""
    assert tar.fileobj is not None
    while (left := tar.offset - tar.fileobj.tell()) > 0:
        if not tar.fileobj.read(min(left, 2**20)):
            raise tarfile.ReadError("it is incomplete: unexpected end of data")


def _member_name(name: str) -> str:
    """A path from the archive's root, without `.`, `..` and a leading `/`."""
    return posixpath.normpath("/" + name).lstrip("/")


def kind_of_member(name: str) -> str:
    """What a member's path says that it is, as `kind_of_name` of a file: members of hidden folders are hidden too.

    >>> kind_of_member("photos/1.jpg"), kind_of_member("__MACOSX/1.jpg")
    ('image', 'hidden')
    """
    return "hidden" if any(map(is_hidden, name.split("/"))) else kind_of_name(posixpath.basename(name))


class _Links:
    """What the links of a tar lead to; it is listed at the first of them."""

    def __init__(self, path: str, packed: bool):
        self.path, self.packed = path, packed

    @cached_property
    def tar(self) -> tarfile.TarFile:
        return tarfile.open(self.path)

    @cached_property
    def members(self) -> dict[str, tarfile.TarInfo]:
        return {_member_name(member.name): member for member in self.tar}

    def target(self, name: str, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """The member at the end of a chain of links; None if that is not there."""
        for _ in range(MAX_LINKS):
            if member.issym():
                name = _linked(name, member.linkname)
            elif member.islnk():
                name = _member_name(member.linkname)
            else:
                return member
            if name not in self.members:
                return None
            member = self.members[name]
        return None


def _linked(name: str, target: str) -> str:
    """Where a symbolic link leads to within an archive; "" if out of it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    return "" if path.startswith(("/", "..")) else path


def _tar_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, path: str, packed: bool, links: _Links
) -> tuple[str, Reader | None]:
    """A member's kind, "" for a folder, and what reads it if it is an image."""
    kind, label = kind_of_member(name), f"{path}/{name}"
    if member.isdir() or kind not in ("image", ""):
        return ("" if member.isdir() else kind), None
    if member.issym() or member.islnk():
        target = links.target(name, member)
        if target is None and kind == "":
            return "broken link", None
        if target is None:
            return kind, Failing(ImageDecodeError(f"{label}: links to what is not in the tar"))
        if target.isdir():
            return "link to a folder", None
        tar, member = links.tar, target
    if not member.isfile():
        return "special file", None
    if member.size > MAX_BYTES:
        return kind, _too_large(label, member.size)
    if packed and member.size > max(SMALL, MAX_RATIO * os.path.getsize(path)):
        return (
            (kind, Failing(ImageDecodeError(f"{label}: {_bomb(member.size, os.path.getsize(path))}")))
            if kind
            else (
                "without suffix",
                None,
            )
        )
    if packed or member.issparse() or kind == "":
        data = tar.extractfile(member).read()  # type: ignore[union-attr]
        return ("image", FromBytes(data, label)) if kind or is_image(BytesIO(data)) else ("without suffix", None)
    return kind, partial(_read_part, path, member.offset_data, member.size, label)


def _too_large(label: str, size: int) -> Reader:
    return Failing(ImageDecodeError(f"{label}: has {size} bytes, over the limit of {MAX_BYTES}; make it smaller first"))


def _read_part(path: str, offset: int, size: int, label: str, reduction: Reduction | None = None) -> Image.Image:
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise InputError(f"{label}: cannot be read ({error}); the image itself may be good") from error
    return decode(data, label, reduction)


def read_zip(path: str, left_out: Counter[str] | None = None) -> Iterator[Source]:
    """Name the images of a zip, with what reads each.

    Links to members are followed; an image that links elsewhere, is damaged or too large, fails when it is read.

    Args:
        path: of the zip.
        left_out: counts the other members, by suffix or kind.

    Raises:
        InputError: before the first image, if the zip is damaged, incomplete or encrypted.

    >>> import zipfile
    >>> with zipfile.ZipFile("photos.zip", "w") as archive:
    ...     archive.write("me.png")
    >>> [name for name, read in read_zip("photos.zip")]
    ['me.png']
    """
    left_out = Counter() if left_out is None else left_out
    try:
        archive = zipfile.ZipFile(path)  # closed with the last reader
        members = zip_members(archive)
        if any(info.flag_bits & 1 for name, info in members if kind_of_member(name) in ("image", "")):
            raise InputError(f"{path}: is encrypted; unpack it with its password, and pass the folder")
        by_name = dict(members)
        for name, info in members:
            kind, read = _zip_member(archive, name, info, path, by_name)
            if read is not None:
                yield name, read
            else:
                left_out[kind] += 1
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except DAMAGED as error:
        raise InputError(f"{path}: cannot be read as a zip of images ({error})") from error


def zip_members(archive: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """Files of a zip, with their paths from its root."""
    # Some programs of Windows write backslashes.
    return [(_member_name(info.filename.replace("\\", "/")), info) for info in archive.infolist() if not info.is_dir()]


def _zip_member(
    archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo, path: str, members: dict[str, zipfile.ZipInfo]
) -> tuple[str, Reader | None]:
    """A member's kind, and what reads it if it is an image."""
    kind, label = kind_of_member(name), f"{path}/{name}"
    if kind not in ("image", ""):
        return kind, None
    try:
        info = _zip_target(archive, name, info, members)
        _check_unpacked_size(info)
        if kind == "image":
            return kind, partial(_read_zipped, archive, info, label)
        data = _unzip(archive, info)
    except ImageDecodeError as error:
        return ("without suffix", None) if kind == "" else (kind, Failing(ImageDecodeError(f"{label}: {error}")))
    return ("image", FromBytes(data, label)) if is_image(BytesIO(data)) else ("without suffix", None)


def _zip_target(
    archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo, members: dict[str, zipfile.ZipInfo]
) -> zipfile.ZipInfo:
    """The member at the end of a chain of links, or itself."""
    for _ in range(MAX_LINKS):
        if not stat.S_ISLNK(info.external_attr >> 16):
            return info
        name = _linked(name, os.fsdecode(_unzip(archive, info))) if info.file_size <= MAX_HEADER else ""
        if name not in members:
            break
        info = members[name]
    raise ImageDecodeError("links to what is not in the zip")


def _check_unpacked_size(info: zipfile.ZipInfo) -> None:
    if info.file_size > MAX_BYTES:
        raise ImageDecodeError(f"has {info.file_size} bytes, over the limit of {MAX_BYTES}; make it smaller first")
    if info.file_size > max(SMALL, MAX_RATIO * info.compress_size):
        raise ImageDecodeError(_bomb(info.file_size, info.compress_size))


def _bomb(size: int, packed: int) -> str:
    return f"unpacks to {size} bytes from {packed}, as no image does"


def _unzip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        return archive.read(info)
    except NotImplementedError:
        raise ImageDecodeError(
            f"is packed by a method ({info.compress_type}) that Python does not know; unpack it, and pass the folder"
        ) from None
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"cannot be read ({error}); the image itself may be good") from error
        raise ImageDecodeError(f"is damaged ({error})") from error


def _read_zipped(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str, reduction: Reduction | None = None
) -> Image.Image:
    try:
        data = _unzip(archive, info)
    except DitifeatError as error:
        raise type(error)(f"{label}: {error}") from error
    return decode(data, label, reduction)
