"""Print what each range of time-steps holds: python examples/specialisation.py IMAGES... --model celeba64-mini --count 256

Error left: the share of the frozen DM's error that remains under the code of the first ranges. Swaps: another image's subsets of one
range put in, the same random x_T, 20 steps; each range's share of the summed squared change, of 8 x 8 means (low) and of the rest
(high). `ditifeat benchmark` prints the same beside other methods, and by attribute.
"""

import argparse

import numpy as np
import torch

import ditifeat
from ditifeat.analysis.metrics import mse
from ditifeat.benchmark.specialisation import (
    ERROR_RANGES,
    SAMPLED,
    SWAP_RANGES,
    error_left,
    frequency_shares,
    sample_swapped,
    scaled,
)
from ditifeat.data.batches import batches, load_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", help="images that are cropped already, folders of them, or tars")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--count", type=int, default=256, help="images, evenly spaced among all")
    arguments = parser.parse_args()
    encoder = ditifeat.load_encoder(arguments.model)
    model, image = encoder.model, encoder.config.image
    pixels = np.concatenate([rows for _, rows in batches(arguments.images, image, 256, "center")])
    chosen = np.linspace(0, len(pixels) - 1, min(arguments.count, len(pixels))).round().astype(int)
    images = load_images(pixels[chosen], encoder.device)

    ranges, swaps = scaled(ERROR_RANGES, model.partition), scaled(SWAP_RANGES, model.partition)
    print(f"error left of {len(images)} images; columns: the code of ranges up to it")
    for (lo, hi), row in zip(ranges, error_left(model, images, ranges), strict=True):
        print(f"  t {lo}-{hi}: " + " ".join(f"{value:.3f}" for value in row))
    few = images[:: max(1, len(images) // SAMPLED)][:SAMPLED]
    changed = sample_swapped(model, few, swaps)
    sampled = next(changed)
    shares = frequency_shares([swapped - sampled for swapped in changed])
    print(f"swaps of {len(few)} images: " + ", ".join(f"{lo}-{hi}" for lo, hi in swaps))
    for band, values in shares.items():
        print(f"  {band}: " + " ".join(f"{value:.3f}" for value in values))
    with torch.no_grad():
        print(f"MSE from a random x_T, 20 steps: {float(mse(sampled, few).mean()):.4f}")


if __name__ == "__main__":
    main()
