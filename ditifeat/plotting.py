"""Figures. matplotlib (extra `[plot]`) is imported at the first one, and drawn without a display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ditifeat.artefact import write_whole
from ditifeat.errors import InputError

if TYPE_CHECKING:
    from ditifeat.probing import ProbeReport


def plot_report(report: ProbeReport, path: Path) -> None:
    """Writes attributes x ranges of time-steps as a heat map: the score of each range alone, and cumulatively.

    Raises:
        InputError: if the report has no ranges, or matplotlib is missing.
    """
    if not report.ranges:
        raise InputError("the features had no partition, so there are no time-steps to plot")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib; install ditifeat[plot]") from None
    # Attributes that live early come first, so that the map reads as a staircase.
    names = sorted(report.probes, key=lambda name: (report.best_range(name) or (0, 0), -report[name].score))
    alone = np.array([report[name].alone for name in names])
    cumulative = np.array([report[name].cumulative for name in names])
    figure = Figure(figsize=(3 + 1.3 * len(report.ranges), 1.6 + 0.24 * len(names)), layout="constrained")
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
    kind = path.suffix.lstrip(".") or "png"
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"{path}: plots are saved as .png, .pdf or .svg")
    write_whole(path, lambda partial: figure.savefig(partial, format=kind, dpi=150))
