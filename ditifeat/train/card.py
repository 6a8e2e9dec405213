"""The model card, generated from the run: every number in it was measured by the run that wrote it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from torch import nn

from ditifeat.files import write_text
from ditifeat.model.any_model import AnyModel
from ditifeat.model.diffae import DiffAE
from ditifeat.model.diti import DiTi
from ditifeat.train.recipe import Recipe

START = {
    "inferred_x_T": "its inferred x_T",
    "fixed_point": "its inferred x_T, 20 + 20 evaluations of the fixed-point solver",
    "random_x_T": "a random x_T",
    "frozen_dm_inferred_x_T": "its inferred x_T, the frozen DM alone",
}

PAPER = "https://arxiv.org/abs/2401.11430"


def write_card(folder: Path, recipe: Recipe, model: AnyModel, evaluation: dict[str, Any]) -> None:
    """Writes `README.md` with the Hub's metadata into a model folder, whole or not at all."""
    metadata = ModelCardData(
        license=recipe.card.license,
        library_name="ditifeat",
        pipeline_tag="image-feature-extraction",
        tags=["representation-learning", "disentanglement", "diffusion", "arxiv:2401.11430"],
    )
    text = f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(_sections(recipe, model, evaluation)) + "\n"
    write_text(folder / "README.md", text)


def _sections(recipe: Recipe, model: AnyModel, evaluation: dict[str, Any]) -> list[str]:
    p, image = model.partition, model.config.image
    return [
        f"# {recipe.name}",
        f"Image features that come apart: {p.d} numbers in {p.k} subsets, each of which belongs to a range of diffusion "
        f"time-steps ([DiTi, ICLR 2024]({PAPER})). Made with `ditifeat train {recipe.name}`.",
        f'```python\nimport ditifeat\n\nencoder = ditifeat.load_encoder("{recipe.name}")  # a bundled name, a folder, or org/name\n'
        'features = ditifeat.encode(encoder, "photos/")\n```',
        f"**Input.** {image.size} x {image.size} pixels, cut from {image.alignment}: the box {_box(image.crop)} of the "
        f"picture's width and height, {image.resampling} resampling.",
        "## Training\n" + _training(recipe, model),
        "## Evaluation\n" + _evaluation(evaluation),
        f"## Data and terms\n{recipe.card.data}\n\n{recipe.card.terms}",
        "## Limits\nThe features know what the training pictures show and how they are cut; other pictures, or the same "
        f"ones cut otherwise, get features without meaning. {recipe.card.limits}".rstrip(),
    ]


def _box(crop: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{edge:.4f}" for edge in crop) + ")"


def _training(recipe: Recipe, model: AnyModel) -> str:
    facts = model.config.training
    rows = ["| stage | images seen | seconds | precision | parameters |", "|---|---|---|---|---|"]
    for stage, title, networks in _stages(model):
        images, seconds, precision = (
            facts.get(f"{stage}_{key}", "not trained here") for key in ("images", "seconds", "precision")
        )
        count = sum(p.numel() for network in networks for p in network.parameters())
        rows.append(f"| {title} | {images} | {seconds} | {precision} | {count} |")
    section = getattr(recipe, recipe.method)
    switches = ", ".join(f"{key} `{value}`" for key, value in asdict(section).items() if key != "optimiser")
    return "\n".join(rows) + f"\n\nSeed {recipe.seed}, {facts['pictures']} pictures. {switches}".rstrip() + "."


def _stages(model: AnyModel) -> list[tuple[str, str, list[nn.Module]]]:
    if isinstance(model, DiTi):
        return [
            ("dm", "diffusion model", [model.dm.unet]),
            ("diti", "encoder and estimator", [model.encoder, model.estimator]),
        ]
    if isinstance(model, DiffAE):
        return [("diffae", "encoder and conditional diffusion model", [model.encoder, model.unet])]
    return [("contrastive", "encoder", [model.encoder])]


def _evaluation(evaluation: dict[str, Any]) -> str:
    lines: list[str] = []
    if "reconstruction" in evaluation:
        r = evaluation["reconstruction"]
        kind = "held-out" if r["held_out"] else "training"
        lines += [
            f"Reconstruction of {r['pictures']} {kind} pictures, {r['steps']} + {r['steps']} DDIM steps, on the scale 0..1:",
            "",
            "| from | MSE | SSIM |",
            "|---|---|---|",
        ]
        for name, value in r["mse"].items():
            lines.append(f"| {START[name]} | {value:.3g} | {r['ssim'][name]:.3f} |")
        lines.append("")
    if "probe" in evaluation:
        found = evaluation["probe"]
        lines += [
            f"Linear probe ({found['protocol']}), {found['train rows']} rows to train, {found['test rows']} held out:",
            f"**mean AP {found['mean_ap']:.3f}** over {len(found['scores'])} attributes.",
            "",
            "| attribute | " + " | ".join(next(iter(found["scores"].values()))) + " |",
            "|---|---|---|---|",
        ]
        for name, scores in found["scores"].items():
            lines.append(f"| {name} | " + " | ".join(f"{v:.3f}" for v in scores.values()) + " |")
    return "\n".join(lines).rstrip() or "None: there were no labels."
