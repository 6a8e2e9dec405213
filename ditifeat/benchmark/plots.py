"""Figures of the benchmark. matplotlib (extra `[plot]`) is imported at the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ditifeat.analysis.plots import _figure_class, _save

HIGHLIGHTED_GAIN = 0.02  # of AP, as the paper highlights


def plot_benchmark(result: dict[str, Any], path: Path) -> None:
    """Writes, for the first system of `ditifeat.train.benchmark`: its AP over each other trained one, attribute by
    attribute (gains above 0.02 highlighted), and the histogram of all trained systems' probe weights.

    Raises:
        InputError: if matplotlib is missing.
    """
    figure_class = _figure_class()
    trained = {name: s for name, s in result["systems"].items() if not name.startswith("floor")}
    first, *others = trained
    attributes = list(trained[first]["attributes"])
    figure = figure_class(figsize=(3 + 2.6 * (len(others) + 1), 1.6 + 0.2 * len(attributes)), layout="constrained")
    panels = figure.subplots(1, len(others) + 1, squeeze=False)[0]
    for axes, other in zip(panels[:-1], others, strict=True):
        gains = {a: trained[first]["attributes"][a] - trained[other]["attributes"][a] for a in attributes}
        names = sorted(gains, key=lambda a: np.nan_to_num(gains[a]))
        colors = ["tab:orange" if gains[a] > HIGHLIGHTED_GAIN else "tab:gray" for a in names]
        axes.barh(names, [gains[a] for a in names], color=colors)
        axes.locator_params(axis="x", nbins=4)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.tick_params(axis="y", labelsize=6)
        axes.set_title(f"AP of {first}\nover {other}", fontsize=7)
    edges = np.linspace(0, 1, len(trained[first]["weights"]) + 1)
    for name, system in trained.items():
        panels[-1].stairs(system["weights"], edges, label=name)
    panels[-1].set_yscale("log")
    panels[-1].set_title("probe weights, over an attribute's largest", fontsize=7)
    panels[-1].legend(fontsize=6)
    _save(figure, path)


def plot_weights(weights: dict[str, np.ndarray], path: Path) -> None:
    """Writes, for each system, the histogram of its probes' absolute weights `(d, attributes)` over an attribute's largest.

    Many near 0 and few near 1 is what few dimensions an attribute looks like (DiTi, figure 2b).

    Raises:
        InputError: if matplotlib is missing.
    """
    figure = _figure_class()(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, values in weights.items():
        shares = np.abs(values) / np.abs(values).max(0).clip(1e-12)
        axes.hist(shares.ravel(), bins=50, range=(0, 1), density=True, histtype="step", label=name)
    axes.set_yscale("log")
    axes.set_xlabel("probe weight, over its attribute's largest")
    axes.set_ylabel("density")
    axes.legend()
    _save(figure, path)


def plot_curves(curves: dict[str, list[tuple[int, float]]], path: Path) -> None:
    """Writes mean AP against pictures seen, a line a run.

    Raises:
        InputError: if matplotlib is missing.
    """
    figure = _figure_class()(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("pictures seen")
    axes.set_ylabel("mean AP")
    axes.legend(fontsize=7)
    _save(figure, path)
