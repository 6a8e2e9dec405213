"""What a linear probe finds in features, attribute by attribute and time-step by time-step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ditifeat.analysis.features import Features
from ditifeat.analysis.linear import RIDGE_PER_DIM, fit_paper, fit_promask, fit_sklearn, size
from ditifeat.analysis.report import AttributeProbe, ProbeReport
from ditifeat.data.labels import read_labels
from ditifeat.errors import InputError

Protocol = Literal["sklearn", "paper"]


def probe(
    features: Any,
    labels: Any,
    *,
    train_size: float | int | None = None,
    train_rows: Sequence[int] | np.ndarray | None = None,
    random_state: int = 0,
    protocol: Protocol = "sklearn",
    dims: int | None = None,
) -> ProbeReport:
    """Fits a linear probe per attribute on the training rows, and scores it on all others.

    Codes are centred and scaled on the training rows, by one number, so that what is small in them stays small select_prefix the
    probe's penalty; scale columns yourself if their sizes mean nothing. Labels with two values (0/1, -1/1, False/True) are
    probed by logistic regression, others by ridge regression. Each range of time-steps is also scored alone and
    cumulatively, by ridge for every kind of label, as it is for where an attribute lives, not for how well it can be told.

    Args:
        features: `Features`, or an array `(n, d)`.
        labels: array, DataFrame, dict, or path of CelebA's attribute file or a CSV (see `ditifeat.labels.read_labels`).
        train_size: the share (float) or number (int) of rows to train on, drawn with `random_state`; 0.8 by default.
        train_rows: in place of it, the training rows themselves: indices, or a mask `(n,)`.
        random_state: of the split, and of the protocol "paper"; an int.
        protocol: "sklearn", or "paper": each dimension at std 1, Adam 1e-3 for 15 epochs on a linear layer, keeping the epoch
            that is best on a tenth of the training rows (DiTi, section 5.1, but validated on training rows).
        dims: how many dimensions an attribute may use, for sparse edits (16 in the paper); all by default. "sklearn" refits
            on those that a lasso weighs most, "paper" learns them by ProMask, for labels with two values.

    Raises:
        InputError: for labels, rows or arguments that do not fit.
    """
    if protocol not in ("sklearn", "paper"):
        raise InputError(f"protocol = {protocol!r} is not one of sklearn, paper")
    codes = np.asarray(features, dtype=np.float32)
    if dims is not None and not (codes.ndim == 2 and 1 <= dims <= codes.shape[1]):
        raise InputError(f"dims = {dims} is not within 1..{codes.shape[-1] if codes.ndim else 0}")
    if codes.ndim != 2 or len(codes) < 4:
        raise InputError(f"features of shape {codes.shape}: probing needs (n, d) with at least 4 rows")
    if not np.isfinite(codes).all():
        raise InputError("the features hold NaN or infinite values")
    names = features.names if isinstance(features, Features) else [str(i) for i in range(len(codes))]
    targets = read_labels(labels, names)
    rows = _training_rows(train_size, train_rows, len(codes), random_state)
    mean, std = codes[rows].mean(0), _deviation(codes[rows], each=protocol == "paper")
    scaled = (codes - mean) / std
    partition = features.partition if isinstance(features, Features) else None
    ranges = partition.ranges if partition is not None else ()
    kinds = {name: "binary" if len(np.unique(y)) <= 2 else "real" for name, y in targets.items()}
    ys = {name: (y == y.max()).astype(np.float64) if kinds[name] == "binary" else y for name, y in targets.items()}
    columns = [partition.dims_of_time_steps(lo, hi) for lo, hi in ranges] if partition is not None else []
    alone = _range_scores(scaled, ys, kinds, rows, columns)
    cumulative = _range_scores(scaled, ys, kinds, rows, [slice(0, c.stop) for c in columns])
    if protocol == "sklearn":
        fitted = fit_sklearn(scaled, ys, kinds, rows, dims)
    elif dims is None:
        fitted = fit_paper(scaled, ys, kinds, rows, random_state)
    else:
        fitted = fit_promask(scaled, ys, kinds, rows, random_state, dims)
    probes = {
        name: AttributeProbe(
            name, kinds[name], weights, bias, mean, std,  # type: ignore[arg-type]
            _scores(scaled[~rows] @ weights + bias, ys[name][~rows], kinds[name]), alone[name], cumulative[name],
        )
        for name, (weights, bias) in fitted.items()
    }  # fmt: skip
    about: dict[str, Any] = {
        "protocol": protocol,
        "random_state": random_state,
        "train rows": int(rows.sum()),
        "test rows": int((~rows).sum()),
    }
    if dims is not None:
        about["dims"] = dims
    if isinstance(features, Features):
        about = {"model": features.model} | about
    return ProbeReport(probes, ranges, about)


def _deviation(codes: np.ndarray, each: bool = False) -> np.ndarray:
    """`(d,)`: the root mean square over all dimensions' std, or each dimension's own (1 where it never moves)."""
    std = codes.std(0)
    if not each:
        std = np.full_like(std, np.sqrt(np.square(std).mean()))
    found: np.ndarray = np.where(std > 1e-8, std, 1.0).astype(np.float32)
    return found


def _training_rows(
    train_size: float | int | None, train_rows: Sequence[int] | np.ndarray | None, count: int, random_state: int
) -> np.ndarray:
    """Mask `(n,)` of the training rows."""
    if train_rows is None:
        mask = _drawn_rows(0.8 if train_size is None else train_size, count, random_state)
    elif train_size is None:
        mask = _given_rows(train_rows, count)
    else:
        raise InputError("give either train_size, a share that is drawn, or train_rows, the rows themselves")
    if mask.sum() < 2 or (~mask).sum() < 2:
        raise InputError(
            f"{int(mask.sum())} rows to train on and {int((~mask).sum())} to test on; both need at least 2"
        )
    return mask


def _drawn_rows(train_size: float | int, count: int, random_state: int) -> np.ndarray:
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer) or random_state < 0:
        raise InputError(f"random_state = {random_state!r} is not an int of at least 0")
    share = isinstance(train_size, float | np.floating)
    if isinstance(train_size, bool) or not (share or isinstance(train_size, int | np.integer)):
        raise InputError(f"train_size = {train_size!r} is neither a share nor a number of rows; rows are train_rows")
    if not 0 < train_size < (1 if share else count):
        raise InputError(
            f"train_size = {train_size} is not a share within 0..1, nor a number of rows within 1..{count - 1}"
        )
    mask = np.zeros(count, dtype=bool)
    chosen = round(train_size * count) if share else int(train_size)
    mask[np.random.default_rng(random_state).permutation(count)[:chosen]] = True
    return mask


def _given_rows(train_rows: Sequence[int] | np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(count, dtype=bool)
    chosen = np.asarray(train_rows)
    if chosen.ndim != 1 or chosen.dtype.kind not in "iub" or (chosen.dtype == bool and len(chosen) != count):
        raise InputError("train_rows must be row indices, or a mask over all rows; a share is train_size")
    if chosen.dtype != bool and len(chosen) and not (chosen.min() >= 0 and chosen.max() < count):
        raise InputError(f"train_rows holds rows outside 0..{count - 1}")
    mask[chosen] = True
    return mask


def _scores(predicted: np.ndarray, truth: np.ndarray, kind: str) -> dict[str, float]:
    from sklearn.metrics import average_precision_score, mean_squared_error, roc_auc_score

    if kind == "real":
        varied = predicted.std() > 0 and truth.std() > 0
        r = float(np.corrcoef(predicted, truth)[0, 1]) if varied else float("nan")
        return {"r": r, "mse": float(mean_squared_error(truth, predicted))}
    if truth.min() == truth.max():
        return {"ap": float("nan"), "auroc": float("nan"), "prevalence": float(truth.mean())}
    ap, auroc = average_precision_score(truth, predicted), roc_auc_score(truth, predicted)
    return {"ap": float(ap), "auroc": float(auroc), "prevalence": float(truth.mean())}


def _range_scores(
    x: np.ndarray, ys: dict[str, np.ndarray], kinds: dict[str, str], rows: np.ndarray, columns: list[slice]
) -> dict[str, tuple[float, ...]]:
    """Each attribute's score from each set of columns; one ridge regression serves all attributes."""
    from sklearn.linear_model import Ridge

    targets = np.stack(list(ys.values()), axis=1)
    found: dict[str, list[float]] = {name: [] for name in ys}
    for column in columns:
        part = x[:, column]
        predicted = (
            Ridge(RIDGE_PER_DIM * size(part[rows]))
            .fit(part[rows], targets[rows])
            .predict(part[~rows])
            .reshape(-1, len(ys))
        )
        for i, (name, y) in enumerate(ys.items()):
            scores = _scores(predicted[:, i], y[~rows], kinds[name])
            found[name].append(scores["ap" if kinds[name] == "binary" else "r"])
    return {name: tuple(scores) for name, scores in found.items()}
