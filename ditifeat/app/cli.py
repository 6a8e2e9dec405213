"""The parser of `ditifeat COMMAND`, and `main`. Options carry the names of the Python arguments. No torch is imported here."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ditifeat
from ditifeat.app import align, commands, encode, export, factors, index, probe, search
from ditifeat.app.arguments import fraction, integer_within, not_negative, number, positive
from ditifeat.app.telemetry import disable_telemetry
from ditifeat.errors import DitifeatError
from ditifeat.train.arguments import add_arguments, run

Subparsers = Any  # argparse's own type is private


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: its words; those of the process by default.

    Returns:
        0 if it worked; 2, with one line on stderr, for what the user can mend; 130 if interrupted; 141 if nobody reads
        what is printed.

    >>> from ditifeat.app.cli import main
    >>> main(["info"])  # doctest: +ELLIPSIS
    celeba64-mini: 64 px -> 512 dimensions in 64 subsets...
    """
    disable_telemetry()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that the terminal cannot show
    try:
        with _logs_on_stderr():
            try:
                arguments = build_parser().parse_args(argv)
                arguments.run(arguments)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
    except DitifeatError as error:
        return _failed(error)
    except BrokenPipeError:
        _discard_stdout()
        return 141  # as a shell reports SIGPIPE
    except OSError as error:
        _discard_stdout()
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else error)
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(reason: object) -> int:
    print("ditifeat: " + " ".join(str(reason).splitlines()), file=sys.stderr)
    return 2


def _discard_stdout() -> None:
    """What is still in its buffer would fail again when Python ends."""
    if sys.__stdout__ is not None and sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())


class _StderrHandler(logging.Handler):
    """Writes above a progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _logs_on_stderr() -> Iterator[None]:
    logger, handler = logging.getLogger("ditifeat"), _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; each sets `run`, which takes its arguments.

    >>> from ditifeat.app.cli import build_parser
    >>> build_parser().parse_args(["encode", "photos/", "--out", "features.npz"]).batch_size
    64
    """
    parser = argparse.ArgumentParser(
        prog="ditifeat",
        description="Image features that come apart (DiTi, ICLR 2024).",
        epilog="ditifeat COMMAND --help prints a command's options, with an example.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ditifeat {ditifeat.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_encode, _add_probe, _add_learning_curve, _add_edit, _add_lost, _add_search, _add_index, _add_align, _add_resize,
        _add_factors, _add_train, _add_benchmark, _add_evaluate_edits, _add_evaluate_dm, _add_evaluate_factors, _add_convert,
        _add_export, _add_push, _add_info, _add_demo, _add_quickstart,
    ):  # fmt: skip
        add(subparsers)
    return parser


