"""Image features that come apart: a vector whose parts belong to diffusion time-steps (DiTi, ICLR 2024).

encoder = ditifeat.load_encoder()
features = ditifeat.encode(encoder, "photos/")
report = ditifeat.probe(features, labels)
ditifeat.edit(encoder, "me.jpg", report["Smiling"], scale=0.3).save("smile.png")
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditifeat.align import align_faces
    from ditifeat.analysis.features import Features
    from ditifeat.analysis.learning_curve import LearningCurve, learning_curve
    from ditifeat.analysis.probe import probe
    from ditifeat.analysis.report import AttributeProbe, ProbeReport
    from ditifeat.editing.edit import edit
    from ditifeat.encoding.encoder import Encoder, encode, load_encoder
    from ditifeat.encoding.featurizer import DiTiFeaturizer
    from ditifeat.errors import DitifeatError, FaceError, ImageDecodeError, InputError, ModelError, RecipeError
    from ditifeat.model.partition import TimeStepPartition

__version__ = "0.1.0"

# Silent unless the application turns logging on, as the command line does.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_HOME = {
    "align_faces": "align",
    "load_encoder": "encoding.encoder",
    "encode": "encoding.encoder",
    "probe": "analysis.probe",
    "learning_curve": "analysis.learning_curve",
    "edit": "editing.edit",
    "Encoder": "encoding.encoder",
    "Features": "analysis.features",
    "ProbeReport": "analysis.report",
    "AttributeProbe": "analysis.report",
    "LearningCurve": "analysis.learning_curve",
    "DiTiFeaturizer": "encoding.featurizer",
    "TimeStepPartition": "model.partition",
    "DitifeatError": "errors",
    "FaceError": "errors",
    "ImageDecodeError": "errors",
    "InputError": "errors",
    "ModelError": "errors",
    "RecipeError": "errors",
}

__all__ = [
    "AttributeProbe",
    "DiTiFeaturizer",
    "DitifeatError",
    "Encoder",
    "FaceError",
    "Features",
    "ImageDecodeError",
    "InputError",
    "LearningCurve",
    "ModelError",
    "ProbeReport",
    "RecipeError",
    "TimeStepPartition",
    "align_faces",
    "edit",
    "encode",
    "learning_curve",
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
