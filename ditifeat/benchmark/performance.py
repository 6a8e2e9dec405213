"""Measure encoding, probing and searching: ratios in one run, medians of several, on JPEGs that are made here.

`python -m ditifeat.benchmark.performance` prints a table; `--quick` takes a minute or two, and is for seeing that it runs.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ditifeat
from ditifeat.analysis.index import Index, build_index
from ditifeat.analysis.linear import LOGIT_VARIANCE
from ditifeat.analysis.search import search
from ditifeat.benchmark.decoding import LARGE, SMALL, by_us, cpu_seconds, jpeg
from ditifeat.benchmark.tables import markdown
from ditifeat.data.batches import load_images
from ditifeat.encoding.encoder import Encoder
from ditifeat.files import write_text
from ditifeat.model.partition import TimeStepPartition

Line = dict[str, Any]


def machine() -> str:
    """Name the processor, the number of cores, and how busy they are.

    >>> from ditifeat.benchmark.performance import machine
    >>> "cores" in machine()
    True
    """
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    busy = f", load {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{busy}; torch {torch.__version__}"


class Block(nn.Module):
    """ResNet's basic block (He et al. 2016): two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else projection

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """Build ResNet-18 without its classifier, with random weights: `(B, 3, H, W)` to `(B, 512)`.

    >>> from ditifeat.benchmark.performance import resnet18
    >>> resnet18()(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 512])
    """
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


class _Files(torch.utils.data.Dataset[Tensor]):
    """What people write: Pillow, a resize to 64 px, a tensor."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        from PIL import Image

        with Image.open(self.paths[i]) as image:
            pixels = np.array(image.convert("RGB").resize((64, 64)))
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1


@torch.inference_mode()
def _resnet(paths: list[Path]) -> None:
    network = resnet18()
    for batch in torch.utils.data.DataLoader(_Files(paths), 64, num_workers=2):
        network(batch)


def seconds(
    functions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Measure seconds of each function, in turn, so that all meet the same load; of wall time, or by another clock.

    >>> from ditifeat.benchmark.performance import seconds
    >>> len(seconds({"nothing": int}, rounds=3)["nothing"])
    3
    """
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function()
            found[name].append(clock() - start)
    return found


