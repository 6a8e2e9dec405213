"""The bundled model at work on faces that its own DM made: no network, no data set."""

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

FACES = 4

STEPS = 20


def quickstart(out: Path) -> None:
    """Encodes the shipped faces, prints what came out, and writes a PNG of faces, reconstructions and edits.

    Raises:
        InputError: if `out` names no picture format.
    """
    check_suffix(out)
    folder = Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces"))
    encoder = ditifeat.load_encoder()
    print(encoder)
    # The DM makes faces that are cut as the model wants them.
    features = ditifeat.encode(encoder, folder, crop="center")
    print(f"features of {len(features)} faces: {features.shape}, {features.dtype}")
    for lo, hi in encoder.partition.ranges:
        print(f"  time-steps {lo:4d}-{hi:<4d}: {features.time_steps(lo, hi).shape[1]:3d} numbers a face")
    print(f"inverting {FACES} of them and sampling their edits, {STEPS} steps each ...", flush=True)
    rows = _rows(encoder, next(batches(folder, encoder.config.image, FACES, "center"))[1])
    save_image(sheet(rows), out)
    print(f"{out.resolve()}: {', '.join(rows)}")


def _rows(encoder: ditifeat.Encoder, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Titles and pictures: uint8 faces `(n, S, S, 3)`, and their edits, which share one inversion."""
    model = encoder.model
    x_0 = load_images(faces)
    z = encoder(x_0)
    codes = {"their reconstructions": z}
    for title, subsets in _thirds(encoder.partition).items():
        codes[title] = subset_edit(encoder.partition, z, z[-1:], subsets)
    x_T = model.invert(x_0, z, STEPS, "fixed_point").repeat(len(codes), 1, 1, 1)
    edited = to_pixels(model.sample(x_T, torch.cat(list(codes.values())), STEPS, solver="fixed_point"))
    return {"faces that the DM made": faces} | dict(zip(codes, np.split(edited, len(codes)), strict=True))


def _thirds(partition: ditifeat.TimeStepPartition) -> dict[str, range]:
    """Early, middle and late time-steps, as titles and their subsets."""
    titles = {}
    for lo, hi in pairwise([0, 300, 500, partition.num_time_steps]):
        titles[f"time-steps {lo}-{hi} of the last face put in"] = partition.subsets_of_time_steps(lo, hi)
    return titles
