"""How like faces the frozen DM's samples are: python examples/dm_samples.py PICTURES --skip 8000 --out samples.png

Kernel distance (KID's kernel, on the 64 leading principal components of 32 x 32 pixels, scaled to unit variance) of samples
to pictures; beside it, as a floor, that of other pictures to the same ones, and, as a ceiling, that of their pixel-wise
shuffles. Writes a grid of samples.
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


def small(pictures):
    """uint8 `(n, S, S, 3)` to float `(n, 3072)`."""
    resized = [Image.fromarray(picture).resize((32, 32), Image.Resampling.BOX) for picture in pictures]
    return np.stack([np.asarray(picture, dtype=np.float64).ravel() / 255 for picture in resized])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", help="a folder or tar of pictures")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--skip", type=int, default=0, help="these pictures, the first so many, were trained on")
    parser.add_argument("--count", type=int, default=256, help="samples")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("samples.png"))
    arguments = parser.parse_args()

    model = ditifeat.load_encoder(arguments.model).model
    every = np.concatenate([rows for _, rows in batches(arguments.pictures, model.config.image, 256)])
    trained, held_out = every[: arguments.skip], every[arguments.skip :]
    generator = torch.Generator().manual_seed(0)
    samples = []
    for start in range(0, arguments.count, 64):
        count = min(64, arguments.count - start)
        samples.append(model.dm.sample(torch.randn(count, *model.noise_shape, generator=generator), arguments.steps))
    save_image(grid(to_pixels(samples[0][:32]), columns=8), arguments.out)

    pca = PCA(min(64, len(trained)), whiten=True, random_state=0).fit(small(trained))
    reference = pca.transform(small(held_out))
    rng = np.random.default_rng(0)
    some = trained[rng.permutation(len(trained))[: arguments.count]]
    shuffled = rng.permuted(small(some), axis=0)
    rows = {
        f"{arguments.count} samples, {arguments.steps} steps": pca.transform(small(to_pixels(torch.cat(samples)))),
        "as many training pictures": pca.transform(small(some)),
        "those with each pixel from another picture": pca.transform(shuffled),
    }
    print(f"kernel distance to {len(held_out)} held-out pictures")
    for name, codes in rows.items():
        print(f"  {name}: {kernel_distance(codes, reference):.4f}")


if __name__ == "__main__":
    main()
