"""Reads known factors from pixels, whatever made the image: a small network, trained on drawn images that no model has seen."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.factors_scores import factor_score
from ditifeat.data.batches import load_images
from ditifeat.data.factors import FACTORS, SIZE, Values, draw, sample, sample_values, targets
from ditifeat.files import load_strictly
from ditifeat.model.encoders import EncoderSpec, build_encoder

logger = logging.getLogger(__name__)

FRESH = 4096  # images that are drawn at once


@dataclass(frozen=True)
class RegressorSpec:
    """All that decides a regressor.

    Attributes:
        images: drawn for it, each seen once.
        batch: images per step.
        lr: peak learning rate of AdamW, under a one-cycle schedule.
        channels: of its convolutions, each of which halves the map.
        seed: of weights and images.
    """

    images: int = 131072
    batch: int = 64
    lr: float = 2e-3
    channels: tuple[int, ...] = (64, 96, 128)
    seed: int = 10**6


class Regressor(nn.Module):
    """Targets of factors, standardised, of images `(B, 3, 32, 32)` in [-1, 1].

    Args:
        spec: how it is built.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: RegressorSpec):
        super().__init__()
        wanted = torch.from_numpy(np.stack(list(targets(sample_values(FRESH, spec.seed)).values()), axis=1)).float()
        self.register_buffer("mean", wanted.mean(0))
        self.register_buffer("std", wanted.std(0))
        self.network = build_encoder(EncoderSpec(spec.channels, style="plain"), SIZE, wanted.shape[1])

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def train_regressor(spec: RegressorSpec) -> Regressor:
    """Train by the squared error of standardised targets, so that what is uncertain is predicted as its mean."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        regressor = Regressor(spec)
    optimiser = torch.optim.AdamW(regressor.parameters(), lr=spec.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, spec.lr, total_steps=spec.images // spec.batch)
    for part in range(-(-spec.images // FRESH)):
        images, values = sample(min(FRESH, spec.images - part * FRESH), spec.seed + 1 + part)
        wanted = torch.from_numpy(np.stack(list(targets(values).values()), axis=1)).float()
        wanted = (wanted - regressor.mean) / regressor.std
        for rows in range(0, len(images) - spec.batch + 1, spec.batch):
            shown, truth = load_images(images[rows : rows + spec.batch]), wanted[rows : rows + spec.batch]
            loss = (regressor(shown) - truth).square().mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        logger.info(
            "regressor: %d of %d images, loss %.4f", min((part + 1) * FRESH, spec.images), spec.images, loss.detach()
        )
    return regressor.eval().requires_grad_(False)


def load_regressor(cache: Cache, spec: RegressorSpec) -> Regressor:
    """Load the regressor of a specification; at the first call it is trained."""

    def train() -> Mapping[str, Tensor]:
        return train_regressor(spec).state_dict()

    # What is drawn decides it too.
    tensors = cache.tensors("regressor", spec, draw(sample_values(64, spec.seed)), make=train)
    regressor = Regressor(spec)
    load_strictly(regressor, tensors, "the regressor of factors")
    return regressor.eval().requires_grad_(False)


@torch.no_grad()
def predict(regressor: Regressor, images: Tensor, batch_size: int = 256) -> Values:
    """Predict targets, `(B,)` per name as `data.factors.targets` has them, of images `(B, 3, 32, 32)` in [-1, 1]."""
    found = torch.cat([regressor(part.clamp(-1, 1)) for part in images.cpu().split(batch_size)])
    columns = (found * regressor.std + regressor.mean).numpy().T
    return dict(zip(targets({name: np.zeros(1, np.int64) for name in FACTORS}), columns, strict=True))


def accuracy(regressor: Regressor, images: Tensor, values: Values) -> dict[str, float]:
    """Score a regressor on images whose factors are known: per factor as `factors_scores.reading` does."""
    predicted = predict(regressor, images)
    return {name: factor_score(name, values[name], predicted) for name in FACTORS}
