"""`ditifeat index`: make an index of saved features, which `ditifeat search` takes in their place."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("features", type=Path, help="what encode wrote")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument(
        "--time-steps", nargs=2, type=int, metavar=("LO", "HI"), help="compare these alone; all by default"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write the index, and print what it is."""
    from ditifeat.analysis.index import build_index
    from ditifeat.files import check_writable

    check_writable(arguments.out)
    time_steps = tuple(arguments.time_steps) if arguments.time_steps else None
    index = build_index(arguments.features, arguments.out, time_steps=time_steps)
    print(f"{arguments.out}: {index.rows} rows, {index.range}; ditifeat search IMAGE {arguments.out}")
