"""Results kept by a hash of all that decides them: one more run does not cost the scores of all, and no old one is taken."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ditifeat.errors import MissingFileError, ModelError
from ditifeat.files import read_json, read_tensors, write_tensors, write_text

logger = logging.getLogger(__name__)

T = TypeVar("T")

VERSION = 3  # of how scores are worked out, part of every key: raise it when one is worked out in another way


def content_hash(*parts: Any) -> str:
    """Hash arrays and tensors (type, shape, bytes), dataclasses, and whatever else JSON can write: hex SHA-256.

    >>> from ditifeat.benchmark.cache import content_hash
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


def _kept(path: Path, read: Callable[[Path], T], write: Callable[[], None]) -> T:
    """Reads a file, which is written first if it is missing or damaged."""
    try:
        return read(path)
    except MissingFileError:
        pass
    except ModelError as error:
        logger.warning("%s; it is worked out again", error)
    write()
    return read(path)


@dataclass(frozen=True)
class Cache:
    """Results in a folder, each in a file named by what it is and the hash of what decides it.

    Args:
        folder: made at the first result.

    >>> from pathlib import Path
    >>> from ditifeat.benchmark.cache import Cache
    >>> cache = Cache(Path("cache"))
    >>> cache.json("sum", [1, 2], make=lambda: 3), cache.json("sum", [1, 2], make=lambda: 4)
    (3, 3)
    """

    folder: Path

    def json(self, kind: str, *key: Any, make: Callable[[], Any]) -> Any:
        """Return what `make` does, as JSON gives it back; it is called at the first call with this key alone."""
        path = self._path(kind, key, ".json")
        return _kept(path, read_json, lambda: write_text(path, json.dumps(make()) + "\n"))

    def tensors(self, kind: str, *key: Any, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return named tensors, such as a network's weights, in the same way."""
        path = self._path(kind, key, ".safetensors")
        return _kept(path, read_tensors, lambda: write_tensors(path, make()))[0]

    def _path(self, kind: str, key: tuple[Any, ...], suffix: str) -> Path:
        return self.folder / f"{kind}-{content_hash(VERSION, kind, *key)[:32]}{suffix}"
