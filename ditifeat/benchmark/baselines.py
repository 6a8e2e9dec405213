"""Features that cost no training of ours: what every trained encoder has to better. Codes `(n, d)` of uint8 pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ditifeat.benchmark.scores import ridge_mean_ap
from ditifeat.data.batches import load_images
from ditifeat.errors import RecipeError
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import build_encoder
from ditifeat.train.initialise import (
    INITIALISATION_IMAGES,
    initialise_error_predictive,
    initialise_from_dm,
    initialise_whitened,
)

DDAE_TIME_STEPS = (50, 150, 300)


@torch.no_grad()
def in_batches(function: Callable[[Tensor], Tensor], array: np.ndarray, batch: int = 250) -> np.ndarray:
    """`function` of images `(B, 3, S, S)` in [-1, 1], over all pictures."""
    parts = (load_images(array[i : i + batch]) for i in range(0, len(array), batch))
    return torch.cat([function(images).float().cpu() for images in parts]).numpy()


def pca(array: np.ndarray, first: int, components: int = 512, side: int = 32, mirrored: bool = False) -> np.ndarray:
    """`(n, components)`: of `side` x `side` pixels of uint8 `(n, H, W, 3)`, fitted on the first rows; or of both sides' mean."""
    from sklearn.decomposition import PCA

    small = [np.asarray(Image.fromarray(row).resize((side, side), Image.Resampling.BOX)).ravel() for row in array]
    pixels = np.stack(small).astype(np.float32) / 255
    if mirrored:
        sides = pixels.reshape(len(array), side, side, 3)
        pixels = ((sides + sides[:, :, ::-1]) / 2).reshape(len(array), -1)
    components = min(components, first, pixels.shape[1])
    return PCA(components, random_state=0).fit(pixels[:first]).transform(pixels)


def untrained(
    model: DiTi,
    array: np.ndarray,
    first: int,
    codes: Literal["random", "white", "lost"],
    from_dm: bool = False,
    weighting: str = "published",
) -> np.ndarray:
    """Codes `(n, d)` of the model's encoder before training: random or the DM's down path, begun as a recipe begins them.

    `codes` are computed from the first `first` of the uint8 images `array` `(n, S, S, 3)`, at most `INITIALISATION_IMAGES`;
    `weighting` is that of the errors which error-predictive codes explain (DiTi eq. 6).

    Raises:
        RecipeError: if `from_dm` and the encoder's layers are not those of the DM.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = build_encoder(model.config.encoder, model.config.image.size, model.partition.d).eval()
    if from_dm:
        initialise_from_dm(encoder, model.config.encoder, model.dm)
    images = load_images(array[: min(first, INITIALISATION_IMAGES)])
    if codes == "white":
        initialise_whitened(encoder, images)
    elif codes == "lost":
        initialise_error_predictive(DiTi(model.config, model.dm, encoder, model.estimator), images, weighting)
    return in_batches(encoder, array)


def dm_bottleneck(dm: DiffusionModel, array: np.ndarray, first: int, targets: np.ndarray) -> tuple[np.ndarray, int]:
    """The frozen DM's middle features, mean over space, at the time-step that is best on the last eighth of the first rows.

    As DDAE reads them (Xiang et al., ICCV 2023): of noisy pictures. Returns the codes and the time-step.
    """
    part = first * 7 // 8
    scores = []
    for t in DDAE_TIME_STEPS:
        codes = in_batches(_bottleneck(dm, t), array)
        scores.append((ridge_mean_ap(codes[:first], targets[:first], part), t, codes))
    _, best, codes = max(scores, key=lambda score: score[0])
    return codes, best


def _bottleneck(dm: DiffusionModel, t: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def features(images: Tensor) -> Tensor:
        time_steps = torch.full((len(images),), t)
        x_0 = dm.codec.encode(images)
        x_t = dm.schedule.add_noise(x_0, torch.randn(x_0.shape, generator=generator), time_steps)
        down = dm.features(x_t, time_steps)
        if dm.unet.mid_block is None:
            raise RecipeError("the DM has no middle block to read features from")
        return dm.unet.mid_block(down.bottleneck, down.time_embedding).mean((2, 3))

    return features
