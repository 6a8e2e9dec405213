"""Reconstruction error of a model on pictures: python examples/reconstruction.py PICTURES --skip 8000 --count 32

MSE and SSIM on the scale 0..1, with as many DDIM steps of inversion as of sampling: select_prefix the picture's own code from the
inferred x_T and from a random one, and by the frozen DM without any code.
"""

import argparse
from itertools import chain, islice

import numpy as np

import ditifeat
from ditifeat.data.batches import batches, load_images
from ditifeat.train.card import START
from ditifeat.train.evaluate import reconstruction


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", help="a folder or tar of pictures")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many pictures")
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()

    encoder = ditifeat.load_encoder(arguments.model)
    every = chain.from_iterable(rows for _, rows in batches(arguments.pictures, encoder.config.image, 256))
    rows = np.stack(list(islice(every, arguments.skip, arguments.skip + arguments.count)))
    found = reconstruction(encoder.model, load_images(rows), arguments.steps)
    print(f"{len(rows)} pictures, {arguments.steps} + {arguments.steps} steps, on the scale 0..1")
    for name, error in found["mse"].items():
        print(f"  {START[name]}: MSE {error:.5f}, SSIM {found['ssim'][name]:.3f}")


if __name__ == "__main__":
    main()
