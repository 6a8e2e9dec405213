"""`ditifeat factors`, which draws images of known factors."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the images go, and how many."""
    parser.add_argument(
        "--out", required=True, type=Path, help="folder or .tar to write; the labels' .csv lies beside it"
    )
    parser.add_argument("--count", type=int, default=20000, help="how many images")
    parser.add_argument("--seed", type=int, default=0, help="of the factors")


def run(arguments: argparse.Namespace) -> None:
    """Write images and labels, and print where."""
    from ditifeat.data.factors import FACTORS, SIZE, write

    labels = write(arguments.out, arguments.count, arguments.seed, progress=True)
    print(
        f"{arguments.out}: {arguments.count} images of {SIZE} px; {labels}: what probes learn of {len(FACTORS)} factors"
    )
