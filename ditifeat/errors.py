"""Exceptions: each message says what was wrong, where, and the fix; each class also is the built-in that callers expect."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class DitifeatError(Exception):
    """Base class of every error that this package raises on purpose."""


class ImageDecodeError(DitifeatError, ValueError):
    """An image could not be decoded, or is of a kind that would be decoded wrongly."""


class FaceError(ImageDecodeError):
    """A photo shows no face, or several, where one is to be aligned."""


class InputError(DitifeatError, ValueError):
    """An argument has a wrong shape, type or range."""


class UnknownNameError(InputError, KeyError):
    """A name (of an attribute, a row, a range) is not among those that there are."""

    def __str__(self) -> str:
        """The message itself: `KeyError` would show its repr."""
        return str(self.args[0]) if self.args else ""


class MissingInputError(InputError, FileNotFoundError):
    """A path given as an argument (images, labels) does not exist."""


class MissingImageError(ImageDecodeError, MissingInputError):
    """An image file does not exist."""


class ModelError(DitifeatError, ValueError):
    """A model folder, its configuration or its weights are not what they should be."""


class MissingFileError(ModelError, FileNotFoundError):
    """A model folder, or a file of it, does not exist."""


class RecipeError(DitifeatError, ValueError):
    """A training recipe, its data or its run folder are not what they should be."""


class MissingRecipeError(RecipeError, FileNotFoundError):
    """A recipe, its data or a run folder does not exist."""


class MissingDependencyError(DitifeatError, ImportError):
    """An optional library is not installed; the message names the extra that brings it."""


class WriteError(DitifeatError, OSError):
    """A file cannot be written: the disk is full, or the folder is read-only."""


class FolderInUseError(DitifeatError, BlockingIOError):
    """Another process writes to the same folder."""


def require(library: str, extra: str) -> Any:
    """Import an optional library.

    Args:
        library: the module to import.
        extra: of `pyproject.toml`, that brings it.

    Raises:
        MissingDependencyError: if it is not installed, with the command that installs it.

    >>> require("json", "test").dumps([1])
    '[1]'
    """
    try:
        return import_module(library)
    except ImportError as error:
        raise MissingDependencyError(
            f"{library} is not installed; it comes with an extra: pip install 'ditifeat[{extra}]'"
        ) from error
