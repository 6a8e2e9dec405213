"""`ditifeat export`: write the encoder in a format that runs without torch."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's own arguments."""
    parser.add_argument("--out", required=True, type=Path, help="file to write")
    parser.add_argument("--format", choices=("onnx",), default="onnx", help="of the file")


def run(arguments: argparse.Namespace) -> None:
    """Write the file, and print what it takes and gives."""
    from ditifeat.app.commands import load_encoder
    from ditifeat.encoding.export import export_onnx

    encoder = load_encoder(arguments)
    export_onnx(encoder, arguments.out, crop=arguments.crop, flip_average=arguments.flip_average)
    size = encoder.config.image.size
    megabytes = arguments.out.stat().st_size / 1e6
    print(
        f"{arguments.out}: pixels (batch, {size}, {size}, 3) to features (batch, {encoder.partition.d}), {megabytes:.1f} MB"
    )
