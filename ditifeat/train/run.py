"""A whole run, stage after stage; a stage that is done is not done again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import yaml
from accelerate import PartialState
from torch import nn

from ditifeat.artefact import write_text
from ditifeat.config import DMReference
from ditifeat.diffusion import DiffusionModel
from ditifeat.errors import ModelError, RecipeError
from ditifeat.hub import resolve_dm
from ditifeat.model import DiTi, load_codec
from ditifeat.train.card import write_card
from ditifeat.train.config import Recipe, load_recipe
from ditifeat.train.data import Pictures, prepare
from ditifeat.train.diti import DiTiTask, build_diti, set_code_statistics, whiten_codes
from ditifeat.train.dm import DMTask, build_dm
from ditifeat.train.evaluate import evaluate
from ditifeat.train.loop import Trainer


def run(recipe: str | Path | Recipe, data: Path, out: Path, dm: str | None, labels: Any, resume: bool) -> Path:
    """See `ditifeat.train.train`."""
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if dm is not None:
        recipe = replace(recipe, dm=replace(recipe.dm, unet=None, optimiser=None, pretrained=dm))
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
    diffusion, reference = _diffusion_model(recipe, pictures, out, resume)
    model = _diti(recipe, diffusion, reference, pictures, out, resume)
    folder = out / "model"
    if state.is_main_process:
        model.save(folder)
        evaluation = evaluate(model, array, names, count, labels)
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


def _diti(
    recipe: Recipe, diffusion: DiffusionModel, reference: DMReference, pictures: Pictures, out: Path, resume: bool
) -> DiTi:
    model = build_diti(recipe, diffusion, reference)
    if recipe.diti.whiten:
        whiten_codes(cast(nn.Sequential, model.encoder), pictures.first(4096), recipe.seed)
    task = DiTiTask(model, recipe.diti.detach)
    averaged = Trainer(task, pictures, recipe.diti.optimiser, out / "diti-run", recipe.seed).run(resume)
    model = task.averaged(averaged).requires_grad_(False).eval()
    set_code_statistics(model, pictures)
    summary = {"recipe": recipe.name, "seed": recipe.seed, "pictures": len(pictures)}
    for stage in ("dm", "diti"):
        summary |= {f"{stage}_{key}": value for key, value in _cost(out / f"{stage}-run" / "log.jsonl").items()}
    model.config = replace(model.config, training=summary)
    return model


def _cost(log: Path) -> dict[str, Any]:
    """Images seen and seconds spent, of a stage's log; nothing of a stage that did not run here."""
    if not log.exists():
        return {}
    # A resumed run repeats the steps since its last checkpoint; what was paid counts, what was seen counts once.
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    return {"images": records[-1]["images"], "seconds": round(sum(record["seconds"] for record in records))}
