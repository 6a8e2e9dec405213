"""All systems beside their floors, on one split: `ditifeat benchmark RUN... --data PICTURES --labels LABELS --out FOLDER`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ditifeat.benchmark import baselines
from ditifeat.benchmark.cache import baseline_key, cached, run_key
from ditifeat.benchmark.plots import plot_benchmark
from ditifeat.benchmark.scores import SEEDS, score
from ditifeat.benchmark.tables import RECONSTRUCTED, _heading, attribute_table, table
from ditifeat.data.batches import batches, load_images
from ditifeat.data.labels import read_labels
from ditifeat.encoding.encoder import Encoder, load_encoder
from ditifeat.errors import InputError, ModelError
from ditifeat.files import write_text
from ditifeat.model.diti import DiTi
from ditifeat.train.evaluate import reconstruction


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
        rows += cached(
            out / "rows", (about, steps, run_key(encoder)), partial(_trained, encoder, array, targets, first, steps)
        )
    frozen = next((encoder for encoder in encoders if encoder.config.method == "diti"), encoders[0])
    rows += cached(out / "rows", (about, baseline_key(frozen)), partial(_baselines, frozen, array, targets, first))
    result = {
        "about": {"train rows": first, "test rows": len(names) - first, "steps": steps, "probe seeds": list(SEEDS)},
        "systems": _grouped(rows),
    }
    write_text(out / "benchmark.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "benchmark.md", f"{_heading(result)}\n{table(result)}\n{attribute_table(result)}")
    plot_benchmark(result, out / "benchmark.png")
    return result


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
    row = {"system": config.name, **score(baselines.in_batches(encoder, array), targets, first)}
    stage = {key.rsplit("_", 1)[1]: value for key, value in config.training.items() if key.startswith(config.method)}
    row["values"] |= {key: stage[key] for key in ("images", "seconds") if key in stage}
    networks: list[nn.Module] = [encoder.network]
    if config.method != "contrastive":
        model = encoder.model
        images = load_images(array[first : first + RECONSTRUCTED])
        found = reconstruction(model, images.to(encoder.device), steps)
        row["values"] |= {key: found[key]["inferred_x_T"] for key in ("mse", "ssim")}
        row["values"]["mse_random"] = found["mse"]["random_x_T"]
        networks += [model.estimator, model.dm] if isinstance(model, DiTi) else [model.unet]
    row["values"]["parameters"] = sum(p.numel() for network in networks for p in network.parameters())
    return [row]


def _baselines(encoder: Encoder, array: np.ndarray, targets: dict[str, np.ndarray], first: int) -> list[dict[str, Any]]:
    """Floors select_prefix a DiTi or PDAE run; select_prefix any other, that of the pixels alone."""
    binary = np.stack([(y == y.max()) for y in targets.values()], axis=1).astype(np.float64)
    d = encoder.config.latent_dim
    codes = {"floor: PCA of 32 x 32 pixels": baselines.pca(array, first, d)}
    if encoder.config.encoder.flip_average:
        codes["floor: PCA of 32 x 32 pixels, mirrored"] = baselines.pca(array, first, d, mirrored=True)
    model = encoder.model if encoder.config.method == "diti" else None
    if isinstance(model, DiTi):
        codes["floor: random encoder"] = baselines.untrained(model, array, first, "random")
        codes["floor: random encoder, white codes"] = baselines.untrained(model, array, first, "white")
        if model.config.encoder.style == "residual":
            down = "floor: frozen DM's down path"
            codes[f"{down}, white codes"] = baselines.untrained(model, array, first, "white", True)
            codes[f"{down}, lost codes"] = baselines.untrained(model, array, first, "lost", True, "relative")
        bottleneck, t = baselines.dm_bottleneck(model.dm, array, first, binary)
        codes[f"floor: frozen DM's bottleneck, mean over space, t = {t}"] = bottleneck
    return [{"system": name, **score(z, targets, first)} for name, z in codes.items()]


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
