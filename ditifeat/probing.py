"""What a linear probe finds in features, attribute by attribute and time-step by time-step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ditifeat.artefact import read_tensors, write_tensors
from ditifeat.errors import InputError, ModelError
from ditifeat.features import Features
from ditifeat.fitting import RIDGE_PER_DIM, fit_paper, fit_promask, fit_sklearn, size
from ditifeat.labels import read_labels

if TYPE_CHECKING:
    import pandas

Protocol = Literal["sklearn", "paper"]
Range = tuple[int, int]


@dataclass(frozen=True)
class AttributeProbe:
    """One attribute's linear probe, which is also the direction that `edit` moves along.

    Attributes:
        name: the attribute.
        kind: "binary" (logistic regression) or "real" (ridge).
        weights: `(d,)`, on codes less `mean`, over `std`.
        bias: of the probe.
        mean, std: `(d,)`, of the training rows' codes; `std` is one number, the root mean square over all dimensions, but under
            the protocol "paper" each dimension's own.
        scores: on the test rows; "ap", "auroc", "prevalence" (of the test rows), or "r" (Pearson's) and "mse".
        alone: score (AP, or r) of each of the report's ranges of time-steps by itself.
        cumulative: score of each range together with all earlier ones, as the DM sees them.
    """

    name: str
    kind: Literal["binary", "real"]
    weights: np.ndarray
    bias: float
    mean: np.ndarray
    std: np.ndarray
    scores: dict[str, float]
    alone: tuple[float, ...] = ()
    cumulative: tuple[float, ...] = ()

    @property
    def score(self) -> float:
        """AP of a binary attribute, Pearson's r of a real one."""
        return self.scores["ap" if self.kind == "binary" else "r"]

    def predict(self, codes: Any) -> np.ndarray:
        """Log-odds (binary) or value (real) of codes `(n, d)`."""
        return (np.asarray(codes) - self.mean) / self.std @ self.weights + self.bias


@dataclass(frozen=True)
class ProbeReport:
    """All attributes' probes and scores; `print` shows a table, `report["Smiling"]` one probe.

    Attributes:
        probes: attribute -> its probe.
        ranges: the ranges of time-steps of `alone` and `cumulative`; empty for features without a partition.
        about: model, protocol, seed, rows.
    """

    probes: dict[str, AttributeProbe]
    ranges: tuple[Range, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> AttributeProbe:
        if name not in self.probes:
            raise InputError(f"no attribute {name!r}; the report has {', '.join(self.probes)}")
        return self.probes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.probes)

    def __len__(self) -> int:
        return len(self.probes)

    @property
    def mean_ap(self) -> float:
        """Mean AP of the binary attributes that have both values in the test rows; nan if there is none."""
        return self._mean("binary", "ap")

    def _mean(self, kind: str, score: str) -> float:
        values = [p.scores[score] for p in self.probes.values() if p.kind == kind and np.isfinite(p.scores[score])]
        return float(np.mean(values)) if values else float("nan")

    def best_range(self, name: str) -> Range | None:
        """The range of time-steps that says most of an attribute by itself."""
        alone = self[name].alone
        return self.ranges[int(np.nanargmax(alone))] if alone and np.isfinite(alone).any() else None

    def to_pandas(self) -> pandas.DataFrame:
        """One row an attribute: scores, then the score of each range alone and cumulatively."""
        import pandas

        rows = {}
        for name, probe in self.probes.items():
            rows[name] = {"kind": probe.kind, **probe.scores}
            rows[name] |= {f"alone {lo}-{hi}": s for (lo, hi), s in zip(self.ranges, probe.alone, strict=True)}
            rows[name] |= {f"up to {hi}": s for (_, hi), s in zip(self.ranges, probe.cumulative, strict=True)}
        return pandas.DataFrame.from_dict(rows, orient="index")

    def __str__(self) -> str:
        """A table: attribute, its scores, and the time-steps that say most of it by themselves."""
        width = max([9, *map(len, self.probes)])
        lines = []
        binary = [p for p in self.probes.values() if p.kind == "binary"]
        real = [p for p in self.probes.values() if p.kind == "real"]
        if binary:
            lines.append(f"{'attribute':{width}}     AP  AUROC  prevalence  best time-steps")
            for p in sorted(binary, key=lambda p: -np.nan_to_num(p.scores["ap"], nan=-1)):
                s = p.scores
                lines.append(
                    f"{p.name:{width}}  {s['ap']:5.3f}  {s['auroc']:5.3f}  {s['prevalence']:10.3f}  {self._best(p.name)}"
                )
            auroc, prevalence = self._mean("binary", "auroc"), self._mean("binary", "prevalence")
            lines.append(f"{'mean':{width}}  {self.mean_ap:5.3f}  {auroc:5.3f}  {prevalence:10.3f}")
        if real:
            lines.append(f"{'attribute':{width}}      r     MSE  best time-steps")
            lines += [
                f"{p.name:{width}}  {p.scores['r']:5.3f}  {p.scores['mse']:6.3f}  {self._best(p.name)}" for p in real
            ]
        lines.append(", ".join(f"{key}: {value}" for key, value in self.about.items()))
        return "\n".join(lines)

    def _best(self, name: str) -> str:
        best = self.best_range(name)
        return f"{best[0]}-{best[1]}" if best else ""

    def plot(self, path: str | Path) -> None:
        """Writes a heat map, attributes x ranges of time-steps: the score of each alone, and cumulatively.

        Raises:
            InputError: if the features had no partition, or matplotlib is missing.
        """
        from ditifeat.plotting import plot_report

        plot_report(self, Path(path))

    def save(self, path: str | Path) -> None:
        """Writes one `.safetensors` file, whole or not at all."""
        import torch

        tensors, about = {}, []
        for name, probe in self.probes.items():
            values = asdict(probe)
            for key in ("weights", "mean", "std"):
                tensors[f"{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(values.pop(key), dtype=np.float32))
            about.append(values)
        text = {"probes": about, "ranges": self.ranges, "about": self.about}
        write_tensors(Path(path), tensors, {"report": json.dumps(text)})

    @staticmethod
    def load(path: str | Path) -> ProbeReport:
        """Reads what `save` wrote; nothing in the file can run.

        Raises:
            ModelError: if it is missing or is no such file.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            text = json.loads(metadata["report"])
            probes = {}
            for values in text["probes"]:
                arrays: Any = {key: tensors[f"{values['name']}.{key}"].numpy() for key in ("weights", "mean", "std")}
                values |= {key: tuple(values[key]) for key in ("alone", "cumulative")}
                probes[values["name"]] = AttributeProbe(**values, **arrays)
            return ProbeReport(probes, tuple((lo, hi) for lo, hi in text["ranges"]), text["about"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path}: does not hold a probe's report ({error})") from error


def probe(
    features: Any,
    labels: Any,
    *,
    train: float | Sequence[int] | np.ndarray = 0.8,
    seed: int = 0,
    protocol: Protocol = "sklearn",
    dims: int | None = None,
) -> ProbeReport:
    """Fits a linear probe per attribute on the training rows, and scores it on all others.

    Codes are centred and scaled on the training rows, by one number, so that what is small in them stays small under the
    probe's penalty; scale columns yourself if their sizes mean nothing. Labels with two values (0/1, -1/1, False/True) are
    probed by logistic regression, others by ridge regression. Each range of time-steps is also scored alone and
    cumulatively, by ridge for every kind of label, as it is for where an attribute lives, not for how well it can be told.

    Args:
        features: `Features`, or an array `(n, d)`.
        labels: array, DataFrame, dict, or path of CelebA's attribute file or a CSV (see `ditifeat.labels.read_labels`).
        train: the share of rows to train on, drawn with `seed`; or their indices or mask.
        seed: of the split, and of the protocol "paper".
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
    rows = _training_rows(train, len(codes), seed)
    mean, std = codes[rows].mean(0), _deviation(codes[rows], each=protocol == "paper")
    scaled = (codes - mean) / std
    partition = features.partition if isinstance(features, Features) else None
    ranges = partition.ranges if partition is not None else ()
    kinds = {name: "binary" if len(np.unique(y)) <= 2 else "real" for name, y in targets.items()}
    ys = {name: (y == y.max()).astype(np.float64) if kinds[name] == "binary" else y for name, y in targets.items()}
    columns = [partition.time_steps(lo, hi) for lo, hi in ranges] if partition is not None else []
    alone = _range_scores(scaled, ys, kinds, rows, columns)
    cumulative = _range_scores(scaled, ys, kinds, rows, [slice(0, c.stop) for c in columns])
    if protocol == "sklearn":
        fitted = fit_sklearn(scaled, ys, kinds, rows, dims)
    elif dims is None:
        fitted = fit_paper(scaled, ys, kinds, rows, seed)
    else:
        fitted = fit_promask(scaled, ys, kinds, rows, seed, dims)
    probes = {
        name: AttributeProbe(
            name, kinds[name], weights, bias, mean, std,  # type: ignore[arg-type]
            _scores(scaled[~rows] @ weights + bias, ys[name][~rows], kinds[name]), alone[name], cumulative[name],
        )
        for name, (weights, bias) in fitted.items()
    }  # fmt: skip
    about: dict[str, Any] = {
        "protocol": protocol,
        "seed": seed,
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


def _training_rows(train: float | Sequence[int] | np.ndarray, count: int, seed: int) -> np.ndarray:
    """Mask `(n,)` of the training rows."""
    mask = np.zeros(count, dtype=bool)
    if isinstance(train, float):
        if not 0 < train < 1:
            raise InputError(f"train = {train} is not a share within 0..1")
        mask[np.random.default_rng(seed).permutation(count)[: round(train * count)]] = True
    else:
        chosen = np.asarray(train)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iub" or (chosen.dtype == bool and len(chosen) != count):
            raise InputError("train must be a share (0.8), row indices, or a mask over all rows")
        if chosen.dtype != bool and len(chosen) and not (chosen.min() >= 0 and chosen.max() < count):
            raise InputError(f"train holds rows outside 0..{count - 1}")
        mask[chosen] = True
    if mask.sum() < 2 or (~mask).sum() < 2:
        raise InputError(
            f"{int(mask.sum())} rows to train on and {int((~mask).sum())} to test on; both need at least 2"
        )
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


def ridge_mean_ap(codes: np.ndarray, targets: np.ndarray, first: int) -> float:
    """Mean AP of one ridge regression for all attributes, trained on the first rows and scored on the others.

    Args:
        codes: `(n, d)`; centred and scaled here, on the first rows, by one number.
        targets: 0 or 1, `(n, attributes)`; those with one value alone among the test rows are left out.
        first: how many rows train.
    """
    from sklearn.linear_model import Ridge

    scaled = (codes - codes[:first].mean(0)) / _deviation(codes[:first])
    predicted = Ridge(RIDGE_PER_DIM * size(scaled[:first])).fit(scaled[:first], targets[:first]).predict(scaled[first:])
    scores = [_scores(predicted[:, i], targets[first:, i], "binary")["ap"] for i in range(targets.shape[1])]
    return float(np.nanmean(scores))


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
