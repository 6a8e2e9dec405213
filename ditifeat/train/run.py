"""A whole run, stage after stage; a stage that is done is not done again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState

from ditifeat.data.batches import load_images
from ditifeat.errors import ModelError, RecipeError
from ditifeat.files import write_text
from ditifeat.model.any_model import AnyModel
from ditifeat.model.codec import load_codec
from ditifeat.model.config import DMReference, Method
from ditifeat.model.diffae import DiffAE
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi
from ditifeat.model.encoder_only import EncoderOnly
from ditifeat.model.encoders import build_encoder
from ditifeat.pretrained.dm import resolve_dm
from ditifeat.train.card import write_card
from ditifeat.train.data import Pictures, prepare
from ditifeat.train.evaluate import evaluate
from ditifeat.train.initialise import STARTED_ON, encoder_from_dm, initialise_error_predictive, initialise_white
from ditifeat.train.loop import Trainer, list_checkpoints
from ditifeat.train.recipe import DiTiRecipe, Recipe, load_recipe, model_config
from ditifeat.train.tasks.contrastive import ContrastiveTask
from ditifeat.train.tasks.diffae import DiffAETask, build_diffae
from ditifeat.train.tasks.diti import DiTiTask, build_diti
from ditifeat.train.tasks.dm import DMTask, build_dm


def with_overrides(recipe: str | Path | Recipe, dm: str | None, seed: int | None, images: int | None) -> Recipe:
    """A recipe with another frozen DM, seed or number of pictures seen.

    Raises:
        RecipeError: as `load_recipe`; or for a DM where the method freezes none.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if dm is not None:
        if recipe.diti is None or recipe.dm is None:
            raise RecipeError(f"dm = {dm!r}: the method {recipe.method} has no frozen DM")
        recipe = replace(recipe, dm=replace(recipe.dm, unet=None, optimiser=None, pretrained=dm))
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if images is None:
        return recipe
    section = getattr(recipe, recipe.method)
    return replace(recipe, **{recipe.method: replace(section, optimiser=replace(section.optimiser, images=images))})


def run(recipe: Recipe, data: Path, out: Path, labels: Any, resume: bool) -> Path:
    """See `ditifeat.train.train`."""
    state = PartialState()
    if state.is_main_process:
        _claim(out, recipe, resume)
    state.wait_for_everyone()
    with state.main_process_first():
        array, names = prepare(data, recipe.image, out / "data")
    count = len(names) - recipe.holdout
    if count < 1:
        raise RecipeError(f"{data}: has {len(names)} pictures, of which the recipe holds out {recipe.holdout}")
    pictures = Pictures(array[:count], names[:count], recipe.flip, recipe.seed)
    stages: dict[Method, Callable[..., AnyModel]] = {"diti": _diti, "diffae": _diffae, "contrastive": _contrastive}
    model = stages[recipe.method](recipe, pictures, out, resume)
    set_code_statistics(model, pictures)
    model.config = replace(model.config, training=_summary(recipe, pictures, out))
    folder = out / "model"
    if state.is_main_process:
        model.save(folder)
        evaluation = evaluate(model, array, names, count, folder, labels)
        write_text(folder / "evaluation.json", json.dumps(evaluation, indent=2) + "\n")
        write_card(folder, recipe, model, evaluation)
    state.wait_for_everyone()
    return folder


def _claim(out: Path, recipe: Recipe, resume: bool) -> None:
    """Writes the recipe into a new run, or checks that an old one has the same."""
    path = out / "recipe.yaml"
    # Through JSON, since YAML's safe writer knows no tuples.
    text = yaml.safe_dump(json.loads(json.dumps(asdict(recipe))), sort_keys=False)
    if not path.exists():
        if out.is_dir() and any(out.iterdir()):
            raise RecipeError(f"{out}: is not empty and holds no run; use another folder")
        write_text(path, text)
    elif not resume:
        raise RecipeError(f"{out}: holds a run already; go on with --resume, or use another folder")
    elif path.read_text("utf-8") != text:
        raise RecipeError(
            f"{out}: was begun with another recipe ({path}); resume with that file, or use another folder"
        )


def _diffusion_model(recipe: Recipe, pictures: Pictures, out: Path, resume: bool) -> tuple[DiffusionModel, DMReference]:
    """The DM to freeze: a given one, or one trained here, whose averaged weights lie in `out/dm`."""
    if recipe.dm is None:
        raise TypeError("the recipe has no section `dm`")
    if recipe.dm.pretrained is not None:
        folder, reference = resolve_dm(recipe.dm.pretrained)
        diffusion = DiffusionModel.load(folder, load_codec(recipe.codec, folder))
        if diffusion.unet.config.in_channels != diffusion.codec.shape(recipe.image.size)[0]:
            raise ModelError(
                f"{recipe.dm.pretrained}: reads {diffusion.unet.config.in_channels} channels, not the codec's"
            )
        return diffusion, reference
    folder = out / "dm"
    diffusion = build_dm(recipe)
    if not (folder / "model_index.json").exists():
        if recipe.dm.optimiser is None:
            raise RecipeError("dm: there is no optimiser to train it with")
        task = DMTask(diffusion, recipe.dm, recipe.image.size)
        averaged = Trainer(task, pictures, recipe.dm.optimiser, out / "dm-run", recipe.seed).run(resume)
        if PartialState().is_main_process:
            DiffusionModel(averaged["unet"], diffusion.scheduler, diffusion.codec).save(folder)  # type: ignore[arg-type]
        PartialState().wait_for_everyone()
    return DiffusionModel.load(folder, diffusion.codec), DMReference()


