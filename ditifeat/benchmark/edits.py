"""Do edits change what they should, and nothing else? `ditifeat evaluate_edits RUN... --data PICTURES --labels LABELS --out FOLDER`.

A judge that never saw our features looks at held-out pictures before and after. Its log-odds are divided by their
deviation over held-out pictures, so that a change of 1 is as far as two pictures that differ by one deviation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditifeat.analysis.metrics import kernel_distance
from ditifeat.analysis.probe import probe
from ditifeat.benchmark.baselines import in_batches
from ditifeat.benchmark.benchmark import load_run, read_pictures
from ditifeat.benchmark.classifier import AttributeClassifier, cached_classifier, classifier_logits
from ditifeat.data.batches import load_images
from ditifeat.data.drawing import to_pixels
from ditifeat.data.labels import read_labels
from ditifeat.editing.edit import attribute_edit, checked_direction, subset_edit
from ditifeat.encoding.encoder import Encoder
from ditifeat.errors import InputError
from ditifeat.files import write_text
from ditifeat.model.diti import DiTi
from ditifeat.train.evaluate import SPARSE

STRENGTHS = (0.15, 0.3, 0.6, 1.2, 2.4)

EQUAL_CHANGE = 0.25  # of the target, in deviations: where leakages are compared

RANGES = ((0, 300), (300, 500), (500, 1000))

COLUMNS = {
    "target": "target change",
    "leakage": "leakage",
    "equal": f"leakage at a target change of {EQUAL_CHANGE}",
    "reached": "attributes that reach it",
    "cosine": "identity, cosine",
    "still": "MSE of the stillest 3/4",
    "kernel": "kernel distance",
}


def evaluate_edits(
    runs: Sequence[str | Path],
    data: str | Path,
    labels: Any,
    out: Path,
    first: int,
    attributes: Sequence[str] | None = None,
    count: int = 32,
    steps: int = 10,
) -> dict[str, Any]:
    """Edits held-out pictures with each run, has them classifier_logits, and writes `evaluate_edits.json` and `.md` into `out`.

    Args:
        runs: run folders, model folders or names, of DiTi or PDAE.
        data: a folder or tar of pictures.
        labels: as `ditifeat.probe` takes them.
        out: folder to write; the judge is kept in it.
        first: the first so many pictures train judge and probes; the next are edited.
        attributes: to edit; all by default.
        count: pictures to edit.
        steps: of inversion, and again of sampling.

    Raises:
        InputError, ModelError: for runs, pictures or labels that do not fit.
    """
    encoders = [load_run(run) for run in runs]
    if not encoders or not all(isinstance(encoder.model, DiTi) for encoder in encoders):
        raise InputError("faithfulness compares DiTi and PDAE runs; give at least one, and no others")
    names, array = read_pictures(data, encoders)
    if not 16 <= first <= len(names) - 4:
        raise InputError(f"first = {first} must leave pictures to train and to edit, of {len(names)}")
    found = read_labels(labels, names)
    targets = {name: (y == y.max()).astype(np.float64) for name, y in found.items()}
    unknown = sorted(set(attributes or ()) - set(targets))
    if unknown:
        raise InputError(f"the labels have no attribute {', '.join(unknown)}")
    y = np.stack(list(targets.values()), axis=1)
    judge = cached_classifier(out / "judge.safetensors", array[:first], y[:first])
    odds = classifier_logits(judge, array[first:])
    jury = _Jury(judge, odds.std(0), array[first : first + count], array[first + count :])
    chosen = list(attributes or targets)
    systems: dict[str, Any] = {}
    for encoder in encoders:
        systems |= _edited(encoder, array, targets, chosen, first, jury, steps)
    result = {
        "about": {
            "edited": len(jury.before),
            "steps": steps,
            "train rows": first,
            "judge_ap": _mean_ap(odds, y[first:]),
        },
        "systems": systems,
    }
    write_text(out / "faithfulness.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "faithfulness.md", report(result))
    return result


class _Jury:
    """What is asked of edited pictures, uint8 `(n, S, S, 3)`, beside the same ones before."""

    def __init__(self, judge: AttributeClassifier, deviation: np.ndarray, before: np.ndarray, others: np.ndarray):
        self.judge, self.deviation, self.before = judge, deviation, before
        self.others = in_batches(judge.features, others)

    def changes(self, kept: np.ndarray, edited: np.ndarray) -> np.ndarray:
        """Changes of the log-odds `(n, attributes)` from reconstructions to edits, in deviations."""
        return (classifier_logits(self.judge, edited) - classifier_logits(self.judge, kept)) / self.deviation

    def identity(self, kept: np.ndarray, edited: np.ndarray) -> dict[str, float]:
        a, b = (in_batches(self.judge.features, pictures) for pictures in (kept, edited))
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        squared = ((kept.astype(float) - edited) / 255) ** 2
        pixels = np.sort(squared.mean(3).reshape(len(kept), -1), axis=1)
        still = pixels[:, : 3 * pixels.shape[1] // 4].mean()
        return {"cosine": float(cosine.mean()), "still": float(still), "kernel": kernel_distance(b, self.others)}


@torch.no_grad()
def _edited(
    encoder: Encoder,
    array: np.ndarray,
    targets: dict[str, np.ndarray],
    chosen: list[str],
    first: int,
    jury: _Jury,
    steps: int,
) -> dict[str, Any]:
    """One entry per kind of edit: dense and sparse by attribute, and each range of time-steps from the next picture."""
    codes = in_batches(encoder, array[:first])
    model = encoder.model
    x_0 = load_images(jury.before, encoder.device)
    z = encoder(x_0)
    x_T = model.invert(x_0, z, steps, "fixed_point")

    def pictures(code: Tensor) -> np.ndarray:
        return to_pixels(model.sample(x_T, code, steps, solver="fixed_point"))

    kept = pictures(z)
    title = f"{encoder.config.name} ({encoder.config.training.get('diti_images', '?')} images)"
    found: dict[str, Any] = {f"{title}: reconstruction": {"mean": jury.identity(jury.before, kept)}}
    train = np.arange(first * 4 // 5)
    for kind, dims in {"dense": None, f"sparse, {SPARSE} dimensions": SPARSE}.items():
        directions = probe(codes, {name: targets[name][:first] for name in chosen}, train_rows=train, dims=dims)
        rows = {}
        for name in chosen:
            weights, std = checked_direction(encoder, directions[name])
            column = list(targets).index(name)
            rows[name] = [
                _attribute_row(jury, kept, pictures(attribute_edit(z, weights, std, s)), column, s, list(targets))
                for s in STRENGTHS
            ]
        found[f"{title}: {kind}"] = {"mean": _mean(rows), "attributes": rows}
    if encoder.partition.k > 1:
        for lo, hi in RANGES:
            subsets = encoder.partition.subsets_of_time_steps(lo, hi)
            edited = pictures(subset_edit(encoder.partition, z, z.roll(1, 0), subsets))
            changed = float(np.abs(jury.changes(kept, edited)).mean())
            found[f"{title}: time-steps {lo}-{hi} of another"] = {
                "mean": {"leakage": changed, **jury.identity(kept, edited)}
            }
    return found


def _attribute_row(
    jury: _Jury, kept: np.ndarray, edited: np.ndarray, column: int, scale: float, names: list[str]
) -> dict[str, Any]:
    changes = jury.changes(kept, edited)
    others = np.abs(np.delete(changes, column, axis=1)).mean(0)
    order = np.argsort(-others)[:3]
    rest = [name for i, name in enumerate(names) if i != column]
    return {
        "scale": scale,
        "target": float(changes[:, column].mean()),
        "leakage": float(others.mean()),
        "most_changed": [rest[i] for i in order],
        **jury.identity(kept, edited),
    }


def _mean(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Over attributes: scores at the middle strength, and the leakage where the target has changed by EQUAL_CHANGE."""
    middle = [path[len(path) // 2] for path in rows.values()]
    mean = {
        key: float(np.mean([row[key] for row in middle])) for key in ("target", "leakage", "cosine", "still", "kernel")
    }
    leaks = [leak for leak in map(leakage_at, rows.values()) if leak is not None]
    return mean | {"equal": float(np.mean(leaks)) if leaks else float("nan"), "reached": len(leaks) / len(rows)}


def leakage_at(path: list[dict[str, Any]], change: float = EQUAL_CHANGE) -> float | None:
    """The leakage of a path of strengths where its target change is first `change`, by straight lines; None if nowhere."""
    before = (0.0, 0.0)
    for row in path:
        here = (row["target"], row["leakage"])
        if here[0] >= change:
            share = (change - before[0]) / (here[0] - before[0])
            return before[1] + share * (here[1] - before[1])
        before = here
    return None


def _mean_ap(odds: np.ndarray, y: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    seen = [i for i in range(y.shape[1]) if 0 < y[:, i].mean() < 1]
    return float(np.mean([average_precision_score(y[:, i], odds[:, i]) for i in seen]))


def report(result: dict[str, Any]) -> str:
    """Markdown: a row a kind of edit, then what changes most beside each attribute."""
    about = result["about"]
    lines = [
        f"{about['edited']} held-out pictures, {about['steps']} + {about['steps']} evaluations; judge: a CNN on pixels, mean AP "
        f"{about['judge_ap']:.3f} on held-out pictures. Changes of its log-odds, from reconstruction to edit, in deviations "
        f"over held-out pictures; leakage: mean absolute change of the other attributes. At strength {STRENGTHS[len(STRENGTHS) // 2]}, "
        "but for the columns at equal change. Kernel distance: of the judge's features, to other real pictures.\n",
        "| edit | " + " | ".join(COLUMNS.values()) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for name, system in result["systems"].items():
        cells = [f"{system['mean'][key]:.3g}" if key in system["mean"] else "" for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", _on_common_ground(result)]
    lines += ["", "| edit | attribute | target change | leakage | changed most beside it |", "|---|---|---|---|---|"]
    for name, system in result["systems"].items():
        for attribute, path in system.get("attributes", {}).items():
            row = path[-1]
            lines.append(
                f"| {name}, strength {row['scale']} | {attribute} | {row['target']:.2f} | {row['leakage']:.2f} "
                f"| {', '.join(row['most_changed'])} |"
            )
    return "\n".join(lines) + "\n"


def _on_common_ground(result: dict[str, Any]) -> str:
    """The leakages at equal change over the attributes that every kind of edit can change as much: alone these compare."""
    paths = {name: system["attributes"] for name, system in result["systems"].items() if "attributes" in system}
    first = next(iter(paths.values()))
    common = [name for name in first if all(leakage_at(rows[name]) is not None for rows in paths.values())]
    if not common:
        return f"No attribute's target change reaches {EQUAL_CHANGE} select_prefix every edit."
    means = {name: np.mean([leakage_at(rows[a]) for a in common]) for name, rows in paths.items()}
    told = "; ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    return f"Leakage at a target change of {EQUAL_CHANGE}, over the attributes that all reach ({', '.join(common)}): {told}."
