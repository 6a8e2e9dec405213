"""Files of labels: CSV and its relatives, and CelebA's format."""

from __future__ import annotations

import codecs
import csv
from io import StringIO
from pathlib import Path

from ditifeat.data.names import has_image_suffix
from ditifeat.errors import InputError, MissingInputError

DELIMITERS = (",", ";", "\t")

MISSING = ("", "na", "n/a", "nan", "null", "none", "nat", "<na>")

BOOLEANS = {"true": 1.0, "false": 0.0}


def parse_label(cell: object) -> float:
    """Convert one cell to a number: True is 1, False is 0, an empty one is NaN.

    Raises:
        ValueError, TypeError, OverflowError: for a word, or anything else that is no number.

    >>> parse_label("TRUE"), parse_label("-1"), parse_label("")
    (1.0, -1.0, nan)
    """
    word = str(cell).strip().lower()
    if word in MISSING:
        return float("nan")
    if word in BOOLEANS:
        return BOOLEANS[word]
    if isinstance(cell, str) and "_" in cell:  # float("1_0") is 10
        raise ValueError(f"{cell!r} is no number")
    return float(cell)  # type: ignore[arg-type]


def is_label(cell: object) -> bool:
    """Whether `parse_label` reads a cell.

    >>> is_label("2.5"), is_label("yes")
    (True, False)
    """
    try:
        parse_label(cell)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def read_label_file(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a header and rows of cells, the images' names first.

    Args:
        path: of a text file, UTF-8 or UTF-16: with a header and cells between commas, semicolons or tabs; or of CelebA's
            format (`list_attr_celeba.txt`: a count, the attributes, one row per image).

    Raises:
        InputError: for a file of another kind, without a header, or with rows that do not fit the header.
    """
    text = _read_text(path)
    if text.lower().startswith("sep="):  # Excel's
        text = text.partition("\n")[2]
    lines = [line for line in StringIO(text) if line.strip()]
    if not lines:
        raise InputError(f"{path}: holds no labels; the file is empty")
    header, rows = _celeba(path, lines) if lines[0].strip().isdigit() else _delimited(path, text, lines[0])
    if len(header) < 2 or not rows:
        raise InputError(f"{path}: holds no labels")
    twice = next((name for i, name in enumerate(header[1:], 1) if name in header[1:i]), None)
    if twice is not None:
        raise InputError(f"{path}: two columns are called {twice!r}; rename one")
    if "" in header[1:]:
        raise InputError(f"{path}: column {header.index('', 1) + 1} has labels but no name; name it in the header")
    unnamed = next((row for row in rows if not row[0]), None)
    if unnamed is not None:
        raise InputError(f"{path}: a row of labels ({', '.join(unnamed[1:4])}) has no image name")
    return header, rows


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"{path}: there is no such file of labels") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data[:2]:
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error


def _celeba(path: Path, lines: list[str]) -> tuple[list[str], list[list[str]]]:
    count, header = int(lines[0]), lines[1].split() if len(lines) > 1 else []
    if count != len(lines[2:]):
        raise InputError(
            f"{path}: says that it holds {count} images but has {len(lines[2:])} rows; complete or correct it"
        )
    if header[:1] == ["image_id"]:  # as in list_bbox_celeba.txt
        header = header[1:]
    rows = [line.strip().rsplit(None, len(header)) for line in lines[2:]]  # names may hold spaces
    _check_widths(path, rows, len(header) + 1)
    return ["name", *header], rows


def _delimited(path: Path, text: str, first_line: str) -> tuple[list[str], list[list[str]]]:
    delimiters = [delimiter for delimiter in DELIMITERS if delimiter in first_line]
    if not delimiters:
        raise InputError(
            f"{path}: is neither CSV (a header, then one row per image, its name first) nor of CelebA's format "
            "(a count, the attributes, one row per image)"
        )
    tables = [_cells(path, text, delimiter) for delimiter in delimiters]
    header, *rows = next((t for t in tables if len({len(row) for row in t}) == 1), tables[0])
    _check_widths(path, rows, len(header))
    while len(header) > 1 and header[-1] == "" and all(row[-1] == "" for row in rows):  # lines that end in a delimiter
        header, rows = header[:-1], [row[:-1] for row in rows]
    _check_header(path, header)
    return header, rows


def _cells(path: Path, text: str, delimiter: str) -> list[list[str]]:
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        rows = [[cell.strip() for cell in row] for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV ({error})") from error
    return [row for row in rows if any(row)]


def _check_widths(path: Path, rows: list[list[str]], width: int) -> None:
    wrong = next((row for row in rows if len(row) != width), None)
    if wrong is not None:
        raise InputError(f"{path}: the row of {wrong[0]} has {len(wrong) - 1} labels, expected {width - 1}")


def _check_header(path: Path, header: list[str]) -> None:
    """Refuse a first row that is data; pandas writes ",0,1" where columns have no names."""
    if has_image_suffix(header[0]) or (header[0] and all(is_label(cell) for cell in header[1:])):
        raise InputError(
            f"{path}: the first row ({', '.join(header[:4])}) is no header; add one, like name,Smiling, whose attributes are "
            "not numbers"
        )
