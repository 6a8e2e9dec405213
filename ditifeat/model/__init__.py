"""The paper: partition, schedule, codec, encoders, U-Net, estimator, diffusion, sampling, and the model `DiTi` itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditifeat.model.diti import DiTi

__all__ = ["DiTi"]


def __getattr__(name: str) -> Any:
    """Imports `DiTi` at its first use: it needs diffusers, which takes seconds and which encoding does without."""
    if name != "DiTi":
        raise AttributeError(f"module 'ditifeat.model' has no attribute {name!r}")
    from ditifeat.model.diti import DiTi

    globals()[name] = DiTi
    return DiTi
