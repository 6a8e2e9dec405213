"""Files: atomic writes, strict reads. A writer killed in the middle leaves the old file or none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ditifeat.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
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
    atomic_write(path, lambda partial: partial.write_text(text, "utf-8"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    atomic_write(path, lambda partial: save_file(contiguous, partial, metadata))


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


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose key begins with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
