"""The arguments of `ditifeat train`, which `accelerate launch -m ditifeat.train` takes too."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a recipe, its data and what overrides it."""
    parser.add_argument("recipe", help="a recipe's name or YAML file")
    parser.add_argument("--data", required=True, help="a folder or .tar of images")
    parser.add_argument("--out", required=True, help="folder of the run; the model will be in OUT/model")
    parser.add_argument("--dm", help="a frozen DM to use: a diffusers folder or org/name[@revision]")
    parser.add_argument("--initial", help="a trained model to begin from: a name, a folder or org/name")
    parser.add_argument("--labels", help="of the images, for the evaluation; as probe takes them")
    parser.add_argument("--seed", type=int, help="in place of the recipe's")
    parser.add_argument("--images", type=float, help="images that the method sees, in place of the recipe's number")
    cropped = (
        "center: the largest central square, for images that are cropped already; model (default): as the recipe says"
    )
    parser.add_argument("--crop", choices=("model", "center"), default="model", help=cropped)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in OUT")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the networks (torch.compile); by default on a GPU",
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, and print the model's folder."""
    from ditifeat.errors import require
    from ditifeat.train import train

    folder = train(
        arguments.recipe,
        arguments.data,
        arguments.out,
        dm=arguments.dm,
        initial=arguments.initial,
        labels=arguments.labels,
        resume=arguments.resume,
        seed=arguments.seed,
        images=arguments.images,
        crop=arguments.crop,
        progress=True,
        compile=arguments.compile,
    )
    if require("accelerate", "train").PartialState().is_main_process:
        print(f"{folder}: the model; ditifeat info {folder}")