def _add(
    subparsers: Subparsers, name: str, text: str, example: str, run: Callable[..., None]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example:\n  ditifeat {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _add_hub_options(parser: argparse.ArgumentParser) -> None:
    hub = parser.add_argument_group("models on the Hub")
    hub.add_argument("--revision", help="a branch, tag or commit")
    hub.add_argument("--token", help="in place of the one that `hf auth login` stored")
    hub.add_argument("--cache-dir", help="in place of the default folder")
    hub.add_argument("--local-files-only", action="store_true", help="read the cache alone, without a connection")


MODEL = "bundled name, folder, or org/name[@revision] on the Hub; the bundled model by default"


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help=MODEL)
    _add_device(parser)
    _add_hub_options(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="a torch device; cuda, else mps, else cpu by default")


def _add_crop(parser: argparse.ArgumentParser) -> None:
    text = "center: the largest central square, for images that are cropped already; model (default): as the model's"
    parser.add_argument("--crop", choices=("model", "center"), default="model", help=text)


def _add_flip_average(parser: argparse.ArgumentParser) -> None:
    text = "codes are the mean over each image and its horizontal flip: for probes and search, at twice the cost"
    parser.add_argument("--flip-average", action="store_true", help=text)


def _add_encode(subparsers: Subparsers) -> None:
    text, example = "encode images to features", "photos/ --out features.npz"
    parser = _add(subparsers, "encode", text, example, encode.run)
    encode.add_arguments(parser, positive)
    _add_crop(parser)
    align.add_align_option(parser)
    _add_flip_average(parser)
    _add_model_options(parser)


def _add_probe(subparsers: Subparsers) -> None:
    text, example = "fit and score linear probes of attributes", "features.npz labels.csv --plot probe.png"
    probe.add_arguments(_add(subparsers, "probe", text, example, probe.run))


def _add_learning_curve(subparsers: Subparsers) -> None:
    text = "score linear probes against the number of labels they are fitted on"
    example = "features.npz labels.csv --train-sizes 10 100 1000 --plot curve.png"
    probe.add_curve_arguments(_add(subparsers, "learning-curve", text, example, probe.run_curve))


def _add_edit(subparsers: Subparsers) -> None:
    text = "change one attribute of an image, or a range of time-steps"
    edit = _add(subparsers, "edit", text, "me.jpg --attribute Smiling --scale -1 0 1 --out smile.png", commands.edit)
    edit.add_argument("image", help="the image")
    edit.add_argument("--out", required=True, type=Path, help="image to write; of several scales a row, or a .gif")
    edit.add_argument("--attribute", help="move along this attribute of the report")
    edit.add_argument("--report", type=Path, help="what probe --out wrote; the model's own attributes by default")
    edit.add_argument("--reference", help="take subsets of this image")
    edit.add_argument("--subsets", nargs=2, type=not_negative, metavar=("LO", "HI"), help="LO..HI-1; all by default")
    edit.add_argument(
        "--scale", type=number, nargs="+", help="how far; by default 0.3 for an attribute, 1 for a reference"
    )
    edit.add_argument("--x-T", choices=("keep", "slerp", "swap"), default="keep", help="of a reference's edit")
    edit.add_argument("--steps", type=positive, default=20, help="of inversion, and again of sampling")
    edit.add_argument("--paste", action="store_true", help="put the edited face back into the photo; with --align")
    edit.add_argument("--solver", choices=("fixed_point", "ddim"), default="fixed_point", help="ddim: as published")
    _add_crop(edit)
    align.add_align_option(edit)
    _add_model_options(edit)


def _add_lost(subparsers: Subparsers) -> None:
    text = "show what the DM has lost of an image at each time-step, and what the code gives back"
    lost = _add(subparsers, "lost", text, "me.jpg --out lost.png", commands.lost)
    lost.add_argument("image", help="the image")
    lost.add_argument("--out", required=True, type=Path, help="image to write")
    lost.add_argument("--time-steps", nargs="+", type=not_negative, help="eight from 50 to 900 by default")
    _add_crop(lost)
    align.add_align_option(lost)
    _add_model_options(lost)


def _add_search(subparsers: Subparsers) -> None:
    text = "find the images nearest to an image, by all of the code or by a range of time-steps"
    parser = _add(subparsers, "search", text, "me.jpg features.npz --time-steps 500 1000", search.run)
    search.add_arguments(parser, positive)
    _add_crop(parser)
    align.add_align_option(parser)
    _add_model_options(parser)


def _add_index(subparsers: Subparsers) -> None:
    text = "make an index of features, for search in millions of images"
    index.add_arguments(_add(subparsers, "index", text, "features.parquet --out faces.index", index.run))


def _add_export(subparsers: Subparsers) -> None:
    text = "write the encoder as ONNX, which runs without torch"
    parser = _add(subparsers, "export", text, "--out encoder.onnx", export.run)
    export.add_arguments(parser)
    for add in (_add_crop, _add_flip_average, _add_model_options):
        add(parser)


def _add_resize(subparsers: Subparsers) -> None:
    text = "cut and resize images beforehand, into one tar that train takes"
    example = "photos/ more.tar --size 64 --crop 1/4 1/4 3/4 3/4 --out small.tar"
    resize = _add(subparsers, "resize", text, example, commands.resize)
    resize.add_argument("images", nargs="+", help="images, folders of them, or tars")
    resize.add_argument("--out", required=True, type=Path, help=".tar of PNGs to write, in the order of the images")
    resize.add_argument("--size", type=positive, required=True, help="pixels per side of the square images")
    box = ("LEFT", "TOP", "RIGHT", "BOTTOM")
    text = "what to read of each, in fractions of its width and height, as 0.25 or 12/89; all by default"
    resize.add_argument("--crop", type=fraction, nargs=4, metavar=box, default=(0, 0, 1, 1), help=text)
    text = "a folder or tar, or several: images whose names they have, but for the suffix, are left out"
    resize.add_argument("--names-not-in", nargs="+", metavar="IMAGES", help=text)
    resize.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="at an image that cannot be decoded"
    )


def _add_factors(subparsers: Subparsers) -> None:
    text, example = "draw images of known factors, to train on and to check features", "--count 20000 --out images.tar"
    factors.add_arguments(_add(subparsers, "factors", text, example, factors.run))


def _add_evaluate_factors(subparsers: Subparsers) -> None:
    text, example = "check codes of drawn images against their factors", "run run-pdae --out table"
    parser = _add(subparsers, "evaluate-factors", text, example, factors.run_evaluation)
    factors.add_evaluation_arguments(parser)


def _add_align(subparsers: Subparsers) -> None:
    text = "cut the faces out of photos as CelebA's are: upright, eyes and mouth in their places"
    align.add_arguments(_add(subparsers, "align", text, align.EXAMPLE, align.run))


