"""What each command does. torch is imported by what needs it alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ditifeat.errors import InputError


def _encode(arguments: argparse.Namespace) -> None:
    import ditifeat
    from ditifeat.data.batches import OnError

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
    report = ditifeat.probe(
        features,
        arguments.labels,
        train_size=arguments.train_size,
        train_rows=None if arguments.train_first is None else range(arguments.train_first),
        random_state=arguments.random_state,
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
    from ditifeat.data.drawing import check_suffix, grid, save_animation, save_image

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
    options: dict[str, Any] = {
        "direction": direction,
        "reference": arguments.reference,
        "subsets": range(*arguments.subsets) if arguments.subsets else None,
        "x_T": arguments.noise,
    }
    edited = ditifeat.edit(
        encoder,
        arguments.image,
        scale=arguments.scale or [0.3 if direction is not None else 1.0],
        steps=arguments.steps,
        solver=arguments.solver,
        crop=arguments.crop,
        **options,
    )
    pictures = [picture for picture in edited if isinstance(picture, Image.Image)]
    if len(pictures) != len(edited):
        raise InputError(f"{arguments.image}: is not one picture; edit one at a time, or use ditifeat.edit from Python")
    if animated:
        save_animation(pictures, arguments.out)
    else:
        save_image(grid(np.stack([np.asarray(picture) for picture in pictures]), len(pictures)), arguments.out)
    print(f"{arguments.out}: {len(pictures)} of {pictures[0].width} x {pictures[0].height} pixels")


def _lost(arguments: argparse.Namespace) -> None:
    import ditifeat
    from ditifeat.data.drawing import check_suffix, save_image, sheet
    from ditifeat.editing.lost import TIME_STEPS, lost

    check_suffix(arguments.out)
    encoder = ditifeat.load_encoder(arguments.model, device=arguments.device)
    rows = lost(encoder, arguments.image, arguments.time_steps or TIME_STEPS, crop=arguments.crop)
    steps = ", ".join(map(str, arguments.time_steps or TIME_STEPS))
    save_image(sheet({f"{title}: t = {steps}": row for title, row in rows.items()}), arguments.out)
    print(f"{arguments.out}: {', '.join(rows)}")


def _search(arguments: argparse.Namespace) -> None:
    import numpy as np

    import ditifeat
    from ditifeat.data.batches import batches
    from ditifeat.data.drawing import check_suffix, grid, save_image

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
        save_image(grid(np.concatenate(rows), columns=len(paths)), arguments.plot)


def _benchmark(arguments: argparse.Namespace) -> None:
    from ditifeat.benchmark.benchmark import benchmark
    from ditifeat.benchmark.tables import table

    result = benchmark(
        arguments.runs,
        arguments.data,
        arguments.labels,
        arguments.out,
        train_size=arguments.train_size,
        steps=arguments.steps,
        device=arguments.device,
        progress=True,
    )
    print(table(result), end="")


def _evaluate_edits(arguments: argparse.Namespace) -> None:
    from ditifeat.benchmark.edits import evaluate_edits
    from ditifeat.benchmark.tables import edit_tables

    result = evaluate_edits(
        arguments.runs,
        arguments.data,
        arguments.labels,
        arguments.out,
        train_size=arguments.train_size,
        attributes=arguments.attributes,
        count=arguments.count,
        steps=arguments.steps,
        device=arguments.device,
        progress=True,
    )
    print(edit_tables(result), end="")


def _convert(arguments: argparse.Namespace) -> None:
    from ditifeat.pretrained.official import convert

    if arguments.out.exists():
        raise InputError(f"{arguments.out}: exists already; choose a new folder")
    convert(arguments.checkpoint, arguments.dm).save(arguments.out)
    print(f"{arguments.out}: the model; ditifeat info {arguments.out}")


def _info(arguments: argparse.Namespace) -> None:
    from ditifeat.model.config import read_config
    from ditifeat.pretrained.names import resolve

    folder, _ = resolve(arguments.model)
    config = read_config(folder)
    image, p = config.image, config.partition
    print(f"{config.name}: {image.size} px -> {p.d} numbers in {p.k} subsets, in {folder}")
    print(f"input: {image.alignment}; crop {tuple(round(edge, 4) for edge in image.crop)}, {image.resampling}")
    print("time-steps  subsets  dimensions")
    for lo, hi in p.ranges:
        columns = p.dims_of_time_steps(lo, hi)
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
    from ditifeat.app.demo import demo

    demo(arguments.model, arguments.host, arguments.port)


def _quickstart(arguments: argparse.Namespace) -> None:
    from ditifeat.app.quickstart import quickstart

    quickstart(arguments.out)
