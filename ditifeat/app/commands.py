"""What each command does with its arguments. What takes long to import is imported by the commands that need it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ditifeat.errors import InputError

if TYPE_CHECKING:
    from ditifeat.encoding.encoder import Encoder


def edit(arguments: argparse.Namespace) -> None:
    """Write an image of edits side by side, or a GIF of them."""
    import numpy as np

    import ditifeat
    from ditifeat.data.drawing import check_suffix, grid, save_animation, save_image
    from ditifeat.files import check_writable

    animated = arguments.out.suffix.lower() == ".gif"
    if not animated:
        check_suffix(arguments.out)
    check_writable(arguments.out)
    check_single(arguments.image)
    encoder = load_encoder(arguments)
    direction = None if arguments.attribute is None else _report(arguments, encoder)[arguments.attribute]
    change: dict[str, Any] = {
        "direction": direction,
        "reference": arguments.reference,
        "subsets": range(*arguments.subsets) if arguments.subsets else None,
        "x_T": arguments.x_T,
    }
    images = ditifeat.edit(
        encoder,
        arguments.image,
        scale=arguments.scale or [0.3 if direction is not None else 1.0],
        steps=arguments.steps,
        solver=arguments.solver,
        crop=arguments.crop,
        align=arguments.align,
        paste=arguments.paste,
        **change,
    )
    if animated:
        save_animation(images, arguments.out)
    else:
        save_image(grid(np.stack([np.asarray(image) for image in images]), len(images)), arguments.out)
    print(f"{arguments.out}: {len(images)} of {images[0].width} x {images[0].height} pixels")


def _report(arguments: argparse.Namespace, encoder: Encoder) -> Any:
    import ditifeat

    if arguments.report is not None:
        return ditifeat.ProbeReport.load(arguments.report)
    report = encoder.attributes()
    if report is None:
        raise InputError(f"{encoder.config.name}: has no attributes; give --report, what `ditifeat probe --out` wrote")
    return report


def lost(arguments: argparse.Namespace) -> None:
    """Write rows of images: with noise, by the frozen DM, by the DM with the code."""
    from ditifeat.data.drawing import check_suffix, save_image, sheet
    from ditifeat.editing.lost import TIME_STEPS
    from ditifeat.editing.lost import lost as what_is_lost
    from ditifeat.files import check_writable

    check_suffix(arguments.out)
    check_writable(arguments.out)
    time_steps = arguments.time_steps or TIME_STEPS
    rows = what_is_lost(
        load_encoder(arguments), arguments.image, time_steps, crop=arguments.crop, align=arguments.align
    )
    steps = ", ".join(map(str, time_steps))
    save_image(sheet({f"{title}: t = {steps}": row for title, row in rows.items()}), arguments.out)
    print(f"{arguments.out}: {', '.join(rows)}")


def resize(arguments: argparse.Namespace) -> None:
    """Write a tar of images, and print how many it holds and what was left out."""
    from ditifeat.data.resize import resize as resize_images

    done = resize_images(
        arguments.images,
        arguments.out,
        size=arguments.size,
        crop=tuple(arguments.crop),
        names_not_in=arguments.names_not_in,
        on_error=arguments.on_error,
        progress=True,
    )
    print(f"{arguments.out}: {done.written} images of {arguments.size} px")
    if arguments.names_not_in:
        print(f"{done.left_out} left out, as these have their names: {', '.join(arguments.names_not_in)}")
    if done.report.skipped:
        print(done.report)


def benchmark(arguments: argparse.Namespace) -> None:
    """Write tables and figures of all methods; print the first table, and what each range of time-steps holds."""
    from ditifeat.benchmark.benchmark import benchmark as run_benchmark
    from ditifeat.benchmark.tables import specialisation_tables, table

    result = run_benchmark(
        arguments.runs,
        one_or_several(arguments.data),
        arguments.labels,
        arguments.out,
        train_size=arguments.train_size,
        steps=arguments.steps,
        crop=arguments.crop,
        flip_average=arguments.flip_average,
        device=arguments.device,
        progress=True,
    )
    print("\n".join(filter(None, (table(result), specialisation_tables(result)))), end="")


def evaluate_edits(arguments: argparse.Namespace) -> None:
    """Write tables of what edits change, and print them."""
    from ditifeat.benchmark.edits import evaluate_edits as run_evaluation
    from ditifeat.benchmark.tables import edit_tables

    result = run_evaluation(
        arguments.runs,
        one_or_several(arguments.data),
        arguments.labels,
        arguments.out,
        train_size=arguments.train_size,
        attributes=arguments.attributes,
        count=arguments.count,
        steps=arguments.steps,
        crop=arguments.crop,
        flip_average=arguments.flip_average,
        device=arguments.device,
        progress=True,
    )
    print(edit_tables(result), end="")


def evaluate_dm(arguments: argparse.Namespace) -> None:
    """Write a table of frozen DMs and a grid of each one's samples, and print the table."""
    from ditifeat.benchmark.evaluate_dm import dm_table
    from ditifeat.benchmark.evaluate_dm import evaluate_dm as run_evaluation

    result = run_evaluation(
        arguments.dms,
        one_or_several(arguments.data),
        one_or_several(arguments.held_out),
        arguments.out,
        labels=arguments.labels,
        others=arguments.others,
        samples=arguments.samples,
        steps=arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch_size,
        bf16=arguments.bf16,
        crop=arguments.crop,
        device=arguments.device,
        progress=True,
    )
    print(dm_table(result), end="")


