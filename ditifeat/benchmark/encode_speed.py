"""Measure `ditifeat encode` end to end on JPEGs that it makes: images/s, CPU seconds per image and their bound, peak memory.

Each run is a process of its own. The bound is what the cores could do if nothing but decoding, resizing and the network cost
CPU time: cores / (CPU seconds of decoding + CPU seconds of the network) per image, each measured alone in one thread.

Example:
    python -m ditifeat.benchmark.encode_speed --images 5000
    python -m ditifeat.benchmark.encode_speed --images 200 --width 4000 --height 3000 --draft
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import ditifeat
from ditifeat.data.batches import batches, count_threads
from ditifeat.encoding.speed import codes_in, fastest_way

DISTINCT = 50  # images that are made; the others are links to them

RUN = (
    "import resource, sys, time; start = time.perf_counter(); from ditifeat.app.cli import main; code = main(sys.argv[1:]);"
    "used = resource.getrusage(resource.RUSAGE_SELF);"
    "print(f'MEASURED {time.perf_counter() - start} {used.ru_utime + used.ru_stime} {used.ru_maxrss / 1024}'); sys.exit(code)"
)


def _make_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        path = folder / f"{i:07d}.jpg"
        if i < DISTINCT:
            coarse = Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            )
            noise = rng.normal(0, 6, (size[1], size[0], 1))
            Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        else:
            os.link(folder / f"{i % DISTINCT:07d}.jpg", path)


def _encode(folder: Path, out: Path, options: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of a process that encodes."""
    command = [sys.executable, "-c", RUN, "encode", str(folder), "--out", str(out), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"MEASURED (\S+) (\S+) (\S+)", done.stdout)
    assert found
    wall, cpu, peak = map(float, found.groups())
    return wall, cpu, peak


def _cpu_seconds(work: Callable[[], object], images: int) -> float:
    start = time.thread_time()
    work()
    return (time.thread_time() - start) / images


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--width", type=int, default=178)
    parser.add_argument("--height", type=int, default=218)
    parser.add_argument("--draft", action="store_true")
    parser.add_argument("--suffix", default=".parquet", choices=(".parquet", ".npz", ".npy", ".safetensors"))
    arguments = parser.parse_args()
    draft = ["--draft"] if arguments.draft else []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "images"
        _make_images(folder, arguments.images, (arguments.width, arguments.height))
        one, start = Path(place) / "one", folder / "0000000.jpg"
        first = _encode(start, one.with_suffix(arguments.suffix), draft)
        wall, cpu, peak = _encode(folder, Path(place) / f"x{arguments.suffix}", draft)
        encoder, few = ditifeat.load_encoder(), sorted(folder.iterdir())[: min(arguments.images, 256)]
        image = encoder.config.image

        def decode() -> None:
            for path in few:
                with Image.open(path) as opened:
                    if arguments.draft:
                        scale = image.reduction(*opened.size)
                        opened.draft("RGB", (opened.width // scale, opened.height // scale))
                    image.apply(opened.convert("RGB"), draft=arguments.draft)

        way = fastest_way(encoder.network, [torch.float32, torch.bfloat16])
        codes = codes_in(encoder.network, way, False)
        pixels = np.concatenate([rows for _, rows in batches(few[:64], image, 64)])
        codes(pixels)
        torch.set_num_threads(1)
        decoding, network = (
            _cpu_seconds(decode, len(few)),
            _cpu_seconds(lambda: [codes(pixels) for _ in range(4)], 4 * len(pixels)),
        )
        cores, run = count_threads(), (cpu - first[1]) / arguments.images
        rate, steady = arguments.images / wall, arguments.images / (wall - first[0])
        what = f"{arguments.images} JPEGs of {arguments.width} x {arguments.height}"
        print(f"{what}, {cores} cores, network in {way}{', draft' * arguments.draft}")
        print(f"one image, start to end: {first[0]:.2f} s, {first[1]:.2f} CPU seconds, {first[2]:.0f} MiB")
        print(
            f"all: {wall:.1f} s, {rate:.0f} images/s; without the start {steady:.0f} images/s; peak memory {peak:.0f} MiB"
        )
        print(
            f"CPU ms per image: decoding {decoding * 1e3:.2f}, network {network * 1e3:.2f}; in the run {run * 1e3:.2f}"
        )
        bound, share = cores / (decoding + network), (decoding + network) / run
        print(f"bound {bound:.0f} images/s; decoding and network are {share:.2f} of the run's CPU time")


if __name__ == "__main__":
    main()
