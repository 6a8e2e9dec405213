"""Logistic regression of many attributes at once: Newton's method, whose steps are found by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

STEPS = 40  # of Newton's method, at most; four to six are usual
INNER = 20  # of conjugate gradients per step, at most
TOLERANCE = 1e-6  # nats per row that the mean loss may be above its minimum, as the step's decrement estimates it
FORCING = 0.01  # of a step's squared residual, at which its conjugate gradients stop
BASIS_ROWS = 8192  # that the preconditioner looks at
BASIS_DIMS = 2048  # up to which its eigenvectors are worth their time


def fit_logistic(x: np.ndarray, targets: np.ndarray, variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit L2-penalised logistic regression per attribute, all at once.

    It minimises what `sklearn.linear_model.LogisticRegression(C=variance / s)` does, s being the summed variance of the codes
    in the attribute's labelled rows: the loss summed over rows plus `|w|^2 / (2 C)`, without a penalty of the bias. All
    attributes share each product with the codes, which is nearly all of the work, and the preconditioner's eigenvectors.

    Args:
        x: codes `(n, d)`, float32.
        targets: 0, 1, or NaN where there is no label, `(n, attributes)`; both values must occur.
        variance: of the log-odds, before any label is seen.

    Returns:
        Weights `(attributes, d)` and biases `(attributes,)`.

    >>> from ditifeat.analysis.logistic import fit_logistic
    >>> x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    >>> weights, biases = fit_logistic(x, (x > 0).astype(float), variance=3)
    >>> bool(weights[0, 0] > 1), bool(abs(biases[0]) < 1e-3)
    (True, True)
    """
    loss = _Loss(x, targets, variance)
    theta = torch.zeros(x.shape[1] + 1, targets.shape[1])
    theta[-1] = torch.logit((loss.shares * loss.labels).sum(0))
    logits = loss.logits(theta)
    for _ in range(STEPS):
        probabilities = logits.sigmoid()
        curvature = loss.shares * probabilities * (1 - probabilities)
        gradient = loss.adjoint(loss.shares * (probabilities - loss.labels)) + loss.penalty * theta
        step, decrement = _newton_step(loss, curvature, gradient)
        done = decrement < 2 * TOLERANCE
        if done.all():
            break
        step[:, done] = 0
        theta, logits = _descend(loss, theta, logits, step, (gradient * step).sum(0))
    weights, biases = theta[:-1].T, theta[-1] - loss.offset @ theta[:-1]
    return weights.contiguous().numpy(), biases.cpu().double().numpy()


class _Loss:
    """The mean loss per attribute of parameters `(d + 1, attributes)`; the last row are biases of codes around their mean."""

    def __init__(self, x: np.ndarray, targets: np.ndarray, variance: float):
        known = np.isfinite(targets)
        counts = known.sum(0)
        self.x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))
        self.labels = torch.from_numpy(np.where(known, targets, 0)).float()
        self.shares = torch.from_numpy(known / counts).float()
        self.offset = torch.from_numpy(x.mean(0, dtype=np.float64)).float()
        squares = (self.x - self.offset).square().sum(1)
        sizes = (squares @ self.shares - self.adjoint(self.shares)[:-1].square().sum(0)).clamp(min=1e-6)
        self.penalty = (sizes / variance / torch.from_numpy(counts)).float().repeat(x.shape[1] + 1, 1)
        self.penalty[-1] = 0
        self.values, self.vectors = _basis(self.x[:: max(1, len(x) // BASIS_ROWS)] - self.offset)

    def logits(self, theta: Tensor) -> Tensor:
        return self.x @ theta[:-1] + (theta[-1] - self.offset @ theta[:-1])

    def adjoint(self, rows: Tensor) -> Tensor:
        sums = rows.sum(0, keepdim=True)
        return torch.cat([self.x.T @ rows - self.offset[:, None] * sums, sums])

    def __call__(self, logits: Tensor, theta: Tensor) -> Tensor:
        entropy = functional.binary_cross_entropy_with_logits(logits, self.labels, reduction="none")
        return (self.shares * entropy).sum(0) + (self.penalty * theta.square()).sum(0) / 2

    def preconditioner(self, curvature: Tensor) -> Callable[[Tensor], Tensor]:
        """The inverse of the Hessian that there would be if all rows of an attribute had their mean curvature."""
        mean = curvature.sum(0).clamp(min=1e-12)
        scale = mean * self.values[:, None] + self.penalty[:-1]
        if self.vectors is None:
            return lambda g: torch.cat([g[:-1] / scale, g[-1:] / mean])
        vectors = self.vectors
        return lambda g: torch.cat([vectors @ (vectors.T @ g[:-1] / scale), g[-1:] / mean])


def _basis(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues and eigenvectors of the codes' second moments; of very many dimensions their variances alone."""
    if x.shape[1] > BASIS_DIMS:
        return x.square().mean(0), None
    values, vectors = torch.linalg.eigh((x.T @ x / len(x)).cpu().double())
    return values.clamp(min=0).float(), vectors.float()


def _newton_step(loss: _Loss, curvature: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The step by conjugate gradients, and an estimate of twice what the loss can still fall by, `(attributes,)`."""
    precondition = loss.preconditioner(curvature)
    step, residual = torch.zeros_like(gradient), -gradient
    direction = precondition(residual)
    left = first = (residual * direction).sum(0)
    for _ in range(INNER):
        running = (left > FORCING * first) & (first >= 2 * TOLERANCE)
        if not running.any():
            break
        product = loss.adjoint(curvature * loss.logits(direction)) + loss.penalty * direction
        # An attribute's step ends by itself, so that its fit does not depend on the others beside it.
        length = running * left / (direction * product).sum(0).clamp(min=1e-30)
        step, residual = step + length * direction, residual - length * product
        conditioned = precondition(residual)
        before, left = left, (residual * conditioned).sum(0)
        direction = conditioned + left / before.clamp(min=1e-30) * direction
    return step, first


def _descend(loss: _Loss, theta: Tensor, logits: Tensor, step: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Go along the step, half as far, and again, for attributes whose loss would not fall enough."""
    before, change = loss(logits, theta), loss.logits(step)
    length = torch.ones_like(slope)
    for _ in range(20):
        after = loss(logits + length * change, theta + length * step)
        short = after > before + 1e-4 * length * slope + 1e-6  # the last for rounding
        if not short.any():
            break
        length = torch.where(short, length / 2, length)
    return theta + length * step, logits + length * change
