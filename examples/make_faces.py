"""Generate images by a model's frozen DM, one per seed: python examples/make_faces.py OUT --seeds 0 1 2 3"""

import argparse
from pathlib import Path

import torch
from PIL import Image

import ditifeat
from ditifeat.data.drawing import save_image, to_pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(8))
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    model = ditifeat.load_encoder(arguments.model).model
    # One generator per image, on the CPU: what a seed generates depends on nothing else.
    noises = [torch.randn(model.noise_shape, generator=torch.Generator().manual_seed(seed)) for seed in arguments.seeds]
    generated = to_pixels(model.sample(torch.stack(noises), None, arguments.steps))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed, pixels in zip(arguments.seeds, generated, strict=True):
        save_image(Image.fromarray(pixels), arguments.out / f"face{seed:03d}.png")
    print(f"{arguments.out}: {len(generated)} images")


if __name__ == "__main__":
    main()