def _ratio(slow: list[float], fast: list[float]) -> float:
    """The median over rounds of how many times as fast."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _line(what: str, value: str, goal: str = "-", met: bool | None = None) -> Line:
    print(f"{what}: {value}", file=sys.stderr)  # as it comes
    return {"what": what, "measured": value, "goal": goal, "met": "-" if met is None else "yes" if met else "no"}


def make_folder(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write `count` JPEGs, 64 of them different.

    >>> from pathlib import Path
    >>> from ditifeat.benchmark.performance import make_folder
    >>> [path.name for path in make_folder(Path("jpegs"), 2, (178, 218))]
    ['000000.jpg', '000001.jpg']
    """
    folder.mkdir(parents=True)
    images = [jpeg(*size, seed) for seed in range(min(count, 64 if size == SMALL else 4))]
    paths = [folder / f"{i:06d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(images[i % len(images)])
    return paths


def encoding(encoder: Encoder, folder: Path, count: int, rounds: int) -> list[Line]:
    """Encode small JPEGs end to end, beside a plain ResNet-18 and a loop, and beside what the CPU seconds allow."""
    paths = make_folder(folder / "small", count, SMALL)
    some = paths[: max(1, count // 10)]
    times = seconds(
        {
            "ours": lambda: ditifeat.encode(encoder, folder / "small"),
            "averaged": lambda: ditifeat.encode(encoder, folder / "small", flip_average=True),
            "resnet": lambda: _resnet(paths),
            "loop": lambda: [ditifeat.encode(encoder, path) for path in some],
        },
        rounds,
    )
    image = encoder.config.image
    data = [path.read_bytes() for path in paths[:64]]
    decoding = cpu_seconds({"ours": lambda one: by_us(one, image)}, data, rounds)["ours"]
    pixels = np.stack([by_us(one, image) for one in data])
    used = []
    for _ in range(rounds):
        start = time.process_time()
        encoder(load_images(pixels))
        used.append((time.process_time() - start) / len(data))
    allowed = (os.cpu_count() or 1) / (decoding + statistics.median(used))
    rate = count / statistics.median(times["ours"])
    share, resnet = rate / allowed, _ratio(times["resnet"], times["ours"])
    loop = _ratio([t * count / len(some) for t in times["loop"]], times["ours"])
    averaged = count / statistics.median(times["averaged"])
    return [
        _line(f"{count} JPEGs of 178 x 218, end to end", f"{rate:.0f}/s"),
        _line("the same, averaged over flips", f"{averaged:.0f}/s"),
        _line(
            "share of what decoding's and a float32 network's CPU seconds allow", f"{share:.2f}", ".95", share >= 0.95
        ),
        _line("times as fast as ResNet-18 and a DataLoader of 2 workers", f"{resnet:.2f}", "2", resnet >= 2),
        _line("times as fast as a loop, one image at a time", f"{loop:.1f}", "5", loop >= 5),
    ]


def large_images(encoder: Encoder, folder: Path, count: int, rounds: int) -> list[Line]:
    """Encode 12-megapixel JPEGs, with and without draft."""
    make_folder(folder / "large", count, LARGE)
    times = seconds(
        {str(draft): partial(ditifeat.encode, encoder, folder / "large", draft=draft) for draft in (False, True)},
        rounds,
    )
    ratio, rate = _ratio(times["False"], times["True"]), count / statistics.median(times["True"])
    return [
        _line(
            f"{count} 12-megapixel JPEGs with draft, times as fast as without",
            f"{ratio:.1f} ({rate:.0f}/s)",
            "4",
            ratio >= 4,
        )
    ]


MEASURED = """
import resource, sys, time
from ditifeat.app.cli import main
start = time.perf_counter()
code = main(["encode", sys.argv[1], "--out", sys.argv[2]])
print("MEASURED", time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
sys.exit(code)
"""


def _encode_in_a_process(source: Path, out: Path) -> tuple[float, float]:
    """Seconds and peak MiB of `ditifeat encode`."""
    words = [sys.executable, "-c", MEASURED, str(source), str(out)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
    return float(line.split()[1]), float(line.split()[2])


def growth(folder: Path, counts: list[int], rounds: int) -> list[Line]:
    """Time the start, and see whether memory and cost per image stay as the number of images grows."""
    one = make_folder(folder / "one", 1, SMALL)[0]
    command = [sys.executable, "-m", "ditifeat", "encode", str(one), "--out", str(folder / "one.npz")]
    start = statistics.median(
        seconds({"start": lambda: subprocess.run(command, capture_output=True, check=True)}, rounds + 2)["start"]
    )
    cost, peak = [], []
    for count in counts:
        make_folder(folder / str(count), count, SMALL)
        took, memory = _encode_in_a_process(folder / str(count), folder / f"{count}.parquet")
        cost.append(1e3 * (took - start) / count)
        peak.append(memory)
    kinds = " / ".join(f"{count:,}" for count in counts)
    spread, grown = max(cost) / min(cost) - 1, max(peak) / min(peak)
    return [
        _line("`ditifeat encode` of one image, start to end", f"{start:.2f} s", "1.5 s", start <= 1.5),
        _line(
            f"peak memory at {kinds} images", " / ".join(f"{each:.0f}" for each in peak) + " MiB", "flat", grown < 1.15
        ),
        _line(
            f"cost per image at {kinds}",
            " / ".join(f"{each:.2f}" for each in cost) + " ms",
            "within 5 %",
            spread <= 0.05,
        ),
    ]


def probing(rows: int, attributes: int, timed: int, rounds: int) -> list[Line]:
    """Probe attributes of 512-dimensional codes beside scikit-learn's loop, timed on some attributes and scaled to all."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    codes = rng.normal(size=(rows, 512)).astype(np.float32) * np.geomspace(1, 0.2, 512).astype(np.float32)
    logits = codes @ rng.normal(size=(512, attributes)) * 0.15 + rng.logistic(size=(rows, attributes))
    labels = (
        logits
        > [np.quantile(column, q) for column, q in zip(logits.T, np.linspace(0.5, 0.98, attributes), strict=True)]
    ).astype(int)
    features = ditifeat.Features(codes, tuple(map(str, range(rows))), TimeStepPartition(64, 512))
    train = slice(0, int(0.8 * rows)), slice(int(0.8 * rows), rows)
    chosen = np.linspace(0, attributes - 1, timed).astype(int)
    scaled = (codes - codes[train[0]].mean(0)) / np.sqrt(codes[train[0]].var(0).mean())
    found: dict[str, list[float]] = {}

    def loop(name: str, x: np.ndarray, **options: Any) -> None:
        found[name] = []
        for i in chosen:
            model = LogisticRegression(max_iter=1000, **options).fit(x[train[0]], labels[train[0], i])
            found[name].append(average_precision_score(labels[train[1], i], model.decision_function(x[train[1]])))

    def ours() -> None:
        report = ditifeat.probe(features, labels, train_rows=range(train[0].stop))
        found["ours"] = [list(report.values())[i].scores["ap"] for i in chosen]

    penalty = LOGIT_VARIANCE / float(scaled[train[0]].var(0).sum())
    times = seconds(
        {"ours": ours, "default": lambda: loop("default", codes), "same": lambda: loop("same", scaled, C=penalty)},
        rounds,
        time.process_time,  # of a machine that others use, too, this says most
    )
    gap = max(abs(a - b) for a, b in zip(found["ours"], found["same"], strict=True))
    mean = float(np.mean(found["ours"]) - np.mean(found["default"]))
    default, same = (
        _ratio([t * attributes / timed for t in times[name]], times["ours"]) for name in ("default", "same")
    )
    used = statistics.median(times["ours"])
    what = f"probe of {attributes} attributes, {rows:,} x 512, ranges of time-steps included ({used:.1f} s of CPU)"
    return [
        _line(
            f"{what}, times as fast as a loop of `LogisticRegression(max_iter=1000)`",
            f"{default:.1f}",
            "10",
            default >= 10,
        ),
        _line("- as a loop with its own penalties", f"{same:.1f}"),
        _line("- largest difference of an attribute's AP from that loop", f"{gap:.4f}", ".002", gap <= 0.002),
        _line("- mean AP less that of the default loop", f"{mean:+.4f}", "-.002 or more", mean >= -0.002),
    ]


def searching(
    folder: Path, rows: int, queries: int, ranges: tuple[tuple[int, int] | None, ...] = (None, (500, 1000), (100, 300))
) -> list[Line]:
    """Search rows of Parquet exactly and by indexes of all time-steps and of two ranges; recall among the nearest 10."""
    partition = ditifeat.load_encoder(device="cpu").partition
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2000, 512)).astype(np.float32)

    def drawn(count: int) -> np.ndarray:
        near = centres[rng.integers(0, len(centres), count)]
        return (near + 1.5 * rng.standard_normal((count, 512), dtype=np.float32)).astype(np.float32)

    path = folder / "rows.npy"
    ditifeat.Features(drawn(rows), tuple(f"{i:07d}.jpg" for i in range(rows)), partition).save(path)
    asked = drawn(queries)
    lines = []
    for time_steps in ranges:
        name = "all time-steps" if time_steps is None else f"time-steps {time_steps[0]}-{time_steps[1]}"
        start = time.perf_counter()
        index = build_index(path, folder / "rows.index", time_steps=time_steps)
        built = time.perf_counter() - start
        index.nearest(asked[0], count=10)
        ask = {"query": partial(_nearest_of_each, index, asked)}
        each, used = (
            statistics.median(seconds(ask, 3, clock)["query"]) / queries * 1e3
            for clock in (time.perf_counter, time.process_time)
        )
        exact = search(path, asked, time_steps=time_steps, count=10)
        got = index.nearest(asked, count=10)
        recall = float(
            np.mean([len({n for n, _ in a} & {n for n, _ in b}) / 10 for a, b in zip(got, exact, strict=True)])
        )
        size = sum(file.stat().st_size for file in (folder / "rows.index").iterdir()) / 1e6
        value = f"{each:.1f} ms, {used:.1f} of CPU, recall {recall:.3f} (built in {built:.0f} s, {size:.0f} MB)"
        lines.append(
            _line(f"query of {rows:,} rows by an index, {name}", value, "50 ms at .95", each < 50 and recall >= 0.95)
        )
    return lines


def _nearest_of_each(index: Index, asked: np.ndarray) -> None:
    for one in asked:
        index.nearest(one, count=10)


def performance(folder: Path, quick: bool) -> list[Line]:
    """Measure everything in an empty folder; `quick` takes small numbers, which say little."""
    encoder = ditifeat.load_encoder(device="cpu")
    rounds = 1 if quick else 3
    lines = encoding(encoder, folder, 128 if quick else 5000, rounds)
    lines += large_images(encoder, folder, 2 if quick else 32, rounds)
    lines += growth(folder, [64, 128] if quick else [1000, 10_000, 100_000], rounds)
    for rows, timed in ((800, 4),) if quick else ((8000, 40), (160_000, 4)):
        lines += probing(rows, 40, timed, rounds)
    return lines + searching(folder, 5000 if quick else 1_000_000, 20)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(prog="python -m ditifeat.benchmark.performance", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--out", type=Path, help="Markdown to write")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        about = machine()
        table = markdown(performance(Path(folder), chosen.quick))
    text = f"{about}\n\n{table}"
    print(text, end="")
    if chosen.out is not None:
        write_text(chosen.out, text)


if __name__ == "__main__":
    main()
