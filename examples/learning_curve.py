"""Mean AP against pictures seen, from checkpoints that were copied out of runs as they came.

    python examples/learning_curve.py images.tar list_attr_celeba.txt --train-first 8000 --run recipe.yaml checkpoints/ --out curve

A run keeps its last two checkpoints; copy `RUN/diti-run/checkpoint-*.safetensors` elsewhere to keep more, or those of
`RUN/dm-run`, for the curve of an encoder that is the DM's down path and learnt nothing else. The probe is one ridge regression, on
the codes as they are and on whitened ones, which lets codes that have narrowed speak.
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
from ditifeat.files import load_strictly, read_tensors, select_prefix, write_text
from ditifeat.model.config import DMReference
from ditifeat.model.encoders import build_encoder
from ditifeat.train.recipe import Recipe, load_recipe
from ditifeat.train.tasks.diti import build_diti
from ditifeat.train.tasks.dm import build_dm


def codes(recipe: Recipe, checkpoint: Path, array: np.ndarray, first: int) -> tuple[str, int, np.ndarray]:
    """The stage that a checkpoint is of, how many pictures it has seen, and the codes that it gives."""
    tensors = read_tensors(checkpoint)[0]
    step = int(checkpoint.stem.split("-")[1])
    unet = select_prefix(tensors, "averaged.unet.")
    if unet:
        dm = build_dm(recipe)
        load_strictly(dm.unet, unet, str(checkpoint))
        z = untrained(build_diti(recipe, dm, DMReference()), array, first, "white", from_dm=True)
        return f"{recipe.name}, DM's down path", step * recipe.dm.optimiser.batch, z
    encoder = build_encoder(recipe.encoder_spec, recipe.image.size, recipe.partition.d)
    load_strictly(encoder, select_prefix(tensors, "averaged.encoder."), str(checkpoint))
    with torch.no_grad():
        z = in_batches(encoder.eval(), array)
    return recipe.name, step * getattr(recipe, recipe.method).optimiser.batch, z


def whitened(z: np.ndarray, first: int) -> np.ndarray:
    centred = z.astype(np.float64) - z[:first].mean(0)
    variances, components = np.linalg.eigh(np.cov(centred[:first].T))
    return centred @ (components / np.sqrt(variances + 1e-3 * variances.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures")
    parser.add_argument("labels")
    parser.add_argument("--train-first", type=int, required=True)
    parser.add_argument(
        "--run", nargs=2, action="append", required=True, metavar=("RECIPE", "FOLDER"), help="once for each curve"
    )
    parser.add_argument("--out", type=Path, default=Path("curve"), help="without suffix; .md and .png are written")
    arguments = parser.parse_args()
    loaded = [
        (load_recipe(recipe), sorted(Path(folder).glob("checkpoint-*.safetensors"))) for recipe, folder in arguments.run
    ]
    names: list[str] = []
    rows = []
    for batch_names, batch in batches(arguments.pictures, loaded[0][0].image, 256):
        names += batch_names
        rows.append(batch)
    array = np.concatenate(rows)
    targets = np.stack([(y == y.max()).astype(float) for y in read_labels(arguments.labels, names).values()], axis=1)
    lines = ["| run | pictures seen | AP, ridge | of whitened codes |", "|---|---|---|---|"]
    curves: dict[str, list[tuple[int, float]]] = {}
    for recipe, checkpoints in loaded:
        for checkpoint in checkpoints:
            name, seen, z = codes(recipe, checkpoint, array, arguments.train_first)
            plain, white = (
                ridge_mean_ap(x, targets, arguments.train_first) for x in (z, whitened(z, arguments.train_first))
            )
            curves.setdefault(name, []).append((seen, plain))
            curves.setdefault(f"{name}, whitened", []).append((seen, white))
            lines.append(f"| {name} | {seen} | {plain:.4f} | {white:.4f} |")
            print(lines[-1], flush=True)
    write_text(arguments.out.with_suffix(".md"), "\n".join(lines) + "\n")
    plot_curves(curves, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
