"""Baselines: features that cost no training of an encoder, which every trained one has to better. Codes `(n, d)` of a split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditifeat.benchmark.scores import ridge_mean_ap
from ditifeat.benchmark.split import Split, in_batches
from ditifeat.data.batches import load_images
from ditifeat.errors import ModelError
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import EncoderNetwork, build_encoder
from ditifeat.train.initialise import (
    INITIALISATION_IMAGES,
    initialise_error_predictive,
    initialise_from_dm,
    initialise_whitened,
)

DDAE_TIME_STEPS = (50, 150, 300)

Initialisation = Literal["random", "whitened", "error_predictive"]


def pca(split: Split, components: int = 512, side: int = 32, *, flip_average: bool = False) -> np.ndarray:
    """Compute principal components of `side` x `side` pixels, fitted on the training rows.

    Args:
        split: the images.
        components: at most; never more than training rows or pixels.
        side: to which images are shrunk, in pixels.
        flip_average: of the mean of each image and its horizontal flip.

    >>> from ditifeat.benchmark.baselines import pca
    >>> pca(split).shape  # doctest: +SKIP
    (9000, 512)
    """
    from sklearn.decomposition import PCA

    small = [np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX)) for image in split.images]
    pixels = np.stack(small).astype(np.float32) / 255
    if flip_average:
        pixels = (pixels + pixels[:, :, ::-1]) / 2
    rows = pixels.reshape(len(pixels), -1)
    components = min(components, int(split.train.sum()), rows.shape[1])
    return PCA(components, random_state=0).fit(rows[split.train]).transform(rows)


def random_encoder(
    model: DiTi, split: Split, initialisation: Initialisation = "random", *, flip_average: bool = False
) -> np.ndarray:
    """Encode by the model's encoder with random layers.

    Args:
        model: whose encoder's architecture, partition and frozen DM are taken.
        split: the images; the last layer is initialised on the training rows.
        initialisation: of the last layer, as a recipe's.
        flip_average: mean over the codes of each image and its horizontal flip.
    """
    encoder = _build(model)
    _initialise(encoder, model, split, initialisation)
    return in_batches(encoder, split.images, model.mean.device, flip_average=flip_average)


def down_path(
    model: DiTi,
    split: Split,
    initialisation: Initialisation,
    weighting: str = "published",
    *,
    flip_average: bool = False,
) -> np.ndarray:
    """Encode by the frozen DM's down path, before any training of the encoder.

    Args:
        model: whose frozen DM and partition are taken; its encoder has the DM's layers.
        split: the images; the last layer is initialised on the training rows.
        initialisation: of the last layer, as a recipe's.
        weighting: of the errors that "error_predictive" codes predict (DiTi eq. 6).
        flip_average: mean over the codes of each image and its horizontal flip.

    Raises:
        RecipeError: if the encoder's layers are not those of the DM.
    """
    encoder = _build(model)
    initialise_from_dm(encoder, model.config.encoder, model.dm)
    _initialise(encoder, model, split, initialisation, weighting)
    return in_batches(encoder, split.images, model.mean.device, flip_average=flip_average)


def _build(model: DiTi) -> EncoderNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone
        encoder = build_encoder(model.config.encoder, model.config.image.size, model.partition.d)
    return encoder.to(model.mean.device).eval()


def _initialise(
    encoder: EncoderNetwork,
    model: DiTi,
    split: Split,
    initialisation: Initialisation,
    weighting: str = "published",
) -> None:
    """Sets the last layer by the training rows."""
    images = load_images(split.images[np.flatnonzero(split.train)[:INITIALISATION_IMAGES]])
    if initialisation == "whitened":
        initialise_whitened(encoder, images)
    elif initialisation == "error_predictive":
        initialise_error_predictive(DiTi(model.config, model.dm, encoder, model.estimator), images, weighting)


def dm_bottleneck(
    dm: DiffusionModel, split: Split, device: torch.device | str = "cpu", *, flip_average: bool = False
) -> tuple[np.ndarray, int]:
    """Compute the frozen DM's middle features of noisy images, mean over space (DDAE: Xiang et al., ICCV 2023).

    Args:
        dm: whose features are taken.
        split: the images.
        device: that of the DM.
        flip_average: mean over the features of each image and its horizontal flip, each with its own noise.

    Returns:
        The codes at the time-step that is best on the last eighth of the training rows, and that time-step.

    Raises:
        ModelError: if the DM has no middle block.
    """
    if dm.unet.mid_block is None:
        raise ModelError("the DM has no middle block to read features from")
    rows = np.flatnonzero(split.train)
    fitted = np.arange(len(rows)) < len(rows) * 7 // 8
    scores = []
    for t in DDAE_TIME_STEPS:
        codes = in_batches(_bottleneck(dm, t), split.images, device, flip_average=flip_average)
        scores.append((ridge_mean_ap(codes[rows], split.targets[rows], fitted), t, codes))
    _, best, codes = max(scores, key=lambda score: score[0])
    return codes, best


def _bottleneck(dm: DiffusionModel, t: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def features(images: Tensor) -> Tensor:
        time_steps = torch.full((len(images),), t, device=images.device)
        x_0 = dm.codec.encode(images)
        noise = torch.randn(x_0.shape, generator=generator).to(x_0)
        down = dm.features(dm.schedule.add_noise(x_0, noise, time_steps), time_steps)
        middle = dm.unet.mid_block(down.bottleneck, down.time_embedding)  # type: ignore[misc]
        return middle.mean((2, 3))

    return features
