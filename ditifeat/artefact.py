"""The artefact: a folder with `config.json` and safetensors. Strict reading, whole-or-nothing writing.

No configuration names a class, a module or a path outside its folder: `from_dict` fills the dataclasses of this
package and refuses every key that they do not have.
"""

from __future__ import annotations

import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from ditifeat.errors import DitifeatError, ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")


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


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Has `write` fill a temporary file beside `path`, syncs it to disk, and only then gives it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    write_whole(path, lambda partial: partial.write_text(text, "utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_whole(path, lambda partial: save_file(contiguous, partial, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A safetensors file's tensors and metadata.

    Raises:
        ModelError: if it is missing, or not a whole safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: is not a whole safetensors file ({error}); fetch or make it again") from error


FORMAT_VERSION = 1
DTYPES = ("torch.float32", "torch.float16", "torch.bfloat16")


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ModelError: if it is missing, or not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Gives `module`, built on the meta device, its float32 weights: every key, shape and type checked first.

    Raises:
        ModelError: for a missing, extra or misshapen tensor, another type than a float, or values that are not finite.
    """
    expected = module.state_dict()
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise ModelError(f"{where}: does not fit its configuration; missing: {_some(missing)}; unknown: {_some(extra)}")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise ModelError(f"{where}: {key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}")
        if str(tensor.dtype) not in DTYPES:
            raise ModelError(f"{where}: {key} is of type {tensor.dtype}, expected one of {', '.join(DTYPES)}")
        if not tensor.isfinite().all():
            raise ModelError(f"{where}: {key} holds NaN or infinite values")
    module.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)


def _some(keys: list[str]) -> str:
    return (", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")) or "none"


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose key begins with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
