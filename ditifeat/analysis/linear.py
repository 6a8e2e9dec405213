"""How a report's linear probes are fitted: scikit-learn's, the paper's, and those with few dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ditifeat.analysis.sparse import lasso_dimensions, promask
from ditifeat.errors import InputError

# Penalties as priors. Logistic regression: log-odds have this variance before any label is seen, shared by the dimensions
# in proportion to their variance. A round number between two of 0.5, 2, 5 and 20, tried on celeba10k's faces 7001-8000
# under probes of 1-7000 with an early celeba64-mini; PCA of pixels does best near 0.5 there. `ditifeat benchmark` prints
# ridge and the paper's probe beside it.
LOGIT_VARIANCE = 3.0

# Ridge regression: the prior variance of a label's signal is 1/RIDGE_PER_DIM of its noise's, shared in the same way.
RIDGE_PER_DIM = 2.0


def size(x: np.ndarray) -> float:
    """The summed variance of codes `(n, d)`: d, if they are standardised."""
    return max(float(x.var(0).sum()), 1e-6)


def fit_sklearn(
    x: np.ndarray, targets: np.ndarray, binary: np.ndarray, dims: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit logistic or ridge regression per attribute, on a lasso's `dims` dimensions if given.

    Args:
        x: centred codes `(n, d)`.
        targets: `(n, attributes)`; 0 or 1 where `binary` `(attributes,)` says so.
        dims: how many dimensions an attribute may use.

    Returns:
        Weights `(attributes, d)` and biases `(attributes,)`, both 0 for a binary attribute with one value.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    weights, biases = np.zeros((targets.shape[1], x.shape[1]), np.float32), np.zeros(targets.shape[1])
    for i, y in enumerate(targets.T):
        if binary[i] and len(np.unique(y)) < 2:
            continue
        columns = np.arange(x.shape[1]) if dims is None else lasso_dimensions(x, y, dims)
        part = x[:, columns]
        model = (
            LogisticRegression(C=LOGIT_VARIANCE / size(part), max_iter=1000)
            if binary[i]
            else Ridge(RIDGE_PER_DIM * size(part))
        ).fit(part, y)
        weights[i, columns] = np.ravel(model.coef_)
        biases[i] = np.ravel(model.intercept_)[0]
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

    All share one Gram matrix, which is most of the work.

    Args:
        x: training codes `(n, d)`.
        targets: `(n, attributes)`.
        unseen: codes to predict for, `(m, d)`.
        columns: of `x`.

    Returns:
        Predictions `(m, attributes)` per set of columns.
    """
    inputs, mean, offset = x.astype(np.float64), x.mean(0, dtype=np.float64), targets.mean(0)
    inputs -= mean
    gram, cross = inputs.T @ inputs, inputs.T @ (targets - offset)
    found = []
    for column in columns:
        part = gram[column, column]
        penalty = RIDGE_PER_DIM * max(float(np.trace(part)) / len(x), 1e-6)
        weights = np.linalg.solve(part + penalty * np.eye(len(part)), cross[column])
        found.append((unseen[:, column] - mean[column]) @ weights + offset)
    return found
