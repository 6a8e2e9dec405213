"""Figures. matplotlib (extra `[plot]`) is imported at the first one, and drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditifeat.errors import InputError, MissingDependencyError
from ditifeat.files import atomic_write


def plot_scores(
    names: list[str], ranges: Sequence[tuple[int, int]], alone: np.ndarray, cumulative: np.ndarray, path: Path
) -> None:
    """Write a heat map, attributes x ranges of time-steps: the score of each range alone, and cumulatively.

    Args:
        names: the attributes, top to bottom.
        ranges: time-steps (lo, hi) of the columns.
        alone, cumulative: scores `(attributes, ranges)` in [0, 1].
        path: a `.png`, `.pdf` or `.svg`.

    Raises:
        InputError: for another suffix.
        MissingDependencyError: if matplotlib is not installed.
    """
    check_plot_suffix(path)
    figure = load_figure_class()(
        figsize=(3 + 1.3 * len(ranges), max(1.6 + 0.24 * len(names), 2.8)), layout="constrained"
    )
    left, right = figure.subplots(1, 2, sharey=True)
    starts = [f"{lo}-{hi}" for lo, hi in ranges]
    ends = [f"0-{hi}" for _, hi in ranges]
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
    figure.colorbar(image, ax=[left, right], label="AP (r of real values)", shrink=0.9)
    save_figure(figure, path)


def load_figure_class() -> Any:
    """Import matplotlib's `Figure`, which draws without a display and without pyplot's global state.

    Raises:
        MissingDependencyError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("plots need matplotlib: pip install 'ditifeat[plot]'") from error
    return Figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the suffix, atomically.

    Raises:
        InputError: for another suffix than .png, .pdf or .svg.
    """
    kind = check_plot_suffix(path)
    atomic_write(path, lambda partial: figure.savefig(partial, format=kind, dpi=150))


def check_plot_suffix(path: Path) -> str:
    """Return the format that a path's suffix names; call it before anything is computed for the plot.

    Raises:
        InputError: for another suffix than .png, .pdf or .svg.

    >>> from pathlib import Path
    >>> from ditifeat.analysis.plots import check_plot_suffix
    >>> check_plot_suffix(Path("probe.PNG"))
    'png'
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("png", "pdf", "svg"):
        raise InputError(f"{path}: plots are saved as .png, .pdf or .svg")
    return kind
