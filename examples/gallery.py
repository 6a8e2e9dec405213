"""Draw edits by attribute of faces that the bundled DM generated: python examples/gallery.py --out gallery.png

Each row is an attribute, each face a triple: less of it, the reconstruction, more of it. The directions are those that came with
the model, with 16 dimensions per attribute, or those of a report of `ditifeat probe`.
"""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np

import ditifeat
from ditifeat.data.drawing import save_image, sheet

ATTRIBUTES = (
    *("Blond_Hair", "Black_Hair", "Brown_Hair", "Gray_Hair", "Pale_Skin", "Male", "Bangs", "Bald", "Wearing_Hat"),
    *("Rosy_Cheeks", "Young", "Wearing_Lipstick", "Smiling", "Eyeglasses"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attributes", nargs="+", default=ATTRIBUTES)
    parser.add_argument("--report", type=Path, help="of ditifeat probe; the model's own sparse attributes by default")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--faces", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("gallery.png"))
    arguments = parser.parse_args()

    encoder = ditifeat.load_encoder(arguments.model)
    report = ditifeat.ProbeReport.load(arguments.report) if arguments.report else encoder.attributes(sparse=True)
    if report is None:
        raise SystemExit(f"{encoder.config.name}: has no sparse attributes; give a --report")
    faces = sorted(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))
    scales = [-arguments.scale, 0.0, arguments.scale]
    rows = {}
    for name in arguments.attributes:
        triples = ditifeat.edit(
            encoder, faces[: arguments.faces], report[name], scale=scales, steps=arguments.steps, crop="center"
        )
        images = np.stack([np.asarray(image) for triple in triples for image in triple])
        rows[f"{name.replace('_', ' ')}: less, reconstruction, more"] = images
    save_image(sheet(rows), arguments.out)
    print(f"{arguments.out}: {', '.join(arguments.attributes)}, strength {arguments.scale}")


if __name__ == "__main__":
    main()