def convert(arguments: argparse.Namespace) -> None:
    """Write the model folder of an official checkpoint."""
    from ditifeat.pretrained.official import convert as convert_checkpoint

    if arguments.out.exists():
        raise InputError(f"{arguments.out}: exists already; choose a new folder")
    convert_checkpoint(arguments.checkpoint, arguments.dm).save(arguments.out)
    print(f"{arguments.out}: the model; ditifeat info {arguments.out}")


def push(arguments: argparse.Namespace) -> None:
    """Upload a model folder, and print the commit's address."""
    from ditifeat.pretrained.push import push as push_folder

    print(push_folder(arguments.folder, arguments.repo, private=arguments.private))


def info(arguments: argparse.Namespace) -> None:
    """Print a model's configuration, the sha256 of its encoder's weights, and the commit that they are of."""
    from ditifeat.files import sha256
    from ditifeat.model.config import read_config
    from ditifeat.pretrained.hub import HubOptions
    from ditifeat.pretrained.names import ENCODER_FILES, resolve

    folder, source = resolve(arguments.model, HubOptions(**_hub_options(arguments)))
    config = read_config(folder)
    image, p, dm = config.image, config.partition, config.dm
    print(f"{config.name}: {image.size} px -> {p.d} dimensions in {p.k} subsets, in {folder}")
    print(f"weights: sha256 {sha256(folder / ENCODER_FILES[1])}{f', {source.repo}@{source.commit}' if source else ''}")
    print(f"input: {image.alignment}; crop {tuple(round(edge, 4) for edge in image.crop)}, {image.resampling}")
    print("time-steps  subsets  dimensions")
    for lo, hi in p.ranges:
        columns = p.dims_of_time_steps(lo, hi)
        first, last = p.subset_of_dim[columns.start], p.subset_of_dim[columns.stop - 1]
        dims = f"{columns.start:4d}-{columns.stop - 1:<4d} ({columns.stop - columns.start})"
        print(f"{lo:4d}-{hi:<5d}  {first:3d}-{last:<3d}  {dims}")
    print(f"encoder: {config.encoder}")
    print(f"frozen DM: {f'{dm.repo}@{dm.commit}' if dm.repo else 'in the folder'}, codec {config.codec.kind}")
    print("training: " + (", ".join(f"{key} {value}" for key, value in config.training.items()) or "unknown"))


def demo(arguments: argparse.Namespace) -> None:
    """Serve the page."""
    from ditifeat.app.demo import Demo
    from ditifeat.app.page import load_gradio, serve

    load_gradio()  # before the model is read
    serve(Demo(load_encoder(arguments)), arguments.host, arguments.port)


def quickstart(arguments: argparse.Namespace) -> None:
    """Print and draw the bundled model at work."""
    from ditifeat.app.quickstart import quickstart as run_quickstart

    run_quickstart(arguments.out)


def check_single(image: str) -> None:
    """Refuse several images where a command takes one.

    Raises:
        InputError: for anything but one image.
    """
    from ditifeat.data.sources import is_single

    if not is_single(image):
        raise InputError(f"{image}: is not one image; give one at a time, or use ditifeat from Python for several")


def one_or_several(paths: list[str]) -> str | list[str]:
    """One path stands for itself: names are relative to a folder, and one image gives one row."""
    return paths[0] if len(paths) == 1 else paths


def load_encoder(arguments: argparse.Namespace, dtype: str | None = None) -> Encoder:
    """The encoder that the options of a model name."""
    import ditifeat

    return ditifeat.load_encoder(arguments.model, device=arguments.device, dtype=dtype, **_hub_options(arguments))


def _hub_options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {key: getattr(arguments, key) for key in ("revision", "token", "cache_dir", "local_files_only")}
