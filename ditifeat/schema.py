"""Plain lists and dicts to checked dataclasses: no configuration names a class, a module or a path outside its folder."""

from __future__ import annotations

import operator
import types
import typing
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from ditifeat.errors import DitifeatError, InputError, ModelError

T = TypeVar("T")


def integer(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """An argument that must be an integer, optionally within `low..high`; NumPy's and torch's integers are.

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


def from_dict(kind: type[T], data: Any, where: str = "") -> T:
    """Plain lists and dicts to the dataclass `kind`, every key and type checked; lists become tuples.

    Raises:
        ModelError: for an unknown or missing key or a value of another type, with its place.
    """
    if not isinstance(data, dict):
        raise ModelError(f"{where or 'the configuration'} must be a mapping, not {type(data).__name__}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(map(str, set(data) - set(known)))
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
        if value not in args:
            raise ModelError(f"{where} = {value!r} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ModelError(f"{where} must be a list")
        if args[-1] is Ellipsis:
            return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(value) != len(args):
            raise ModelError(f"{where} must have {len(args)} entries, not {len(value)}")
        return tuple(_convert(a, item, f"{where}[{i}]") for i, (a, item) in enumerate(zip(args, value, strict=True)))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = dict if origin is dict else hint
    if not isinstance(value, expected) or (isinstance(value, bool) and hint is not bool):
        raise ModelError(f"{where} = {value!r} must be of type {getattr(expected, '__name__', expected)}")
    return value


def _convert_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [a for a in args if a is not type(None)]
    if isinstance(value, dict):
        options = [a for a in options if is_dataclass(a)] or options
    else:
        options = [a for a in options if not is_dataclass(a)] or options
    return _convert(options[0], value, where)
