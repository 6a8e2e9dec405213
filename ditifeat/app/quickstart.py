"""The bundled model at work on faces that its own DM sampled: no network, no data set."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import ditifeat
from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import check_suffix, save_image, sheet, to_pixels
from ditifeat.editing.edit import subset_edit
from ditifeat.files import check_writable

FACES = 4

STEPS = 20


def quickstart(out: Path) -> None:
    """Encode the bundled faces, print what the features are, and write an image of faces, reconstructions and edits.

    Args:
        out: the image to write.

    Raises:
        InputError: if `out` names no image format.
        WriteError: if it cannot be written.

    >>> from ditifeat.app.quickstart import quickstart
    >>> quickstart(Path("quickstart.png"))  # doctest: +SKIP
    """
    check_suffix(out)
    check_writable(out)
    folder = Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces"))
    encoder = ditifeat.load_encoder()
    print(encoder)
    # The DM samples faces that are cropped as the model wants them.
    features = ditifeat.encode(encoder, folder, crop="center")
    print(f"features of {len(features)} faces: {features.shape}, {features.dtype}")
    for lo, hi in encoder.partition.ranges:
        print(f"  time-steps {lo:4d}-{hi:<4d}: {features.time_steps(lo, hi).shape[1]:3d} dimensions")
    print(f"inverting {FACES} of them and sampling their edits, {STEPS} steps each ...", flush=True)
    rows = _rows(encoder, next(batches(folder, encoder.config.image, FACES, "center"))[1])
    save_image(sheet(rows), out)
    print(f"{out.resolve()}: {'; '.join(rows)}")


@torch.no_grad()
def _rows(encoder: ditifeat.Encoder, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Titles and images: uint8 faces `(n, S, S, 3)`, and their edits, which share one inversion."""
    model, partition = encoder.model, encoder.partition
    x_0 = load_images(faces, encoder.device)
    z = encoder(x_0)
    codes = {"their reconstructions": z}
    for lo, hi in pairwise([0, 300, 500, partition.num_time_steps]):
        subsets = partition.subsets_of_time_steps(lo, hi)
        codes[f"with the last face's subsets of time-steps {lo}-{hi}"] = subset_edit(partition, z, z[-1:], subsets)
    x_T = model.invert(x_0, z, STEPS, "fixed_point").repeat(len(codes), 1, 1, 1)
    edited = to_pixels(model.sample(x_T, torch.cat(list(codes.values())), STEPS, solver="fixed_point"))
    return {"faces sampled from the DM": faces} | dict(zip(codes, np.split(edited, len(codes)), strict=True))
