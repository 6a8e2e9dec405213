"""Draw mean AP against images seen, from checkpoints that were copied out of runs as they were written.

    python examples/learning_curve.py images.tar list_attr_celeba.txt --train-first 8000 --run recipe.yaml checkpoints/ --out curve

A run keeps its last two checkpoints; copy `RUN/diti-run/checkpoint-*.safetensors` elsewhere to keep more, or those of `RUN/dm-run`,
for the curve of an encoder that is the DM's down path. The probe is one ridge regression, on the codes as they are and whitened.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ditifeat.benchmark.baselines import in_batches, untrained
from ditifeat.benchmark.plots import plot_curves
from ditifeat.benchmark.scores import ridge_mean_ap
from ditifeat.data.batches import batches
from ditifeat.data.labels import read_labels
from ditifeat.files import load_strictly, read_tensors, select_prefix
from ditifeat.model.config import DMReference
from ditifeat.model.encoders import build_encoder
from ditifeat.train.recipe import load_recipe
from ditifeat.train.tasks.diti import build_diti
from ditifeat.train.tasks.dm import build_dm


@torch.no_grad()
def codes(recipe, checkpoint: Path, pixels: np.ndarray, first: int) -> tuple[str, int, np.ndarray]:
    """Read which stage a checkpoint is of and how many images it has seen, and compute the codes that it gives."""
    tensors = read_tensors(checkpoint)[0]
    step = int(checkpoint.stem.split("-")[1])
    unet = select_prefix(tensors, "averaged.unet.")
    if unet:
        dm = build_dm(recipe)
        load_strictly(dm.unet, unet, str(checkpoint))
        z = untrained(build_diti(recipe, dm, DMReference()), pixels, first, "white", from_dm=True)
        return f"{recipe.name}, DM's down path", step * recipe.dm.optimiser.batch, z
    encoder = build_encoder(recipe.encoder_spec, recipe.image.size, recipe.partition.d)
    load_strictly(encoder, select_prefix(tensors, "averaged.encoder."), str(checkpoint))
    return recipe.name, step * recipe.section.optimiser.batch, in_batches(encoder.eval(), pixels)


def whitened(z: np.ndarray, first: int) -> np.ndarray:
    centred = z.astype(np.float64) - z[:first].mean(0)
    variances, components = np.linalg.eigh(np.cov(centred[:first].T))
    return centred @ (components / np.sqrt(variances + 1e-3 * variances.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="a folder or .tar of images")
    parser.add_argument("labels", help="as ditifeat probe takes them")
    parser.add_argument("--train-first", type=int, required=True, help="train the probe on the first N images")
    parser.add_argument("--run", nargs=2, action="append", required=True, metavar=("RECIPE", "FOLDER"))
    parser.add_argument("--out", type=Path, default=Path("curve"), help="without suffix; a .png is written")
    arguments = parser.parse_args()
    first = arguments.train_first
    recipes = [(load_recipe(recipe), Path(folder)) for recipe, folder in arguments.run]
    found = list(batches(arguments.images, recipes[0][0].image, 256))
    pixels = np.concatenate([rows for _, rows in found])
    labels = read_labels(arguments.labels, [name for names, _ in found for name in names])
    targets = np.stack([(y == y.max()).astype(float) for y in labels.values()], axis=1)
    print("| run | images seen | AP, ridge | of whitened codes |\n|---|---|---|---|")
    curves: dict[str, list[tuple[int, float]]] = {}
    for recipe, folder in recipes:
        for checkpoint in sorted(folder.glob("checkpoint-*.safetensors")):
            name, seen, z = codes(recipe, checkpoint, pixels, first)
            scores = [ridge_mean_ap(rows, targets, first) for rows in (z, whitened(z, first))]
            for title, score in zip((name, f"{name}, whitened"), scores, strict=True):
                curves.setdefault(title, []).append((seen, score))
            print(f"| {name} | {seen} | {scores[0]:.4f} | {scores[1]:.4f} |", flush=True)
    plot_curves(curves, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
