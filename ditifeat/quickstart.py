"""The bundled model at work on faces that its own DM made: no network, no data set."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

import ditifeat
from ditifeat.images import check_suffix, save_picture

FACES = 4
ZOOM = 2  # 64 px are small on a screen
MARGIN = 10


def quickstart(out: Path) -> None:
    """Encodes the shipped faces, prints what came out, and writes a PNG of faces, reconstructions and edits.

    Raises:
        InputError: if `out` names no picture format.
    """
    check_suffix(out)
    folder = Path(str(resources.files("ditifeat") / "weights" / "faces"))
    encoder = ditifeat.load_encoder()
    print(encoder)
    # The DM makes faces that are cut as the model wants them.
    features = ditifeat.encode(encoder, folder, crop="center")
    print(f"features of {len(features)} faces: {features.shape}, {features.dtype}")
    for lo, hi in encoder.partition.ranges:
        print(f"  time-steps {lo:4d}-{hi:<4d}: {features.time_steps(lo, hi).shape[1]:3d} numbers a face")
    faces = [Image.open(folder / name).convert("RGB") for name in features.names[:FACES]]
    rows = {"faces that the DM made": faces}
    first = {"reference": faces[-1], "crop": "center"}
    rows["their reconstructions"] = _edited(encoder, faces, scale=0.0, **first)
    titles = _thirds(encoder.partition)
    for title, subsets in titles.items():
        rows[title] = _edited(encoder, faces, subsets=subsets, **first)
    save_picture(sheet(rows), out)
    print(f"{out.resolve()}: {', '.join(rows)}")


def _edited(encoder: ditifeat.Encoder, faces: list[Image.Image], **arguments: object) -> list[Image.Image]:
    edited = ditifeat.edit(encoder, faces, steps=25, **arguments)  # type: ignore[arg-type]
    return edited if isinstance(edited, list) else [edited]


def _thirds(partition: ditifeat.TimeStepPartition) -> dict[str, range]:
    """Early, middle and late time-steps, as titles and their subsets."""
    bounds = [0, 300, 500, partition.num_time_steps]
    titles = {}
    for lo, hi in pairwise(bounds):
        members = [i for i in range(partition.k) if lo <= partition.time_steps_of(i).start < hi]
        titles[f"time-steps {lo}-{hi} of the last face put in"] = range(members[0], members[-1] + 1)
    return titles


def sheet(rows: dict[str, list[Image.Image]]) -> Image.Image:
    """Titled rows of pictures on one white page."""
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(13)
    pictures = [
        [np.asarray(p.resize((p.width * ZOOM, p.height * ZOOM), Image.Resampling.BICUBIC)) for p in row]
        for row in rows.values()
    ]
    side = pictures[0][0].shape[0]
    step = side + 2 * MARGIN + 14
    page = Image.new("RGB", (max(map(len, pictures)) * (side + MARGIN) + MARGIN, len(rows) * step + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    for y, (title, row) in enumerate(zip(rows, pictures, strict=True)):
        draw.text((MARGIN, y * step + MARGIN), title, fill="black", font=font)
        for x, picture in enumerate(row):
            page.paste(Image.fromarray(picture), (MARGIN + x * (side + MARGIN), y * step + MARGIN + 18))
    return page
