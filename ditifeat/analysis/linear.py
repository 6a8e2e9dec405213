"""How a report's linear probes are fitted: scikit-learn's, the paper's, and those with few dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ditifeat.analysis.attributes import alike
from ditifeat.analysis.logistic import fit_logistic
from ditifeat.analysis.sparse import lasso_dimensions, promask
from ditifeat.errors import InputError

# Penalties as priors. Logistic regression: log-odds have this variance before any label is seen, shared by the dimensions
# in proportion to their variance. A round number between two of 0.5, 2, 5 and 20, tried on celeba10k's faces 7001-8000
# under probes of 1-7000 with an early celeba64-mini; PCA of pixels does best near 0.5 there. `ditifeat benchmark` prints
# ridge and the paper's probe beside it.
LOGIT_VARIANCE = 3.0

# (codes (n, d), targets (n, attributes), which are binary (attributes,)) -> weights (attributes, d), biases (attributes,)
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

GRAM_ROWS = 8192  # that float32 sums up, before float64 does

# Ridge regression: the prior variance of a label's signal is 1/RIDGE_PER_DIM of its noise's, shared in the same way.
RIDGE_PER_DIM = 2.0


def size(x: np.ndarray) -> float:
    """The summed variance of codes `(n, d)`: d, if they are standardised."""
    return max(float(x.var(0).sum()), 1e-6)


def fit_sklearn(x: np.ndarray, targets: np.ndarray, binary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit what scikit-learn's logistic or ridge regression fits per attribute, all attributes of a kind at once.

    Args:
        x: centred codes `(n, d)`.
        targets: `(n, attributes)`; 0 or 1 where `binary` `(attributes,)` says so; NaN where there is no label.
        binary: which attributes have two values.

    Returns:
        Weights `(attributes, d)` and biases `(attributes,)`, both 0 for an attribute with one value.
    """
    weights, biases = np.zeros((targets.shape[1], x.shape[1]), np.float32), np.zeros(targets.shape[1])
    several = differing(targets)
    chosen = np.flatnonzero(binary & several)
    if chosen.size:
        weights[chosen], biases[chosen] = fit_logistic(x, targets[:, chosen], LOGIT_VARIANCE)
    chosen = np.flatnonzero(~binary & several)
    if chosen.size:
        weights[chosen], biases[chosen] = by_labelled_rows(_fit_ridge)(x, targets[:, chosen], binary[chosen])
    return weights, biases


