"""Codes against the truth: `ditifeat evaluate-factors RUN... --out FOLDER`, of runs that learnt from `ditifeat factors`.

A factor's place by theory is the time-step at which the frozen DM loses it (`factors_theory`). Its place in a code is where in the
ranges of time-steps a probe reads it, and where a swap transfers it. If the method does what it claims, the three agree; PDAE's
one subset, its dimensions dealt at random to as many ranges, is what agrees by chance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache as memoised
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditifeat.benchmark.benchmark import load_runs, method_name
from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.factors_regressor import Regressor, RegressorSpec, accuracy, load_regressor
from ditifeat.benchmark.factors_scores import Dims, centres, disentanglement, order, reading
from ditifeat.benchmark.factors_swaps import selectivity, swaps
from ditifeat.benchmark.factors_tables import page, plot_factors, plot_theory
from ditifeat.benchmark.factors_theory import errors, lost_at, pair_distances
from ditifeat.benchmark.split import in_batches
from ditifeat.data.batches import load_images
from ditifeat.data.factors import FACTORS, SIZE, Values, sample
from ditifeat.encoding.encoder import Encoder
from ditifeat.errors import ModelError, require
from ditifeat.files import check_writable, write_text
from ditifeat.model.diti import DiTi
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import integer

RANGES = 10  # of time-steps, equal

DEALS = 20  # of the dimensions of a code without an order

Row = dict[str, Any]


def evaluate_factors(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    count: int = 6000,
    swapped: int = 64,
    steps: int = 20,
    seed: int = 2,
    regressor_images: int = 131072,
    progress: bool = False,
) -> dict[str, Any]:
    """Compare what codes hold at each range of time-steps with what a DM loses there; write tables and two figures.

    Writes `factors.json`, `factors.md`, `factors.png` (factor x range) and `factors-theory.png` (curves over time-steps).

    Args:
        runs: run folders, model folders or names: DiTi and PDAE models of 32 px whose time-steps agree. Those of one recipe and as
            many images share a row: mean and standard deviation over them.
        out: the folder to write.
        count: images that are drawn; two thirds train the probes, the others test them.
        swapped: images whose ranges are swapped, each sampled once per range.
        steps: of sampling.
        seed: of these images; give another than the training images have.
        regressor_images: that the network which reads factors from samples is trained on, at the first call for this `out`.
        progress: show a progress bar.

    Returns:
        What `factors.json` holds.

    Raises:
        InputError, ModelError: for runs that do not fit, or numbers out of range.
        MissingDependencyError: without the extra `[plot]`.

    >>> from ditifeat.benchmark.factors import evaluate_factors
    >>> evaluate_factors(["on-0", "on-1", "pdae-0"], "table")["factors"]["texture"]["lost_at"]  # doctest: +SKIP
    153
    """
    from tqdm.auto import tqdm

    require("matplotlib", "plot")
    out = Path(out)
    check_writable(out / "factors.md")
    count, swapped = integer("count", count, 1000), integer("swapped", swapped, 2)
    encoders = load_runs(runs, device="cpu")
    models = [_model(encoder) for encoder in encoders]
    if any(not torch.equal(model.schedule.alpha_bar, models[0].schedule.alpha_bar) for model in models):
        raise ModelError("the runs' DMs add noise by different schedules, and lose factors at different time-steps")
    cache = Cache(out / "cache")
    theory = errors(pair_distances(models[0].codec), models[0].schedule)
    lost = {name: lost_at(error) for name, error in theory.items()}
    images, values = sample(count, seed)
    regressor = memoised(lambda: load_regressor(cache, RegressorSpec(images=regressor_images)))
    shown, truth = _first(images, values, swapped)
    rows = []
    for encoder, model in tqdm(list(zip(encoders, models, strict=True)), unit="run", disable=not progress):
        key = (
            dict(model.state_dict()),
            count,
            swapped,
            steps,
            seed,
            regressor_images,
            RANGES,
            DEALS,
            list(lost.values()),
        )

        def make(model: DiTi = model) -> Row:
            return _measure(model, images, values, shown, truth, regressor, list(lost.values()), steps)

        rows.append({"method": method_name(encoder), **cache.json("factors", *key, make=make)})
    read = accuracy(regressor(), load_images(images), values)
    result = {
        "about": {
            "images": count, "swapped": swapped, "steps": steps, "seed": seed, "deals": DEALS,
            "regressor_images": regressor_images, "ranges": _ranges(models[0].partition),
        },
        "factors": {name: {"lost_at": lost[name], "regressor": read[name]} for name in FACTORS},
        "methods": grouped(rows),
    }  # fmt: skip
    write_text(out / "factors.json", json.dumps(result, indent=1) + "\n")
    write_text(out / "factors.md", page(result))
    plot_theory(theory, lost, out / "factors-theory.png")
    plot_factors(result, out / "factors.png")
    return result


def _first(images: np.ndarray, values: Values, count: int) -> tuple[Tensor, Values]:
    return load_images(images[:count]), {name: column[:count] for name, column in values.items()}


def _model(encoder: Encoder) -> DiTi:
    model = encoder.model if encoder.config.method == "diti" else None
    if not isinstance(model, DiTi) or encoder.config.image.size != SIZE:
        raise ModelError(
            f"{encoder.folder}: is not a DiTi or PDAE model of {SIZE} px; train one: ditifeat train factors32 --data images.tar"
        )
    if 1 < model.partition.k < RANGES:
        raise ModelError(
            f"{encoder.folder}: its {model.partition.k} subsets are fewer than the {RANGES} ranges that are compared"
        )
    return model


def _ranges(partition: TimeStepPartition) -> list[tuple[int, int]]:
    total = partition.num_time_steps
    return [(total * i // RANGES, total * (i + 1) // RANGES) for i in range(RANGES)]


def range_dims(partition: TimeStepPartition) -> list[np.ndarray]:
    """Return the dimensions of ten equal ranges of time-steps: of the subsets that begin in each.

    >>> from ditifeat.benchmark.factors import range_dims
    >>> [len(dims) for dims in range_dims(ditifeat.TimeStepPartition(20, 40))]
    [4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    """
    start = np.array([partition.time_steps_of_subset(i).start for i in partition.subset_of_dim])
    return [np.flatnonzero((lo <= start) & (start < hi)) for lo, hi in _ranges(partition)]


def _dealt(d: int, seed: int) -> list[np.ndarray]:
    """All dimensions in random order, cut into as many sets as there are ranges."""
    return [np.sort(dims) for dims in np.array_split(np.random.default_rng(seed).permutation(d), RANGES)]


def _measure(
    model: DiTi,
    images: np.ndarray,
    values: Values,
    shown: Tensor,
    truth: Values,
    regressor: Callable[[], Regressor],
    lost: list[int],
    steps: int,
) -> Row:
    """All of one model, as lists and numbers; of a code of one subset, the mean over random deals of its dimensions."""
    partition = model.partition
    codes = in_batches(model.encoder, images, model.mean.device)
    train = np.arange(len(codes)) < 2 * len(codes) // 3
    ordered = partition.k > 1
    deals: list[Dims] = [range_dims(partition)] if ordered else [_dealt(partition.d, seed) for seed in range(DEALS)]
    ranges = _ranges(partition)
    scores = [reading(codes, values, train, dims) for dims in deals]
    moved, everything, fidelity = swaps(model, regressor(), shown, truth, deals[0], steps)
    test = {name: column[~train] for name, column in values.items()}
    measured = {
        "order_of_reading": _mean([order(lost, centres(each, ranges)) for each in scores]),
        "order_of_strongest": _mean([order(lost, strongest(each, ranges)) for each in scores]),
        "order_of_transfer": order(lost, centres(moved, ranges)),
        **selectivity(moved, ranges, lost),
        **disentanglement(codes[~train], test, scores[0]),
    }
    return {
        "reading": np.mean(scores, axis=0).tolist(),
        "whole": reading(codes, values, train, [np.arange(partition.d)], linear=True)[:, 0].tolist(),
        "transfer": moved.tolist(),
        "transfer_of_all": everything.tolist(),
        "sampled": list(fidelity.values()),
        "values": {name: value for name, value in measured.items() if np.isfinite(value)},
    }


def _mean(values: list[float]) -> float:
    """Of those that are finite; NaN where none is."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def strongest(scores: np.ndarray, ranges: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return the middle of the range that scores each factor best, `(factors,)`; NaN where `centres` is.

    >>> from ditifeat.benchmark.factors import strongest
    >>> strongest(np.array([[0.2, 0.5]]), [(0, 500), (500, 1000)])
    array([750.])
    """
    middles = np.array([(lo + hi) / 2 for lo, hi in ranges])
    return np.where(np.isfinite(centres(scores, ranges)), middles[scores.argmax(1)], np.nan)


def grouped(rows: list[Row]) -> dict[str, Any]:
    """Group rows by method: "runs", how many, and mean and standard deviation of what was measured.

    >>> from ditifeat.benchmark.factors import grouped
    >>> grouped([{"method": "m", "values": {"tad": 1.0}}, {"method": "m", "values": {"tad": 2.0}}])["m"]["mean"]
    {'values': {'tad': 1.5}}
    """
    found: dict[str, Any] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        members = [
            {key: value for key, value in row.items() if key != "method"} for row in rows if row["method"] == method
        ]
        found[method] = {"runs": len(members), "mean": _over(members, np.mean), "std": _over(members, np.std)}
        found[method]["each"] = [member["values"] for member in members]
    return found


def _over(members: list[Row], statistic: Callable[..., Any]) -> dict[str, Any]:
    """Over the members that a value was measured of."""
    names = dict.fromkeys(name for member in members for name in member["values"])
    values = [(name, [m["values"][name] for m in members if name in m["values"]]) for name in names]
    lists = {key: statistic([m[key] for m in members], axis=0).tolist() for key in members[0] if key != "values"}
    return {**lists, "values": {name: float(statistic(found)) for name, found in values}}
