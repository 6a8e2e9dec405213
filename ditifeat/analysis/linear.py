"""How a report's linear probes are fitted: scikit-learn's, the paper's, and those with few dimensions."""

from __future__ import annotations

import warnings

import numpy as np

from ditifeat.analysis.sparse import lasso_dimensions, promask
from ditifeat.errors import InputError

# Penalties as priors: that log-odds have this variance before any label is seen, shared by the dimensions as they vary;
# and that a real label has 1/RIDGE_PER_DIM of its noise's, shared alike. The former is a round number
# between two of 0.5, 2, 5 and 20, tried on celeba10k's faces 7001-8000 select_prefix probes of 1-7000 with an early celeba64-mini;
# PCA of pixels does best near 0.5 there. `ditifeat benchmark` prints ridge and the paper's probe beside it.
LOGIT_VARIANCE = 3.0

RIDGE_PER_DIM = 2.0


def size(x: np.ndarray) -> float:
    """The summed variance of codes `(n, d)`: d, if they are standardised."""
    return max(float(x.var(0).sum()), 1e-6)


def fit_sklearn(
    x: np.ndarray, ys: dict[str, np.ndarray], kinds: dict[str, str], rows: np.ndarray, dims: int | None
) -> dict[str, tuple[np.ndarray, float]]:
    """Weights `(d,)` and bias per attribute: logistic or ridge regression, on a lasso's `dims` dimensions if given."""
    from sklearn.linear_model import LogisticRegression, Ridge

    fitted = {}
    for name, y in ys.items():
        if kinds[name] == "binary" and len(np.unique(y[rows])) < 2:
            warnings.warn(
                f"attribute {name}: the training rows have one value alone; it cannot be probed", stacklevel=3
            )
            fitted[name] = np.zeros(x.shape[1], np.float32), 0.0
            continue
        columns = np.arange(x.shape[1]) if dims is None else lasso_dimensions(x[rows], y[rows], dims)
        part = x[rows][:, columns]
        model = (
            LogisticRegression(C=LOGIT_VARIANCE / size(part), max_iter=1000)
            if kinds[name] == "binary"
            else Ridge(RIDGE_PER_DIM * size(part))
        )
        model.fit(part, y[rows])
        weights = np.zeros(x.shape[1], np.float32)
        weights[columns] = np.ravel(model.coef_)
        fitted[name] = weights, float(np.ravel(model.intercept_)[0])
    return fitted


def fit_promask(
    x: np.ndarray, ys: dict[str, np.ndarray], kinds: dict[str, str], rows: np.ndarray, seed: int, dims: int
) -> dict[str, tuple[np.ndarray, float]]:
    """ProMask for all attributes, which must have two values each."""
    real = [name for name in ys if kinds[name] == "real"]
    if real:
        raise InputError(f"ProMask is for labels with two values, {real[0]} has more; use the protocol sklearn")
    weights, biases = promask(x[rows], np.stack([y[rows] for y in ys.values()], axis=1), dims, seed)
    return {name: (weights[i], float(biases[i])) for i, name in enumerate(ys)}


def fit_paper(
    x: np.ndarray, ys: dict[str, np.ndarray], kinds: dict[str, str], rows: np.ndarray, seed: int
) -> dict[str, tuple[np.ndarray, float]]:
    """One linear layer for all attributes: Adam 1e-3, batch 128, 15 epochs, the best by a tenth of the training rows."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.from_numpy(np.flatnonzero(rows))[torch.randperm(int(rows.sum()), generator=generator)]
    held = max(1, len(shuffled) // 10)
    validation, training = shuffled[:held], shuffled[held:]
    inputs = torch.from_numpy(x).float()
    targets = torch.from_numpy(np.stack(list(ys.values()), axis=1)).float()
    binary = torch.tensor([kinds[name] == "binary" for name in ys])
    weights = torch.zeros(len(ys), x.shape[1], requires_grad=True)
    biases = torch.zeros(len(ys), requires_grad=True)
    adam = torch.optim.Adam([weights, biases], lr=1e-3)

    def losses(indices: torch.Tensor) -> torch.Tensor:
        """Per attribute: cross-entropy of binary ones, squared error of real ones."""
        output = inputs[indices] @ weights.T + biases
        entropy = functional.binary_cross_entropy_with_logits(output, targets[indices].clamp(0, 1), reduction="none")
        return torch.where(binary, entropy, (output - targets[indices]).square()).mean(0)

    best = torch.full((len(ys),), float("inf"))
    kept_weights, kept_biases = weights.detach().clone(), biases.detach().clone()
    for _ in range(15):
        for indices in training[torch.randperm(len(training), generator=generator)].split(128):
            adam.zero_grad()
            losses(indices).sum().backward()
            adam.step()
        with torch.no_grad():
            now = losses(validation)
            better = now < best
            best = torch.where(better, now, best)
            kept_weights[better], kept_biases[better] = weights[better], biases[better]
    return {name: (kept_weights[i].numpy(), float(kept_biases[i])) for i, name in enumerate(ys)}
