"""Draw counterparts of the paper's figures 2a and 2b: python examples/paper_figures.py --pdae run-pdae/model --out figures

edits.png       figure 2a: edits by 16 dimensions per attribute, ours and PDAE's.
weights.png     figure 2b: how the probes' weights are spread over the dimensions, ours and PDAE's.
swaps.png       one face, whose subsets of early, middle or late time-steps move to those of another.

PDAE's attributes must lie in its folder, as a run with --labels leaves them; without --pdae the figures show our model alone.
Figure 1b, what is lost at which time-steps, is drawn by `ditifeat lost`.
"""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

import ditifeat
from ditifeat.benchmark.plots import plot_weights
from ditifeat.data.drawing import save_image, sheet

ATTRIBUTES = ("Smiling", "Male", "Blond_Hair", "Black_Hair", "Pale_Skin", "Bangs")
RANGES = ((0, 300), (300, 500), (500, 1000))
FACES = sorted(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--pdae", help="a PDAE model's folder")
    parser.add_argument("--faces", type=int, default=8)
    parser.add_argument("--scale", type=float, default=1.0, help="strength of the edits by attribute")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    options = {"crop": "center", "steps": arguments.steps}
    models = {"ours": None} | ({"PDAE": arguments.pdae} if arguments.pdae else {})
    encoders = {title: ditifeat.load_encoder(name) for title, name in models.items()}

    faces = np.stack([np.asarray(Image.open(face).convert("RGB")) for face in FACES])
    edits = {"generated faces": faces[: arguments.faces]}
    for title, encoder in encoders.items():
        report = encoder.attributes(sparse=True)
        for name in ATTRIBUTES:
            edited = ditifeat.edit(encoder, FACES[: arguments.faces], report[name], scale=arguments.scale, **options)
            edits[f"{title}: {name.replace('_', ' ')}, strength {arguments.scale}"] = np.stack(edited)
    save_image(sheet(edits), arguments.out / "edits.png")

    swaps, ours = {"from one face, to another": faces[[0, 5]]}, encoders["ours"]
    for lo, hi in RANGES:
        subsets = ours.partition.subsets_of_time_steps(lo, hi)
        path = ditifeat.edit(
            ours, FACES[0], reference=FACES[5], subsets=subsets, scale=list(np.linspace(0, 1, 6)), **options
        )
        swaps[f"time-steps {lo}-{hi}, x_T kept"] = np.stack(path)
    save_image(sheet(swaps), arguments.out / "swaps.png")

    reports = {title: encoder.attributes() for title, encoder in encoders.items()}
    weights = {title: np.stack([report[name].weights for name in report], axis=1) for title, report in reports.items()}
    plot_weights(weights, arguments.out / "weights.png")
    print(f"{arguments.out}: edits.png, swaps.png, weights.png")


if __name__ == "__main__":
    main()
