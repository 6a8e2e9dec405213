"""Figures. matplotlib (extra `[plot]`) is imported at the first one, and drawn without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ditifeat.artefact import write_whole
from ditifeat.errors import InputError

if TYPE_CHECKING:
    from ditifeat.probing import ProbeReport

HIGHLIGHTED_GAIN = 0.02  # of AP, as the paper highlights


def plot_report(report: ProbeReport, path: Path) -> None:
    """Writes attributes x ranges of time-steps as a heat map: the score of each range alone, and cumulatively.

    Raises:
        InputError: if the report has no ranges, or matplotlib is missing.
    """
    if not report.ranges:
        raise InputError("the features had no partition, so there are no time-steps to plot")
    figure_class = _figure_class()
    # Attributes that live early come first, so that the map reads as a staircase.
    names = sorted(report.probes, key=lambda name: (report.best_range(name) or (0, 0), -report[name].score))
    alone = np.array([report[name].alone for name in names])
    cumulative = np.array([report[name].cumulative for name in names])
    figure = figure_class(figsize=(3 + 1.3 * len(report.ranges), 1.6 + 0.24 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    starts = [f"{lo}-{hi}" for lo, hi in report.ranges]
    ends = [f"0-{hi}" for _, hi in report.ranges]
    for axes, values, ticks, title in (
        (left, alone, starts, "each range alone"),
        (right, cumulative, ends, "all up to"),
    ):
        image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1)
        axes.set_xticks(range(len(ticks)), ticks, rotation=45, ha="right", fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("time-steps", fontsize=9)
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                color = "white" if value < 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=color)
    left.set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(image, ax=[left, right], label="AP (r of real-valued attributes)", shrink=0.5)
    _save(figure, path)


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib; install ditifeat[plot]") from None
    return Figure


def _save(figure: Any, path: Path) -> None:
    kind = path.suffix.lstrip(".") or "png"
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"{path}: plots are saved as .png, .pdf or .svg")
    write_whole(path, lambda partial: figure.savefig(partial, format=kind, dpi=150))


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
