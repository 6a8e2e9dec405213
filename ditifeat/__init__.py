"""Image features that come apart: a vector whose parts belong to diffusion time-steps (DiTi, ICLR 2024).

encoder = ditifeat.load_encoder()
features = ditifeat.encode(encoder, "photos/")
report = ditifeat.probe(features, labels)
ditifeat.edit(encoder, "me.jpg", report["Smiling"], scale=0.3).save("smile.png")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditifeat.editing import edit
    from ditifeat.errors import DitifeatError, ImageDecodeError, InputError, ModelError, RecipeError
    from ditifeat.features import Encoder, Features, encode
    from ditifeat.hub import load_encoder
    from ditifeat.partition import TimeStepPartition
    from ditifeat.probing import AttributeProbe, ProbeReport, probe
    from ditifeat.transformer import DiTiTransformer

__version__ = "0.1.0"

_HOME = {
    "load_encoder": "hub",
    "encode": "features",
    "probe": "probing",
    "edit": "editing",
    "Encoder": "features",
    "Features": "features",
    "ProbeReport": "probing",
    "AttributeProbe": "probing",
    "DiTiTransformer": "transformer",
    "TimeStepPartition": "partition",
    "DitifeatError": "errors",
    "ImageDecodeError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
    "RecipeError": "errors",
}

__all__ = [
    "AttributeProbe",
    "DiTiTransformer",
    "DitifeatError",
    "Encoder",
    "Features",
    "ImageDecodeError",
    "InputError",
    "ModelError",
    "ProbeReport",
    "RecipeError",
    "TimeStepPartition",
    "edit",
    "encode",
    "load_encoder",
    "probe",
]


def __getattr__(name: str) -> Any:
    """Imports a public name at its first use: torch, diffusers and scikit-learn take seconds."""
    if name not in _HOME:
        raise AttributeError(f"module 'ditifeat' has no attribute {name!r}")
    value = getattr(import_module(f"ditifeat.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
