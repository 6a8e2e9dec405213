"""Linear probes that may use few dimensions each: by L1 and a refit, or by ProMask (DiTi, section 5.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def lasso_dimensions(x: np.ndarray, y: np.ndarray, dims: int) -> np.ndarray:
    """Select the `dims` dimensions of centred codes `(n, d)`, at their own scales, with the largest weights of a lasso on `y` `(n,)`.

    The penalty is the largest that leaves as many; they may be fewer where the codes do not predict `y`.
    """
    from sklearn.linear_model import lars_path_gram

    inputs = x.astype(np.float64)
    target = (y - y.mean()) / max(float(y.std()), 1e-8)
    # Least-angle regression walks the lasso's whole path, one dimension in or out per step, and may stop on the way.
    _, _, weights = lars_path_gram(
        inputs.T @ target, inputs.T @ inputs, n_samples=len(x), max_iter=4 * dims, method="lasso", copy_Gram=False
    )
    used = (np.abs(weights) > 0).sum(0)
    enough = int(np.argmax(used >= dims)) if (used >= dims).any() else -1
    order = np.argsort(-np.abs(weights[:, enough]), kind="stable")
    return np.sort(order[: min(dims, max(1, int(used[enough])))])


def promask(
    x: np.ndarray, y: np.ndarray, dims: int, seed: int, *, steps: int = 1200, batch: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a logistic probe per attribute whose dimensions are learned: ProMask (Zhou et al., CVPR 2021).

    Each dimension has a probability of being used; masks are drawn by the Gumbel relaxation, and after every step the
    probabilities are projected so that their sum, annealed from d to `dims`, is not exceeded.

    Args:
        x: standardised codes `(n, d)`.
        y: labels in 0..1, `(n, attributes)`.
        dims: how many dimensions each attribute keeps.
        seed: of batches and masks.
        steps, batch: of Adam (1e-2 for the probabilities, 3e-3 for the weights).

    Returns:
        Weights `(attributes, d)`, zero but for `dims` dimensions each, and biases `(attributes,)`.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    attributes, d = targets.shape[1], inputs.shape[1]
    share = torch.full((attributes, d), 1.0, requires_grad=True)
    weights = torch.zeros(attributes, d, requires_grad=True)
    biases = torch.zeros(attributes, requires_grad=True)
    adam = torch.optim.Adam([{"params": [share], "lr": 1e-2}, {"params": [weights, biases], "lr": 3e-3}])
    for step in range(steps):
        progress = min(1.0, step / (0.7 * steps))  # the last part trains what was kept
        budget = dims + (d - dims) * (1 - progress) ** 3
        temperature = 1 - 0.97 * progress
        rows = torch.randint(len(inputs), (min(batch, len(inputs)),), generator=generator)
        uniform = torch.rand(attributes, d, generator=generator).clamp(1e-6, 1 - 1e-6)
        odds = torch.logit(share.clamp(1e-6, 1 - 1e-6)) + torch.logit(uniform)
        mask = torch.sigmoid(odds / temperature)
        output = inputs[rows] @ (weights * mask).T + biases
        loss = torch.nn.functional.binary_cross_entropy_with_logits(output, targets[rows], reduction="none")
        adam.zero_grad()
        loss.mean(0).sum().backward()
        adam.step()
        with torch.no_grad():
            share.copy_(_onto_budget(share, budget))
    kept = torch.zeros(attributes, d, dtype=torch.bool)
    kept.scatter_(1, (share * 1e3 + weights.abs()).detach().topk(dims, dim=1).indices, True)
    return (weights.detach() * kept).numpy(), biases.detach().numpy()


def _onto_budget(share: Tensor, budget: float) -> Tensor:
    """The nearest probabilities `(attributes, d)` in [0, 1] whose sum does not exceed `budget`, row by row."""
    import torch

    low, high = torch.zeros(len(share), 1), share.amax(1, keepdim=True).clamp(min=0)
    for _ in range(30):
        middle = (low + high) / 2
        over = (share - middle).clamp(0, 1).sum(1, keepdim=True) > budget
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    within = share.clamp(0, 1).sum(1, keepdim=True) <= budget
    return torch.where(within, share.clamp(0, 1), (share - high).clamp(0, 1))
