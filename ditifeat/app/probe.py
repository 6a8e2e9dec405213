"""`ditifeat probe`, and `ditifeat learning-curve`: its scores against the number of labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ditifeat.app.arguments import not_negative, positive, size
from ditifeat.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add features, labels, how the probes are fitted, and what is written."""
    _add_common(parser)
    parser.add_argument("--out", type=Path, help="report to write (.safetensors), for edit")
    parser.add_argument("--plot", type=Path, help="plot of attributes x time-steps to write (.png, .pdf, .svg)")


def add_curve_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `probe` takes, and the sizes that are drawn."""
    _add_common(parser)
    text = "numbers of rows to fit on, or shares of the training rows; by default five from 10 to all"
    parser.add_argument("--train-sizes", type=size, nargs="+", help=text)
    parser.add_argument("--n-repeats", type=positive, default=5, help="draws per size")
    parser.add_argument("--out", type=Path, help="table to write (.csv): attribute, size, draw, score")
    parser.add_argument("--plot", type=Path, help="plot of score against training rows to write (.png, .pdf, .svg)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("features", type=Path, help="what encode wrote")
    parser.add_argument("labels", help="CelebA's list_attr_celeba.txt, or a CSV with the images' names first")
    split = parser.add_mutually_exclusive_group()
    split.add_argument(
        "--train-size", type=size, help="share or number of rows to train on, drawn at random; 0.8 by default"
    )
    split.add_argument(
        "--train-first", type=positive, metavar="N", help="train on the first N rows, test on the others"
    )
    parser.add_argument("--random-state", type=not_negative, default=0, help="of the split and the protocol paper")
    parser.add_argument("--protocol", choices=("sklearn", "paper"), default="sklearn", help="how probes are fitted")
    parser.add_argument("--dims", type=positive, help="dimensions per attribute, for sparse edits; all by default")


def run(arguments: argparse.Namespace) -> None:
    """Print a report, and write it and its plot."""
    import ditifeat
    from ditifeat.analysis.report import check_report_suffix

    if arguments.out is not None:
        check_report_suffix(arguments.out)
    _check_written(arguments)
    report = ditifeat.probe(ditifeat.Features.load(arguments.features), arguments.labels, **_options(arguments))
    print(report)
    if arguments.out is not None:
        report.save(arguments.out)
    if arguments.plot is not None:
        report.plot(arguments.plot)


def run_curve(arguments: argparse.Namespace) -> None:
    """Print the curve, and write its table and its plot."""
    import ditifeat
    from ditifeat.errors import require
    from ditifeat.files import write_text

    if arguments.out is not None:
        if arguments.out.suffix != ".csv":
            raise InputError(f"{arguments.out}: tables are saved as .csv")
        require("pandas", "benchmark")
    _check_written(arguments)
    curve = ditifeat.learning_curve(
        ditifeat.Features.load(arguments.features),
        arguments.labels,
        train_sizes=arguments.train_sizes,
        n_repeats=arguments.n_repeats,
        **_options(arguments),
    )
    print(curve)
    if arguments.out is not None:
        write_text(arguments.out, curve.to_pandas().to_csv(index=False))
    if arguments.plot is not None:
        curve.plot(arguments.plot)


def _check_written(arguments: argparse.Namespace) -> None:
    """Before anything is computed."""
    from ditifeat.analysis.plots import check_plot_suffix, load_figure_class
    from ditifeat.files import check_writable

    for path in filter(None, (arguments.out, arguments.plot)):
        check_writable(path)
    if arguments.plot is not None:
        check_plot_suffix(arguments.plot)
        load_figure_class()


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "train_size": arguments.train_size,
        "train_rows": None if arguments.train_first is None else range(arguments.train_first),
        "random_state": arguments.random_state,
        "protocol": arguments.protocol,
        "dims": arguments.dims,
    }
