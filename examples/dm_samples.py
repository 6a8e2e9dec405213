"""Measure how like real images a frozen DM's samples are: python examples/dm_samples.py images.tar --skip 8000

Kernel distance (KID's kernel, on the 64 leading principal components of 32 x 32 pixels, scaled to variance 1) of samples to
held-out images; beside it that of training images, the best one can expect, and of their pixel-wise shuffles. Writes some samples.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.decomposition import PCA

import ditifeat
from ditifeat.analysis.metrics import kernel_distance
from ditifeat.data.batches import batches
from ditifeat.data.drawing import grid, save_image, to_pixels


def small(pixels):
    """Convert uint8 `(n, S, S, 3)` to floats `(n, 3072)`."""
    resized = [Image.fromarray(row).resize((32, 32), Image.Resampling.BOX) for row in pixels]
    return np.stack([np.asarray(image, dtype=np.float64).ravel() / 255 for image in resized])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", help="a folder or .tar of images")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--skip", type=int, default=8000, help="the first N images, which were trained on")
    parser.add_argument("--count", type=int, default=256, help="samples")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("samples.png"))
    arguments = parser.parse_args()

    model = ditifeat.load_encoder(arguments.model).model
    pixels = np.concatenate([rows for _, rows in batches(arguments.images, model.config.image, 256)])
    trained, held_out = pixels[: arguments.skip], pixels[arguments.skip :]
    x_T = torch.randn(arguments.count, *model.noise_shape, generator=torch.Generator().manual_seed(0))
    samples = np.concatenate([to_pixels(model.dm.sample(part, arguments.steps)) for part in x_T.split(64)])
    save_image(grid(samples[:32], columns=8), arguments.out)

    pca = PCA(min(64, len(trained)), whiten=True, random_state=0).fit(small(trained))
    rng = np.random.default_rng(0)
    some = small(trained[rng.permutation(len(trained))[: arguments.count]])
    rows = {
        f"{arguments.count} samples, {arguments.steps} steps": small(samples),
        "as many training images": some,
        "those with each pixel from another image": rng.permuted(some, axis=0),
    }
    print(f"kernel distance to {len(held_out)} held-out images")
    for name, row in rows.items():
        print(f"  {name}: {kernel_distance(pca.transform(row), pca.transform(small(held_out))):.4f}")


if __name__ == "__main__":
    main()
