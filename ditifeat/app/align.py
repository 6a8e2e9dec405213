"""`ditifeat align`: photos to aligned faces; and the option `--align` of the commands that read images."""

from __future__ import annotations

import argparse
from pathlib import Path

from ditifeat.errors import InputError

EXAMPLE = "photos/ --out faces/ --faces largest --on-error skip"


def add_align_option(parser: argparse.ArgumentParser) -> None:
    """Add `--align [one|largest]`."""
    text = "images are photos: find and align the face of each; largest: of a photo of several, the largest one's"
    parser.add_argument("--align", nargs="?", const="one", default=False, choices=("one", "largest"), help=text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the photos, the folder to write, and what is done with several faces and none."""
    parser.add_argument("images", nargs="+", help="photos, folders of them, or tars")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, new or empty")
    faces = "of a photo of several: one (default) refuses it, largest takes the largest, all takes each"
    parser.add_argument("--faces", choices=("one", "largest", "all"), default="one", help=faces)
    parser.add_argument("--scale", type=int, default=1, help="of 178 x 218 pixels; 1 by default")
    on_error = "at a photo that cannot be decoded, or without the face that is asked for"
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help=on_error)


def run(arguments: argparse.Namespace) -> None:
    """Write the faces; print how many, and which photos were skipped, by reason."""
    from ditifeat.align import align_faces

    images = arguments.images[0] if len(arguments.images) == 1 else arguments.images
    done = align_faces(
        images, arguments.out, faces=arguments.faces, scale=arguments.scale, on_error=arguments.on_error, progress=True
    )
    if not done.faces:
        raise InputError(f"{', '.join(arguments.images)}: no face was written; {done.report}")
    print(f"{arguments.out}: {len(done.faces)} aligned faces; ditifeat encode {arguments.out} --out features.npz")
    if done.report.skipped or done.report.left_out:
        print(done.report)
