"""Kill `ditifeat encode` at random moments until it has been killed often enough; count rows that are lost or there twice.

Each run that comes to its end is checked against one that nobody disturbed, and the next begins anew.

Example:
    python -m ditifeat.benchmark.encode_kills --images 2000 --kills 20
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

import ditifeat


def _make_images(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        small = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize((178, 218), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=90)


def _is_killed(command: list[str], seconds: float) -> bool:
    """Start a command and kill it after so many seconds; whether it still ran then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()  # SIGKILL
        process.wait()
        return True
    return False


def _compare(found: ditifeat.Features, expected: ditifeat.Features) -> tuple[int, int, int]:
    """Rows that are lost, there twice, or different."""
    counts = Counter(found.names)
    lost, repeated = len(set(expected.names) - set(counts)), sum(count - 1 for count in counts.values())
    if lost or repeated:
        return lost, repeated, 0
    return 0, 0, int((np.abs(found.array - expected.array).max(1) > 1e-4).sum())


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="JPEGs to make and encode")
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed while they run")
    parser.add_argument("--suffix", default=".parquet", choices=(".parquet", ".npz", ".npy", ".safetensors"))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    moments, kills, finished, wrong = random.Random(arguments.seed), 0, 0, Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        folder, whole, out = (
            Path(place) / name for name in ("images", f"whole{arguments.suffix}", f"x{arguments.suffix}")
        )
        _make_images(folder, arguments.images)
        # Shards of 100 images, so that most of the moments find some that are written.
        program = (
            "from ditifeat.encoding import output; output.SHARD_ROWS = 100; from ditifeat.app.cli import main; main()"
        )
        command = [sys.executable, "-c", program, "encode", str(folder), "--dtype", "float32", "--out"]
        start = time.monotonic()
        subprocess.run([*command, str(whole)], check=True, capture_output=True)
        seconds, expected = time.monotonic() - start, ditifeat.Features.load(whole)
        while kills < arguments.kills or not finished:
            last = kills == arguments.kills
            if _is_killed([*command, str(out)], 1e6 if last else moments.uniform(0.3, 1) * seconds):
                kills += 1
                continue
            finished += 1
            for what, count in zip(
                ("lost", "repeated", "different"), _compare(ditifeat.Features.load(out), expected), strict=True
            ):
                wrong[what] += count
            shutil.rmtree(out) if out.is_dir() else out.unlink()
    print(
        f"{kills} kills, {finished} runs to their end, of {arguments.images} images each: "
        + ", ".join(f"{wrong[what]} rows {what}" for what in ("lost", "repeated", "different"))
    )


if __name__ == "__main__":
    main()
