"""Match images' names with the names in labels, never by guess: what is ambiguous or missing is refused."""

from __future__ import annotations

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ditifeat.data.decode import SUFFIXES
from ditifeat.errors import InputError


def normalise(name: str) -> str:
    """Write a path in one way: forward slashes, no `.` and no leading `..` or `/`, Unicode NFC.

    >>> normalise(".\\\\cats\\\\1.png"), normalise("/data/../cats//1.png")
    ('cats/1.png', 'cats/1.png')
    """
    path = posixpath.normpath(unicodedata.normalize("NFC", name.strip()).replace("\\", "/"))
    return "/".join(part for part in path.split("/") if part not in ("", ".", ".."))


def is_row_number(name: str) -> bool:
    """Whether a name is a plain row number, as rows without a name get.

    >>> is_row_number("12"), is_row_number("012"), is_row_number("12.png")
    (True, False, False)
    """
    return name.isascii() and name.isdigit() and name == str(int(name))


def has_image_suffix(name: str) -> bool:
    """Whether a name ends as image files do.

    >>> has_image_suffix("1.JPG"), has_image_suffix("1.csv")
    (True, False)
    """
    return posixpath.splitext(name)[1].lower() in SUFFIXES


def stem(path: str) -> str:
    """Cut an image's suffix off its name.

    >>> stem("cats/1.JPG"), stem("cats.2/1")
    ('cats/1', 'cats.2/1')
    """
    return posixpath.splitext(path)[0] if has_image_suffix(path) else path


def match_names(names: Sequence[str], keys: Sequence[str]) -> list[int]:
    """Find each name's place among `keys`.

    Both are normalised. A name matches the key that is equal; else the key with which it shares the longest path, where
    one of the two is the end of the other (`cats/1.png` and `/data/cats/1.png`); else the key that does so without its
    image suffix (`1.png` and `1.jpg`).

    Raises:
        InputError: if a name has no key or several, or two names have one.

    >>> match_names(["/data/cats/1.png", "/data/dogs/1.png"], ["dogs/1.png", "cats/1.jpg"])
    [1, 0]
    """
    matcher = _Matcher(keys)
    places = [matcher.place(name) for name in names]
    missing = [name for name, place in zip(names, places, strict=True) if place is None]
    if missing:
        raise InputError(
            f"no labels for {len(missing)} of {len(names)} images, the first {missing[0]!r}; "
            f"names must agree{matcher.example(missing[0])}"
        )
    found = [place for place in places if place is not None]
    first: dict[int, str] = {}
    for name, place in zip(names, found, strict=True):
        if place in first:
            raise InputError(
                f"{first[place]!r} and {name!r} both match the one label of {keys[place]!r}; "
                "give each image its own name, with its folder"
            )
        first[place] = name
    return found


class _Matcher:
    """The places of keys, by whole paths and by their ends, and again without image suffixes."""

    def __init__(self, keys: Sequence[str]):
        self.keys = keys
        paths = [normalise(key) for key in keys]
        self.exact, self.stems = _Ends(paths), _Ends([stem(path) for path in paths])

    def place(self, name: str) -> int | None:
        """The place of a name's key, None if there is none; InputError if there are several."""
        path = normalise(name)
        places = self.exact.find(path) or (self.stems.find(stem(path)) if has_image_suffix(path) else [])
        if len(places) > 1:
            one, other = places[:2]
            raise InputError(
                f"{name!r} has two labels, {self.keys[one]!r} and {self.keys[other]!r} (rows {one} and {other}); "
                "keep one, or write longer paths"
            )
        return places[0] if places else None

    def example(self, name: str) -> str:
        """For a message: a key as `name` might be written, if possible of the same file name."""
        alike = self.exact.ends.get(posixpath.basename(normalise(name)))
        if alike:
            return f"; the labels have {self.keys[alike[0]]!r}, in another folder; write both relative to one folder"
        return f"; the labels have names like {self.keys[0]!r}" if self.keys else ""


class _Ends:
    """Places of paths by the whole path, and by each of its ends."""

    def __init__(self, paths: list[str]):
        self.whole: defaultdict[str, list[int]] = defaultdict(list)
        self.ends: defaultdict[str, list[int]] = defaultdict(list)
        for place, path in enumerate(paths):
            self.whole[path].append(place)
            for end in _trailing(path):
                self.ends[end].append(place)

    def find(self, path: str) -> list[int]:
        """Equal paths; else longer ones that end in `path`; else the longest that `path` ends in."""
        if path in self.whole:
            return self.whole[path]
        if path in self.ends:
            return self.ends[path]
        return next((self.whole[end] for end in _trailing(path) if end in self.whole), [])


def _trailing(path: str) -> Iterator[str]:
    """`a/b/c` -> `b/c`, `c`."""
    while "/" in path:
        path = path.split("/", 1)[1]
        yield path