def _fit_ridge(x: np.ndarray, targets: np.ndarray, binary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.linear_model import Ridge

    model = Ridge(RIDGE_PER_DIM * size(x)).fit(x, targets)
    return model.coef_.reshape(targets.shape[1], -1), np.atleast_1d(model.intercept_)


def differing(targets: np.ndarray) -> np.ndarray:
    """Which attributes have two values or more among targets `(n, attributes)` with NaN: `(attributes,)`."""
    lowest, highest = np.where(np.isnan(targets), np.inf, targets), np.where(np.isnan(targets), -np.inf, targets)
    found: np.ndarray = lowest.min(0, initial=np.inf) < highest.max(0, initial=-np.inf)
    return found


def by_labelled_rows(fit: Fit) -> Fit:
    """Make a fit that takes no NaN one that does: attributes with the same labelled rows are fitted together, on these alone."""

    def fit_groups(x: np.ndarray, targets: np.ndarray, binary: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights, biases = np.zeros((targets.shape[1], x.shape[1]), np.float32), np.zeros(targets.shape[1])
        for group, rows in alike(np.isfinite(targets)):
            if rows.any():
                inputs, labels = (x, targets) if rows.all() else (x[rows], targets[rows])
                weights[group], biases[group] = fit(inputs, labels[:, group], binary[group])
        return weights, biases

    return fit_groups


def fit_sparse(x: np.ndarray, targets: np.ndarray, binary: np.ndarray, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit as `fit_sklearn` does, each attribute on the `dims` dimensions that a lasso chooses; targets have no NaN."""
    weights, biases = np.zeros((targets.shape[1], x.shape[1]), np.float32), np.zeros(targets.shape[1])
    for i in np.flatnonzero(differing(targets)):
        columns = lasso_dimensions(x, targets[:, i], dims)
        fitted, bias = fit_sklearn(x[:, columns], targets[:, [i]], binary[[i]])
        weights[i, columns], biases[i] = fitted[0], bias[0]
    return weights, biases


def fit_promask(
    x: np.ndarray, targets: np.ndarray, binary: np.ndarray, seed: int, dims: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit ProMask for all attributes, as `fit_sklearn` otherwise.

    Raises:
        InputError: for an attribute with more than two values.
    """
    if not binary.all():
        raise InputError("ProMask is for attributes with two values; use protocol='sklearn' for real-valued ones")
    return promask(x, targets, dims, seed)


def fit_paper(x: np.ndarray, targets: np.ndarray, binary: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit one linear layer for all attributes, as `fit_sklearn` otherwise.

    Adam 1e-3, batch 128, 15 epochs; the epoch that is best on a tenth of the rows is kept (DiTi, section 5.1).
    """
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(x), generator=generator)
    held = max(1, len(shuffled) // 10)
    validation, training = shuffled[:held], shuffled[held:]
    inputs, labels = torch.from_numpy(x).float(), torch.from_numpy(targets).float()
    is_binary = torch.from_numpy(binary)
    weights = torch.zeros(targets.shape[1], x.shape[1], requires_grad=True)
    biases = torch.zeros(targets.shape[1], requires_grad=True)
    adam = torch.optim.Adam([weights, biases], lr=1e-3)

    def losses(rows: torch.Tensor) -> torch.Tensor:
        """Per attribute: cross-entropy of binary ones, squared error of real-valued ones."""
        output = inputs[rows] @ weights.T + biases
        entropy = functional.binary_cross_entropy_with_logits(output, labels[rows].clamp(0, 1), reduction="none")
        return torch.where(is_binary, entropy, (output - labels[rows]).square()).mean(0)

    best = torch.full((targets.shape[1],), float("inf"))
    kept_weights, kept_biases = weights.detach().clone(), biases.detach().clone()
    for _ in range(15):
        for rows in training[torch.randperm(len(training), generator=generator)].split(128):
            adam.zero_grad()
            losses(rows).sum().backward()
            adam.step()
        with torch.no_grad():
            now = losses(validation)
            better = now < best
            best = torch.where(better, now, best)
            kept_weights[better], kept_biases[better] = weights[better], biases[better]
    return kept_weights.numpy(), kept_biases.numpy()


def ridge_predictions(
    x: np.ndarray, targets: np.ndarray, unseen: np.ndarray, columns: Sequence[slice]
) -> list[np.ndarray]:
    """Predict from each set of columns by ridge regression, as `sklearn.linear_model.Ridge` of penalty `RIDGE_PER_DIM * size`.

    All share one Gram matrix, which is most of the work; where labels are missing, the Gram matrix of those rows is
    subtracted, or that of the others computed, whichever are fewer.

    Args:
        x: training codes `(n, d)`.
        targets: `(n, attributes)`; NaN where there is no label.
        unseen: codes to predict for, `(m, d)`.
        columns: of `x`.

    Returns:
        Float32 predictions `(m, attributes)` per set of columns; NaN for an attribute without a label.
    """
    found = [np.full((len(unseen), targets.shape[1]), np.nan, np.float32) for _ in columns]
    offset = x.mean(0, dtype=np.float64).astype(np.float32)
    unseen, whole = unseen - offset, _products(x, offset)
    for group, rows in alike(np.isfinite(targets)):
        count = int(rows.sum())
        if not count:
            continue
        few = 2 * count < len(x)
        gram = whole if rows.all() else _products(x[rows], offset) if few else whole - _products(x[~rows], offset)
        labels = np.where(rows[:, None], targets[:, group], 0)
        level = labels.sum(0) / count
        sums = _products(x, offset, np.column_stack([rows, labels - rows[:, None] * level]))
        mean, cross = sums[:, 0] / count, sums[:, 1:]
        gram = gram - count * np.outer(mean, mean)
        for column, predicted in zip(columns, found, strict=True):
            weights = _ridge_weights(gram[column, column], cross[column], count)
            predicted[:, group] = unseen[:, column] @ weights.astype(np.float32) + (level - mean[column] @ weights)
    return found


def _products(x: np.ndarray, offset: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """The codes' products, around `offset` `(d,)`, with others `(n, m)`, or with themselves: `(d, m)`, float64."""
    found: Any = 0.0
    for i in range(0, len(x), GRAM_ROWS):
        part = x[i : i + GRAM_ROWS] - offset
        other = part if others is None else others[i : i + GRAM_ROWS].astype(np.float32)
        found = found + (part.T @ other).astype(np.float64)
    return np.asarray(found, dtype=np.float64)


def _ridge_weights(gram: np.ndarray, cross: np.ndarray, count: int) -> np.ndarray:
    from scipy.linalg import solve

    penalty = RIDGE_PER_DIM * max(float(np.trace(gram)) / count, 1e-6)
    weights: np.ndarray = solve(gram + penalty * np.eye(len(gram)), cross, assume_a="pos")
    return weights
