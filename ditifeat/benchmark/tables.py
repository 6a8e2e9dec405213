"""Groups and Markdown tables of the benchmark and of the edit evaluation, by pandas (extra `[benchmark]`)."""

from __future__ import annotations

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
        rows: "method", "kind", "values", and by attribute "attributes" (AP) and "prevalence"; "weights".

    Returns:
        By method: "kind", "runs" (how many), "mean" and, over several runs, "std" of the values and of the attributes'
        AP, "each" run's values, "prevalence", and the mean "weights". What was not measured is left out.
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
    return found


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
