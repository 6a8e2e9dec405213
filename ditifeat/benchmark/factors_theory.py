"""When a diffusion model loses a factor, by theory: the images that differ in it alone, and the noise that makes them one."""

from __future__ import annotations

import numpy as np
import torch

from ditifeat.data.batches import load_images
from ditifeat.data.factors import FACTORS, draw, sample_values
from ditifeat.model.codec import PixelCodec
from ditifeat.model.schedule import NoiseSchedule

LOST = 0.25  # the error, halfway from none to chance, at which a factor counts as lost


def pair_distances(codec: PixelCodec, count: int = 500, seed: int = 0) -> dict[str, np.ndarray]:
    """Measure `|| x - x' ||` in a DM's space of pairs of images that differ in one factor alone.

    Both values are drawn at random, of a categorical factor two that differ; so are the other factors, which a pair shares.

    Args:
        codec: of the DM.
        count: pairs per factor.
        seed: of the factors.

    Returns:
        `(count,)` per factor.

    >>> from ditifeat.benchmark.factors_theory import pair_distances
    >>> from ditifeat.model.codec import PixelCodec
    >>> distances = pair_distances(PixelCodec(), count=8)
    >>> bool(distances["background_hue"].mean() > distances["texture"].mean() > 0)
    True
    """
    # An even and the next odd seed are of one call alone.
    values, others = sample_values(count, 2 * seed), sample_values(count, 2 * seed + 1)
    first = _encoded(codec, values)
    found = {}
    for name, factor in FACTORS.items():
        other = others[name]
        if factor.kind == "categorical":
            other = np.where(other == values[name], (other + 1) % len(factor.categories), other)
        second = _encoded(codec, values | {name: other})
        found[name] = (first - second).flatten(1).norm(dim=1).numpy()
    return found


def _encoded(codec: PixelCodec, values: dict[str, np.ndarray]) -> torch.Tensor:
    with torch.no_grad():
        return codec.encode(load_images(draw(values)))


def errors(distances: dict[str, np.ndarray], schedule: NoiseSchedule) -> dict[str, np.ndarray]:
    """Compute how often the better of two known images is the wrong one, given `x_t`: `Phi(-sqrt(SNR_t) ||x - x'|| / 2)`.

    Args:
        distances: of pairs, `(n,)` per factor.
        schedule: of the DM, with T time-steps.

    Returns:
        The mean over pairs, `(T,)` per factor, within 0..1/2.
    """
    from scipy.stats import norm

    alpha_bar = schedule.alpha_bar.double().cpu().numpy()
    root_snr = np.sqrt(alpha_bar / (1 - alpha_bar))
    return {name: norm.cdf(-root_snr[:, None] * d / 2).mean(1) for name, d in distances.items()}


def lost_at(error: np.ndarray) -> int:
    """Return the first time-step at which an error `(T,)` is `LOST` or more; T if there is none.

    >>> from ditifeat.benchmark.factors_theory import lost_at
    >>> lost_at(np.array([0.0, 0.1, 0.3, 0.4])), lost_at(np.zeros(4))
    (2, 4)
    """
    passed = np.flatnonzero(error >= LOST)
    return int(passed[0]) if len(passed) else len(error)
