"""Losses of the DM and of the compared methods (DiTi's own is `ditifeat.model.DiTi.losses`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ditifeat.model.schedule import NoiseSchedule
from ditifeat.train.sections import DMRecipe


def denoising(
    recipe: DMRecipe, schedule: NoiseSchedule, output: Tensor, x_0: Tensor, x_t: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Return a DM's loss per image, `(B,)`, as a recipe asks for it.

    "epsilon" is Ho et al.'s (2020, eq. 14). "min_snr" is the squared error of the image times `min(SNR + 1, snr_cap)`,
    after Hang et al. (2023): SNR + 1 = 1 / (1 - alpha_bar) turns it into an error of v, and the cap keeps the nearly clean
    time-steps, which teach texture alone, from ruling the gradient.

    Args:
        recipe: which loss, and the cap.
        schedule: of the DM, with what its U-Net predicts.
        output: of the U-Net, `(B, C, h, w)`.
        x_0: the clean images in the DM's space, `(B, C, h, w)`.
        x_t: the noisy ones.
        t: time-steps, int64 `(B,)`.
        noise: in `x_t`.
    """
    if recipe.loss == "epsilon":
        return (schedule.to_noise(output, x_t, t) - noise).square().mean((1, 2, 3))
    weight = (1 / (1 - schedule.alpha_bar[t])).clamp(max=recipe.snr_cap)
    return weight * (schedule.to_image(output, x_t, t) - x_0).square().mean((1, 2, 3))


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross entropy per pair, `(B,)` (SimCLR eq. 1), the mean of both directions.

    Args:
        a: projections `(B, p)` of one view of each image.
        b: of another view.
        temperature: above 0.

    >>> from ditifeat.train.losses import nt_xent
    >>> views = torch.eye(2)
    >>> nt_xent(views, views, 0.5) < nt_xent(views, views.flip(0), 0.5)
    tensor([True, True])
    """
    both = functional.normalize(torch.cat([a, b]), dim=1)
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    count = len(a)
    partners = (torch.arange(2 * count, device=a.device) + count) % (2 * count)
    return functional.cross_entropy(similarity, partners, reduction="none").view(2, count).mean(0)


def simsiam(predicted_a: Tensor, predicted_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return the negative cosine of each view's prediction and the other's projection, per pair, `(B,)` (SimSiam eq. 2).

    All are `(B, p)`; the projections `a` and `b` are constants: no gradient reaches them.

    >>> from ditifeat.train.losses import simsiam
    >>> simsiam(torch.eye(2), torch.eye(2), torch.eye(2), torch.eye(2))
    tensor([-1., -1.])
    """
    cosines = (
        functional.cosine_similarity(predicted_a, b.detach()),
        functional.cosine_similarity(predicted_b, a.detach()),
    )
    return -(cosines[0] + cosines[1]) / 2
