"""Compared methods beside their baselines on one split: `ditifeat benchmark RUN... --data IMAGES --labels LABELS --out FOLDER`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.classifier import AttributeClassifier, load_classifier
from ditifeat.benchmark.plots import plot_benchmark, plot_specialisation
from ditifeat.benchmark.scores import SEEDS, score
from ditifeat.benchmark.specialisation import ERROR_IMAGES, SAMPLED, STEPS, specialisation
from ditifeat.benchmark.split import Split, in_batches, read_split
from ditifeat.benchmark.tables import grouped, page, specialised
from ditifeat.data.batches import load_images
from ditifeat.data.preprocessing import Crop
from ditifeat.encoding.encoder import Encoder, load_encoder
from ditifeat.errors import InputError, ModelError, require
from ditifeat.files import check_writable, write_text
from ditifeat.model.diti import DiTi
from ditifeat.model.sampling import ddim_grid
from ditifeat.schema import boolean
from ditifeat.train.evaluate import RECONSTRUCTED, reconstruction

Row = dict[
    str, Any
]  # method, kind ("trained" or "baseline"), what `score` returns, and "specialisation" of DiTi and PDAE


def benchmark(
    runs: str | Path | Sequence[str | Path],
    data: Any,
    labels: Any,
    out: str | Path,
    *,
    train_size: int,
    steps: int = 100,
    crop: Crop = "model",
    flip_average: bool = False,
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score trained encoders and baselines on one split; write `benchmark.json`, `benchmark.md` and `benchmark.png`.

    Of DiTi and PDAE runs it also says what each range of time-steps holds, and draws that in `specialisation.png`.

    Scores are kept in `out/cache` by the content that decides them, so one more run costs its own scores alone.

    Args:
        runs: run folders, model folders or names, of one preprocessing. Those of one recipe and as many images share a
            row: mean and standard deviation over them.
        data: images as `ditifeat.encode` takes them: a folder, a `.tar`, or a list of these.
        labels: as `ditifeat.probe` takes them, of two values each.
        out: the folder to write.
        train_size: the first N images train the probes, the others test them.
        steps: evaluations of the networks in each inversion, and again in each sampling.
        crop: "model", or "center" for images that are cropped already, as `ditifeat.encode` takes it.
        flip_average: score codes, those of baselines too, that are the mean over each image and its horizontal flip.
            Reconstructions are of the plain codes.
        device: a torch device; as `load_encoder` chooses by default.
        progress: show a progress bar.

    Returns:
        What `benchmark.json` holds.

    Raises:
        MissingDependencyError: without the extra `[benchmark]`.
        ImageDecodeError, InputError, ModelError: for runs, images or labels that do not fit.

    >>> from ditifeat.benchmark.benchmark import benchmark
    >>> result = benchmark(["run", "run-pdae"], "photos/", "labels.csv", "table", train_size=8000)  # doctest: +SKIP
    """
    for package in ("pandas", "tabulate", "matplotlib", "accelerate"):
        require(package, "benchmark")
    flip_average = boolean("flip_average", flip_average)
    check_writable(Path(out) / "benchmark.md")
    encoders = load_runs(runs, device)
    _check_partitions(encoders)
    ddim_grid(encoders[0].partition.num_time_steps, steps)  # refuses steps before the work
    split = read_split(data, labels, encoders[0].config.image, train_size, crop)
    rows = _rows(encoders, split, steps, flip_average, Cache(Path(out) / "cache"), progress)
    about = {
        "train rows": int(split.train.sum()),
        "test rows": int(split.test.sum()),
        "reconstructed": min(RECONSTRUCTED, int(split.test.sum())),
        "error images": min(ERROR_IMAGES, int(split.test.sum())),
        "sampled": min(SAMPLED, int(split.test.sum())),
        "sampling steps": STEPS,
        "steps": steps,
        "flip_average": flip_average,
        "probe seeds": list(SEEDS),
    }
    result = {"about": about, "methods": grouped(rows)}
    write_text(Path(out) / "benchmark.json", json.dumps(result, indent=1) + "\n")
    write_text(Path(out) / "benchmark.md", page(result))
    plot_benchmark(result, Path(out) / "benchmark.png")
    if specialised(result):
        plot_specialisation(specialised(result), Path(out) / "specialisation.png")
    return result


def load_runs(runs: str | Path | Sequence[str | Path], device: str | None = None) -> list[Encoder]:
    """Load the encoders of run folders (their `model`), model folders or names, which must read images in one way.

    Raises:
        InputError: if there is none, or one is given twice.
        ModelError: for one that does not load, or preprocessings that differ.

    >>> from ditifeat.benchmark.benchmark import load_runs
    >>> [encoder.config.name for encoder in load_runs("celeba64-mini")]
    ['celeba64-mini']
    """
    encoders = []
    for run in [runs] if isinstance(runs, str | Path) else runs:
        folder = Path(run) / "model"
        encoders.append(load_encoder(folder if (folder / "config.json").exists() else run, device=device))
    if not encoders:
        raise InputError("there is no run to score; give at least one")
    if len({encoder.folder.resolve() for encoder in encoders}) < len(encoders):
        raise InputError("a run is given twice; its scores would count as those of two seeds")
    if len({encoder.config.image.fingerprint() for encoder in encoders}) > 1:
        raise ModelError("the runs read images in different ways; compare those of one preprocessing")
    return encoders


def _check_partitions(encoders: list[Encoder]) -> None:
    """Refuse runs that would share a row, but whose ranges of time-steps cannot be averaged."""
    rows = {(method_name(encoder), encoder.partition) for encoder in encoders}
    if len({name for name, _ in rows}) < len(rows):
        raise ModelError("runs of one recipe and as many images differ in their partitions; name their recipes apart")


