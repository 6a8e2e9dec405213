"""The command search: the images nearest to an image. What takes long to import is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ditifeat.app.commands import check_single, load_encoder
from ditifeat.errors import InputError


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the command's own arguments.

    Args:
        parser: of the command.
        positive: reads an integer of 1 or more.
    """
    parser.add_argument("query", help="the image")
    parser.add_argument("features", type=Path, help="what encode wrote by the same model, or an index of it")
    text = "all, or the index's, by default"
    parser.add_argument("--time-steps", nargs=2, type=int, metavar=("LO", "HI"), help=text)
    parser.add_argument("--count", type=positive, help="how many to find; 5 by default")
    parser.add_argument("--plot", type=Path, help="image to write: the query and those found, side by side")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the features' images are, for --plot")


def run(arguments: argparse.Namespace) -> None:
    """Print distances and names, nearest first, and write the images."""
    import numpy as np

    import ditifeat
    from ditifeat.align import model_aligner
    from ditifeat.analysis.search import origin
    from ditifeat.analysis.search import search as search_features
    from ditifeat.data.batches import batches
    from ditifeat.data.drawing import check_suffix, grid, save_image
    from ditifeat.files import check_writable

    if arguments.plot is not None:
        check_suffix(arguments.plot)
        check_writable(arguments.plot)
    check_single(arguments.query)
    flip_average = bool(origin(arguments.features).flip_average)
    encoder = load_encoder(arguments)
    how: dict[str, Any] = {"crop": arguments.crop, "align": arguments.align}
    query = ditifeat.encode(encoder, arguments.query, flip_average=flip_average, **how)
    time_steps = tuple(arguments.time_steps) if arguments.time_steps else None
    found = search_features(arguments.features, query, time_steps=time_steps, count=arguments.count)
    for name, distance in found:
        print(f"{distance:8.4f}  {name}")
    if arguments.plot is not None:
        paths = [arguments.folder / name for name, _ in found]
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise InputError(f"{missing}: there is no such file; --folder says where the images are")
        paths = [Path(arguments.query), *paths]
        aligner = model_aligner(arguments.align, encoder.config.image, arguments.crop)
        found_images = batches(paths, encoder.config.image, len(paths), arguments.crop, align=aligner)
        rows = [row for _, row in found_images]
        save_image(grid(np.concatenate(rows), len(paths)), arguments.plot)
