"""Draw mean AP against images seen, from checkpoints that were copied out of runs as they were written.

    python examples/learning_curve.py images.tar list_attr_celeba.txt --train-size 8000 --run recipe.yaml checkpoints/ --out curve

A run keeps its last two checkpoints; copy `RUN/diti-run/checkpoint-*.safetensors` elsewhere to keep more, or those of `RUN/dm-run`,
for the curve of an encoder that is the DM's down path. The probe is one ridge regression, on the codes as they are and whitened.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ditifeat.benchmark.baselines import down_path
from ditifeat.benchmark.plots import plot_curves
from ditifeat.benchmark.scores import ridge_mean_ap
from ditifeat.benchmark.split import Split, in_batches, read_split
from ditifeat.files import load_strictly, read_tensors, select_prefix
from ditifeat.model.config import DMReference
from ditifeat.model.encoders import build_encoder
from ditifeat.train.recipe import load_recipe
from ditifeat.train.tasks.diti import build_diti
from ditifeat.train.tasks.dm import build_dm


@torch.no_grad()
def codes(recipe, checkpoint: Path, split: Split, flip_average: bool) -> tuple[str, int, np.ndarray]:
    """Read which stage a checkpoint is of and how many images it has seen, and compute the codes that it gives."""
    tensors = read_tensors(checkpoint)[0]
    step = int(checkpoint.stem.split("-")[1])
    unet = select_prefix(tensors, "averaged.unet.")
    if unet:
        dm = build_dm(recipe)
        load_strictly(dm.unet, unet, str(checkpoint))
        z = down_path(build_diti(recipe, dm, DMReference()), split, "whitened", flip_average=flip_average)
        return f"{recipe.name}, DM's down path", step * recipe.dm.optimiser.batch, z
    encoder = build_encoder(recipe.encoder_spec, recipe.image.size, recipe.partition.d)
    load_strictly(encoder, select_prefix(tensors, "averaged.encoder."), str(checkpoint))
    z = in_batches(encoder.eval(), split.images, flip_average=flip_average)
    return recipe.name, step * recipe.section.optimiser.batch, z


def whitened(z: np.ndarray, train: np.ndarray) -> np.ndarray:
    centred = z.astype(np.float64) - z[train].mean(0)
    variances, components = np.linalg.eigh(np.cov(centred[train].T))
    return centred @ (components / np.sqrt(variances + 1e-3 * variances.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="a folder or .tar of images")
    parser.add_argument("labels", help="as ditifeat probe takes them")
    parser.add_argument("--train-size", type=int, required=True, help="train the probe on the first N images")
    parser.add_argument("--run", nargs=2, action="append", required=True, metavar=("RECIPE", "FOLDER"))
    parser.add_argument("--flip-average", action="store_true", help="mean over each image and its horizontal flip")
    parser.add_argument("--out", type=Path, default=Path("curve"), help="without suffix; a .png is written")
    arguments = parser.parse_args()
    recipes = [(load_recipe(recipe), Path(folder)) for recipe, folder in arguments.run]
    split = read_split(arguments.images, arguments.labels, recipes[0][0].image, arguments.train_size)
    print("| run | images seen | AP, ridge | of whitened codes |\n|---|---|---|---|")
    curves: dict[str, list[tuple[int, float]]] = {}
    for recipe, folder in recipes:
        for checkpoint in sorted(folder.glob("checkpoint-*.safetensors")):
            name, seen, z = codes(recipe, checkpoint, split, arguments.flip_average)
            scores = [ridge_mean_ap(rows, split.targets, split.train) for rows in (z, whitened(z, split.train))]
            for title, score in zip((name, f"{name}, whitened"), scores, strict=True):
                curves.setdefault(title, []).append((seen, score))
            print(f"| {name} | {seen} | {scores[0]:.4f} | {scores[1]:.4f} |", flush=True)
    plot_curves(curves, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
