"""How many labels a probe needs: its score against the number of training rows, over repeated draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ditifeat.analysis.attributes import read_attributes
from ditifeat.analysis.features import Features
from ditifeat.analysis.linear import Fit, differing
from ditifeat.analysis.plots import check_plot_suffix, load_figure_class, save_figure
from ditifeat.analysis.probe import Protocol, check_codes, choose_fit, main_score, scale_of
from ditifeat.analysis.rows import training_rows
from ditifeat.errors import InputError, MissingDependencyError
from ditifeat.schema import integer

if TYPE_CHECKING:
    import pandas

FEWEST = 10  # rows that the curve begins with by default


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """What `learning_curve` returns; `print` shows a table.

    Attributes:
        train_sizes: numbers of training rows, ascending, `(m,)`.
        scores: attribute -> AP of a binary one, Pearson's r of a real-valued one, on the same test rows always,
            `(m, n_repeats)`; nan where these have one value only.
        kinds: attribute -> "binary" or "real".
        one_valued: per size, how many of all draws of all attributes had one value only, `(m,)`. Nothing can be fitted on
            them: their score is that of a constant, AP the prevalence and r 0.
        about: protocol, random state, rows and, of `Features`, their model.

    >>> curve = ditifeat.learning_curve(features, "labels.csv", train_sizes=[2, 4], train_size=0.5)
    >>> curve.train_sizes.tolist(), curve.scores["Smiling"].shape, curve.mean_ap.shape
    ([2, 4], (2, 5), (2, 5))
    """

    train_sizes: np.ndarray
    scores: dict[str, np.ndarray]
    kinds: dict[str, str]
    one_valued: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def mean_ap(self) -> np.ndarray:
        """Mean AP of the binary attributes that have both values in the test rows, `(m, n_repeats)`; nan without any."""
        found = [s for name, s in self.scores.items() if self.kinds[name] == "binary" and np.isfinite(s).all()]
        return np.mean(found, axis=0) if found else np.full((len(self.train_sizes), self.about["n_repeats"]), np.nan)

    def __repr__(self) -> str:
        sizes = ", ".join(map(str, self.train_sizes))
        return f"LearningCurve({len(self.scores)} attributes, {sizes} training rows)"

    def __str__(self) -> str:
        """A table: mean and standard deviation over the draws, attributes x numbers of training rows."""
        width = max([13, *map(len, self.scores)])
        lines = [f"{'training rows':{width}}" + "".join(f"{size:>15}" for size in self.train_sizes)]
        for kind, title in (("binary", "AP"), ("real", "r")):
            names = [name for name in self.scores if self.kinds[name] == kind]
            lines += [title, *(_line(name, self.scores[name], width) for name in names)] if names else []
            lines += [_line("mean", self.mean_ap, width)] if kind == "binary" and names else []
        if self.one_valued.any():
            lines.append(f"{'one value only':{width}}" + "".join(f"{count:>15}" for count in self.one_valued))
        lines.append(", ".join(f"{key}: {value}" for key, value in self.about.items()))
        return "\n".join(line.rstrip() for line in lines)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with a row per attribute, size and draw.

        Raises:
            MissingDependencyError: if pandas is not installed.

        >>> curve = ditifeat.learning_curve(features, "labels.csv", train_sizes=[2, 4], train_size=0.5)
        >>> curve.to_pandas().columns.tolist()
        ['attribute', 'kind', 'train_size', 'draw', 'score']
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError("a DataFrame needs pandas: pip install pandas") from error
        rows = [
            (name, self.kinds[name], int(size), draw, float(score))
            for name, scores in self.scores.items()
            for size, of_size in zip(self.train_sizes, scores, strict=True)
            for draw, score in enumerate(of_size)
        ]
        return pandas.DataFrame(rows, columns=["attribute", "kind", "train_size", "draw", "score"])

    def plot(self, path: str | Path) -> None:
        """Write the curves (.png, .pdf or .svg): each attribute's mean, and the mean AP with its standard deviation.

        Raises:
            InputError: for another suffix.
            MissingDependencyError: if matplotlib is not installed.

        >>> curve = ditifeat.learning_curve(features, "labels.csv", train_sizes=[2, 4], train_size=0.5)
        >>> curve.plot("curve.png")
        """
        check_plot_suffix(Path(path))
        figure = load_figure_class()(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name, scores in self.scores.items():
            axes.plot(self.train_sizes, scores.mean(1), linewidth=0.8, alpha=0.6, label=name)
        mean, std = self.mean_ap.mean(1), self.mean_ap.std(1)
        axes.plot(self.train_sizes, mean, color="black", linewidth=2, label="mean AP")
        axes.fill_between(self.train_sizes, mean - std, mean + std, color="black", alpha=0.2)
        axes.set(xscale="log", xlabel="training rows", ylabel="AP (r of real values)")
        axes.set_xticks(self.train_sizes, [str(size) for size in self.train_sizes])
        axes.minorticks_off()
        if len(self.scores) <= 10:
            axes.legend(fontsize=8)
        save_figure(figure, Path(path))


def learning_curve(
    features: Any,
    labels: Any,
    *,
    train_sizes: Sequence[float] | None = None,
    n_repeats: int = 5,
    train_size: float | int | None = None,
    train_rows: Sequence[int] | np.ndarray | None = None,
    random_state: int = 0,
    protocol: Protocol = "sklearn",
    dims: int | None = None,
) -> LearningCurve:
    """Score the probe of each attribute when it is fitted on fewer labels; named as scikit-learn's `learning_curve`.

    The rows that `probe` would train on are drawn from; all others test every probe. A draw's smaller sizes are parts of its
    larger ones. With all rows the scores are those of `probe`.

    Args:
        features, labels, train_size, train_rows, random_state, protocol, dims: as `probe` takes them.
        train_sizes: numbers (int) of rows to fit on, or shares (float) of the training rows; by default five from 10 to all,
            in equal ratios.
        n_repeats: how many draws per size.

    Raises:
        InputError: for sizes outside 2..all training rows, and what `probe` refuses.

    >>> curve = ditifeat.learning_curve(features, "labels.csv", train_sizes=[2, 4], train_size=0.5)
    >>> float(curve.scores["age"][-1].std())
    0.0
    """
    codes = check_codes(features)
    random_state, n_repeats = integer("random_state", random_state, 0), integer("n_repeats", n_repeats, 1)
    dims = None if dims is None else integer("dims", dims, 1, codes.shape[1])
    fit = choose_fit(protocol, dims, random_state)
    train = training_rows(train_size, train_rows, len(codes), random_state)
    names = features.names if isinstance(features, Features) else [str(i) for i in range(len(codes))]
    attributes = read_attributes(labels, names)
    sizes = _sizes(train_sizes, int(train.sum()))
    targets = np.stack([a.values for a in attributes], axis=1)
    binary = np.array([a.kind == "binary" for a in attributes])
    scores = np.empty((len(attributes), len(sizes), n_repeats))
    one_valued = np.zeros(len(sizes), dtype=int)
    for draw in range(n_repeats):
        order = np.random.default_rng((random_state, draw)).permutation(np.flatnonzero(train))
        for i, size in enumerate(sizes):
            rows = np.sort(order[:size])
            if draw and size == len(order):
                scores[:, i, draw] = scores[:, i, 0]  # of the same rows
            else:
                mean, std = codes[rows].mean(0), scale_of(codes[rows], each=protocol == "paper")
                seen, unseen = ((codes[part] - mean) / std for part in (rows, ~train))
                scores[:, i, draw] = _score(seen, unseen, targets[rows], targets[~train], binary, fit)
            one_valued[i] += int((~differing(targets[rows])).sum())
    about: dict[str, Any] = {"model": features.model} if isinstance(features, Features) else {}
    about |= {"protocol": protocol, "random_state": random_state, "n_repeats": n_repeats}
    about |= {"dims": dims} if dims is not None else {}
    about["test rows"] = int((~train).sum())
    by_name = {a.name: rows for a, rows in zip(attributes, scores, strict=True)}
    return LearningCurve(np.array(sizes), by_name, {a.name: a.kind for a in attributes}, one_valued, about)


def _score(
    seen: np.ndarray, unseen: np.ndarray, targets: np.ndarray, truth: np.ndarray, binary: np.ndarray, fit: Fit
) -> np.ndarray:
    """The score of each attribute's probe on unseen codes; a constant's where the seen ones have one value only."""
    weights, biases = fit(seen, targets, binary)
    fitted = differing(targets)
    predicted = unseen @ weights.T + biases.astype(np.float32)
    scores = np.full(len(binary), np.nan)
    for i in np.flatnonzero(differing(truth)):
        known = np.isfinite(truth[:, i])
        if fitted[i]:
            scores[i] = main_score(predicted[known, i], truth[known, i], binary[i])
        else:
            scores[i] = truth[known, i].mean() if binary[i] else 0.0
    return scores


def _sizes(train_sizes: Sequence[float] | None, count: int) -> list[int]:
    if train_sizes is None:
        return sorted({round(size) for size in np.geomspace(min(FEWEST, count), count, 5)})
    sizes = set()
    try:
        given = list(train_sizes)
    except TypeError:
        raise InputError(f"train_sizes = {train_sizes!r} is no list of sizes, like [10, 100, 1000]") from None
    for size in given:
        share = isinstance(size, float | np.floating)
        if isinstance(size, bool) or not (share or isinstance(size, int | np.integer)):
            raise InputError(f"train_sizes: {size!r} is neither a number of rows nor a share")
        if not (0 < size <= 1 if share else 2 <= size <= count) or round(size * count if share else size) < 2:
            raise InputError(f"train_sizes: {size} is not within 2..{count} rows, nor a share of them with 2 or more")
        sizes.add(round(size * count) if share else int(size))
    if not sizes:
        raise InputError("train_sizes holds no size")
    return sorted(sizes)


def _line(name: str, scores: np.ndarray, width: int) -> str:
    cells = (f"{mean:.3f} ± {std:.3f}" for mean, std in zip(scores.mean(1), scores.std(1), strict=True))
    return f"{name:{width}}" + "".join(f"{cell:>15}" for cell in cells)
