"""Counterparts of the paper's figures, from the bundled weights and faces that its DM made.

    python examples/figures.py --out figures [--pdae RUN/model]

lost.png        figure 1b: a picture at a ladder of time-steps, what the frozen DM makes of it, and what the code gives back.
edits.png       figure 2a: edits by 16 dimensions an attribute, ours and PDAE's.
weights.png     figure 2b: how the probes' weights are spread over the dimensions, ours and PDAE's.
swaps.png       a face whose subsets of early, middle or late time-steps move to those of another.

PDAE's attributes must lie in its folder, as a run with --labels leaves them; without --pdae the figures show our model alone.
"""

import argparse
from importlib import resources
from pathlib import Path

import numpy as np
import torch

import ditifeat
from ditifeat.benchmark.plots import plot_weights
from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import save_image, sheet, to_pixels
from ditifeat.editing import lost as what_is_lost
from ditifeat.editing.edit import attribute_edit, checked_direction, subset_edit
from ditifeat.encoding.encoder import Encoder

ATTRIBUTES = ("Smiling", "Male", "Blond_Hair", "Black_Hair", "Pale_Skin", "Bangs")
RANGES = ((0, 300), (300, 500), (500, 1000))
STEPS = 20


def faces(encoder: Encoder, count: int) -> tuple[list[Path], torch.Tensor]:
    paths = sorted((Path(str(resources.files("ditifeat.pretrained"))) / "weights" / "faces").glob("*.png"))[:count]
    rows = np.concatenate([rows for _, rows in batches(paths, encoder.config.image, count, "center")])
    return paths, load_images(rows)


@torch.no_grad()
def lost(encoder: Encoder, out: Path) -> None:
    ladder = (50, 100, 200, 300, 400, 500, 700, 900)
    rows = what_is_lost.lost(encoder, faces(encoder, 1)[0][0], ladder, crop="center")
    steps = ", ".join(map(str, ladder))
    save_image(sheet({f"{title}: t = {steps}": row for title, row in rows.items()}), out / "lost.png")


@torch.no_grad()
def edits(encoders: dict[str, Encoder], out: Path, scale: float) -> None:
    rows = {}
    for title, encoder in encoders.items():
        report, model = encoder.attributes(sparse=True), encoder.model
        if report is None:
            raise SystemExit(f"{encoder.folder}: has no sparse attributes; train it with --labels")
        x_0 = faces(encoder, 8)[1]
        z = encoder(x_0)
        x_T = model.invert(x_0, z, STEPS, "fixed_point")
        rows.setdefault("faces that the DM made", to_pixels(x_0))
        for name in filter(lambda name: name in report, ATTRIBUTES):
            changed = attribute_edit(z, *checked_direction(encoder, report[name]), scale)
            made = to_pixels(model.sample(x_T, changed, STEPS, solver="fixed_point"))
            rows[f"{title}: {name.replace('_', ' ')}, strength {scale}"] = made
    save_image(sheet(rows), out / "edits.png")


@torch.no_grad()
def swaps(encoder: Encoder, out: Path) -> None:
    shares = torch.linspace(0, 1, 6)
    x_0 = faces(encoder, 6)[1]
    z = encoder(x_0)
    x_T = encoder.model.invert(x_0[:1], z[:1], STEPS, "fixed_point").expand(len(shares), -1, -1, -1)
    p = encoder.partition
    rows = {"from this face ... towards this one": to_pixels(x_0[[0, 5]])}
    for lo, hi in RANGES:
        subsets = p.subsets_of_time_steps(lo, hi)
        codes = torch.cat([subset_edit(p, z[:1], z[5:], subsets, float(share)) for share in shares])
        rows[f"time-steps {lo}-{hi}, x_T kept"] = to_pixels(
            encoder.model.sample(x_T, codes, STEPS, solver="fixed_point")
        )
    save_image(sheet(rows), out / "swaps.png")


def weights(encoders: dict[str, Encoder], out: Path) -> None:
    reports = {title: encoder.attributes() for title, encoder in encoders.items()}
    plot_weights(
        {title: np.stack([r[name].weights for name in r], axis=1) for title, r in reports.items() if r is not None},
        out / "weights.png",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("figures"))
    parser.add_argument("--pdae", help="a PDAE model's folder")
    parser.add_argument("--scale", type=float, default=1.0, help="strength of the edits by attribute")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    encoders = {"ours": ditifeat.load_encoder()}
    if arguments.pdae:
        encoders["PDAE"] = ditifeat.load_encoder(arguments.pdae)
    lost(encoders["ours"], arguments.out)
    edits(encoders, arguments.out, arguments.scale)
    swaps(encoders["ours"], arguments.out)
    weights(encoders, arguments.out)
    print(f"{arguments.out}: lost.png, edits.png, swaps.png, weights.png")


if __name__ == "__main__":
    main()
