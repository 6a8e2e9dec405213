"""Train the bundled model further on a folder of your own: python examples/retrain.py photos/ --out run --images 20000

Images must be cropped already: their central square is used. The frozen DM stays; encoder and estimator learn your images. Before and
after, on a tenth of the images that is held out, prints the share of the DM's error that the code leaves (1: the code is of no use).
From nothing, for images that are no faces: `ditifeat train images64 --data photos/ --out run`.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import ditifeat
from ditifeat.benchmark.specialisation import ERROR_RANGES, error_left, scaled
from ditifeat.data.batches import batches, load_images
from ditifeat.data.folders import list_folder
from ditifeat.train import train
from ditifeat.train.recipe import load_recipe


def errors(name: str | Path, paths: list[Path]) -> dict[str, float]:
    """Share of the DM's error that is left under the whole code, per range of time-steps."""
    encoder = ditifeat.load_encoder(name)
    model, image = encoder.model, encoder.config.image
    pixels = np.concatenate([rows for _, rows in batches(paths, image, 64, "center")])
    ranges = scaled(ERROR_RANGES, model.partition)
    left = error_left(model, load_images(pixels, encoder.device), ranges)
    return {f"{lo}-{hi}": float(row[-1]) for (lo, hi), row in zip(ranges, left, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("run"))
    parser.add_argument("--images", type=int, default=20000, help="how many images training sees")
    parser.add_argument("--model", default="celeba64-mini", help="the model to begin from")
    parser.add_argument("--recipe", default="celeba64-mini", help="the recipe of that model")
    arguments = parser.parse_args()
    paths = list_folder(arguments.folder)
    held_out = max(1, len(paths) // 10)  # the last ones by name, as training holds them out
    recipe = replace(load_recipe(arguments.recipe), holdout=held_out)
    before = errors(arguments.model, paths[-held_out:])
    model = train(
        recipe, arguments.folder, arguments.out, initial=arguments.model, images=arguments.images, crop="center"
    )
    after = errors(model, paths[-held_out:])
    print(f"{model}: learnt from {len(paths) - held_out} images; error left of {held_out} others, before and after")
    for name, value in before.items():
        print(f"  t {name}: {value:.3f} {after[name]:.3f}")


if __name__ == "__main__":
    main()
