"""The benchmark's Markdown tables."""

from __future__ import annotations

from typing import Any

from ditifeat.benchmark.scores import NEIGHBOURS

RECONSTRUCTED = 16

COLUMNS = {
    "ap": "AP, logistic",
    "ridge_ap": "AP, ridge",
    "paper_ap": "AP, paper's probe",
    "nearest_ap": "AP, nearest",
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


def table(result: dict[str, Any]) -> str:
    """The Markdown table of `benchmark`'s result."""
    lines = ["| system | runs | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, system in result["systems"].items():
        cells = [_cell(system["mean"].get(key), system["std"].get(key)) for key in COLUMNS]
        lines.append(f"| {name} | {system['runs']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def attribute_table(result: dict[str, Any]) -> str:
    """AP of every attribute select_prefix the logistic probe, and its prevalence, which is what chance scores."""
    systems = result["systems"]
    chance = next(iter(systems.values()))["chance"]
    lines = ["| attribute | chance | " + " | ".join(systems) + " |", "|---" * (len(systems) + 2) + "|"]
    for name, share in chance.items():
        cells = " | ".join(f"{system['attributes'][name]:.3f}" for system in systems.values())
        lines.append(f"| {name} | {share:.3f} | {cells} |")
    return "\n".join(lines) + "\n"


def _heading(result: dict[str, Any]) -> str:
    about = result["about"]
    return (
        f"Probes trained on {about['train rows']} pictures, scored on the next {about['test rows']}.\n"
        f"MSE and SSIM: {RECONSTRUCTED} of these, {about['steps']} + {about['steps']} DDIM steps, from the "
        "inferred and from a random x_T.\nLogistic and ridge probes take codes at their own relative sizes, the paper's "
        "standardises each; its AP is the mean of 3 seeds.\nAP, nearest: scored by the share of a picture's "
        f"{NEIGHBOURS} nearest training pictures that have the attribute.\nLost codes: of relative errors. "
        "Images and seconds: the method's own, not those of a frozen DM. ±: standard deviation over runs.\n"
    )


def _cell(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    if abs(mean) >= 10:
        return f"{mean:.0f}"
    text = f"{mean:.4f}" if abs(mean) < 2 else f"{mean:.1f}"
    return f"{text} ± {std:.4f}" if std is not None else text
