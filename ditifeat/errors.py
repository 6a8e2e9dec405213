"""Every error of ours: each says what was wrong, where, and the way out."""

from __future__ import annotations


class DitifeatError(Exception):
    """Base of all errors that this package raises on purpose."""


class ImageDecodeError(DitifeatError, ValueError):
    """A picture could not be read, or is of a kind that would be read wrongly."""


class InputError(DitifeatError, ValueError):
    """An argument has a wrong shape, type or range."""


class ModelError(DitifeatError, ValueError):
    """A model folder, its configuration or its weights are not what they should be."""


class RecipeError(DitifeatError, ValueError):
    """A training recipe, its data or its run folder are not what they should be."""
