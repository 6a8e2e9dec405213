"""Edits by attribute of the bundled faces: python examples/gallery.py PICTURES LABELS --train-first 8000 --out gallery.png

Probes the labelled pictures, then moves faces that the frozen DM made against and along each attribute's direction. Rows:
the faces, their reconstructions, and for each attribute the faces with less and with more of it.
"""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
import torch

import ditifeat
from ditifeat.editing import attribute_edit
from ditifeat.encoders import to_images
from ditifeat.images import batches, save_picture, to_pixels
from ditifeat.quickstart import sheet

ATTRIBUTES = [
    "Smiling",
    "Male",
    "Young",
    "Eyeglasses",
    "Blond_Hair",
    "Black_Hair",
    "Bangs",
    "Pale_Skin",
    "Heavy_Makeup",
    "No_Beard",
    "Mouth_Slightly_Open",
    "Bald",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", help="a folder or tar of pictures")
    parser.add_argument("labels", help="of the pictures, as ditifeat.probe takes them")
    parser.add_argument("--train-first", type=int, required=True, help="train the probe on the first so many")
    parser.add_argument("--attributes", nargs="+", default=ATTRIBUTES)
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--scale", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("gallery.png"))
    arguments = parser.parse_args()

    encoder = ditifeat.load_encoder(arguments.model)
    features = ditifeat.encode(encoder, arguments.pictures)
    report = ditifeat.probe(features, arguments.labels, train=range(arguments.train_first))
    folder = Path(str(resources.files("ditifeat") / "weights" / "faces"))
    faces = next(batches(folder, encoder.config.image, 4, "center"))[1]
    model, x_0 = encoder.model, to_images(torch.from_numpy(faces))
    z = encoder(x_0)
    x_T = model.invert(x_0, z, arguments.steps)
    rows = {"faces that the DM made": faces, "their reconstructions": to_pixels(model.sample(x_T, z, arguments.steps))}
    for name in arguments.attributes:
        probe = report[name]
        weights, std = torch.from_numpy(probe.weights), torch.from_numpy(probe.std)
        made = [
            to_pixels(model.sample(x_T, attribute_edit(z, weights, std, sign * arguments.scale), arguments.steps))
            for sign in (-1, 1)
        ]
        rows[f"less (left) and more (right): {name}"] = np.concatenate(made)
    save_picture(sheet(rows), arguments.out)
    print(f"{arguments.out}: {', '.join(arguments.attributes)}, scale {arguments.scale}")


if __name__ == "__main__":
    main()
