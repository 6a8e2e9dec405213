"""Markdown tables and figures of `evaluate-factors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ditifeat.analysis.plots import load_figure_class, save_figure

VALUES = {
    "order_of_reading": "order of reading",
    "order_of_strongest": "order of the best range",
    "order_of_transfer": "order of transfer",
    "own": "transfer, own range",
    "other": "transfer, other ranges",
    "disentanglement_ranges": "D of ranges",
    "completeness_ranges": "C of ranges",
    "disentanglement_dims": "D of dimensions",
    "completeness_dims": "C of dimensions",
    "tad": "TAD",
    "captured": "captured",
}


def page(result: dict[str, Any]) -> str:
    """Return all tables of `evaluate_factors`, as Markdown."""
    about, methods = result["about"], result["methods"]
    parts = [
        "# Known factors\n",
        f"{about['images']} images (seed {about['seed']}), {about['swapped']} of them sampled in {about['steps']} steps; codes of "
        f"one subset are dealt to the ranges at random, {about['deals']} times for readings, once for transfers.\n",
        "## Does a factor lie where the DM loses it?\n",
        _values_table(methods),
        "## Factors\n",
        _factor_table(result),
    ]
    for method, found in methods.items():
        parts += [f"## {method}: reading by range\n", _range_table(result, found, "reading")]
        parts += [f"## {method}: transfer by range\n", _range_table(result, found, "transfer")]
    return "\n".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _values_table(methods: dict[str, Any]) -> str:
    rows = []
    for key, title in VALUES.items():
        cells = [
            f"{found['mean']['values'][key]:.3f}"
            + (f" ± {found['std']['values'][key]:.3f}" if found["runs"] > 1 else "")
            if key in found["mean"]["values"]
            else ""
            for found in methods.values()
        ]
        rows.append([title, *cells])
    return _table(["", *(f"{name}, runs: {found['runs']}" for name, found in methods.items())], rows)


def by_loss(result: dict[str, Any]) -> list[str]:
    """Return the factors' names in the order in which a DM loses them."""
    factors = result["factors"]
    return sorted(factors, key=lambda name: factors[name]["lost_at"])


def _factor_table(result: dict[str, Any]) -> str:
    names = list(result["factors"])
    header = ["factor", "lost at", "regressor"]
    for method in result["methods"]:
        header += [f"{method}: whole code, linear", "samples", "transfer of all"]
    rows = []
    for name in by_loss(result):
        i = names.index(name)
        row = [name, str(result["factors"][name]["lost_at"]), f"{result['factors'][name]['regressor']:.3f}"]
        for found in result["methods"].values():
            row += [f"{found['mean'][key][i]:.3f}" for key in ("whole", "sampled", "transfer_of_all")]
        rows.append(row)
    return _table(header, rows)


def _range_table(result: dict[str, Any], found: dict[str, Any], kind: str) -> str:
    names = list(result["factors"])
    header = ["factor", "lost at", *(f"{lo}-{hi}" for lo, hi in result["about"]["ranges"])]
    rows = [
        [name, str(result["factors"][name]["lost_at"]), *(f"{x:.2f}" for x in found["mean"][kind][names.index(name)])]
        for name in by_loss(result)
    ]
    return _table(header, rows)


def plot_theory(errors: dict[str, np.ndarray], lost: dict[str, int], path: Path) -> None:
    """Write each factor's error over time-steps, and where it counts as lost.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    figure = load_figure_class()(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    colors = _colors(len(lost))
    for name, color in zip(sorted(lost, key=lost.__getitem__), colors, strict=True):
        axes.plot(errors[name], color=color, label=f"{name}: {lost[name]}")
    axes.axhline(0.25, color="gray", linewidth=0.8, linestyle="--")
    axes.set_xlabel("time-step")
    axes.set_ylabel("error of telling two values apart")
    axes.legend(fontsize=7, title="lost at", title_fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save_figure(figure, path)


def _colors(n: int) -> list[Any]:
    from matplotlib import colormaps

    return [colormaps["turbo"](0.05 + 0.9 * i / max(n - 1, 1)) for i in range(n)]


def plot_factors(result: dict[str, Any], path: Path) -> None:
    """Write, per method, heat maps factor x range of time-steps: what a probe reads, and what a swap transfers.

    Rows are in the order in which the DM loses the factors; a frame marks the range in which it does.

    Raises:
        MissingDependencyError: without matplotlib.
    """
    methods, names, ordered = result["methods"], list(result["factors"]), by_loss(result)
    figure = load_figure_class()(figsize=(2.2 + 3.1 * len(methods), 6.4), layout="constrained")
    panels = figure.subplots(2, len(methods), squeeze=False, sharey=True)
    rows = [names.index(name) for name in ordered]
    for column, (method, found) in enumerate(methods.items()):
        for axes, kind, title in zip(
            panels[:, column], ("reading", "transfer"), ("read by a probe", "transferred"), strict=True
        ):
            values = np.array(found["mean"][kind])[rows]
            image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1)
            correlation = found["mean"]["values"].get(f"order_of_{kind}")
            said = "" if correlation is None else f": order {correlation:.2f}"
            axes.set_title(f"{method}\n{title}{said}", fontsize=7)
            _mark_lost(axes, result, ordered)
    for axes in panels[-1]:
        axes.set_xlabel("time-steps", fontsize=8)
    for axes in panels[:, 0]:
        axes.set_yticks(range(len(ordered)), [f"{n} ({result['factors'][n]['lost_at']})" for n in ordered], fontsize=7)
    figure.colorbar(image, ax=panels, shrink=0.7)
    save_figure(figure, path)


def _mark_lost(axes: Any, result: dict[str, Any], ordered: list[str]) -> None:
    from matplotlib.patches import Rectangle

    ranges = result["about"]["ranges"]
    for row, name in enumerate(ordered):
        column = next(
            i for i, (lo, hi) in enumerate(ranges) if result["factors"][name]["lost_at"] < hi or i + 1 == len(ranges)
        )
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="white", linewidth=1.2))
    axes.set_xticks(range(len(ranges)), [str(lo) for lo, _ in ranges], fontsize=6)
