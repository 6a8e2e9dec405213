"""What a finished model is worth, on pictures that it was not trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditifeat.encoders import to_images
from ditifeat.features import Features
from ditifeat.model import DiTi
from ditifeat.probing import ProbeReport, probe

RECONSTRUCTED = 16
STEPS = 100


@torch.no_grad()
def encode_rows(model: DiTi, array: np.ndarray, names: list[str]) -> Features:
    """Features of preprocessed pictures, uint8 `(N, S, S, 3)`."""
    device = model.mean.device
    rows = [
        model.encoder(to_images(torch.from_numpy(array[i : i + 256].copy())).to(device)).float().cpu()
        for i in range(0, len(array), 256)
    ]
    return Features(torch.cat(rows).numpy(), tuple(names), model.partition, model.config.name)


def mse(a: Tensor, b: Tensor) -> float:
    """Mean squared error of images in [-1, 1], on the scale 0..1 that papers print."""
    return float(((a.clamp(-1, 1) - b.clamp(-1, 1)) / 2).square().mean())


@torch.no_grad()
def reconstruction(model: DiTi, images: Tensor, steps: int = STEPS) -> dict[str, float]:
    """MSE (scale 0..1) of images from their inferred `x_T`, from a random `x_T`, and by the frozen DM alone."""
    z = model.encoder(images)
    x_T = torch.randn((len(images), *model.noise_shape), generator=torch.Generator().manual_seed(0)).to(images.device)
    return {
        "inferred_x_T": mse(model.sample(model.invert(images, z, steps), z, steps), images),
        "random_x_T": mse(model.sample(x_T, z, steps), images),
        "frozen_dm_inferred_x_T": mse(model.sample(model.invert(images, None, steps), None, steps), images),
    }


def evaluate(model: DiTi, array: np.ndarray, names: list[str], count: int, labels: Any = None) -> dict[str, Any]:
    """Reconstruction error on held-out pictures (the first ones where none are held out), and the probe's scores.

    Args:
        model: the finished model.
        array: all pictures, uint8 `(N, S, S, 3)`.
        names: their names.
        count: the first so many were trained on, and train the probe; the others test it.
        labels: as `ditifeat.probe` takes them; without them, or without held-out pictures, nothing is probed.
    """
    held_out = array[count : count + RECONSTRUCTED] if count < len(array) else array[:RECONSTRUCTED]
    images = to_images(torch.from_numpy(held_out.copy())).to(model.mean.device)
    result: dict[str, Any] = {
        "reconstruction": {
            "pictures": len(images),
            "held_out": count < len(array),
            "steps": STEPS,
            "mse": reconstruction(model, images, STEPS),
        }
    }
    if labels is not None and count < len(array):
        result["probe"] = _summary(probe(encode_rows(model, array, names), labels, train=np.arange(count)))
    return result


def _summary(report: ProbeReport) -> dict[str, Any]:
    scores = {name: {k: round(v, 4) for k, v in report[name].scores.items()} for name in report}
    return {"mean_ap": round(report.mean_ap, 4), **report.about, "scores": scores}