def method_name(encoder: Encoder) -> str:
    """Name a run in tables by its recipe, and how many images its method saw.

    >>> from ditifeat.benchmark.benchmark import method_name
    >>> method_name(encoder)
    'celeba64-mini (105024 images)'
    """
    images = _cost(encoder).get("images")
    return f"{encoder.config.name} ({images} images)" if images else encoder.config.name


def _cost(encoder: Encoder) -> dict[str, Any]:
    """Images seen and seconds spent by the method's own training, not its frozen DM's."""
    training, method = encoder.config.training, encoder.config.method
    return {key: training[f"{method}_{key}"] for key in ("images", "seconds") if f"{method}_{key}" in training}


def _rows(
    encoders: list[Encoder], split: Split, steps: int, flip_average: bool, cache: Cache, progress: bool
) -> list[Row]:
    from tqdm.auto import tqdm

    rows: list[Row] = []
    classifier = functools.cache(partial(load_classifier, split, cache, encoders[0].device))
    with tqdm(total=len(encoders) + 1, unit="method", disable=not progress) as bar:
        for encoder in encoders:
            bar.set_description(encoder.config.name)
            codes = functools.cache(partial(_codes, encoder, split, flip_average))
            known = (flip_average, asdict(encoder.config), _weights(encoder))
            make = partial(_trained, encoder, codes, split, steps)
            row = cache.json("method", split.key, steps, *known, make=make)
            model = _diti(encoder)
            if model is not None:
                measure = partial(_specialisation, model, codes, split, classifier)
                row["specialisation"] = cache.json("specialisation", split.key, *known, make=measure)
            rows.append(row)
            bar.update()
        frozen = next((encoder for encoder in encoders if encoder.config.method == "diti"), encoders[0])
        bar.set_description("baselines")
        rows += cache.json(
            "baselines",
            split.key,
            flip_average,
            *_baseline_key(frozen),
            make=partial(_baselines, frozen, split, flip_average),
        )
        bar.update()
    return rows


def _weights(encoder: Encoder) -> dict[str, Any]:
    """All weights that decide a run's scores, wherever they lie."""
    if encoder.config.method == "contrastive":
        return dict(encoder.network.state_dict())
    return dict(encoder.model.state_dict())


def _baseline_key(encoder: Encoder) -> list[Any]:
    config = encoder.config
    known = [asdict(part) for part in (config.image, config.encoder, config.partition, config.codec, config.dm)]
    model = _diti(encoder)
    return [config.method, known, {} if model is None else dict(model.dm.state_dict())]


def _diti(encoder: Encoder) -> DiTi | None:
    """The model, where there is a frozen DM whose features can be a baseline."""
    model = encoder.model if encoder.config.method == "diti" else None
    return model if isinstance(model, DiTi) else None


def _codes(encoder: Encoder, split: Split, flip_average: bool) -> np.ndarray:
    return in_batches(encoder, split.images, encoder.device, flip_average=flip_average)


def _specialisation(
    model: DiTi, codes: Callable[[], np.ndarray], split: Split, classifier: Callable[[], AttributeClassifier]
) -> dict[str, Any]:
    return specialisation(model, codes(), split, classifier)


def _trained(encoder: Encoder, codes: Callable[[], np.ndarray], split: Split, steps: int) -> Row:
    found = score(codes(), split)
    values: dict[str, Any] = found["values"] | _cost(encoder)
    networks: list[nn.Module] = [encoder.network]
    if encoder.config.method != "contrastive":
        model = encoder.model
        images = load_images(split.images[np.flatnonzero(split.test)[:RECONSTRUCTED]], encoder.device)
        errors = reconstruction(model, images, steps)
        values |= {key: errors[key]["inferred_x_T"] for key in ("mse", "ssim")}
        values["mse_random"] = errors["mse"]["random_x_T"]
        networks += [model.estimator, model.dm] if isinstance(model, DiTi) else [model.unet]
    values["parameters"] = sum(p.numel() for network in networks for p in network.parameters())
    return found | {"method": method_name(encoder), "kind": "trained", "values": values}


def _baselines(encoder: Encoder, split: Split, flip_average: bool) -> list[Row]:
    """Of pixels; and, of a DiTi or PDAE run, of its architecture untrained and of its frozen DM."""
    from ditifeat.benchmark import baselines  # it needs accelerate

    model = _diti(encoder)
    average: dict[str, Any] = {"flip_average": flip_average}
    codes: dict[str, Callable[[], np.ndarray]] = {
        "PCA of 32 x 32 pixels": lambda: baselines.pca(split, encoder.config.latent_dim, **average)
    }
    if model is not None:
        codes["random encoder"] = lambda: baselines.random_encoder(model, split, **average)
        codes["random encoder, PCA-whitened"] = lambda: baselines.random_encoder(model, split, "whitened", **average)
        if encoder.config.encoder.style == "residual":
            down = "frozen DM's down path"
            codes[f"{down}, PCA-whitened"] = lambda: baselines.down_path(model, split, "whitened", **average)
            codes[f"{down}, error-predictive"] = lambda: baselines.down_path(
                model, split, "error_predictive", "relative", **average
            )
    rows = [_baseline_row(name, make(), split) for name, make in codes.items()]
    if model is not None:
        bottleneck, t = baselines.dm_bottleneck(model.dm, split, encoder.device, **average)
        rows.append(_baseline_row(f"frozen DM's bottleneck, mean over space, t = {t}", bottleneck, split))
    return rows


def _baseline_row(name: str, codes: np.ndarray, split: Split) -> Row:
    return score(codes, split) | {"method": f"baseline: {name}", "kind": "baseline"}
