"""What `probe` returns: one linear probe per attribute, its scores, and where in the time-steps the attribute is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ditifeat.analysis.features import Features, as_codes
from ditifeat.analysis.origin import Origin, check_same_origin
from ditifeat.data.preprocessing import ALIGNED
from ditifeat.errors import InputError, MissingDependencyError, ModelError, UnknownNameError
from ditifeat.files import read_tensors, write_tensors

if TYPE_CHECKING:
    import pandas

Range = tuple[int, int]

ARRAYS = ("weights", "mean", "std")


@dataclass(frozen=True, eq=False)
class AttributeProbe:
    """One attribute's linear probe, which is also the direction that `edit` moves along.

    Equality and hash are those of the object.

    Attributes:
        name: the attribute.
        kind: "binary" (logistic regression) or "real" (ridge).
        weights: `(d,)`, on codes less `mean`, divided by `std`.
        bias: of the probe.
        mean, std: `(d,)`, of the training rows' codes. `std` is the same in all dimensions, the root mean square of theirs;
            each dimension's own under the protocol "paper".
        scores: on the test rows: "ap", "auroc" and "prevalence" (of the test rows), or "r" (Pearson's) and "mse".
        alone: score (AP, or r) of each of the report's ranges of time-steps alone.
        cumulative: score of each range together with all earlier ones, as the DM sees them.
        missing: rows without a label, which neither trained nor tested this probe.
        encoder_weights: sha256 of the weights that encoded the features; empty where it is unknown.
        preprocessing: hash of the images' preprocessing; empty where it is unknown.
        flip_average: whether the features were averaged over horizontal flips; None where it is unknown.

    >>> probe = ditifeat.probe(features, "labels.csv", train_size=0.5)["Smiling"]
    >>> probe.kind, probe.weights.shape, sorted(probe.scores)
    ('binary', (512,), ['ap', 'auroc', 'prevalence'])
    >>> probe.score == probe.scores["ap"]
    True
    >>> probe.predict(features).shape
    (8,)
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
    missing: int = 0
    encoder_weights: str = ""
    preprocessing: str = ""
    flip_average: bool | None = None

    @property
    def score(self) -> float:
        """AP of a binary attribute, Pearson's r of a real-valued one; nan where the test rows have one value only."""
        return self.scores["ap" if self.kind == "binary" else "r"]

    def predict(self, codes: Any) -> np.ndarray:
        """Compute log-odds (binary) or values (real) of codes `(n, d)` or `(d,)`.

        Raises:
            InputError: for codes of another width, or features of other weights or preprocessing, or of which only one is
                averaged over flips. A probe of images that needed no alignment takes features of aligned ones, too.
        """
        array = as_codes(codes, "codes")
        if array.ndim not in (1, 2) or array.shape[-1] != len(self.weights):
            raise InputError(f"codes of shape {array.shape}; the probe of {self.name} takes (n, {len(self.weights)})")
        if isinstance(codes, Features):
            theirs, ours = codes.origin, Origin(self.encoder_weights, self.preprocessing, self.flip_average)
            if theirs.preprocessing.removesuffix(ALIGNED) == ours.preprocessing:
                theirs = theirs._replace(preprocessing=ours.preprocessing)
            check_same_origin(ours, theirs)
        return (array - self.mean) / self.std @ self.weights + self.bias


@dataclass(frozen=True, eq=False)
class ProbeReport(Mapping[str, AttributeProbe]):
    """A mapping of attributes to their probes; `print` shows a table, `report["Smiling"]` is one probe.

    Equality and hash are those of the object.

    Attributes:
        probes: attribute -> its probe.
        ranges: the ranges of time-steps of `alone` and `cumulative`; empty for features without a partition.
        about: model, weights and preprocessing of the features, whether they are averaged over flips, their skipped images,
            protocol, random state, rows.

    >>> report = ditifeat.probe(features, "labels.csv", train_size=0.5)
    >>> list(report), "Smiling" in report, report.about["train rows"]
    (['Smiling', 'age'], True, 4)
    >>> report.save("report.safetensors")
    >>> ditifeat.ProbeReport.load("report.safetensors").mean_ap == report.mean_ap
    True
    """

    probes: dict[str, AttributeProbe]
    ranges: tuple[Range, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)

    # A Mapping would compare its items, whose arrays have no single truth value, and could not be hashed.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> AttributeProbe:
        if not isinstance(name, str) or name not in self.probes:
            raise UnknownNameError(f"no attribute {name!r}; the report has {', '.join(self.probes)}")
        return self.probes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.probes)

    def __len__(self) -> int:
        return len(self.probes)

    def __repr__(self) -> str:
        return f"ProbeReport({len(self)} attributes, mean AP {self.mean_ap:.3f})"

    @property
    def mean_ap(self) -> float:
        """Mean AP of the binary attributes that have both values in the test rows; nan if there is none."""
        return self._mean("binary", "ap")

    def _mean(self, kind: str, score: str) -> float:
        values = [p.scores[score] for p in self.probes.values() if p.kind == kind and np.isfinite(p.scores[score])]
        return float(np.mean(values)) if values else float("nan")

    def best_range(self, name: str) -> Range | None:
        """Return the range of time-steps with the best score alone; None where no range has a score.

        >>> report = ditifeat.probe(features, "labels.csv", train_size=0.5)
        >>> report.best_range("age") in report.ranges
        True
        """
        alone = self[name].alone
        return self.ranges[int(np.nanargmax(alone))] if alone and np.isfinite(alone).any() else None

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame, one row per attribute: scores, then each range's score alone and cumulatively.

        Raises:
            MissingDependencyError: if pandas is not installed.

        >>> ditifeat.probe(features, "labels.csv", train_size=0.5).to_pandas().loc["Smiling", "kind"]
        'binary'
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError("a DataFrame needs pandas: pip install pandas") from error
        rows = {}
        for name, probe in self.items():
            rows[name] = {"kind": probe.kind, **probe.scores, "missing": probe.missing}
            rows[name] |= {f"alone {lo}-{hi}": s for (lo, hi), s in zip(self.ranges, probe.alone, strict=False)}
            rows[name] |= {f"up to {hi}": s for (_, hi), s in zip(self.ranges, probe.cumulative, strict=False)}
        return pandas.DataFrame.from_dict(rows, orient="index")

    def __str__(self) -> str:
        """A table: attribute, its scores, and the range of time-steps with the best score alone."""
        binary = [p for p in self.probes.values() if p.kind == "binary"]
        real = [p for p in self.probes.values() if p.kind == "real"]
        width = max([9, *map(len, self.probes)])
        lines = []
        if binary:
            lines.append(f"{'attribute':{width}}     AP  AUROC  prevalence  best time-steps")
            for p in sorted(binary, key=lambda p: -np.nan_to_num(p.score, nan=-1)):
                auroc, prevalence = p.scores["auroc"], p.scores["prevalence"]
                lines.append(f"{p.name:{width}}  {p.score:5.3f}  {auroc:5.3f}  {prevalence:10.3f}  {self._note(p)}")
            auroc, prevalence = self._mean("binary", "auroc"), self._mean("binary", "prevalence")
            lines.append(f"{'mean':{width}}  {self.mean_ap:5.3f}  {auroc:5.3f}  {prevalence:10.3f}")
        if real:
            lines.append(f"{'attribute':{width}}      r     MSE  best time-steps")
            lines += [f"{p.name:{width}}  {p.score:5.3f}  {p.scores['mse']:6.3f}  {self._note(p)}" for p in real]
        lines.append(", ".join(f"{key}: {_short(key, value)}" for key, value in self.about.items()))
        return "\n".join(line.rstrip() for line in lines)

    def _note(self, probe: AttributeProbe) -> str:
        best = self.best_range(probe.name)
        notes = [f"{best[0]}-{best[1]}"] if best else []
        if not np.isfinite(probe.score):
            notes.append("(one value only)")
        if probe.missing:
            notes.append(f"({probe.missing} without a label)")
        return " ".join(notes)

    def plot(self, path: str | Path) -> None:
        """Write a heat map (.png, .pdf or .svg), attributes x ranges of time-steps: each range's score alone, and cumulatively.

        Raises:
            InputError: if the features had no partition, or for another suffix.
            MissingDependencyError: if matplotlib is not installed.

        >>> ditifeat.probe(features, "labels.csv", train_size=0.5).plot("probe.png")
        """
        from ditifeat.analysis.plots import plot_scores

        if not self.ranges:
            raise InputError("the features had no partition, so there are no time-steps to plot")
        # Attributes of early ranges come first, so that the best scores lie along the diagonal.
        names = sorted(self, key=lambda name: (self.best_range(name) or (0, 0), -np.nan_to_num(self[name].score)))
        alone, cumulative = (np.array([getattr(self[name], key) for name in names]) for key in ("alone", "cumulative"))
        plot_scores(names, self.ranges, alone, cumulative, Path(path))

    def save(self, path: str | Path) -> None:
        """Write one `.safetensors` file, atomically.

        Raises:
            InputError: for another suffix.
        """
        import torch

        check_report_suffix(Path(path))
        tensors, about = {}, []
        for name, probe in self.items():
            values = asdict(probe)
            for key in ARRAYS:
                tensors[f"{name}.{key}"] = torch.from_numpy(np.ascontiguousarray(values.pop(key), dtype=np.float32))
            about.append(values)
        text = {"probes": about, "ranges": self.ranges, "about": self.about}
        write_tensors(Path(path), tensors, {"report": json.dumps(text)})

    @staticmethod
    def load(path: str | Path) -> ProbeReport:
        """Read what `save` wrote; nothing in the file can run.

        Raises:
            ModelError: if it is missing, or does not hold a report.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            text = json.loads(metadata["report"])
            probes = {}
            for values in text["probes"]:
                arrays: Any = {key: tensors[f"{values['name']}.{key}"].numpy() for key in ARRAYS}
                values |= {key: tuple(values[key]) for key in ("alone", "cumulative")}
                probes[values["name"]] = AttributeProbe(**values, **arrays)
            return ProbeReport(probes, tuple((lo, hi) for lo, hi in text["ranges"]), text["about"])
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ModelError(f"{path}: does not hold a probe's report ({error})") from error


def _short(key: str, value: Any) -> Any:
    """What a line has room for: the beginning of a hash, the number of skipped images."""
    if key == "skipped":
        return len(value)
    return value[:12] if key in ("weights", "preprocessing") else value


def check_report_suffix(path: Path) -> None:
    """Refuse a path whose suffix is not a report's, before anything is computed for it.

    Raises:
        InputError: for another suffix than .safetensors.

    >>> from pathlib import Path
    >>> from ditifeat.analysis.report import check_report_suffix
    >>> check_report_suffix(Path("probe.safetensors"))
    """
    if path.suffix != ".safetensors":
        raise InputError(f"{path}: reports are saved as .safetensors")
