"""Probes and their scores: what `probe` returns and `edit` moves along."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ditifeat.errors import InputError, ModelError
from ditifeat.files import read_tensors, write_tensors

if TYPE_CHECKING:
    import pandas

Range = tuple[int, int]


@dataclass(frozen=True)
class AttributeProbe:
    """One attribute's linear probe, which is also the direction that `edit` moves along.

    Attributes:
        name: the attribute.
        kind: "binary" (logistic regression) or "real" (ridge).
        weights: `(d,)`, on codes less `mean`, over `std`.
        bias: of the probe.
        mean, std: `(d,)`, of the training rows' codes; `std` is one number, the root mean square over all dimensions, but select_prefix
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
        from ditifeat.analysis.plots import plot_scores

        if not self.ranges:
            raise InputError("the features had no partition, so there are no time-steps to plot")
        # Attributes that live early come first, so that the map reads as a staircase.
        names = sorted(self.probes, key=lambda name: (self.best_range(name) or (0, 0), -self[name].score))
        alone, cumulative = (np.array([getattr(self[name], key) for name in names]) for key in ("alone", "cumulative"))
        plot_scores(names, self.ranges, alone, cumulative, Path(path))

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
