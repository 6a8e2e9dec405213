"""`ditifeat encode | probe | edit | train | benchmark | convert | info | quickstart`. torch is imported by what needs it alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ditifeat.app.commands import (
    _benchmark,
    _convert,
    _demo,
    _edit,
    _encode,
    _evaluate_edits,
    _info,
    _lost,
    _probe,
    _quickstart,
    _search,
)
from ditifeat.errors import DitifeatError
from ditifeat.train.arguments import add_arguments, run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; 0 when it worked, 2 with one line on stderr when the user can mend what did not."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except DitifeatError as error:
        print(f"ditifeat: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ditifeat", description="Image features that come apart (DiTi, ICLR 2024).")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_encode(commands)
    _add_probe(commands)
    _add_edit(commands)
    _add_train(commands)
    _add_evaluate_edits(commands)
    _add_show(commands)
    _add_search(commands)

    convert = commands.add_parser("convert", help="import a checkpoint of the official DiTi or PDAE code")
    convert.add_argument("--checkpoint", required=True, help="the run's folder (config.yml, checkpoints/latest.pt)")
    convert.add_argument("--dm", required=True, help="the pre-trained DM's folder (config.yml, checkpoint.pt)")
    convert.add_argument("--out", required=True, type=Path, help="the model folder to write")
    convert.set_defaults(run=_convert)

    info = commands.add_parser("info", help="what a model is: input, partition, frozen DM, training")
    _add_model(info, positional=True)
    info.set_defaults(run=_info)

    demo = commands.add_parser("demo", help="a page to see and steer pictures, on this machine; needs ditifeat[demo]")
    demo.add_argument("model", nargs="?", help="bundled name, folder, or org/name[@revision]; the bundled by default")
    demo.add_argument("--host", default="127.0.0.1", help="the address to listen at")
    demo.add_argument("--port", type=int, default=7860)
    demo.set_defaults(run=_demo)

    quickstart = commands.add_parser("quickstart", help="see the bundled model at work, offline")
    quickstart.add_argument("--out", type=Path, default=Path("ditifeat-quickstart.png"), help="the PNG to write")
    quickstart.set_defaults(run=_quickstart)
    return parser


def _add_model(parser: argparse.ArgumentParser, positional: bool = False) -> None:
    text = "bundled name, folder, or org/name[@revision] on the Hub; the bundled model by default"
    if positional:
        parser.add_argument("model", nargs="?", help=text)
    else:
        parser.add_argument("--model", help=text)
        parser.add_argument("--device", default="cpu", help="a torch device")
    if not positional:
        parser.add_argument(
            "--crop", choices=("model", "center"), default="model", help="center: the pictures are cut already"
        )


def _add_encode(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    encode = commands.add_parser("encode", help="pictures to features")
    encode.add_argument("images", nargs="+", help="pictures, a folder of them, or a .tar")
    encode.add_argument("--out", required=True, type=Path, help="features to write, .npz or .safetensors")
    encode.add_argument("--batch-size", type=int, default=64)
    encode.add_argument("--skip-broken", action="store_true", help="warn of bad pictures and go on")
    _add_model(encode)
    encode.set_defaults(run=_encode)


def _add_probe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    probe = commands.add_parser("probe", help="what a linear probe finds in features")
    probe.add_argument("features", type=Path, help="what encode wrote")
    probe.add_argument("labels", help="CelebA's list_attr_celeba.txt, or a CSV with the pictures' names first")
    split = probe.add_mutually_exclusive_group()
    split.add_argument(
        "--train-size", type=float, help="share of the rows to train on, drawn with the random state; 0.8 by default"
    )
    split.add_argument("--train-first", type=int, help="train on the first so many rows and test on the others")
    probe.add_argument("--random-state", type=int, default=0)
    probe.add_argument("--protocol", choices=("sklearn", "paper"), default="sklearn")
    probe.add_argument("--dims", type=int, help="dimensions an attribute may use, for sparse edits; all by default")
    probe.add_argument("--out", type=Path, help="write the report (.safetensors), for edit")
    probe.add_argument("--plot", type=Path, help="write attributes x time-steps (.png, .pdf, .svg)")
    probe.set_defaults(run=_probe)


def _add_edit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    edit = commands.add_parser("edit", help="a picture with one attribute, or a range of time-steps, changed")
    edit.add_argument("image", help="the picture")
    edit.add_argument("--out", required=True, type=Path, help="the picture to write")
    edit.add_argument("--attribute", help="move along this attribute of the report")
    edit.add_argument("--report", type=Path, help="what probe --out wrote; the model's own attributes by default")
    edit.add_argument("--reference", help="take subsets of this picture")
    edit.add_argument("--subsets", nargs=2, type=int, metavar=("LO", "HI"), help="subsets LO..HI-1; all by default")
    edit.add_argument(
        "--scale",
        type=float,
        nargs="+",
        help="how far: 0.3 for an attribute, 1 for a reference by default; several: a row, or a GIF",
    )
    edit.add_argument("--noise", choices=("keep", "slerp", "swap"), default="keep", help="x_T of the result")
    edit.add_argument("--steps", type=int, default=20, help="of inversion and of sampling")
    edit.add_argument("--solver", choices=("fixed_point", "ddim"), default="fixed_point", help="ddim: as published")
    _add_model(edit)
    edit.set_defaults(run=_edit)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", help="learn features of your own pictures")
    add_arguments(train)
    train.set_defaults(run=run)

    benchmark = commands.add_parser("benchmark", help="trained methods beside baselines, on one split")
    benchmark.add_argument("runs", nargs="+", help="run folders of train; those of one recipe share a row")
    benchmark.add_argument("--data", nargs="+", required=True, help="a folder or .tar of images, or several")
    benchmark.add_argument("--labels", required=True, help="of the pictures, as probe takes them")
    benchmark.add_argument("--out", required=True, type=Path, help="folder for benchmark.md, .json and .png")
    benchmark.add_argument("--train-size", type=int, required=True, help="train the probes on the first N")
    benchmark.add_argument("--device", help="a torch device")
    benchmark.add_argument("--steps", type=int, default=100, help="of inversion, and again of sampling")
    benchmark.set_defaults(run=_benchmark)


def _add_evaluate_edits(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    edits = commands.add_parser("evaluate-edits", help="what an attribute classifier on pixels says of a model's edits")
    edits.add_argument("runs", nargs="+", help="run folders, model folders or names, of DiTi or PDAE")
    edits.add_argument("--data", nargs="+", required=True, help="a folder or .tar of images, or several")
    edits.add_argument("--labels", required=True, help="of the images, as probe takes them")
    edits.add_argument("--out", required=True, type=Path, help="folder for edits.md and .json")
    edits.add_argument("--train-size", type=int, required=True, help="train classifier and probes on the first N")
    edits.add_argument("--attributes", nargs="+", help="to edit; all by default")
    edits.add_argument("--count", type=int, default=32, help="held-out images to edit")
    edits.add_argument("--steps", type=int, default=10, help="of inversion, and again of sampling")
    edits.add_argument("--device", help="a torch device")
    edits.set_defaults(run=_evaluate_edits)


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = commands.add_parser("show", help="what a picture loses at which time-step, and what its code gives back")
    show.add_argument("image", help="the picture")
    show.add_argument("--out", required=True, type=Path, help="the picture to write")
    show.add_argument("--time-steps", nargs="+", type=int, help="a ladder of them; eight from 50 to 900 by default")
    _add_model(show)
    show.set_defaults(run=_lost)


def _add_search(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    search = commands.add_parser("search", help="pictures like a picture, by all of the code or by a part")
    search.add_argument("query", help="the picture")
    search.add_argument("features", type=Path, help="what encode wrote, by the same model")
    search.add_argument("--time-steps", nargs=2, type=int, metavar=("LO", "HI"), help="compare this part alone")
    search.add_argument("--count", type=int, default=5)
    search.add_argument("--plot", type=Path, help="write the pictures found, side by side")
    search.add_argument("--folder", type=Path, default=Path(), help="where the features' pictures are, for --plot")
    _add_model(search)
    search.set_defaults(run=_search)
