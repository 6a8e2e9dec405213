"""Evaluation of a finished model on images that it was not trained on: reconstruction and linear probes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ditifeat.analysis.features import Features
from ditifeat.analysis.metrics import mse, ssim
from ditifeat.analysis.probe import probe
from ditifeat.analysis.report import ProbeReport
from ditifeat.data.batches import load_images
from ditifeat.encoding.loaded import ATTRIBUTES, SPARSE_ATTRIBUTES, WEIGHTS
from ditifeat.files import sha256
from ditifeat.model.config import ModelConfig
from ditifeat.model.diti import DiTi
from ditifeat.model.generative import GenerativeModel
from ditifeat.model.partition import TimeStepPartition

RECONSTRUCTED = 16  # images

STEPS = 100

FIXED_POINT_STEPS = 20  # evaluations each way

SPARSE = 16  # dimensions per attribute, as the paper's sparse edits


class TrainedModel(Protocol):
    """What every model that training makes has, whatever its method."""

    config: ModelConfig
    partition: TimeStepPartition
    encoder: nn.Module
    mean: Tensor
    std: Tensor

    def save(self, folder: str | Path) -> None:
        """Write the model folder."""


@torch.no_grad()
def encode_rows(model: TrainedModel, array: np.ndarray, names: list[str], folder: Path) -> Features:
    """Encode preprocessed images, uint8 `(N, S, S, 3)`, to features `(N, d)` of the encoder that lies in `folder`."""
    device = model.mean.device
    rows = [model.encoder(load_images(array[i : i + 256], device)).float().cpu() for i in range(0, len(array), 256)]
    return Features(
        torch.cat(rows).numpy(),
        tuple(names),
        model.partition,
        model.config.name,
        sha256(folder / WEIGHTS),
        model.config.image.fingerprint(),
    )


@torch.no_grad()
def reconstruction(model: Any, images: Tensor, steps: int = STEPS) -> dict[str, dict[str, float]]:
    """Measure MSE and SSIM (scale 0..1) of images from their inferred `x_T`, from a random one, and by the frozen DM alone.

    Args:
        model: a `GenerativeModel` with an encoder.
        images: `(B, 3, S, S)` in [-1, 1], on the model's device.
        steps: of DDIM inversion, and again of sampling.
    """
    z = model.encoder(images)
    x_T = torch.randn((len(images), *model.noise_shape), generator=torch.Generator().manual_seed(0)).to(images.device)
    few = FIXED_POINT_STEPS
    made = {
        "inferred_x_T": model.sample(model.invert(images, z, steps), z, steps),
        "fixed_point": model.sample(model.invert(images, z, few, "fixed_point"), z, few, solver="fixed_point"),
        "random_x_T": model.sample(x_T, z, steps),
    }
    if isinstance(model, DiTi):
        made["frozen_dm_inferred_x_T"] = model.sample(model.invert(images, None, steps), None, steps)
    return {
        "mse": {name: float(mse(image, images).mean()) for name, image in made.items()},
        "ssim": {name: float(ssim(image, images).mean()) for name, image in made.items()},
    }


def evaluate(
    model: TrainedModel, array: np.ndarray, names: list[str], count: int, folder: Path, labels: Any = None
) -> dict[str, Any]:
    """Measure the reconstruction error on held-out images (the first ones where none are held out), and probe the codes.

    The probe, and a sparse one, are put into the model's folder: directions to edit along.

    Args:
        model: the finished model.
        array: all images, uint8 `(N, S, S, 3)`.
        names: of the images.
        count: the first `count` were trained on, and train the probe; the others test it.
        folder: the model's.
        labels: as `ditifeat.probe` takes them; without them, or without held-out images, nothing is probed.
    """
    held_out = array[count : count + RECONSTRUCTED] if count < len(array) else array[:RECONSTRUCTED]
    result: dict[str, Any] = {}
    if isinstance(model, GenerativeModel):
        images = load_images(held_out, model.mean.device)
        about = {"images": len(images), "held_out": count < len(array), "steps": STEPS}
        result["reconstruction"] = about | reconstruction(model, images, STEPS)
    if labels is not None and count < len(array):
        features = encode_rows(model, array, names, folder)
        report = probe(features, labels, train_rows=np.arange(count))
        report.save(folder / ATTRIBUTES)
        if features.shape[1] > SPARSE:
            probe(features, labels, train_rows=np.arange(count), dims=SPARSE).save(folder / SPARSE_ATTRIBUTES)
        result["probe"] = _summary(report)
    return result


def _summary(report: ProbeReport) -> dict[str, Any]:
    scores = {name: {key: _rounded(value) for key, value in report[name].scores.items()} for name in report}
    return {"mean_ap": _rounded(report.mean_ap), **report.about, "scores": scores}


def _rounded(value: float) -> float | None:
    """None for NaN, which JSON lacks: of an attribute that all test rows have, or of none of the kind."""
    return round(value, 4) if math.isfinite(value) else None