def _add_train(subparsers: Subparsers) -> None:
    text, example = "learn features of your own images", "images64 --data photos/ --out run"
    add_arguments(_add(subparsers, "train", text, example, run))


def _add_split_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", help="run folders of train, model folders or names")
    parser.add_argument("--data", nargs="+", required=True, help="a folder or tar of images, or several")
    parser.add_argument("--labels", required=True, help="of the images, as probe takes them")
    parser.add_argument(
        "--train-size", type=positive, required=True, metavar="N", help="the first N images train, the others test"
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    _add_crop(parser)
    _add_flip_average(parser)
    _add_device(parser)


def _add_benchmark(subparsers: Subparsers) -> None:
    text, example = (
        "score runs beside baselines",
        "run run-pdae --data photos/ --labels labels.csv --train-size 8000 --out table",
    )
    benchmark = _add(subparsers, "benchmark", text, example, commands.benchmark)
    _add_split_options(benchmark)
    benchmark.add_argument("--steps", type=positive, default=100, help="of inversion, and again of sampling")


def _add_evaluate_edits(subparsers: Subparsers) -> None:
    text = "measure what edits change, by an attribute classifier on pixels"
    example = "run run-pdae --data photos/ --labels labels.csv --train-size 8000 --out table"
    edits = _add(subparsers, "evaluate-edits", text, example, commands.evaluate_edits)
    _add_split_options(edits)
    edits.add_argument("--attributes", nargs="+", help="to edit; all by default")
    edits.add_argument("--count", type=positive, default=32, help="held-out images to edit")
    edits.add_argument("--steps", type=positive, default=10, help="of inversion, and again of sampling")


def _add_evaluate_dm(subparsers: Subparsers) -> None:
    text = "measure frozen DMs: samples, nearest training images, features of the down path"
    example = "run/dm --data photos/ --held-out more/ --labels labels.csv --out table"
    dm = _add(subparsers, "evaluate-dm", text, example, commands.evaluate_dm)
    dm.add_argument("dms", nargs="+", metavar="DM", help="diffusers folders of DMs; or models and runs that have one")
    dm.add_argument("--data", nargs="+", required=True, help="their training images: a folder or tar, or several")
    dm.add_argument("--held-out", nargs="+", required=True, help="images that none was trained on")
    dm.add_argument("--out", required=True, type=Path, help="folder to write")
    dm.add_argument("--labels", help="of all these images, as probe takes them, for the features' AP")
    dm.add_argument("--others", nargs="+", default=[], help="more folders or tars to compare with the held-out images")
    dm.add_argument("--samples", type=integer_within(6), default=1024, help="images to sample from each DM")
    dm.add_argument("--steps", type=positive, default=25, help="of DDIM")
    dm.add_argument("--seed", type=not_negative, default=0, help="of the samples")
    dm.add_argument("--batch-size", type=positive, default=64, help="samples per batch")
    dm.add_argument("--bf16", action="store_true", help="compute in bfloat16: faster where the processor has it")
    _add_crop(dm)
    _add_device(dm)


def _add_convert(subparsers: Subparsers) -> None:
    text = "import a checkpoint of the official DiTi or PDAE code"
    convert = _add(
        subparsers, "convert", text, "--checkpoint runs/diti --dm pre-trained-dpm --out model", commands.convert
    )
    convert.add_argument("--checkpoint", required=True, help="the run's folder (config.yml, checkpoints/latest.pt)")
    convert.add_argument("--dm", required=True, help="the pre-trained DM's folder (config.yml, checkpoint.pt)")
    convert.add_argument("--out", required=True, type=Path, help="model folder to write")


def _add_push(subparsers: Subparsers) -> None:
    push = _add(subparsers, "push", "upload a model folder to the Hub", "run/model org/name", commands.push)
    push.add_argument("folder", type=Path, help="the model folder")
    push.add_argument("repo", help="org/name; made if there is none")
    push.add_argument("--private", action="store_true", help="make a private repository")


def _add_info(subparsers: Subparsers) -> None:
    text = "print what a model is: input, partition, frozen DM, training"
    info = _add(subparsers, "info", text, "run/model", commands.info)
    info.add_argument("model", nargs="?", help=MODEL)
    _add_hub_options(info)


def _add_demo(subparsers: Subparsers) -> None:
    text, example = "serve a page to see and edit images, on this machine", "--port 7861"
    demo = _add(subparsers, "demo", text, example, commands.demo)
    demo.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    demo.add_argument("--port", type=integer_within(1, 65535), default=7860, help="the port to listen at")
    _add_model_options(demo)


def _add_quickstart(subparsers: Subparsers) -> None:
    text, example = "show the bundled model at work, offline", "--out quickstart.png"
    quickstart = _add(subparsers, "quickstart", text, example, commands.quickstart)
    quickstart.add_argument("--out", type=Path, default=Path("ditifeat-quickstart.png"), help="image to write")
