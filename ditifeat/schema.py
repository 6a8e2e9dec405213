"""Plain lists and dicts (JSON, YAML) to checked dataclasses; checks of single arguments.

No configuration names a class, a module or a path outside its folder: what can be built stands in the dataclasses.
"""

from __future__ import annotations

import math
import operator
import re
import reprlib
import types
import typing
from collections.abc import Hashable
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np

from ditifeat.errors import DitifeatError, InputError, ModelError

T = TypeVar("T")

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 200, 200, 60

# YAML 1.1 reads 1e-4 and 1e6, which have no dot, as strings.
SCIENTIFIC = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


def shown(value: Any) -> str:
    """Return the repr of a value for a message, cut where it is long or deep: a stranger's file may hold anything.

    >>> from ditifeat.schema import shown
    >>> shown([1, "a"]), len(shown("a" * 1_000_000))
    ("[1, 'a']", 200)
    """
    return _SHORT.repr(value)


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds: plain lists, dicts, texts and numbers; no code, no alias, no key twice.

    Raises:
        ValueError: for anything else, with its place.

    >>> from ditifeat.schema import parse_yaml
    >>> parse_yaml("images: 1000")
    {'images': 1000}
    """
    import yaml

    try:
        return yaml.load(text, _yaml_loader())
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)[:1000]) from error


@cache
def _yaml_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """PyYAML's safe loader takes the last of a key that is given twice; of aliases, a short text can make any size."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.composer.ComposerError(
                    None, None, "an alias (*name); write out what it stands for", self.peek_event().start_mark
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = sorted({key for key in keys if keys.count(key) > 1})
            if twice:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {', '.join(twice)} given twice", node.start_mark
                )
            return super().construct_mapping(node, deep)

    return Loader


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
        raise InputError(f"{name} = {shown(value)} must be an integer") from None
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
        raise InputError(f"{name} = {shown(value)} must be True or False")
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
            raise ModelError(f"{where} = {shown(value)} is not one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if hint in (int, float):
        return _convert_number(hint, value, where)
    expected = dict if origin is dict else object if hint is Any else hint
    if not isinstance(value, expected):
        raise ModelError(f"{where} = {shown(value)} must be of type {expected.__name__}")
    return value


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ModelError(f"{where} = {shown(value)} must be a list")
    hints = args[:1] * len(value) if args[-1] is Ellipsis else args
    if len(value) != len(hints):
        raise ModelError(f"{where} must have {len(hints)} entries, not {len(value)}")
    return tuple(_convert(h, item, f"{where}[{i}]") for i, (h, item) in enumerate(zip(hints, value, strict=True)))


def _convert_number(hint: type[int] | type[float], value: Any, where: str) -> int | float:
    number = float(value) if isinstance(value, str) and SCIENTIFIC.fullmatch(value) else value
    wrong = isinstance(number, bool) or not isinstance(number, int | float)
    if wrong or (hint is int and isinstance(number, float) and not number.is_integer()):
        raise ModelError(f"{where} = {shown(value)} must be of type {hint.__name__}")
    if isinstance(number, float) and not math.isfinite(number):
        raise ModelError(f"{where} = {shown(value)} must be finite")
    try:
        return hint(number)
    except OverflowError:
        raise ModelError(f"{where} = {shown(value)} must be finite") from None


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
