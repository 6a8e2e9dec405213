"""Groups and Markdown tables of the benchmark and of the edit evaluation, by pandas (extra `[benchmark]`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ditifeat.benchmark.scores import NEIGHBOURS

COLUMNS = {
    "ap": "AP, logistic",
    "ridge_ap": "AP, ridge",
    "paper_ap": "AP, paper's probe",
    "knn_ap": f"k-NN AP (k = {NEIGHBOURS})",
    "auroc": "AUROC",
    "tad": "TAD",
    "captured": "captured",
    "disentanglement": "D",
    "completeness": "C",
    "mse": "MSE",
    "ssim": "SSIM",
    "mse_random": "MSE, random x_T",
    "images": "images",
    "seconds": "seconds",
    "parameters": "parameters",
}

COUNTS = ("captured", "images", "seconds", "parameters")


EDIT_COLUMNS = {
    "target": "target change",
    "off_target": "off-target change",
    "equal": "off-target change at equal target change",
    "reached": "attributes that reach it",
    "cosine": "identity, cosine",
    "still": "MSE of the least changed 3/4",
    "kernel": "kernel distance",
}


def grouped(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Group rows by their method.

    Args:
        rows: "method", "kind", "values", and by attribute "attributes" (AP) and "prevalence"; "weights"; "specialisation" of
            DiTi and PDAE.

    Returns:
        By method: "kind", "runs" (how many), "mean" and, over several runs, "std" of the values and of the attributes'
        AP, "each" run's values, "prevalence", the mean "weights", and of "specialisation" the "ranges", "mean" and "std". What
        was not measured is left out.
    """
    import pandas

    methods = [row["method"] for row in rows]
    values = pandas.DataFrame([row["values"] for row in rows], dtype=float).groupby(methods, sort=False)
    attributes = pandas.DataFrame([row["attributes"] for row in rows], dtype=float).groupby(methods, sort=False)
    weights = pandas.DataFrame([row["weights"] for row in rows], dtype=float).groupby(methods, sort=False).mean()
    mean, std, attribute_mean = values.mean(), values.std(), attributes.mean()
    found = {}
    for method in mean.index:
        members = [row for row in rows if row["method"] == method]
        found[method] = {
            "kind": members[0]["kind"],
            "runs": len(members),
            "mean": mean.loc[method].dropna().to_dict(),
            "std": std.loc[method].dropna().to_dict(),
            "each": [{key: value for key, value in row["values"].items() if np.isfinite(value)} for row in members],
            "attributes": attribute_mean.loc[method].dropna().to_dict(),
            "prevalence": members[0]["prevalence"],
            "weights": weights.loc[method].tolist(),
        }
        measured = [row["specialisation"] for row in members if "specialisation" in row]
        if measured:
            found[method]["specialisation"] = _over_runs(measured)
    return found


