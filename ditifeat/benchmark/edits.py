"""Edit evaluation: do edits change what they should, and nothing else? `ditifeat evaluate-edits RUN... --data IMAGES ...`.

An attribute classifier that never saw our features looks at held-out images before and after. Its logits are divided by their
standard deviation over held-out images, so that a change of 1 is as far as two images that differ by one standard deviation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ditifeat.analysis.metrics import kernel_distance
from ditifeat.analysis.probe import probe
from ditifeat.analysis.report import ProbeReport
from ditifeat.benchmark.benchmark import load_runs, method_name
from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.classifier import AttributeClassifier, classifier_features, load_classifier, logits
from ditifeat.benchmark.scores import mean_ap
from ditifeat.benchmark.split import Split, in_batches, read_split
from ditifeat.benchmark.tables import edit_tables
from ditifeat.data.batches import load_images
from ditifeat.data.drawing import to_pixels
from ditifeat.data.preprocessing import Crop
from ditifeat.editing.arguments import checked_direction
from ditifeat.editing.edit import attribute_edit, subset_edit
from ditifeat.encoding.encoder import Encoder
from ditifeat.errors import InputError, UnknownNameError, require
from ditifeat.files import check_writable, write_text
from ditifeat.model.sampling import fixed_point_grid
from ditifeat.schema import boolean, integer
from ditifeat.train.evaluate import SPARSE

logger = logging.getLogger(__name__)

STRENGTHS = (0.15, 0.3, 0.6, 1.2, 2.4)

EQUAL_CHANGE = 0.25  # of the target, in standard deviations: where off-target changes are compared

RANGES = ((0, 300), (300, 500), (500, 1000))


def evaluate_edits(
    runs: str | Path | Sequence[str | Path],
    data: Any,
    labels: Any,
    out: str | Path,
    *,
    train_size: int,
    attributes: str | Sequence[str] | None = None,
    count: int = 32,
    steps: int = 10,
    crop: Crop = "model",
    flip_average: bool = False,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Edit held-out images with each run, measure the changes by an attribute classifier; write `edits.json` and `edits.md`.

    Args:
        runs: run folders, model folders or names, of DiTi or PDAE and of one preprocessing.
        data: images as `ditifeat.encode` takes them: a folder, a `.tar`, or a list of these.
        labels: as `ditifeat.probe` takes them, of two values each.
        out: the folder to write; the classifier is kept in `out/cache`.
        train_size: the first N images train the classifier and the probes; the next are edited.
        attributes: to edit; by default all that some training images have and others not.
        count: how many held-out images to edit, at least 2; at least 2 must be left to compare them with.
        steps: evaluations of the networks in each inversion, and again in each sampling.
        crop: "model", or "center" for images that are cropped already, as `ditifeat.encode` takes it.
        flip_average: probe codes that are the mean over each image and its horizontal flip; edits are of the plain codes.
        device: a torch device; as `load_encoder` chooses by default.
        progress: show a progress bar.

    Returns:
        What `edits.json` holds.

    Raises:
        MissingDependencyError: without the extra `[benchmark]`.
        ImageDecodeError, InputError, ModelError: for runs, images or labels that do not fit.

    >>> from ditifeat.benchmark.edits import evaluate_edits
    >>> result = evaluate_edits("run", "photos/", "labels.csv", "table", train_size=8000)  # doctest: +SKIP
    """
    for package in ("pandas", "tabulate"):
        require(package, "benchmark")
    flip_average = boolean("flip_average", flip_average)
    check_writable(Path(out) / "edits.md")
    encoders = load_runs(runs, device)
    if any(encoder.config.method != "diti" for encoder in encoders):
        raise InputError("the edit evaluation compares DiTi and PDAE runs; give no others")
    fixed_point_grid(encoders[0].partition.num_time_steps, steps)  # refuses steps before the work
    split = read_split(data, labels, encoders[0].config.image, train_size, crop)
    chosen = _chosen_attributes(split, attributes)
    if not 2 <= integer("count", count) <= split.test.sum() - 2:
        raise InputError(
            f"count = {count} is not within 2..{split.test.sum() - 2}: of the images held out, 2 are not edited"
        )
    classifier = load_classifier(split, Cache(Path(out) / "cache"), encoders[0].device)
    held_out = split.images[split.test]
    known = logits(classifier, held_out)
    scorer = ChangeScorer(classifier, known.std(0).clip(1e-8), classifier_features(classifier, held_out[count:]))
    edits: dict[str, Any] = {}
    total = sum(2 * len(chosen) * len(STRENGTHS) + len(_ranges(encoder)) for encoder in encoders)
    with tqdm(total=total, unit="edit", disable=not progress) as bar:
        for title, encoder in zip(_titles(encoders), encoders, strict=True):
            editor = _Editor.of(encoder, held_out[:count], steps, bar)
            found = {"reconstruction": {"mean": scorer.identity(held_out[:count], editor.kept)}}
            codes = in_batches(encoder, split.images[split.train], encoder.device, flip_average=flip_average)
            for kind, dims in {"dense": None, f"sparse, {SPARSE} dimensions": SPARSE}.items():
                found[kind] = _attribute_edits(editor, scorer, split, _directions(codes, split, chosen, dims))
            found |= _range_edits(editor, scorer)
            edits |= {f"{title}: {kind}": scores for kind, scores in found.items()}
    about = {
        "edited": count,
        "steps": steps,
        "flip_average": flip_average,
        "train rows": int(split.train.sum()),
        "classifier_ap": mean_ap(known, split.targets[split.test]),
        "strength": STRENGTHS[len(STRENGTHS) // 2],
        "equal_change": EQUAL_CHANGE,
    }
    result = {"about": about, "edits": edits, "common": _common_ground(edits)}
    write_text(Path(out) / "edits.json", json.dumps(result, indent=1) + "\n")
    write_text(Path(out) / "edits.md", edit_tables(result))
    return result


def _chosen_attributes(split: Split, attributes: str | Sequence[str] | None) -> list[str]:
    """Those to edit: all that can be probed, or those that are asked for, which must be."""
    probed = split.targets[split.train][_fitted(split)]
    both = [name for name, y in zip(split.attributes, probed.T, strict=True) if {0.0, 1.0} <= set(y)]
    if attributes is None:
        left_out = [name for name in split.attributes if name not in both]
        if left_out:
            logger.warning("of one value alone among the training images, and not edited: %s", ", ".join(left_out))
        chosen = both
    else:
        chosen = [attributes] if isinstance(attributes, str) else list(dict.fromkeys(attributes))
    for name in chosen:
        if name not in split.attributes:
            raise UnknownNameError(f"the labels have no attribute {name}; they have {', '.join(split.attributes)}")
        if name not in both:
            raise InputError(f"attribute {name}: has one value alone among the training images; it cannot be edited")
    if not chosen:
        raise InputError("there is no attribute to edit")
    return chosen


def _fitted(split: Split) -> np.ndarray:
    """Which of the training rows fit the probes: four fifths of them, since a report scores what is left."""
    return np.arange(int(split.train.sum()) * 4 // 5)


def _titles(encoders: list[Encoder]) -> list[str]:
    """Names of the methods; with the run's folder where several have one name."""
    names = [method_name(encoder) for encoder in encoders]
    return [
        f"{name}, {encoder.folder}" if names.count(name) > 1 else name
        for name, encoder in zip(names, encoders, strict=True)
    ]


@dataclass(frozen=True)
class ChangeScorer:
    """Measures what an edit changed, by the attribute classifier. Images are uint8 `(n, S, S, 3)`.

    Attributes:
        classifier: trained on other images.
        std: of its logits over held-out images, `(attributes,)`.
        real_features: its features of real images that are not edited, `(m, 256)`.
    """

    classifier: AttributeClassifier
    std: np.ndarray
    real_features: np.ndarray

    def changes(self, kept: np.ndarray, edited: np.ndarray) -> np.ndarray:
        """Changes of the logits `(n, attributes)` from reconstructions to edits, in standard deviations."""
        return (logits(self.classifier, edited) - logits(self.classifier, kept)) / self.std

    def identity(self, kept: np.ndarray, edited: np.ndarray) -> dict[str, float]:
        """Mean cosine of the features; MSE (0..1) of the three quarters of pixels that change least; kernel distance."""
        a, b = (classifier_features(self.classifier, images) for images in (kept, edited))
        cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)).clip(1e-12)
        squared = ((kept.astype(float) - edited) / 255) ** 2
        pixels = np.sort(squared.mean(3).reshape(len(kept), -1), axis=1)
        return {
            "cosine": float(cosine.mean()),
            "still": float(pixels[:, : 3 * pixels.shape[1] // 4].mean()),
            "kernel": kernel_distance(b, self.real_features),
        }


@dataclass(frozen=True)
class _Editor:
    """Held-out images with their codes `(n, d)` and `x_T`, which all edits share."""

    encoder: Encoder
    z: Tensor
    x_T: Tensor
    steps: int
    kept: np.ndarray
    bar: tqdm[Any]

    @staticmethod
    @torch.no_grad()
    def of(encoder: Encoder, images: np.ndarray, steps: int, bar: tqdm[Any]) -> _Editor:
        x_0 = load_images(images, encoder.device)
        z = encoder(x_0)
        x_T = encoder.model.invert(x_0, z, steps, "fixed_point")
        kept = to_pixels(encoder.model.sample(x_T, z, steps, solver="fixed_point"))
        return _Editor(encoder, z, x_T, steps, kept, bar)

    @torch.no_grad()
    def edited(self, code: Tensor) -> np.ndarray:
        """Images, uint8, of changed codes."""
        self.bar.update()
        return to_pixels(self.encoder.model.sample(self.x_T, code, self.steps, solver="fixed_point"))


def _directions(codes: np.ndarray, split: Split, attributes: list[str], dims: int | None) -> ProbeReport:
    """Probes of training codes."""
    targets = split.targets[split.train]
    labels = {name: targets[:, split.attributes.index(name)] for name in attributes}
    return probe(codes, labels, train_rows=_fitted(split), dims=dims)


def _attribute_edits(editor: _Editor, scorer: ChangeScorer, split: Split, directions: ProbeReport) -> dict[str, Any]:
    """Scores by attribute and strength, and their mean."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in directions:
        weights, std = checked_direction(editor.encoder, directions[name])
        target = split.attributes.index(name)
        rows[name] = []
        for scale in STRENGTHS:
            edited = editor.edited(attribute_edit(editor.z, weights, std, scale))
            changes = scorer.changes(editor.kept, edited)
            others = np.abs(changes).mean(0)
            others[target] = 0
            rows[name].append({
                "scale": scale,
                "target": float(changes[:, target].mean()),
                "off_target": float(others.sum() / max(len(others) - 1, 1)),
                "most_changed": [split.attributes[i] for i in np.argsort(-others)[:3] if i != target],
                **scorer.identity(editor.kept, edited),
            })  # fmt: skip
    return {"mean": _mean(rows), "attributes": rows}


def _ranges(encoder: Encoder) -> tuple[tuple[int, int], ...]:
    """The ranges of time-steps whose subsets can be swapped; none where there is one subset."""
    return RANGES if encoder.partition.k > 1 else ()


def _range_edits(editor: _Editor, scorer: ChangeScorer) -> dict[str, Any]:
    """The subsets of each range of time-steps taken from the next image."""
    partition, z = editor.encoder.partition, editor.z
    found = {}
    for lo, hi in _ranges(editor.encoder):
        edited = editor.edited(subset_edit(partition, z, z.roll(1, 0), partition.subsets_of_time_steps(lo, hi)))
        changes = float(np.abs(scorer.changes(editor.kept, edited)).mean())
        mean = {"off_target": changes, **scorer.identity(editor.kept, edited)}
        found[f"time-steps {lo}-{hi} of another"] = {"mean": mean}
    return found


def _mean(rows: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Over attributes: scores at the middle strength, and the off-target change where the target's is EQUAL_CHANGE."""
    middle = [path[len(path) // 2] for path in rows.values()]
    keys = ("target", "off_target", "cosine", "still", "kernel")
    mean = {key: float(np.mean([row[key] for row in middle])) for key in keys}
    found = [change for change in map(off_target_at, rows.values()) if change is not None]
    equal = {"equal": float(np.mean(found))} if found else {}
    return mean | equal | {"reached": len(found) / len(rows)}


def off_target_at(path: list[dict[str, Any]], change: float = EQUAL_CHANGE) -> float | None:
    """Interpolate the off-target change along rising strengths to where the target's is first `change`; None if nowhere.

    >>> from ditifeat.benchmark.edits import off_target_at
    >>> off_target_at([{"target": 0.5, "off_target": 0.1}], 0.25)
    0.05
    """
    before = (0.0, 0.0)
    for row in path:
        here = (row["target"], row["off_target"])
        if here[0] >= change:
            share = (change - before[0]) / (here[0] - before[0])
            return float(before[1] + share * (here[1] - before[1]))
        before = here
    return None


def _common_ground(edits: dict[str, Any]) -> dict[str, Any]:
    """Off-target changes at equal change over the attributes that every kind of edit changes as much: alone these compare."""
    paths = {name: found["attributes"] for name, found in edits.items() if "attributes" in found}
    first = next(iter(paths.values()))
    common = [name for name in first if all(off_target_at(rows[name]) is not None for rows in paths.values())]
    means = {name: float(np.mean([off_target_at(rows[a]) for a in common])) for name, rows in paths.items() if common}
    return {"attributes": common, "off_target": means}
