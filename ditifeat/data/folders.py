"""Folders and tars: which of their files are images, and what is left out."""

from __future__ import annotations

import lzma
import os
import posixpath
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from ditifeat.data.decode import HAS_HEIC, HEIC_SUFFIXES, MAX_BYTES, SUFFIXES, is_image
from ditifeat.errors import ImageDecodeError, InputError, MissingInputError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

MAX_LINKS = 40  # as Linux follows


def list_folder(folder: str | os.PathLike[str], left_out: Counter[str] | None = None) -> list[Path]:
    """List the image files below `folder`, sorted by their path from it.

    Links are followed, but never to a folder above them. Files without a suffix are looked into. Hidden files and folders
    are no images.

    Args:
        folder: where to look, at any depth.
        left_out: counts the other files, by suffix or kind.

    Raises:
        InputError: if a folder or file cannot be read.

    >>> [path.name for path in list_folder("photos")][:2]
    ['0.png', '1.png']
    """
    root = os.fspath(folder)
    left_out = Counter() if left_out is None else left_out
    found: list[Path] = []
    try:
        above = {root: frozenset([_identity(root)])}
        for place, folders, files in os.walk(root, onerror=_fail, followlinks=True):
            here = above.pop(place)
            for name in list(folders):
                path = os.path.join(place, name)
                if name.startswith("."):
                    kind = "hidden folder"
                elif _identity(path) in here:
                    kind = "link to a folder above"
                else:
                    above[path] = here | {_identity(path)}
                    continue
                left_out[kind] += 1
                folders.remove(name)
            for name in files:
                kind = _kind(os.path.join(place, name))
                if kind == "image":
                    found.append(Path(place, name))
                else:
                    left_out[kind] += 1
    except OSError as error:
        _fail(error)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _fail(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _kind(path: str) -> str:
    """ "image", or what else a file is."""
    kind = kind_of_name(os.path.basename(path))
    if kind in ("image", "") and not os.path.isfile(path) and not os.path.islink(path):
        return "special file"
    if kind:
        return kind
    if not os.path.exists(path):
        return "broken link"
    try:
        with open(path, "rb") as file:
            return "image" if is_image(file) else "without suffix"
    except PermissionError:
        return "without suffix, not readable"


def kind_of_name(name: str) -> str:
    """What a file's name says that it is: "image", "hidden", another suffix, or "" where it says nothing.

    >>> [kind_of_name(name) for name in ("1.JPG", ".DS_Store", "notes.TXT", "README")]
    ['image', 'hidden', '.txt', '']
    """
    if name.startswith("."):
        return "hidden"
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in HEIC_SUFFIXES and not HAS_HEIC:
        return f"{suffix} (needs pillow-heif)"
    return "image" if suffix in SUFFIXES else suffix


def is_tar(path: str | os.PathLike[str]) -> bool:
    """Whether a path's name is that of a tar, compressed or not.

    >>> is_tar("photos.tar"), is_tar("photos.TGZ"), is_tar("photos.zip")
    (True, True, False)
    """
    return os.fspath(path).lower().endswith(TAR_SUFFIXES)


def read_tar(
    path: str | os.PathLike[str], left_out: Counter[str] | None = None
) -> Iterator[tuple[str, bytes | ImageDecodeError]]:
    """Read the names and bytes of a tar's images, in its order; nothing is extracted.

    Links to members of the tar are followed; an image that links elsewhere comes as an error in place of its bytes.

    Args:
        path: of a tar, plain or compressed by gzip, bzip2 or xz.
        left_out: counts the other members, by suffix or kind.

    Raises:
        InputError: before the first image, if the tar is damaged or incomplete.
    """
    left_out = Counter() if left_out is None else left_out
    try:
        with tarfile.open(path) as tar:
            members = {_member_name(member.name): member for member in tar}
            _check_end(tar)
            for member in tar.getmembers():
                name = _member_name(member.name)
                if member.isdir():
                    continue
                try:
                    kind, data = _member(tar, name, _target(name, member, members))
                except ImageDecodeError as error:
                    yield name, ImageDecodeError(f"{path}/{name}: {error}")
                    continue
                if data is not None:
                    yield name, data
                else:
                    left_out[kind] += 1
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}: cannot be read as a tar of images ({error})") from error


def _member_name(name: str) -> str:
    """A path from the tar's root, without `.`, `..` and a leading `/`."""
    return posixpath.normpath("/" + name).lstrip("/")


def _target(name: str, member: tarfile.TarInfo, members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """What a member links to within the tar, or itself; None if that is not there."""
    for _ in range(MAX_LINKS):
        if member.issym():
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            name = "" if path.startswith(("/", "..")) else path
        elif member.islnk():
            name = _member_name(member.linkname)
        else:
            return member
        if name not in members:
            return None
        member = members[name]
    return None


def _member(tar: tarfile.TarFile, name: str, target: tarfile.TarInfo | None) -> tuple[str, bytes | None]:
    """A member's kind, and its bytes if it is an image."""
    kind = "hidden" if any(part.startswith(".") for part in name.split("/")) else kind_of_name(posixpath.basename(name))
    if kind not in ("image", ""):
        return kind, None
    if target is None:
        if kind == "":
            return "broken link", None
        raise ImageDecodeError("links to what is not in the tar")
    if target.isdir():
        return "link to a folder", None
    if not target.isfile():
        return "special file", None
    if target.size > MAX_BYTES:
        raise ImageDecodeError(f"has {target.size} bytes, over the limit of {MAX_BYTES}; make it smaller first")
    data = tar.extractfile(target).read()  # type: ignore[union-attr]
    return ("image", data) if kind or is_image(BytesIO(data)) else ("without suffix", None)


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse a tar without its end: `tarfile` stops at a cut between members, or a damaged one, without a word."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"it is damaged or incomplete: no end of the tar at byte {tar.offset}")
    while rest := tar.fileobj.read(2**20):
        if any(rest):
            raise tarfile.ReadError("more follows after its end; if it is several tars in one, pass them one by one")
