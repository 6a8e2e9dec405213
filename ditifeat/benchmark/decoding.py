"""How fast images are decoded, cut and resized, beside Pillow alone: `python -m ditifeat.benchmark.decoding`."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image

from ditifeat.data.decode import decode
from ditifeat.data.preprocessing import Preprocessing

CELEBA = (25 / 178, 57 / 218, 153 / 178, 185 / 218)  # the published crop of CelebA's aligned faces

SMALL, LARGE = (178, 218), (4000, 3000)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draw an image with the spectrum of photographs: as much contrast per octave, down to a little noise per pixel.

    >>> photo(178, 218).size
    (178, 218)
    """
    random = np.random.default_rng(seed)
    total = np.full((height, width, 3), 128, np.float32)
    cells = 2
    while cells < min(width, height):
        contrast = 60 * (2 / cells) ** 0.5
        grid = random.normal(0, contrast, (cells, cells, 3)).clip(-127, 127) + 128
        octave = Image.fromarray(grid.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(octave, np.float32) - 128
        cells *= 2
    total += random.normal(0, 2, (height, width, 1))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def jpeg(width: int, height: int, seed: int = 0, quality: int = 90) -> bytes:
    """Encode `photo` as JPEG.

    >>> len(jpeg(178, 218)) > 5000
    True
    """
    file = BytesIO()
    photo(width, height, seed).save(file, "JPEG", quality=quality)
    return file.getvalue()


def by_pillow(data: bytes, preprocessing: Preprocessing) -> np.ndarray:
    """Decode, cut and resize by Pillow's own calls and nothing else: what no code around them can beat.

    >>> by_pillow(jpeg(178, 218), Preprocessing(64)).shape
    (64, 64, 3)
    """
    image = Image.open(BytesIO(data), formats=["JPEG"])
    image.load()
    box = preprocessing.box(*image.size)
    return np.asarray(image.resize((preprocessing.size,) * 2, Image.Resampling.LANCZOS, box=box))


def by_us(data: bytes, preprocessing: Preprocessing, draft: bool = False) -> np.ndarray:
    """Decode, cut and resize as `encode` does.

    >>> by_us(jpeg(178, 218), Preprocessing(64)).shape
    (64, 64, 3)
    """
    image = decode(data, "image", preprocessing.reduction if draft else None)
    return preprocessing.apply(image, draft=draft)


def cpu_seconds(functions: dict[str, Callable[[bytes], object]], images: list[bytes], rounds: int) -> dict[str, float]:
    """Measure CPU seconds per image in one thread, the functions in turn; medians over rounds.

    >>> list(cpu_seconds({"length": len}, [b""], rounds=2))
    ['length']
    """
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.thread_time()
            for data in images:
                function(data)
            found[name].append((time.thread_time() - start) / len(images))
    return {name: statistics.median(times) for name, times in found.items()}


def per_second(function: Callable[[bytes], object], images: list[bytes], threads: int) -> float:
    """Measure images per second of wall time in some threads.

    >>> per_second(len, [b""] * 8, 2) > 0
    True
    """
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(function, images[:threads]))
        start = time.perf_counter()
        list(pool.map(function, images))
        return len(images) / (time.perf_counter() - start)


def main() -> None:
    """Print times, rates, and what a draft changes in the pixels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--small", type=int, default=400, help=f"JPEGs of {SMALL[0]} x {SMALL[1]}")
    parser.add_argument("--large", type=int, default=4, help=f"JPEGs of {LARGE[0]} x {LARGE[1]}")
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    for count, size, preprocessing in (
        (arguments.small, SMALL, Preprocessing(64, CELEBA)),
        (arguments.large, LARGE, Preprocessing(64)),
    ):
        images = [jpeg(*size, seed) for seed in range(min(count, 8))]
        images = [images[i % len(images)] for i in range(count)]
        functions: dict[str, Callable[[bytes], object]] = {
            "Pillow alone": partial(by_pillow, preprocessing=preprocessing),
            "ditifeat": partial(by_us, preprocessing=preprocessing),
            "with draft": partial(by_us, preprocessing=preprocessing, draft=True),
        }
        print(f"{size[0]} x {size[1]}, {len(images[0]) / 1e3:.0f} kB, to {preprocessing.size} px, {cores} threads")
        times = cpu_seconds(functions, images, arguments.rounds)
        for name, function in functions.items():
            ratio = times[name] / times["Pillow alone"]
            rate = per_second(function, images, cores)
            print(
                f"  {name:12}: {times[name] * 1e3:8.3f} ms of CPU per image, {ratio:.3f} of Pillow's, {rate:7.1f} images/s"
            )
        pairs = [(by_us(data, preprocessing), by_us(data, preprocessing, draft=True)) for data in images[:8]]
        gaps = np.stack([np.abs(a.astype(int) - b) for a, b in pairs])
        print(f"  a draft differs by {gaps.mean():.2f} of 255 on average, {gaps.max()} at most")


if __name__ == "__main__":
    main()
