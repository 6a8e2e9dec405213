"""All systems beside their floors, on one split: `ditifeat benchmark RUN... --data PICTURES --labels LABELS --out FOLDER`."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ditifeat.artefact import write_text
from ditifeat.encoders import to_images
from ditifeat.errors import InputError, ModelError
from ditifeat.features import Encoder
from ditifeat.hub import load_encoder
from ditifeat.images import batches
from ditifeat.labels import read_labels
from ditifeat.metrics import dci, tad
from ditifeat.model import DiTi
from ditifeat.plotting import plot_benchmark
from ditifeat.probing import probe, ridge_mean_ap
from ditifeat.train import floors
from ditifeat.train.evaluate import reconstruction

SEEDS = (0, 1, 2)
SCORING = 2  # part of what rows are remembered by: raise it when a score is worked out in another way
LASSO_PENALTY = 0.01  # on standardised codes and attributes
RECONSTRUCTED = 16
NEIGHBOURS = 50
COLUMNS = {
    "ap": "AP, logistic",
    "ridge_ap": "AP, ridge",
    "paper_ap": "AP, paper's probe",
    "nearest_ap": "AP, nearest",
    "auroc": "AUROC",
    "tad": "TAD",
    "captured": "captured",
    "disentanglement": "D",
    "completeness": "C",
    "mse": "MSE",
    "ssim": "SSIM",
    "mse_random": "MSE, random x_T",
    "images": "images",
    "seconds": "seconds",
    "parameters": "parameters",
}


def benchmark(
    runs: Sequence[str | Path], data: str | Path, labels: Any, out: Path, first: int, steps: int = 100
) -> dict[str, Any]:
    """Scores runs and floors, and writes `benchmark.json`, `benchmark.md` and `benchmark.png` into `out`.

    Args:
        runs: run folders (or model folders, or names); those of one recipe and as many images share a row, mean
            and standard deviation over their seeds.
        data: a folder or tar of pictures.
        labels: as `ditifeat.probe` takes them; with two values each.
        out: folder to write.
        first: the first so many pictures train the probes, the others test them.
        steps: of inversion, and again of sampling.

    Returns:
        What `benchmark.json` holds.

    Raises:
        InputError, ModelError: for runs, pictures or labels that do not fit.
    """
    encoders = [load_run(run) for run in runs]
    if not encoders:
        raise InputError("there is no run to score")
    names, array = read_pictures(data, encoders)
    if not 16 <= first < len(names) - 1:
        raise InputError(f"first = {first} must leave pictures to train and to test on, of {len(names)}")
    targets = read_labels(labels, names)
    about = (names, first, {name: y.tolist() for name, y in targets.items()})
    rows: list[dict[str, Any]] = []
    for encoder in encoders:
        rows += _once(
            out / "rows", (about, steps, _identity(encoder)), partial(_trained, encoder, array, targets, first, steps)
        )
    frozen = next((encoder for encoder in encoders if encoder.config.method == "diti"), encoders[0])
    rows += _once(out / "rows", (about, _ground(frozen)), partial(_floors, frozen, array, targets, first))
    result = {
        "about": {"train rows": first, "test rows": len(names) - first, "steps": steps, "probe seeds": list(SEEDS)},
        "systems": _grouped(rows),
    }
    write_text(out / "benchmark.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "benchmark.md", f"{_heading(result)}\n{table(result)}\n{attribute_table(result)}")
    plot_benchmark(result, out / "benchmark.png")
    return result


def _identity(encoder: Encoder) -> Any:
    """What decides a run's scores: its configuration and its weights."""
    files = sorted(encoder.folder.rglob("*.safetensors"))
    return asdict(encoder.config), [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def _ground(encoder: Encoder) -> Any:
    """What decides a run's floors: the pictures as it reads them, its encoder's network, its partition and its frozen DM."""
    config = encoder.config
    files = sorted((encoder.folder / "dm").rglob("*.safetensors"))
    known = [asdict(part) for part in (config.image, config.encoder, config.partition, config.codec, config.dm)]
    return config.method, known, [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def _once(folder: Path, key: Any, score: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What `score` returns; remembered, so that one run more does not cost the scores of all."""
    path = folder / f"{hashlib.sha256(json.dumps([SCORING, key]).encode()).hexdigest()[:16]}.json"
    if not path.exists():
        write_text(path, json.dumps(score()) + "\n")
    found: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return found


def table(result: dict[str, Any]) -> str:
    """The Markdown table of `benchmark`'s result."""
    lines = ["| system | runs | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, system in result["systems"].items():
        cells = [_cell(system["mean"].get(key), system["std"].get(key)) for key in COLUMNS]
        lines.append(f"| {name} | {system['runs']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def attribute_table(result: dict[str, Any]) -> str:
    """AP of every attribute under the logistic probe, and its prevalence, which is what chance scores."""
    systems = result["systems"]
    chance = next(iter(systems.values()))["chance"]
    lines = ["| attribute | chance | " + " | ".join(systems) + " |", "|---" * (len(systems) + 2) + "|"]
    for name, share in chance.items():
        cells = " | ".join(f"{system['attributes'][name]:.3f}" for system in systems.values())
        lines.append(f"| {name} | {share:.3f} | {cells} |")
    return "\n".join(lines) + "\n"


def _heading(result: dict[str, Any]) -> str:
    about = result["about"]
    return (
        f"Probes trained on {about['train rows']} pictures, scored on the next {about['test rows']}.\n"
        f"MSE and SSIM: {RECONSTRUCTED} of these, {about['steps']} + {about['steps']} DDIM steps, from the "
        "inferred and from a random x_T.\nLogistic and ridge probes take codes at their own relative sizes, the paper's "
        "standardises each; its AP is the mean of 3 seeds.\nAP, nearest: scored by the share of a picture's "
        f"{NEIGHBOURS} nearest training pictures that have the attribute.\nLost codes: of relative errors. "
        "Images and seconds: the method's own, not those of a frozen DM. ±: standard deviation over runs.\n"
    )


def _cell(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    if abs(mean) >= 10:
        return f"{mean:.0f}"
    text = f"{mean:.4f}" if abs(mean) < 2 else f"{mean:.1f}"
    return f"{text} ± {std:.4f}" if std is not None else text


def load_run(run: str | Path) -> Encoder:
    """The encoder of a run's folder, of a model's, or of a name."""
    folder = Path(run)
    return load_encoder(folder / "model" if (folder / "model" / "config.json").exists() else run)


def read_pictures(data: str | Path, encoders: list[Encoder]) -> tuple[list[str], np.ndarray]:
    """All pictures, uint8 `(n, S, S, 3)`, and their names, as the encoders of one preprocessing want them."""
    if len({encoder.config.image for encoder in encoders}) > 1:
        raise ModelError("the runs read pictures in different ways; benchmark those of one preprocessing together")
    names: list[str] = []
    rows: list[np.ndarray] = []
    for batch_names, batch in batches(data, encoders[0].config.image, 256):
        names += batch_names
        rows.append(batch)
    if not rows:
        raise InputError(f"{data}: holds no pictures")
    return names, np.concatenate(rows)


def _trained(
    encoder: Encoder, array: np.ndarray, targets: dict[str, np.ndarray], first: int, steps: int
) -> list[dict[str, Any]]:
    config = encoder.config
    row = {"system": config.name, **_scored(floors.in_batches(encoder, array), targets, first)}
    stage = {key.rsplit("_", 1)[1]: value for key, value in config.training.items() if key.startswith(config.method)}
    row["values"] |= {key: stage[key] for key in ("images", "seconds") if key in stage}
    networks: list[nn.Module] = [encoder.network]
    if config.method != "contrastive":
        model = encoder.model
        images = to_images(torch.from_numpy(array[first : first + RECONSTRUCTED].copy()))
        found = reconstruction(model, images.to(encoder.device), steps)
        row["values"] |= {key: found[key]["inferred_x_T"] for key in ("mse", "ssim")}
        row["values"]["mse_random"] = found["mse"]["random_x_T"]
        networks += [model.estimator, model.dm] if isinstance(model, DiTi) else [model.unet]
    row["values"]["parameters"] = sum(p.numel() for network in networks for p in network.parameters())
    return [row]


def _scored(codes: np.ndarray, targets: dict[str, np.ndarray], first: int) -> dict[str, Any]:
    """All scores of codes, those per attribute, and the sizes of the probe's weights."""
    binary = np.stack([(y == y.max()) for y in targets.values()], axis=1).astype(np.float64)
    report = probe(codes, targets, train=np.arange(first))
    paper = [probe(codes, targets, train=np.arange(first), seed=s, protocol="paper").mean_ap for s in SEEDS]
    attributes = {name: report[name].scores["ap"] for name in report}
    weights = np.abs(np.stack([report[name].weights for name in report], axis=1))
    measured = tad(codes[first:], binary[first:])
    importance = dci(_importance(codes[:first], binary[:first]))
    values = {
        "ap": report.mean_ap,
        "ridge_ap": ridge_mean_ap(codes, binary, first),
        "paper_ap": float(np.mean(paper)),
        "paper_ap_seed_std": float(np.std(paper)),
        "nearest_ap": nearest_mean_ap(codes, binary, first),
        "auroc": float(np.nanmean([report[name].scores["auroc"] for name in report])),
        "tad": measured.tad,
        "captured": measured.captured,
        **importance._asdict(),
    }
    chance = {name: report[name].scores["prevalence"] for name in report}
    histogram = np.histogram(weights / weights.max(0).clip(1e-12), bins=50, range=(0, 1))[0] / weights.size
    return {"values": values, "attributes": attributes, "chance": chance, "weights": histogram.tolist()}


def nearest_mean_ap(codes: np.ndarray, binary: np.ndarray, first: int) -> float:
    """Mean AP where a row's score is how many of its `NEIGHBOURS` nearest among the first rows have the attribute.

    Args:
        codes: `(n, d)`, compared by Euclidean distance as they are.
        binary: 0 or 1, `(n, attributes)`; those with one value alone among the test rows are left out.
        first: how many rows are looked among.
    """
    from sklearn.metrics import average_precision_score
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=min(NEIGHBOURS, first)).fit(codes[:first])
    scores = binary[:first][neighbours.kneighbors(codes[first:], return_distance=False)].mean(1)
    truth = binary[first:]
    both = truth.min(0) < truth.max(0)
    if not both.any():
        return float("nan")
    return float(average_precision_score(truth[:, both], scores[:, both], average="macro"))


def _importance(codes: np.ndarray, binary: np.ndarray) -> np.ndarray:
    """Absolute weights of a lasso per attribute, `(d, attributes)`, as DCI's authors take them."""
    from sklearn.linear_model import Lasso

    def standard(x: np.ndarray) -> np.ndarray:
        std = x.std(0)
        return (x - x.mean(0)) / np.where(std > 1e-8, std, 1.0)

    fitted = Lasso(LASSO_PENALTY, precompute=True, max_iter=10_000).fit(standard(codes), standard(binary))
    return np.abs(np.atleast_2d(fitted.coef_)).T


def _floors(encoder: Encoder, array: np.ndarray, targets: dict[str, np.ndarray], first: int) -> list[dict[str, Any]]:
    """Floors under a DiTi or PDAE run; under any other, that of the pixels alone."""
    binary = np.stack([(y == y.max()) for y in targets.values()], axis=1).astype(np.float64)
    d = encoder.config.latent_dim
    codes = {"floor: PCA of 32 x 32 pixels": floors.pca(array, first, d)}
    if encoder.config.encoder.mirrored:
        codes["floor: PCA of 32 x 32 pixels, mirrored"] = floors.pca(array, first, d, mirrored=True)
    model = encoder.model if encoder.config.method == "diti" else None
    if isinstance(model, DiTi):
        codes["floor: random encoder"] = floors.untrained(model, array, first, "random")
        codes["floor: random encoder, white codes"] = floors.untrained(model, array, first, "white")
        if model.config.encoder.style == "residual":
            down = "floor: frozen DM's down path"
            codes[f"{down}, white codes"] = floors.untrained(model, array, first, "white", True)
            codes[f"{down}, lost codes"] = floors.untrained(model, array, first, "lost", True, "relative")
        bottleneck, t = floors.dm_bottleneck(model.dm, array, first, binary)
        codes[f"floor: frozen DM's bottleneck, mean over space, t = {t}"] = bottleneck
    return [{"system": name, **_scored(z, targets, first)} for name, z in codes.items()]


def _grouped(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs of one name and as many images together: means, and standard deviations where there are several."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        images = row["values"].get("images")
        groups[f"{row['system']} ({images} images)" if images else row["system"]].append(row)
    systems = {}
    for name, members in groups.items():
        keys = [key for key in members[0]["values"] if all(key in member["values"] for member in members)]
        values = {key: np.array([member["values"][key] for member in members], dtype=float) for key in keys}
        spread = {key: float(v.std(ddof=1)) for key, v in values.items()} if len(members) > 1 else {}
        systems[name] = {
            "runs": len(members),
            "mean": {key: float(v.mean()) for key, v in values.items()},
            "std": spread,
            "each": [member["values"] for member in members],
            "attributes": {a: float(np.mean([m["attributes"][a] for m in members])) for a in members[0]["attributes"]},
            "chance": members[0]["chance"],
            "weights": np.mean([m["weights"] for m in members], axis=0).tolist(),
        }
    return systems
