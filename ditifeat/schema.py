"""Plain lists and dicts (JSON, YAML) to checked dataclasses; checks of single arguments.

No configuration names a class, a module or a path outside its folder: what can be built stands in the dataclasses.
"""

from __future__ import annotations

import math
import operator
import re
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np

from ditifeat.errors import DitifeatError, InputError, ModelError

T = TypeVar("T")

# YAML 1.1 reads 1e-4 and 1e6, which have no dot, as strings.
SCIENTIFIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Check an argument that must be an integer, optionally within `low..high`; NumPy's and torch's integers are.

    Raises:
        InputError: for another type (2.5, "3", True) or a value out of range, with the argument's name.

    Example:
        >>> from ditifeat.schema import integer
        >>> integer("batch_size", np.int64(8), 1)
        8
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} = {value!r} must be an integer") from None
    if (low is not None and number < low) or (high is not None and number > high):
        bounds = f"at least {low}" if high is None else f"at most {high}" if low is None else f"within {low}..{high}"
        raise InputError(f"{name} = {number} must be {bounds}")
    return number


def boolean(name: str, value: Any) -> bool:
    """Check an argument that must be True or False; NumPy's are.

    Raises:
        InputError: for anything else ("no", None, 1), with the argument's name.

    Example:
        >>> from ditifeat.schema import boolean
        >>> boolean("flip_average", np.True_)
        True
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} = {value!r} must be True or False")
    return bool(value)


# huggingface_hub's `strict` checks no frozen dataclass (it hooks `__setattr__`), and dacite loses the place in tuples,
# unions and `__post_init__`, which is what a message of ours must say; both take True for 1.
def from_dict(kind: type[T], data: Any, where: str = "") -> T:
    """Convert plain lists and dicts to the dataclass `kind`, every key and type checked; lists become tuples.

    Numbers: an integer is taken for a float, 1e6 for an integer (it is one), "1e-4" for a number (YAML reads it as a
    string); True, NaN and infinity are not numbers.

    Args:
        kind: a dataclass; its fields may be dataclasses, tuples, `Literal`s and unions.
        data: what JSON or YAML gave.
        where: the place of `data` in its file, with a dot at its end, for messages.

    Raises:
        ModelError: for an unknown or missing key, or a value of another type or out of bounds, with its place.

    Example:
        >>> from ditifeat.schema import from_dict
        >>> from_dict(ditifeat.TimeStepPartition, {"k": 2, "d": 8, "stages": [500, 1000], "dims_per_stage": [2, 6]})
        TimeStepPartition(k=2, d=8, num_time_steps=1000, stages=(500, 1000), dims_per_stage=(2, 6), even=False)
    """
    if not isinstance(data, dict):
        raise ModelError(f"{where.rstrip('.') or 'the configuration'} must be a mapping, not {type(data).__name__}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise ModelError(f"unknown key {', '.join(where + key for key in unknown)}; known are {', '.join(known)}")
    missing = [k for k, f in known.items() if k not in data and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ModelError(f"missing key {', '.join(where + key for key in missing)}")
    hints = typing.get_type_hints(kind)
    values = {key: _convert(hints[key], value, f"{where}{key}") for key, value in data.items()}
    try:
        return kind(**values)
    except DitifeatError as error:
        raise ModelError(f"{where.rstrip('.')}: {error}" if where else str(error)) from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where)
    if is_dataclass(hint):
        return from_dict(hint, value, f"{where}.")  # type: ignore[arg-type]
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in args):
            raise ModelError(f"{where} = {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if hint in (int, float):
        return _convert_number(hint, value, where)
    expected = dict if origin is dict else object if hint is Any else hint
    if not isinstance(value, expected):
        raise ModelError(f"{where} = {value!r} must be of type {expected.__name__}")
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ModelError(f"{where} = {value!r} must be a list")
    hints = args[:1] * len(value) if args[-1] is Ellipsis else args
    if len(value) != len(hints):
        raise ModelError(f"{where} must have {len(hints)} entries, not {len(value)}")
    return tuple(_convert(h, item, f"{where}[{i}]") for i, (h, item) in enumerate(zip(hints, value, strict=True)))


def _convert_number(hint: type[int] | type[float], value: Any, where: str) -> int | float:
    number = float(value) if isinstance(value, str) and SCIENTIFIC.fullmatch(value) else value
    wrong = isinstance(number, bool) or not isinstance(number, int | float)
    if wrong or (hint is int and isinstance(number, float) and not number.is_integer()):
        raise ModelError(f"{where} = {value!r} must be of type {hint.__name__}")
    if isinstance(number, float) and not math.isfinite(number):
        raise ModelError(f"{where} = {value!r} must be finite")
    try:
        return hint(number)
    except OverflowError:
        raise ModelError(f"{where} = {value!r} must be finite") from None


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None) and is_dataclass(a) == isinstance(value, dict)]
    options = options or [a for a in args if a is not type(None)]
    for option in options[:-1]:
        try:
            return _convert(option, value, where)
        except ModelError:
            continue
    return _convert(options[-1], value, where)
