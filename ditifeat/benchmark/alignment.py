"""Measure how well faces are found and aligned, and what that is worth: the table of weights_card/alignment.md.

    python -m ditifeat.benchmark.alignment celeba.tar photos.tar male.csv --skip 8000 --count 500

The first images are CelebA's aligned faces (178 x 218, or half that size). Each is turned, scaled and shifted by a known
similarity, aligned again, and compared with where it was. The second are photos of one person each, not aligned, with a CSV of
0 and 1 for an attribute of the model's own probe: what that reads of the photos, cut in several ways.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from ditifeat.align import Aligner, find_faces
from ditifeat.align.geometry import HEIGHT, POSITIONS, USED, WIDTH, Similarity, warp
from ditifeat.data.labels import read_labels
from ditifeat.data.sources import sources
from ditifeat.encoding.encoder import encode, load_encoder
from ditifeat.errors import InputError

CORNERS = np.array([[25, 57], [153, 57], [25, 185], [153, 185]], float)  # of the paper's crop

ANGLES = (0, 15, 30, 45)


def known(rng: np.random.Generator, angle: float) -> Similarity:
    """A similarity from aligned faces to a photo of 640 x 480: turned to either side, 0.5 to 2 times as large, near its middle."""
    factor = rng.uniform(0.5, 2.0) * np.exp(1j * np.radians(angle * rng.choice([-1, 1])))
    middle = 320 + 240j + complex(*rng.uniform(-40, 40, 2))
    return Similarity(complex(factor), middle - factor * (89 + 121j))


def aligned_again(faces: Sequence[Image.Image], angle: float, seed: int = 0) -> np.ndarray:
    """Per face that is found: by how much the crop's corners are off (root mean square), and the eyes, in pixels of 178 x 218."""
    rng, aligner, off = np.random.default_rng(seed), Aligner("largest"), []
    for image in faces:
        there = known(rng, angle)
        photo = warp(image, there, 640, 480)
        found = find_faces(photo)
        if not found:
            continue
        face = aligner.cut(photo, found[0])
        corners = face.similarity(there(CORNERS)) - CORNERS
        eyes = face.similarity(there(POSITIONS[:2])) - POSITIONS[:2]
        off.append((np.sqrt((corners**2).sum(1).mean()), np.hypot(*eyes.T).mean()))
    return np.array(off).reshape(-1, 2)


def print_known(faces: Sequence[Image.Image]) -> None:
    """Print a table of `aligned_again`, a row per angle."""
    print("| turned by | found | corners: mean | median | 95 % | eyes: mean |\n|---|---|---|---|---|---|")
    for angle in ANGLES:
        off = aligned_again(faces, angle)
        corners = off[:, 0]
        print(
            f"| {angle} degrees | {len(off)} of {len(faces)} | {corners.mean():.1f} | {np.median(corners):.1f} | "
            f"{np.percentile(corners, 95):.1f} | {off[:, 1].mean():.1f} |"
        )


def print_photos(photos: Sequence[Image.Image]) -> None:
    """Print how many faces are found, and how far the eyes are from their places when the detector looks at the aligned image."""
    counts: list[int] = []
    off: list[float] = []
    for photo in photos:
        found = find_faces(photo)
        counts.append(len(found))
        if found:
            again = find_faces(Aligner("largest").cut(photo, found[0]).image)
            if again:
                off.append(np.hypot(*(again[0].points[USED[:2]] - POSITIONS[:2]).T).mean())
    found_in = np.array(counts)
    print(f"photos: {len(photos)}; with a face {(found_in > 0).sum()}, of these with several {(found_in > 1).sum()}")
    print(
        f"eyes of the aligned faces, found again in {len(off)}: mean {np.mean(off):.2f}, 95 % {np.percentile(off, 95):.2f} pixels off"
    )


def print_probe(path: str, labels: str, attribute: str) -> None:
    """Print what the bundled model's own probe reads of the photos, by how they are cut."""
    encoder = load_encoder()
    report = encoder.attributes()
    if report is None:
        raise InputError(f"{encoder.config.name}: has no attributes")
    probe = report[attribute]
    print(f"\n| {attribute} of the photos, by the model's own probe | AP | AUROC |\n|---|---|---|")
    cuts: tuple[tuple[str, dict[str, Any]], ...] = (
        ("the central square", {"crop": "center"}),
        ("the model's crop, not aligned", {"crop": "model"}),
        ("aligned", {"align": "largest"}),
    )
    for title, how in cuts:
        features = encode(encoder, path, on_error="skip", **how)
        truth = next(iter(read_labels(labels, features.names).values()))
        scores = probe.predict(features.array)
        print(f"| {title} | {average_precision_score(truth, scores):.3f} | {roc_auc_score(truth, scores):.3f} |")


def main(words: Sequence[str] | None = None) -> None:
    """Print the tables.

    Args:
        words: of the command line; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", help="CelebA's aligned faces: a folder or tar")
    parser.add_argument("photos", help="photos of one person each: a folder or tar")
    parser.add_argument("labels", help="CSV of the photos' names and an attribute")
    parser.add_argument("--attribute", default="Male", help="of the model's probe")
    parser.add_argument("--skip", type=int, default=0, help="faces that are left out first")
    parser.add_argument("--count", type=int, default=500, help="faces")
    arguments = parser.parse_args(words)
    chosen = islice(sources(arguments.faces), arguments.skip, arguments.skip + arguments.count)
    print_known([read().resize((WIDTH, HEIGHT)) for _, read in chosen])
    print()
    print_photos([read() for _, read in sources(arguments.photos)])
    print_probe(arguments.photos, arguments.labels, arguments.attribute)


if __name__ == "__main__":
    main()