def _diti(recipe: Recipe, pictures: Pictures, out: Path, resume: bool) -> DiTi:
    diffusion, reference = _diffusion_model(recipe, pictures, out, resume)
    if recipe.diti is None:
        raise TypeError("the recipe has no section `diti`")
    model = build_diti(recipe, diffusion, reference)
    if not list_checkpoints(out / "diti-run"):
        _begin(model, recipe.diti, pictures, recipe.seed)
    task = DiTiTask(model, recipe.diti)
    averaged = Trainer(task, pictures, recipe.diti.optimiser, out / "diti-run", recipe.seed).run(resume)
    return task.averaged(averaged).requires_grad_(False).eval()


def _begin(model: DiTi, recipe: DiTiRecipe, pictures: Pictures, seed: int) -> None:
    """Sets the encoder to where the recipe has its training begin."""
    encoder = model.encoder
    if recipe.encoder_from_dm:
        encoder_from_dm(encoder, model.config.encoder, model.dm)
    if recipe.codes == "random":
        return
    images = pictures.first(STARTED_ON)
    white = recipe.codes == "white"
    sizes = (
        initialise_white(encoder, images)
        if white
        else initialise_error_predictive(model, images, recipe.weighting, seed)
    )
    # To a random first layer all these codes are alike; what varies or tells most should be heard first.
    model.estimator.code_embedding.weight.data *= sizes


def _diffae(recipe: Recipe, pictures: Pictures, out: Path, resume: bool) -> DiffAE:
    if recipe.diffae is None:
        raise TypeError("the recipe has no section `diffae`")
    task = DiffAETask(build_diffae(recipe, model_config(recipe)))
    averaged = Trainer(task, pictures, recipe.diffae.optimiser, out / "diffae-run", recipe.seed).run(resume)
    return task.averaged(averaged).requires_grad_(False).eval()


def _contrastive(recipe: Recipe, pictures: Pictures, out: Path, resume: bool) -> EncoderOnly:
    if recipe.contrastive is None:
        raise TypeError("the recipe has no section `contrastive`")
    config = model_config(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = build_encoder(config.encoder, recipe.image.size, config.latent_dim)
    if recipe.contrastive.whiten:
        initialise_white(encoder, pictures.first(STARTED_ON))
    task = ContrastiveTask(encoder, recipe)
    averaged = Trainer(task, pictures, recipe.contrastive.optimiser, out / "contrastive-run", recipe.seed).run(resume)
    model = EncoderOnly(config, averaged["encoder"])  # type: ignore[arg-type]
    return model.to(PartialState().device).requires_grad_(False).eval()


def _summary(recipe: Recipe, pictures: Pictures, out: Path) -> dict[str, Any]:
    summary: dict[str, Any] = {"recipe": recipe.name, "seed": recipe.seed, "pictures": len(pictures)}
    for stage in ("dm", "diti", "diffae", "contrastive"):
        summary |= {f"{stage}_{key}": value for key, value in _cost(out / f"{stage}-run" / "log.jsonl").items()}
    return summary


def _cost(log: Path) -> dict[str, Any]:
    """Images seen, seconds spent and precision, of a stage's log; nothing of a stage that did not run here."""
    if not log.exists():
        return {}
    # A resumed run repeats the steps since its last checkpoint; what was paid counts, what was seen counts once.
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    precisions = dict.fromkeys(record["precision"] for record in records if "precision" in record)
    return {
        "images": records[-1]["images"],
        "seconds": round(sum(record["seconds"] for record in records)),
        "precision": ", then ".join(precisions) or "not recorded",
    }


@torch.no_grad()
def set_code_statistics(model: AnyModel, pictures: Pictures, batch: int = 256) -> None:
    """Sets the codes' mean and std over the training pictures, in float64 sums."""
    total = torch.zeros(2, model.partition.d, dtype=torch.float64)
    for start in range(0, len(pictures), batch):
        z = model.encoder(load_images(pictures.array[start : start + batch], model.mean.device)).double().cpu()
        total += torch.stack([z.sum(0), z.square().sum(0)])
    mean = total[0] / len(pictures)
    # A dimension that never moves keeps a std above 0, so that standardising it stays finite.
    std = (total[1] / len(pictures) - mean.square()).clamp(min=1e-12).sqrt()
    model.mean.copy_(mean)
    model.std.copy_(std)
