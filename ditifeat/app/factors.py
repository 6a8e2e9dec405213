"""`ditifeat factors`, which draws images of known factors, and `ditifeat evaluate-factors`, which checks codes against them."""

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


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs, and how much is measured."""
    parser.add_argument("runs", nargs="+", help="run folders of train, model folders or names")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--count", type=int, default=6000, help="images to draw; two thirds train the probes")
    parser.add_argument("--swapped", type=int, default=64, help="images whose ranges of subsets are swapped")
    parser.add_argument("--steps", type=int, default=20, help="of sampling")
    parser.add_argument("--seed", type=int, default=2, help="of the images; not that of the training images")
    parser.add_argument(
        "--regressor-images", type=int, default=131072, help="that the network which reads samples learns from"
    )


def run_evaluation(arguments: argparse.Namespace) -> None:
    """Write tables and figures, and print the tables."""
    from ditifeat.benchmark.factors import evaluate_factors
    from ditifeat.benchmark.factors_tables import page

    result = evaluate_factors(
        arguments.runs,
        arguments.out,
        count=arguments.count,
        swapped=arguments.swapped,
        steps=arguments.steps,
        seed=arguments.seed,
        regressor_images=arguments.regressor_images,
        progress=True,
    )
    print(page(result), end="")
