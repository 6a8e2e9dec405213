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
