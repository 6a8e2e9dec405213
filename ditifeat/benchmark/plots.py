"""Figures of the benchmark. matplotlib (extra `[plot]`) is imported at the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ditifeat.analysis.plots import load_figure_class, save_figure

HIGHLIGHTED_GAIN = 0.02  # of AP, as the paper highlights


def plot_benchmark(result: dict[str, Any], path: Path) -> None:
    """Write the AP of `benchmark`'s first run over each other one, by attribute, and the runs' histograms of probe weights.

    Gains above 0.02 are highlighted.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figure_class = load_figure_class()
    trained = {name: method for name, method in result["methods"].items() if method["kind"] == "trained"}
    first, *others = trained
    attributes = [
        a for a in trained[first]["attributes"] if all(a in method["attributes"] for method in trained.values())
    ]
    figure = figure_class(figsize=(3 + 2.6 * (len(others) + 1), 1.6 + 0.2 * len(attributes)), layout="constrained")
    panels = figure.subplots(1, len(others) + 1, squeeze=False)[0]
    for axes, other in zip(panels[:-1], others, strict=True):
        gains = {a: trained[first]["attributes"][a] - trained[other]["attributes"][a] for a in attributes}
        names = sorted(gains, key=lambda a: gains[a])
        colors = ["tab:orange" if gains[a] > HIGHLIGHTED_GAIN else "tab:gray" for a in names]
        axes.barh(names, [gains[a] for a in names], color=colors)
        axes.locator_params(axis="x", nbins=4)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.tick_params(axis="y", labelsize=6)
        axes.set_title(f"AP of {first}\nover {other}", fontsize=7)
    edges = np.linspace(0, 1, len(trained[first]["weights"]) + 1)
    for name, method in trained.items():
        panels[-1].stairs(method["weights"], edges, label=name)
    panels[-1].set_yscale("log")
    panels[-1].set_title("probe weights, over an attribute's largest", fontsize=7)
    panels[-1].legend(fontsize=6)
    save_figure(figure, path)


def plot_specialisation(methods: dict[str, dict[str, Any]], path: Path) -> None:
    """Write, a row per method, the heat map of the error left and the shares of each range's swap, by frequency.

    Args:
        methods: as `tables.specialised` gives them.
        path: of the figure.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figure = load_figure_class()(figsize=(8.5, 3 * len(methods)), layout="constrained")
    panels = figure.subplots(len(methods), 2, squeeze=False)
    for (left, right), (name, found) in zip(panels, methods.items(), strict=True):
        _draw_error_left(left, found)
        left.set_title(f"{name}: error left", fontsize=8)
        if "swaps" in found["mean"]:
            _draw_swaps(right, found)
        else:
            right.set_axis_off()  # of one subset
    save_figure(figure, path)


def _draw_error_left(axes: Any, found: dict[str, Any]) -> None:
    errors, ranges = np.array(found["mean"]["error_left"], dtype=float), found["ranges"]["error_left"]
    axes.imshow(errors, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), error in np.ndenumerate(errors):
        color = "white" if error < 0.6 else "black"
        axes.text(column, row, f"{error:.2f}", ha="center", va="center", fontsize=7, color=color)
    codes = [f"0-{hi}" for _, hi in ranges] if errors.shape[1] > 1 else ["whole"]
    axes.set_xticks(range(len(codes)), codes, fontsize=7)
    axes.set_yticks(range(len(ranges)), [f"{lo}-{hi}" for lo, hi in ranges], fontsize=7)
    axes.set_xlabel("code of time-steps", fontsize=7)
    axes.set_ylabel("time-steps", fontsize=7)


def _draw_swaps(axes: Any, found: dict[str, Any]) -> None:
    ranges, mean, std = found["ranges"]["swaps"], found["mean"]["swaps"], found.get("std", {}).get("swaps", {})
    for offset, band, title in ((-0.2, "low", "low frequencies"), (0.2, "rest", "the rest")):
        axes.bar(np.arange(len(ranges)) + offset, mean[band], 0.4, yerr=std.get(band), label=title)
    axes.set_xticks(range(len(ranges)), [f"{lo}-{hi}" for lo, hi in ranges], fontsize=7)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("time-steps whose subsets are swapped", fontsize=7)
    axes.set_title("share of the squared change", fontsize=8)
    axes.legend(fontsize=7)


def plot_weights(weights: dict[str, np.ndarray], path: Path) -> None:
    """Write the histogram of each method's absolute probe weights `(d, attributes)`, over their attribute's largest.

    Many near 0 and few near 1 is what few dimensions per attribute look like (DiTi, figure 2b).

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figure = load_figure_class()(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in weights.items():
        shares = np.abs(values) / np.abs(values).max(0).clip(1e-12)
        axes.hist(shares.ravel(), bins=50, range=(0, 1), density=True, histtype="step", label=name)
    axes.set_yscale("log")
    axes.set_xlabel("probe weight, over its attribute's largest")
    axes.set_ylabel("density")
    axes.legend()
    save_figure(figure, path)


def plot_curves(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Write mean AP against images seen, a line per run.

    Raises:
        MissingDependencyError: without matplotlib.

    >>> from pathlib import Path
    >>> from ditifeat.benchmark.plots import plot_curves
    >>> plot_curves({"run": [(4096, 0.60), (8192, 0.61)]}, Path("curve.png"))
    """
    figure = load_figure_class()(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("images seen")
    axes.set_ylabel("mean AP")
    axes.legend(fontsize=7)
    save_figure(figure, path)
