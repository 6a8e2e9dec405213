"""The model card, generated from the run: every number in it was measured by the run that wrote it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ditifeat.files import write_text
from ditifeat.model.config import ModelConfig
from ditifeat.train.recipe import Recipe

RECONSTRUCTED_FROM = {
    "inferred_x_T": "its inferred x_T",
    "fixed_point": "its inferred x_T, 20 + 20 evaluations of the fixed-point solver",
    "random_x_T": "a random x_T",
    "frozen_dm_inferred_x_T": "its inferred x_T, the frozen DM alone",
}

PAPER = "https://arxiv.org/abs/2401.11430"

DITI_TAGS = ("disentanglement", "diffusion", "arxiv:2401.11430")


def write_card(folder: Path, recipe: Recipe, config: ModelConfig, evaluation: dict[str, Any]) -> None:
    """Write `README.md` with the Hub's metadata into a model folder."""
    card = recipe.card
    metadata = ModelCardData(
        license=card.license,
        license_name=card.license_name or None,
        license_link=card.license_link or None,
        library_name="ditifeat",
        pipeline_tag="image-feature-extraction",
        tags=["representation-learning", *(DITI_TAGS if _by_time_steps(config) else ())],
    )
    text = f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(_sections(recipe, config, evaluation)) + "\n"
    write_text(folder / "README.md", text)


def _by_time_steps(config: ModelConfig) -> bool:
    return config.partition.k > 1


def _sections(recipe: Recipe, config: ModelConfig, evaluation: dict[str, Any]) -> list[str]:
    image = config.image
    return [
        f"# {recipe.name}",
        _what_it_is(recipe, config),
        "```python\nimport ditifeat\n\n"
        'encoder = ditifeat.load_encoder("path/to/this/folder")  # or org/name, where it is on the Hub\n'
        'features = ditifeat.encode(encoder, "photos/")\n```',
        f"**Input.** {image.size} x {image.size} pixels, cut from {image.alignment}: the box {_box(image.crop)} of the "
        f"image's width and height, {image.resampling} resampling.",
        "## Training\n" + _training(recipe, config),
        "## Evaluation\n" + _evaluation(evaluation),
        f"## Data and terms\n{recipe.card.data}\n\n{recipe.card.terms}",
        "## Limits\nThe features are those of images like the training images, cut in the same way; those of other images, or "
        f"of the same ones cut otherwise, mean little. {recipe.card.limits}".rstrip(),
    ]


def _what_it_is(recipe: Recipe, config: ModelConfig) -> str:
    p = config.partition
    made = f"Made with `ditifeat train`, recipe `{recipe.name}`, method `{recipe.method}`."
    if not _by_time_steps(config):
        return f"{p.d}-dimensional image features. {made}"
    return (
        f"{p.d}-dimensional image features in {p.k} subsets, each of which belongs to a range of diffusion time-steps "
        f"([DiTi, ICLR 2024]({PAPER})). {made}"
    )


def _box(crop: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{edge:.4f}" for edge in crop) + ")"


def _training(recipe: Recipe, config: ModelConfig) -> str:
    facts = config.training
    rows = [
        "| stage: networks | images seen | seconds | precision | device | parameters |",
        "|---|---|---|---|---|---|",
    ]
    initial = facts.get("initial", {})
    for stage, title, log in (
        ("dm", "dm", facts if "dm_networks" in facts else initial),
        (recipe.method, f"{recipe.method} of `{initial.get('name')}`, before", initial),
        (recipe.method, recipe.method, facts),
    ):
        if f"{stage}_networks" in log:
            rows.append(_stage(title, stage, log))
    given = {key: value for key, value in asdict(recipe.section).items() if key not in ("optimiser", "initial")}
    settings = ", ".join(f"{key} `{value}`" for key, value in given.items())
    about = f"Seed {recipe.seed}, {facts['training_images']} images."
    if "name" in initial:
        about += f" Training began with the weights of `{initial['name']}`."
    if "skipped_images" in facts:
        about += f" {facts['skipped_images']} more could not be decoded."
    if recipe.dm is not None and recipe.dm.pretrained is not None:
        about += f" The diffusion model is `{recipe.dm.pretrained}`, not trained here."
    return "\n".join(rows) + f"\n\n{about}" + (f" {settings}." if settings else "")


def _stage(title: str, stage: str, facts: dict[str, Any]) -> str:
    columns = ("networks", "images", "seconds", "precision", "device", "parameters")
    networks, *numbers = (str(facts.get(f"{stage}_{column}", "unknown")) for column in columns)
    return f"| {title}: {networks} | " + " | ".join(numbers) + " |"


def _evaluation(evaluation: dict[str, Any]) -> str:
    lines: list[str] = []
    if "reconstruction" in evaluation:
        r = evaluation["reconstruction"]
        kind = "held-out" if r["held_out"] else "training"
        lines += [
            f"Reconstruction of {r['images']} {kind} images, {r['steps']} + {r['steps']} DDIM steps, on the scale 0..1:",
            "",
            "| from | MSE | SSIM |",
            "|---|---|---|",
        ]
        for name, value in r["mse"].items():
            lines.append(f"| {RECONSTRUCTED_FROM[name]} | {value:.3g} | {r['ssim'][name]:.3f} |")
        lines.append("")
    if "probe" in evaluation:
        found = evaluation["probe"]
        lines.append(
            f"Linear probe ({found['protocol']}), {found['train rows']} rows to train, {found['test rows']} held out."
        )
        if found["mean_ap"] is not None:
            lines.append(f"**Mean AP {found['mean_ap']:.3f}** over attributes with two values.")
        kinds: dict[tuple[str, ...], list[str]] = {}
        for name, scores in found["scores"].items():
            row = f"| {name} | " + " | ".join("-" if v is None else f"{v:.3f}" for v in scores.values()) + " |"
            kinds.setdefault(tuple(scores), []).append(row)
        for columns, rows in kinds.items():
            lines += ["", "| attribute | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|", *rows]
    return "\n".join(lines).rstrip() or "None: there were no labels."
