"""`ditifeat encode | probe | edit | train | benchmark | convert | info | quickstart`. torch is imported by what needs it alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ditifeat.errors import DitifeatError, InputError


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
    _add_faithfulness(commands)
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
        "--train-share", type=float, default=0.8, help="share of the rows to train on, drawn with the seed"
    )
    split.add_argument("--train-first", type=int, help="train on the first so many rows and test on the others")
    probe.add_argument("--seed", type=int, default=0)
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
    edit.add_argument("--solver", choices=("implicit", "ddim"), default="implicit", help="ddim: as published")
    _add_model(edit)
    edit.set_defaults(run=_edit)


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    train = commands.add_parser("train", help="learn features of your own pictures")
    train.add_argument("recipe", help="a recipe's name or YAML file")
    train.add_argument("--data", required=True, help="a folder or .tar of pictures")
    train.add_argument("--out", required=True, help="folder of the run; the model will be in OUT/model")
    train.add_argument("--dm", help="a frozen DM to use: a diffusers folder or org/name[@revision]")
    train.add_argument("--labels", help="of the pictures, for the evaluation; as probe takes them")
    train.add_argument("--seed", type=int, help="in place of the recipe's")
    train.add_argument("--images", type=int, help="pictures that the method sees, in place of the recipe's number")
    train.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in OUT")
    train.set_defaults(run=_train)

    benchmark = commands.add_parser("benchmark", help="trained systems beside their floors, on one split")
    benchmark.add_argument("runs", nargs="+", help="run folders of train; those of one recipe share a row")
    benchmark.add_argument("--data", required=True, help="a folder or .tar of pictures")
    benchmark.add_argument("--labels", required=True, help="of the pictures, as probe takes them")
    benchmark.add_argument("--out", required=True, type=Path, help="folder for benchmark.md, .json and .png")
    benchmark.add_argument("--train-first", type=int, required=True, help="train the probes on the first so many")
    benchmark.add_argument("--steps", type=int, default=100, help="of inversion, and again of sampling")
    benchmark.set_defaults(run=_benchmark)


def _add_faithfulness(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    judged = commands.add_parser("faithfulness", help="what a judge on pixels says of a model's edits")
    judged.add_argument("runs", nargs="+", help="run folders, model folders or names, of DiTi or PDAE")
    judged.add_argument("--data", required=True, help="a folder or .tar of pictures")
    judged.add_argument("--labels", required=True, help="of the pictures, as probe takes them")
    judged.add_argument("--out", required=True, type=Path, help="folder for faithfulness.md and .json")
    judged.add_argument("--train-first", type=int, required=True, help="train judge and probes on the first so many")
    judged.add_argument("--attributes", nargs="+", help="to edit; all by default")
    judged.add_argument("--count", type=int, default=32, help="held-out pictures to edit")
    judged.add_argument("--steps", type=int, default=10, help="of inversion, and again of sampling")
    judged.set_defaults(run=_faithfulness)


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    show = commands.add_parser("show", help="what a picture loses at which time-step, and what its code gives back")
    show.add_argument("image", help="the picture")
    show.add_argument("--out", required=True, type=Path, help="the picture to write")
    show.add_argument("--time-steps", nargs="+", type=int, help="a ladder of them; eight from 50 to 900 by default")
    _add_model(show)
    show.set_defaults(run=_show)


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


def _encode(arguments: argparse.Namespace) -> None:
    import ditifeat
    from ditifeat.images import OnError

    if arguments.out.suffix not in (".npz", ".safetensors"):
        raise InputError(f"{arguments.out}: features are saved as .npz or .safetensors")
    encoder = ditifeat.load_encoder(arguments.model, device=arguments.device)
    images = arguments.images[0] if len(arguments.images) == 1 else arguments.images
    on_error: OnError = "skip" if arguments.skip_broken else "raise"
    features = ditifeat.encode(
        encoder, images, batch_size=arguments.batch_size, crop=arguments.crop, on_error=on_error, progress=True
    )
    features.save(arguments.out)
    image = encoder.config.image
    cut = f"cut for {image.alignment}" if arguments.crop == "model" else "the central square"
    print(f"{arguments.out}: features {features.shape} by {encoder.config.name}, from {image.size} px, {cut}")


def _probe(arguments: argparse.Namespace) -> None:
    import ditifeat

    features = ditifeat.Features.load(arguments.features)
    train = arguments.train_share if arguments.train_first is None else range(arguments.train_first)
    report = ditifeat.probe(
        features,
        arguments.labels,
        train=train,
        seed=arguments.seed,
        protocol=arguments.protocol,
        dims=arguments.dims,
    )
    print(report)
    if arguments.out is not None:
        report.save(arguments.out)
    if arguments.plot is not None:
        report.plot(arguments.plot)


def _edit(arguments: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image

    import ditifeat
    from ditifeat.images import check_suffix, grid, save_animation, save_picture

    animated = arguments.out.suffix.lower() == ".gif"
    if not animated:
        check_suffix(arguments.out)
    encoder = ditifeat.load_encoder(arguments.model, device=arguments.device)
    direction = None
    if arguments.attribute is not None:
        report = encoder.attributes() if arguments.report is None else ditifeat.ProbeReport.load(arguments.report)
        if report is None:
            raise InputError(
                f"{encoder.config.name}: knows no attributes; give --report, what `ditifeat probe --out` wrote"
            )
        direction = report[arguments.attribute]
    edited = ditifeat.edit(
        encoder,
        arguments.image,
        direction,
        scale=arguments.scale or [0.3 if direction is not None else 1.0],
        reference=arguments.reference,
        subsets=range(*arguments.subsets) if arguments.subsets else None,
        x_T=arguments.noise,
        steps=arguments.steps,
        solver=arguments.solver,
        crop=arguments.crop,
    )
    pictures = [picture for picture in edited if isinstance(picture, Image.Image)]
    if len(pictures) != len(edited):
        raise InputError(f"{arguments.image}: is not one picture; edit one at a time, or use ditifeat.edit from Python")
    if animated:
        save_animation(pictures, arguments.out)
    else:
        save_picture(grid(np.stack([np.asarray(picture) for picture in pictures]), len(pictures)), arguments.out)
    print(f"{arguments.out}: {len(pictures)} of {pictures[0].width} x {pictures[0].height} pixels")


def _train(arguments: argparse.Namespace) -> None:
    from ditifeat.train import train

    folder = train(
        arguments.recipe,
        arguments.data,
        arguments.out,
        dm=arguments.dm,
        labels=arguments.labels,
        resume=arguments.resume,
        seed=arguments.seed,
        images=arguments.images,
    )
    print(f"{folder}: the model; ditifeat info {folder}")


def _show(arguments: argparse.Namespace) -> None:
    import ditifeat
    from ditifeat.images import check_suffix, save_picture
    from ditifeat.ladder import LADDER
    from ditifeat.quickstart import sheet

    check_suffix(arguments.out)
    encoder = ditifeat.load_encoder(arguments.model, device=arguments.device)
    rows = encoder.lost_at(arguments.image, arguments.time_steps, crop=arguments.crop)
    steps = ", ".join(map(str, arguments.time_steps or LADDER))
    save_picture(sheet({f"{title}: t = {steps}": row for title, row in rows.items()}), arguments.out)
    print(f"{arguments.out}: {', '.join(rows)}")


def _search(arguments: argparse.Namespace) -> None:
    import numpy as np

    import ditifeat
    from ditifeat.images import batches, check_suffix, grid, save_picture

    if arguments.plot is not None:
        check_suffix(arguments.plot)
    features = ditifeat.Features.load(arguments.features)
    encoder = ditifeat.load_encoder(arguments.model, device=arguments.device)
    if features.model != encoder.config.name:
        raise InputError(f"{arguments.features}: was made by {features.model}, not by {encoder.config.name}")
    query = ditifeat.encode(encoder, arguments.query, crop=arguments.crop)
    part = tuple(arguments.time_steps) if arguments.time_steps else None
    found = features.nearest(query, time_steps=part, count=arguments.count)
    for name, distance in found:
        print(f"{distance:8.4f}  {name}")
    if arguments.plot is not None:
        paths = [Path(arguments.query), *(arguments.folder / name for name, _ in found)]
        rows = [row for _, row in batches(paths, encoder.config.image, len(paths), arguments.crop)]
        save_picture(grid(np.concatenate(rows), columns=len(paths)), arguments.plot)


def _benchmark(arguments: argparse.Namespace) -> None:
    from ditifeat.train.benchmark import benchmark, table

    result = benchmark(
        arguments.runs, arguments.data, arguments.labels, arguments.out, arguments.train_first, arguments.steps
    )
    print(table(result), end="")


def _faithfulness(arguments: argparse.Namespace) -> None:
    from ditifeat.train.faithfulness import faithfulness, report

    result = faithfulness(
        arguments.runs,
        arguments.data,
        arguments.labels,
        arguments.out,
        arguments.train_first,
        arguments.attributes,
        arguments.count,
        arguments.steps,
    )
    print(report(result), end="")


def _convert(arguments: argparse.Namespace) -> None:
    from ditifeat.official import convert

    if arguments.out.exists():
        raise InputError(f"{arguments.out}: exists already; choose a new folder")
    convert(arguments.checkpoint, arguments.dm).save(arguments.out)
    print(f"{arguments.out}: the model; ditifeat info {arguments.out}")


def _info(arguments: argparse.Namespace) -> None:
    from ditifeat.config import read_config
    from ditifeat.hub import resolve

    folder, _ = resolve(arguments.model)
    config = read_config(folder)
    image, p = config.image, config.partition
    print(f"{config.name}: {image.size} px -> {p.d} numbers in {p.k} subsets, in {folder}")
    print(f"input: {image.alignment}; crop {tuple(round(edge, 4) for edge in image.crop)}, {image.resampling}")
    print("time-steps  subsets  dimensions")
    for lo, hi in p.ranges:
        columns = p.time_steps(lo, hi)
        first, last = p.subset_of_dim[columns.start], p.subset_of_dim[columns.stop - 1]
        print(
            f"{lo:4d}-{hi:<5d}  {first:3d}-{last:<3d}  {columns.start:4d}-{columns.stop - 1:<4d} ({columns.stop - columns.start})"
        )
    print(f"encoder: {config.encoder}")
    print(
        f"frozen DM: {config.dm.repo + '@' + str(config.dm.commit) if config.dm.repo else 'in the folder'}, codec {config.codec.kind}"
    )
    print("training: " + (", ".join(f"{key} {value}" for key, value in config.training.items()) or "unknown"))


def _demo(arguments: argparse.Namespace) -> None:
    from ditifeat.demo import demo

    demo(arguments.model, arguments.host, arguments.port)


def _quickstart(arguments: argparse.Namespace) -> None:
    from ditifeat.quickstart import quickstart

    quickstart(arguments.out)
