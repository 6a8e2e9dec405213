"""The model card, generated from the run: every number in it was measured by the run that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ditifeat.artefact import write_text
from ditifeat.model import DiTi
from ditifeat.train.config import Recipe

PAPER = "https://arxiv.org/abs/2401.11430"


def write_card(folder: Path, recipe: Recipe, model: DiTi, evaluation: dict[str, Any]) -> None:
    """Writes `README.md` with the Hub's metadata into a model folder, whole or not at all."""
    metadata = ModelCardData(
        license=recipe.card.license,
        library_name="ditifeat",
        pipeline_tag="image-feature-extraction",
        tags=["representation-learning", "disentanglement", "diffusion", "arxiv:2401.11430"],
    )
    text = f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(_sections(recipe, model, evaluation)) + "\n"
    write_text(folder / "README.md", text)


def _sections(recipe: Recipe, model: DiTi, evaluation: dict[str, Any]) -> list[str]:
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


def _training(recipe: Recipe, model: DiTi) -> str:
    facts = model.config.training
    rows = ["| stage | images seen | seconds | parameters |", "|---|---|---|---|"]
    counts = {"dm": sum(p.numel() for p in model.dm.unet.parameters())}
    counts["diti"] = sum(p.numel() for n in (model.encoder, model.estimator) for p in n.parameters())
    for stage, title in (("dm", "diffusion model"), ("diti", "encoder and estimator")):
        images, seconds = (facts.get(f"{stage}_{key}", "not trained here") for key in ("images", "seconds"))
        rows.append(f"| {title} | {images} | {seconds} | {counts[stage]} |")
    return "\n".join(rows) + f"\n\nSeed {recipe.seed}, {facts['pictures']} pictures, detach `{recipe.diti.detach}`."


def _evaluation(evaluation: dict[str, Any]) -> str:
    r = evaluation["reconstruction"]
    kind = "held-out" if r["held_out"] else "training"
    lines = [
        f"Reconstruction of {r['pictures']} {kind} pictures, {r['steps']} + {r['steps']} DDIM steps, MSE on the scale 0..1:"
    ]
    lines += ["", "| from | MSE |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {value:.3g} |" for name, value in r["mse"].items()]
    if "probe" in evaluation:
        found = evaluation["probe"]
        lines += [
            "",
            f"Linear probe ({found['protocol']}), {found['train rows']} rows to train, {found['test rows']} held out: ",
        ]
        lines += [f"**mean AP {found['mean_ap']:.3f}** over {len(found['scores'])} attributes.", ""]
        lines += ["| attribute | " + " | ".join(next(iter(found["scores"].values()))) + " |", "|---|---|---|---|"]
        lines += [
            f"| {name} | " + " | ".join(f"{v:.3f}" for v in scores.values()) + " |"
            for name, scores in found["scores"].items()
        ]
    return "\n".join(lines)
