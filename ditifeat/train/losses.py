"""Losses of the compared methods (DiTi's own is `ditifeat.model.DiTi.losses`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy per pair `(B,)` (SimCLR eq. 1), the mean of both directions.

    Args:
        a, b: projections `(B, p)` of two views of each picture.
        temperature: above 0.
    """
    both = functional.normalize(torch.cat([a, b]), dim=1)
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    count = len(a)
    partners = (torch.arange(2 * count, device=a.device) + count) % (2 * count)
    return functional.cross_entropy(similarity, partners, reduction="none").view(2, count).mean(0)


def simsiam(predicted_a: Tensor, predicted_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Negative cosine of each view's prediction and the other's projection, a constant, per pair `(B,)` (SimSiam eq. 2)."""
    cosines = (
        functional.cosine_similarity(predicted_a, b.detach()),
        functional.cosine_similarity(predicted_b, a.detach()),
    )
    return -(cosines[0] + cosines[1]) / 2
