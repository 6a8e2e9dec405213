"""Edits by attribute of faces that the bundled DM made: python examples/gallery.py --out gallery.png

Moves the faces against and along each attribute's direction, and shows them beside their reconstructions. The directions are
those that came with the model, or a report of `ditifeat probe`.
"""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
import torch

import ditifeat
from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import save_image, sheet, to_pixels
from ditifeat.editing.edit import attribute_edit, checked_direction

ATTRIBUTES = [
    "Blond_Hair",
    "Black_Hair",
    "Brown_Hair",
    "Gray_Hair",
    "Pale_Skin",
    "Male",
    "Bangs",
    "Bald",
    "Wearing_Hat",
    "Rosy_Cheeks",
    "Young",
    "Wearing_Lipstick",
    "Smiling",
    "Eyeglasses",
]
FACES = 3


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attributes", nargs="+", default=ATTRIBUTES)
    parser.add_argument("--report", type=Path, help="of ditifeat probe; the model's own sparse attributes by default")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("gallery.png"))
    arguments = parser.parse_args()

    encoder = ditifeat.load_encoder(arguments.model)
    report = ditifeat.ProbeReport.load(arguments.report) if arguments.report else encoder.attributes(sparse=True)
    if report is None:
        raise SystemExit(f"{encoder.folder}: has no sparse attributes; give a --report")
    folder = Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces"))
    faces = next(batches(folder, encoder.config.image, FACES, "center"))[1]
    model, x_0 = encoder.model, load_images(faces)
    z = encoder(x_0)
    x_T = model.invert(x_0, z, arguments.steps, "fixed_point")

    def pictures(code: torch.Tensor) -> np.ndarray:
        return to_pixels(model.sample(x_T, code, arguments.steps, solver="fixed_point"))

    rows = {}
    kept = pictures(z)
    for name in arguments.attributes:
        weights, std = checked_direction(encoder, report[name])
        less, more = (pictures(attribute_edit(z, weights, std, s * arguments.scale)) for s in (-1, 1))
        # Each face as a triple: less, as it is, more.
        rows[f"{name.replace('_', ' ')}: less, reconstruction, more"] = np.stack([less, kept, more], axis=1).reshape(
            -1, *kept.shape[1:]
        )
    save_image(sheet(rows), arguments.out)
    print(f"{arguments.out}: {', '.join(arguments.attributes)}, strength {arguments.scale}")


if __name__ == "__main__":
    main()
