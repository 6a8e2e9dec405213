"""The command encode: images to features on disk. What takes long to import is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ditifeat.app.commands import load_encoder, one_or_several

if TYPE_CHECKING:
    from ditifeat.encoding.output import Encoded


def add_arguments(parser: argparse.ArgumentParser, positive: Callable[[str], int]) -> None:
    """Add the command's own arguments.

    Args:
        parser: of the command.
        positive: reads an integer of 1 or more.
    """
    text = (
        "images, folders, quoted patterns ('photos/**/*.jpg', 'shard-{000..010}.tar'), lists of paths (.txt, .lst), .tar, .tar.gz, "
        ".zip, .parquet or folders of it (table.parquet#column), videos; several of any"
    )
    parser.add_argument("images", nargs="+", help=text)
    text = "features to write: .npz, .safetensors, .npy, or NAME.parquet, a folder of shards. A run that was stopped goes on"
    parser.add_argument("--out", required=True, type=Path, help=text)
    parser.add_argument("--overwrite", action="store_true", help="begin again, whatever OUT holds")
    parser.add_argument("--batch-size", type=positive, default=64, help="images per batch")
    text = (
        "at an image that cannot be decoded: record its error in its row (Parquet, and the default there), skip it, "
        "or raise, the default elsewhere"
    )
    parser.add_argument("--on-error", choices=("raise", "skip", "record"), help=text)
    text = "of the network; for 2,000 images or more the fastest of float32 and bfloat16 by default"
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help=text)
    parser.add_argument("--storage-dtype", choices=("float32", "float16"), default="float32", help="of the features")
    text = "on all cores or GPUs of a Ray cluster, of this machine by default; OUT is then NAME.parquet (extra: scale)"
    parser.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help=text)
    text = "reduce large JPEGs while they are decoded: several times faster, and nearly the same features"
    parser.add_argument("--draft", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Write features, and print what they are and how many images could not be decoded."""
    from ditifeat.encoding.output import check_output
    from ditifeat.encoding.run import check_on_error
    from ditifeat.files import check_writable

    out = arguments.out
    check_output(out)
    if arguments.on_error is not None:
        check_on_error(out, arguments.on_error)
    check_writable(out / "part" if out.suffix == ".parquet" else out)
    encoder = load_encoder(arguments)
    done = _encode(arguments)(
        encoder,
        one_or_several(arguments.images),
        out=out,
        batch_size=arguments.batch_size,
        crop=arguments.crop,
        align=arguments.align,
        on_error=arguments.on_error,
        flip_average=arguments.flip_average,
        draft=arguments.draft,
        dtype=arguments.dtype,
        storage_dtype=arguments.storage_dtype,
        overwrite=arguments.overwrite,
        progress=True,
    )
    image = encoder.config.image
    cropped = f"expected alignment: {image.alignment}" if arguments.crop == "model" else "the central square"
    cropped = "faces found and aligned" if arguments.align else cropped
    averaged = ", averaged over horizontal flips" if arguments.flip_average else ""
    size = f"({done.rows}, {encoder.partition.d})"
    print(f"{out}: features {size} by {encoder.config.name}, from {image.size} px, {cropped}{averaged}")
    print(f"{done.before} of them were there before; " if done.before else "", end="")
    print(f"{done.failed} image{'s' * (done.failed != 1)} could not be decoded")


def _encode(arguments: argparse.Namespace) -> Callable[..., Encoded]:
    import ditifeat

    if arguments.ray is None:
        return ditifeat.encode
    from ditifeat.encoding.ray import encode_on_ray

    return partial(encode_on_ray, address=None if arguments.ray == "local" else arguments.ray)
