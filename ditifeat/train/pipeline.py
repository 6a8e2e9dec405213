"""A whole run, stage after stage; a stage that is done is not done again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ditifeat.data.batches import load_images
from ditifeat.data.labels import read_labels
from ditifeat.data.preprocessing import Crop
from ditifeat.errors import RecipeError
from ditifeat.files import write_text
from ditifeat.train.card import write_card
from ditifeat.train.data import TrainingImages, prepare
from ditifeat.train.engine import accelerator
from ditifeat.train.evaluate import TrainedModel, evaluate
from ditifeat.train.loop import Trainer
from ditifeat.train.recipe import Recipe
from ditifeat.train.run import Run, claimed
from ditifeat.train.tasks import task_class


def run_recipe(
    recipe: Recipe,
    data: Path,
    folder: Path,
    labels: Any = None,
    *,
    crop: Crop = "model",
    resume: bool = False,
    progress: bool = False,
    compile: bool | None = None,
) -> Path:
    """Train, evaluate and describe the model of a recipe; see `ditifeat.train.train`."""
    if folder.resolve().is_relative_to(data.resolve()):
        raise RecipeError(f"{folder}: lies in {data}, whose images it would add to; use a folder elsewhere")
    main = accelerator().is_main_process
    with claimed(folder, recipe, resume=resume) if main else nullcontext():
        _stages(recipe, data, folder, labels, crop, resume=resume, progress=progress and main, compile=compile)
    return folder / "model"


def _stages(
    recipe: Recipe,
    data: Path,
    folder: Path,
    labels: Any,
    crop: Crop,
    *,
    resume: bool,
    progress: bool,
    compile: bool | None,
) -> None:
    processes = accelerator()
    with processes.main_process_first():
        decoded = prepare(data, recipe.image, folder / "data", crop=crop, align=recipe.align, progress=progress)
    count = len(decoded.names) - recipe.holdout
    if count < 2:
        raise RecipeError(
            f"{data}: has {len(decoded.names)} images, of which the recipe holds out {recipe.holdout}; at least 2 must be left"
        )
    if labels is not None:
        _check_labels(labels, recipe, decoded.names)
    images = TrainingImages(decoded.array[:count], decoded.names[:count], flip=recipe.flip, seed=recipe.seed)
    run = Run(recipe, images, folder, resume=resume, progress=progress, compile=compile)
    task = task_class(recipe.method).build(run, recipe.section)
    averaged = Trainer(task, run, recipe.section.optimiser, recipe.method).train()
    model = task.finished(averaged).requires_grad_(False).eval()
    set_code_statistics(model, images)
    skipped = {"skipped_images": len(decoded.skipped)} if decoded.skipped else {}
    model.config = replace(model.config, training=run.summary() | skipped)
    if processes.is_main_process:
        out = folder / "model"
        model.save(out)
        evaluation = evaluate(model, decoded.array, decoded.names, count, out, labels)
        write_text(out / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")
        write_card(out, recipe, model.config, evaluation)
    processes.wait_for_everyone()


def _check_labels(labels: Any, recipe: Recipe, names: list[str]) -> None:
    """Before training, which takes hours, and not after."""
    if recipe.holdout == 0:
        raise RecipeError("labels serve to evaluate on images held out, and the recipe holds none out; give holdout")
    read_labels(labels, names)


@torch.no_grad()
def set_code_statistics(model: TrainedModel, images: TrainingImages, batch: int = 256) -> None:
    """Set the codes' mean and standard deviation over the training images, from float64 sums."""
    total = torch.zeros(2, model.partition.d, dtype=torch.float64)
    for start in range(0, len(images), batch):
        # MPS has no float64.
        z = model.encoder(load_images(images.array[start : start + batch], model.mean.device)).cpu().double()
        total += torch.stack([z.sum(0), z.square().sum(0)])
    mean = total[0] / len(images)
    # A dimension that never varies keeps a std above 0, so that standardising it stays finite.
    std = (total[1] / len(images) - mean.square()).clamp(min=1e-12).sqrt()
    model.mean.copy_(mean)
    model.std.copy_(std)