def _over_runs(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and, over several runs, standard deviation of all "values"; their "ranges" are the same."""
    values = [run["values"] for run in measured]
    std = {"std": averaged(values, partial(np.std, ddof=1))} if len(measured) > 1 else {}
    return {"ranges": measured[0]["ranges"], "mean": averaged(values, np.mean), **std}


def averaged(values: list[Any], average: Callable[..., Any]) -> Any:
    """Average dicts of dicts, lists and numbers, all alike, number by number; None for what is not finite.

    >>> from ditifeat.benchmark.tables import averaged
    >>> averaged([{"shares": [0.0, 1.0], "rank": 3}, {"shares": [0.5, 0.5], "rank": 5}], np.mean)
    {'shares': [0.25, 0.75], 'rank': 4.0}
    """
    if isinstance(values[0], dict):
        return {key: averaged([value[key] for value in values], average) for key in values[0]}
    found = average(np.array(values, dtype=float), axis=0)
    return np.where(np.isfinite(found), found, np.array(None)).tolist()


def page(result: dict[str, Any]) -> str:
    """Write all of `benchmark`'s result as Markdown."""
    sections = [heading(result), table(result), attribute_table(result), specialisation_tables(result)]
    return "\n".join(section for section in sections if section)


def table(result: dict[str, Any]) -> str:
    """Write `benchmark`'s result as Markdown: a row per method, a column per score."""
    rows = [
        {"method": name, "runs": method["runs"]}
        | {title: _cell(key, method["mean"].get(key), method["std"].get(key)) for key, title in COLUMNS.items()}
        for name, method in result["methods"].items()
    ]
    return markdown(rows)


def attribute_table(result: dict[str, Any]) -> str:
    """Write the AP of the logistic probe as Markdown, a row per attribute, beside its prevalence, which is the AP of chance."""
    methods = result["methods"]
    rows = []
    for attribute, prevalence in next(iter(methods.values()))["prevalence"].items():
        found = {name: method["attributes"].get(attribute) for name, method in methods.items()}
        cells = {name: "" if ap is None else f"{ap:.3f}" for name, ap in found.items()}
        rows.append({"attribute": attribute, "prevalence": f"{prevalence:.3f}", **cells})
    return markdown(rows)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Write rows with the same keys as a Markdown table; cells are written as they are.

    >>> from ditifeat.benchmark.tables import markdown
    >>> print(markdown([{"method": "PCA", "AP": "0.5440"}]), end="")
    | method   | AP     |
    |:---------|:-------|
    | PCA      | 0.5440 |
    """
    import pandas

    return pandas.DataFrame(rows).to_markdown(index=False, disable_numparse=True) + "\n"


def heading(result: dict[str, Any]) -> str:
    """Say what the tables' numbers are measured on."""
    about = result["about"]
    averaged = "Codes are averaged over horizontal flips.\n" if about["flip_average"] else ""
    return averaged + (
        f"Probes trained on {about['train rows']} images, scored on the next {about['test rows']}.\n"
        f"MSE and SSIM: {about['reconstructed']} of these, {about['steps']} + {about['steps']} DDIM steps, from the "
        "inferred and from a random x_T.\nLogistic and ridge probes take codes at their own scale, the paper's "
        f"standardises each; its AP is the mean of {len(about['probe seeds'])} seeds.\nk-NN AP: scored by the share of an "
        f"image's {NEIGHBOURS} nearest training images that have the attribute.\nError-predictive codes: of relative errors. "
        "Images and seconds: the method's own, not those of a frozen DM. ±: standard deviation over runs.\n"
    )


def _cell(key: str, mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    if key in COUNTS:
        return f"{mean:.0f}" if mean == round(mean) else f"{mean:.1f}"
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def specialised(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known about the specialisation of methods, by their names; none of baselines, SimCLR or Diff-AE."""
    return {name: m["specialisation"] for name, m in result["methods"].items() if "specialisation" in m}


def specialisation_tables(result: dict[str, Any]) -> str:
    """Write the sections of what each range of time-steps holds as Markdown; empty where no method has subsets."""
    methods = specialised(result)
    if not methods:
        return ""
    about = result["about"]
    steps = about["sampling steps"]
    sampled = f"{about['sampled']} test images, sampled in {steps} DDIM steps from a random x_T"
    sections = {
        "Sampling and effective rank": (
            f"MSE of {sampled}; of the fixed-point solver's round trip of {steps} + {steps} evaluations; e to the entropy of the "
            f"eigenvalue shares of the covariance of {about['test rows']} test images' codes.",
            [_summary_row(name, found) for name, found in methods.items()],
        ),
        "Error left": (
            "Share of the frozen DM's squared error of x_0 that is left, per range of time-steps, under the code of the "
            f"subsets up to a time-step; {about['error images']} test images.",
            [row for name, found in methods.items() for row in _error_rows(name, found)],
        ),
        "Swaps": (
            f"What changes in {sampled}, when another image's subsets of a range are put in: the range's share of the squared "
            f"change of low frequencies (8 x 8 means) and of the rest, their ratio, and the range's share of the change of the "
            "attribute classifier's logits: mean over attributes, and the largest.",
            [row for name, found in methods.items() for row in _swap_rows(name, found)],
        ),
        "AP per range": (
            "Mean AP of ridge probes on the subsets of a range alone, and on those of it and all earlier ones.",
            [row for name, found in methods.items() for row in _probe_rows(name, found)],
        ),
    }
    return "\n".join(f"## {title}\n{text}\n\n{markdown(rows)}" for title, (text, rows) in sections.items() if rows)


def _cells(found: dict[str, Any], *path: str, digits: int = 2) -> Any:
    """The numbers at a place of a method's means, written with their standard deviations, in the same nested lists."""
    mean, std = found["mean"], found.get("std")
    for key in path:
        mean, std = mean[key], None if std is None else std[key]
    return _written(mean, std, digits)


def _written(mean: Any, std: Any, digits: int) -> Any:
    if isinstance(mean, list):
        return [_written(m, None if std is None else std[i], digits) for i, m in enumerate(mean)]
    if mean is None:
        return ""
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


def _summary_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    return {
        "method": name,
        "MSE, random x_T": _cells(found, "mse_random", digits=4),
        "MSE, round trip": _cells(found, "round_trip", digits=6),
        "effective rank": _cells(found, "effective_rank", digits=1),
    }


def _error_rows(name: str, found: dict[str, Any]) -> list[dict[str, str]]:
    ranges, cells = found["ranges"]["error_left"], _cells(found, "error_left")
    one = len(cells[0]) == 1  # subset, which all of the code is
    return [
        {"method": name, "time-steps": _range(lo, hi)}
        | {f"code of 0-{end}": "" if one else row[i] for i, (_, end) in enumerate(ranges[:-1])}
        | {"whole code": row[-1]}
        for (lo, hi), row in zip(ranges, cells, strict=True)
    ]


MOST = 4  # attributes named per range


def _swap_rows(name: str, found: dict[str, Any]) -> list[dict[str, str]]:
    if "swaps" not in found["mean"]:
        return []
    shares = found["mean"]["attributes"]
    rows = []
    for i, (lo, hi) in enumerate(found["ranges"]["swaps"]):
        largest = sorted(shares, key=lambda a: -shares[a][i])[:MOST]
        rows.append({
            "method": name,
            "time-steps": _range(lo, hi),
            "low frequencies": _cells(found, "swaps", "low")[i],
            "the rest": _cells(found, "swaps", "rest")[i],
            "low / rest": _cells(found, "swaps", "ratio")[i],
            "attributes": _cells(found, "swaps", "attributes")[i],
            "largest": ", ".join(f"{a} {shares[a][i]:.2f}" for a in largest),
        })  # fmt: skip
    return rows


def _probe_rows(name: str, found: dict[str, Any]) -> list[dict[str, str]]:
    alone, cumulative = (_cells(found, kind, digits=4) for kind in ("alone", "cumulative"))
    return [
        {"method": name, "time-steps": _range(lo, hi), "AP alone": a, "AP up to here": c}
        for (lo, hi), a, c in zip(found["ranges"]["probe"], alone, cumulative, strict=True)
    ]


def _range(lo: int, hi: int) -> str:
    return f"{lo}-{hi}"


def edit_tables(result: dict[str, Any]) -> str:
    """Write `evaluate_edits`'s result as Markdown: a row per kind of edit, then what else the strongest edits change."""
    about, edits = result["about"], result["edits"]
    kinds = []
    for name, edit in edits.items():
        found = {title: edit["mean"].get(key) for key, title in EDIT_COLUMNS.items()}
        kinds.append({"edit": name} | {title: "" if mean is None else f"{mean:.3g}" for title, mean in found.items()})
    strongest = [
        {
            "edit": f"{name}, strength {path[-1]['scale']}",
            "attribute": attribute,
            "target change": f"{path[-1]['target']:.2f}",
            "off-target change": f"{path[-1]['off_target']:.2f}",
            "other attributes changed most": ", ".join(path[-1]["most_changed"]),
        }
        for name, edit in edits.items()
        for attribute, path in edit.get("attributes", {}).items()
    ]
    averaged = " Directions are of codes averaged over horizontal flips." if about["flip_average"] else ""
    heading = (
        f"{about['edited']} held-out images, {about['steps']} + {about['steps']} evaluations; attribute classifier: a CNN on "
        f"pixels, mean AP {about['classifier_ap']:.3f} on held-out images. Changes of its logits, from reconstruction to edit, "
        "in standard deviations over held-out images; off-target change: mean absolute change of the other attributes. At "
        f"strength {about['strength']}, but for equal target change, which is {about['equal_change']}. Kernel distance: of the "
        f"classifier's features, to other real images.{averaged}\n"
    )
    return "\n".join([heading, markdown(kinds), _common_ground(result), markdown(strongest)])


def _common_ground(result: dict[str, Any]) -> str:
    change, common = result["about"]["equal_change"], result["common"]
    if not common["attributes"]:
        return f"There is no attribute whose target change reaches {change} under every edit.\n"
    means = "; ".join(f"{name} {mean:.3f}" for name, mean in common["off_target"].items())
    attributes = ", ".join(common["attributes"])
    return f"Off-target change at a target change of {change}, over the attributes that all reach ({attributes}): {means}.\n"
