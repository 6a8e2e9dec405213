"""Results kept by a hash of all that decides them: one more run does not cost the scores of all, and no old one is taken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditifeat.files import read_json, read_tensors, write_tensors, write_text

VERSION = 3  # of how scores are worked out, part of every key: raise it when one is worked out in another way


def content_hash(*parts: Any) -> str:
    """Hex SHA-256 of arrays and tensors (type, shape, bytes), dataclasses, and whatever else JSON can write.

    >>> content_hash(np.zeros(3)) == content_hash(np.zeros((3, 1)))
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        for piece in _pieces(part):
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)
    return digest.hexdigest()


def _pieces(part: Any) -> list[bytes]:
    if isinstance(part, Tensor):
        part = part.detach().cpu()
        part = (part.float() if part.dtype == torch.bfloat16 else part).numpy()
    if isinstance(part, np.ndarray):
        return [f"{part.dtype} {part.shape}".encode(), np.ascontiguousarray(part).tobytes()]
    if isinstance(part, Mapping) and any(isinstance(value, Tensor) for value in part.values()):
        return [piece for name, tensor in part.items() for piece in (name.encode(), *_pieces(tensor))]
    return [json.dumps(asdict(part) if is_dataclass(part) and not isinstance(part, type) else part).encode()]


@dataclass(frozen=True)
class Cache:
    """Results in a folder, each in a file named by what it is and the hash of what decides it.

    Args:
        folder: made at the first result.
    """

    folder: Path

    def json(self, kind: str, *key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, as JSON gives it back; worked out at the first call with this key."""
        path = self._path(kind, key, ".json")
        if not path.exists():
            write_text(path, json.dumps(make()) + "\n")
        return read_json(path)

    def tensors(self, kind: str, *key: Any, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The same of named tensors, such as a network's weights."""
        path = self._path(kind, key, ".safetensors")
        if not path.exists():
            write_tensors(path, make())
        return read_tensors(path)[0]

    def _path(self, kind: str, key: tuple[Any, ...], suffix: str) -> Path:
        return self.folder / f"{kind}-{content_hash(VERSION, kind, *key)[:32]}{suffix}"
