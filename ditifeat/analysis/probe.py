"""What a linear probe finds in features, attribute by attribute and time-step by time-step."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from ditifeat.analysis.attributes import Attribute, read_attributes
from ditifeat.analysis.features import Features, as_codes
from ditifeat.analysis.linear import (
    Fit,
    by_labelled_rows,
    differing,
    fit_paper,
    fit_promask,
    fit_sklearn,
    fit_sparse,
    ridge_predictions,
)
from ditifeat.analysis.metrics import ranking_scores
from ditifeat.analysis.report import AttributeProbe, ProbeReport
from ditifeat.analysis.rows import training_rows
from ditifeat.errors import InputError
from ditifeat.schema import integer

logger = logging.getLogger(__name__)

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
    """Fit a linear probe per attribute on the training rows, and score it on all others.

    Codes are centred and scaled on the training rows, by one number, so that dimensions of low variance stay so under the
    probe's penalty; scale columns yourself if their variances mean nothing. Labels with two values (0/1, -1/1, False/True)
    are probed by logistic regression, others by ridge regression. A row without a label (NaN) is left out for that attribute
    alone. Each range of time-steps is also scored alone and cumulatively, by ridge regression for every kind of label: that
    shows where an attribute is, not how well it can be predicted.

    Args:
        features: `Features`, or an array `(n, d)`.
        labels: array, Series, DataFrame, dict, or path of CelebA's attribute file or a CSV (see
            `ditifeat.data.labels.read_labels`).
        train_size: the share (float) or number (int) of rows to train on, drawn with `random_state`; 0.8 by default.
        train_rows: in place of it, the training rows themselves: indices, or a mask `(n,)`.
        random_state: of the split, and of the protocol "paper"; an int.
        protocol: "sklearn", or "paper": each dimension at standard deviation 1, Adam 1e-3 for 15 epochs on a linear layer,
            keeping the epoch that is best on a tenth of the training rows (DiTi, section 5.1, but validated on training
            rows).
        dims: how many dimensions an attribute may use, for sparse edits (16 in the paper); all by default. "sklearn" refits
            on those of largest weight under a lasso, "paper" learns them by ProMask, for labels with two values.

    Returns:
        A mapping of attributes to their probes and scores.

    Raises:
        InputError: for labels, rows or arguments that do not fit, and for the codes of three or more classes.

    >>> report = ditifeat.probe(features, {"odd": np.arange(8) % 2}, train_rows=range(6))
    >>> report["odd"].weights.shape, report.about["test rows"]
    ((512,), 2)
    """
    codes = check_codes(features)
    random_state = integer("random_state", random_state, 0)
    dims = None if dims is None else integer("dims", dims, 1, codes.shape[1])
    fit = choose_fit(protocol, dims, random_state)
    train = training_rows(train_size, train_rows, len(codes), random_state)
    named = features if isinstance(features, Features) else None
    attributes = read_attributes(labels, named.names if named else [str(i) for i in range(len(codes))])
    mean, std = codes[train].mean(0), scale_of(codes[train], each=protocol == "paper")
    ranges = named.partition.ranges if named else ()
    columns = [named.partition.dims_of_time_steps(lo, hi) for lo, hi in ranges] if named else []
    seen, unseen = ((codes[rows] - mean) / std for rows in (train, ~train))
    found = _probe_all(seen, unseen, attributes, train, columns, fit)
    probes: dict[str, AttributeProbe] = {}
    for a, weights, bias, scores, by_range in zip(attributes, *found, strict=True):
        probes[a.name] = AttributeProbe(
            a.name, a.kind, weights, float(bias), mean, std, scores,
            alone=by_range[: len(ranges)],
            cumulative=by_range[len(ranges) :],
            missing=int(np.isnan(a.values).sum()),
            encoder_weights=named.weights if named else "",
            preprocessing=named.preprocessing if named else "",
            flip_average=named.flip_average if named else None,
        )  # fmt: skip
    about: dict[str, Any] = {"model": named.model} if named else {}
    about |= {"protocol": protocol, "random_state": random_state}
    about |= {"train rows": int(train.sum()), "test rows": int((~train).sum())}
    about |= {"dims": dims} if dims is not None else {}
    if named:
        about |= {"weights": named.weights, "preprocessing": named.preprocessing}
        about |= {"flip_average": named.flip_average, "skipped": list(named.skipped)}
    return ProbeReport(probes, ranges, about)


def check_codes(features: Any) -> np.ndarray:
    """Read codes `(n, d)` that can be probed.

    Raises:
        InputError: for another shape, under 4 rows, or values that are not finite.
    """
    codes = as_codes(features, "features")
    if codes.ndim != 2 or len(codes) < 4:
        raise InputError(f"features of shape {codes.shape}: probing needs (n, d) with at least 4 rows")
    if not np.isfinite(codes).all():
        raise InputError("the features hold NaN or infinite values")
    return codes


def choose_fit(protocol: str, dims: int | None, random_state: int) -> Fit:
    """Return how a protocol fits probes, of which each may use `dims` dimensions.

    Raises:
        InputError: for an unknown protocol.
    """
    if protocol == "sklearn":
        return fit_sklearn if dims is None else by_labelled_rows(partial(fit_sparse, dims=dims))
    if protocol != "paper":
        raise InputError(f"protocol = {protocol!r} is not one of sklearn, paper")
    if dims is None:
        return by_labelled_rows(partial(fit_paper, seed=random_state))
    return by_labelled_rows(partial(fit_promask, seed=random_state, dims=dims))


def scale_of(codes: np.ndarray, each: bool) -> np.ndarray:
    """`(d,)`: the root mean square over all dimensions' standard deviations, or each one's own (1 where it is constant)."""
    std = codes.std(0)
    if not each:
        std = np.full_like(std, np.sqrt(np.square(std).mean()))
    found: np.ndarray = np.where(std > 1e-8, std, 1.0).astype(np.float32)
    return found


def _probe_all(
    seen: np.ndarray,
    unseen: np.ndarray,
    attributes: list[Attribute],
    train: np.ndarray,
    columns: list[slice],
    fit: Fit,
) -> tuple[np.ndarray, np.ndarray, list[dict[str, float]], list[tuple[float, ...]]]:
    """Weights, biases, scores, and scores of each range alone, then cumulatively, per attribute."""
    targets = np.stack([a.values for a in attributes], axis=1)
    binary = np.array([a.kind == "binary" for a in attributes])
    weights, biases = fit(seen, targets[train], binary)
    fitted = differing(targets[train])
    weights[~fitted], biases[~fitted] = 0, 0
    for attribute in (a for a, several in zip(attributes, fitted, strict=True) if not several):
        logger.warning("attribute %s: the training rows have one value only; it cannot be probed", attribute.name)
    truth, predicted = targets[~train], unseen @ weights.T + biases.astype(np.float32)
    parts = [*columns, *(slice(0, column.stop) for column in columns)]
    by_part = ridge_predictions(seen, targets[train], unseen, parts) if parts else []
    scores, by_range = [], []
    for i in range(len(attributes)):
        rows = np.isfinite(truth[:, i])
        known = truth[rows, i]
        scores.append(_scores(predicted[rows, i], known, binary[i], fitted=fitted[i]))
        by_range.append(
            tuple(main_score(part[rows, i], known, binary[i]) if fitted[i] else float("nan") for part in by_part)
        )
    return weights, biases, scores, by_range


def main_score(predicted: np.ndarray, truth: np.ndarray, binary: bool) -> float:
    """AP of a binary attribute, Pearson's r of a real-valued one; nan where it has no value."""
    if binary:
        return ranking_scores(predicted, truth).ap
    if not len(truth) or truth.min() == truth.max() or predicted.std() == 0:
        return float("nan")
    return float(np.corrcoef(predicted, truth)[0, 1])


def _scores(predicted: np.ndarray, truth: np.ndarray, binary: bool, *, fitted: bool) -> dict[str, float]:
    """AP, AUROC and prevalence, or r and MSE; all but the prevalence are nan if nothing could be fitted."""
    nan = float("nan")
    if not binary:
        mse = float(np.square(truth - predicted).mean()) if fitted and len(truth) else nan
        return {"r": main_score(predicted, truth, binary) if fitted else nan, "mse": mse}
    ap, auroc = ranking_scores(predicted, truth) if fitted else (nan, nan)
    return {"ap": ap, "auroc": auroc, "prevalence": float(truth.mean()) if len(truth) else nan}
