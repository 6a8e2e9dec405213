"""From nothing to a model and a sheet to look at, in minutes on two CPU cores: python examples/first_model.py first

Draws images of known factors, trains a DM, an encoder and an estimator on them, and writes what came of it: images that training has
not seen; what the DM makes of the same noise without a code; what it makes of that noise and an image's code; and that with the
late subsets of the image to the right. The model is in first/run/model, for all that ditifeat does.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

import ditifeat
from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import save_image, sheet, to_pixels
from ditifeat.data.factors import write
from ditifeat.editing.edit import subset_edit
from ditifeat.train import train

COLUMNS = 10


@torch.no_grad()
def rows(encoder: ditifeat.Encoder, x_0: torch.Tensor, late: int, steps: int) -> dict[str, np.ndarray]:
    """Rows of uint8 images by their titles."""
    model, z = encoder.model, encoder(x_0)
    noise = torch.randn((len(x_0), *model.noise_shape), generator=torch.Generator().manual_seed(0))
    subsets = encoder.partition.subsets_of_time_steps(late, encoder.partition.num_time_steps)
    swapped = subset_edit(encoder.partition, z, z.roll(-1, 0), subsets)
    return {
        "images that training has not seen": to_pixels(x_0),
        "noise, by the DM alone": to_pixels(model.sample(noise, None, steps)),
        "the same noise, with each image's code": to_pixels(model.sample(noise, z, steps)),
        f"with the next image's subsets from t = {late}": to_pixels(model.sample(noise, swapped, steps)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--recipe", default="factors32", help="of ditifeat train")
    parser.add_argument("--count", type=int, default=20992, help="images to draw")
    parser.add_argument("--late", type=int, default=500, help="time-step from which subsets are swapped")
    parser.add_argument("--steps", type=int, default=50, help="of sampling")
    arguments = parser.parse_args()
    started, out = time.monotonic(), arguments.out
    write(out / "images.tar", arguments.count)
    folder = train(arguments.recipe, out / "images.tar", out / "run", progress=True)
    minutes = (time.monotonic() - started) / 60
    write(out / "others.tar", COLUMNS, seed=1)
    encoder = ditifeat.load_encoder(folder)
    pixels = np.concatenate([part for _, part in batches(out / "others.tar", encoder.config.image, COLUMNS)])
    made = rows(encoder, load_images(pixels, encoder.device), arguments.late, arguments.steps)
    save_image(sheet(made), out / "first.png")
    before, after = (np.square((pixels - made[title].astype(float)) / 255).mean() for title in list(made)[1:3])
    print(f"{folder}: trained in {minutes:.1f} minutes; {out / 'first.png'}: look at it")
    print(f"mean squared error of the {COLUMNS} images (0..1): {after:.4f} with the code, {before:.4f} without")


if __name__ == "__main__":
    main()
