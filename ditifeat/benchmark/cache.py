"""Scores cached by what decides them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ditifeat.encoding.encoder import Encoder
from ditifeat.files import write_text

SCORING = 2  # part of what rows are remembered by: raise it when a score is worked out in another way


def run_key(encoder: Encoder) -> Any:
    """What decides a run's scores: its configuration and its weights."""
    files = sorted(encoder.folder.rglob("*.safetensors"))
    return asdict(encoder.config), [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def baseline_key(encoder: Encoder) -> Any:
    """What decides a run's floors: the pictures as it reads them, its encoder's network, its partition and its frozen DM."""
    config = encoder.config
    files = sorted((encoder.folder / "dm").rglob("*.safetensors"))
    known = [asdict(part) for part in (config.image, config.encoder, config.partition, config.codec, config.dm)]
    return config.method, known, [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def cached(folder: Path, key: Any, score: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What `score` returns; remembered, so that one run more does not cost the scores of all."""
    path = folder / f"{hashlib.sha256(json.dumps([SCORING, key]).encode()).hexdigest()[:16]}.json"
    if not path.exists():
        write_text(path, json.dumps(score()) + "\n")
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return found
