"""A run: a recipe, the images it learns from, and the folder that holds all it writes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ditifeat.errors import DitifeatError, ModelError, RecipeError, WriteError
from ditifeat.files import exclusive, write_text
from ditifeat.model.config import read_config
from ditifeat.pretrained.names import resolve
from ditifeat.train.data import TrainingImages
from ditifeat.train.recipe import Recipe, load_recipe, recipe_to_dict


@dataclass(frozen=True)
class Run:
    """What every stage of a run needs.

    Attributes:
        recipe: what is made, and how.
        images: what it is made of, without the images held out.
        folder: of the run: `data/`, a folder per stage (`dm-run/`, `diti-run/`), `dm/`, `model/`.
        resume: whether stages go on from their newest checkpoint.
        progress: whether progress bars are shown.
        compile: whether steps are compiled; None: on a GPU.
    """

    recipe: Recipe
    images: TrainingImages
    folder: Path
    resume: bool = False
    progress: bool = False
    compile: bool | None = None

    def stage_folder(self, stage: str) -> Path:
        """Return the folder of a stage's checkpoints, log and previews."""
        return self.folder / f"{stage}-run"

    def summary(self) -> dict[str, Any]:
        """Return what the model's configuration says of its training: a prefix per stage, "dm" and the method's name."""
        summary: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "training_images": len(self.images),
        }
        if self.recipe.section.initial is not None:
            summary["initial"] = _about_model(self.recipe.section.initial)
        for stage in ("dm", self.recipe.method):
            cost = _cost(self.stage_folder(stage) / "log.jsonl")
            summary |= {f"{stage}_{key}": value for key, value in cost.items()}
        return summary


def _has_trained(folder: Path) -> bool:
    """Whether a stage began: a run that was refused before, for its images say, may begin again."""
    return any(folder.glob("*-run")) or any((folder / name).exists() for name in ("dm", "model"))


@contextmanager
def claimed(folder: Path, recipe: Recipe, *, resume: bool) -> Iterator[None]:
    """Hold a run's folder, which nobody else then writes to: a new one gets the recipe, an old one must have the same.

    What the system says of files while it is held (a full disk, a folder that is gone) becomes a `WriteError`.

    Raises:
        RecipeError: if the folder holds something else, or a run that is not to be resumed or is another recipe's.
        FolderInUseError: if another process writes to it.
        WriteError: if it cannot be written to.
    """
    path = folder / "recipe.yaml"
    # Before anything is written there, the lock's file included.
    if not path.exists() and (folder.is_file() or any(entry.name != ".lock" for entry in _entries(folder))):
        raise RecipeError(f"{folder}: is not empty and holds no run; use another folder")
    with exclusive(folder):
        if not path.exists() or not (resume or _has_trained(folder)):
            write_text(path, yaml.safe_dump(recipe_to_dict(recipe), sort_keys=False))
        elif not resume:
            raise RecipeError(f"{folder}: holds a run already; go on with --resume, or use another folder")
        elif load_recipe(path) != recipe:
            raise RecipeError(
                f"{folder}: was begun with another recipe ({path}); resume with that file, or use another folder"
            )
        try:
            yield
        except OSError as error:
            if isinstance(error, DitifeatError):
                raise
            raise WriteError(
                f"{error.filename or folder}: {error.strerror or error}; mend that, and go on with --resume"
            ) from error


def _entries(folder: Path) -> Iterator[Path]:
    return folder.iterdir() if folder.is_dir() else iter(())


def _about_model(name: str) -> dict[str, Any]:
    """A model's own name, and what its configuration says of its training; nothing of a folder that is gone since."""
    try:
        config = read_config(resolve(name)[0])
    except ModelError:
        return {}
    return {"name": config.name, **config.training}


def _cost(log: Path) -> dict[str, Any]:
    """What a stage's log says was seen and spent, on what, and by which networks; nothing of a stage that did not run here."""
    if not log.exists():
        return {}
    # A resumed run repeats the steps since its last checkpoint; what was spent counts, what was seen counts once.
    records = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    records = [record for record in records if "step" in record]
    shares = [record["peak_share"] for record in records if "peak_share" in record]
    peak = {"peak_share": round(statistics.median(shares), 3)} if shares else {}
    devices = ", then ".join(dict.fromkeys(record["device"] for record in records if "device" in record))
    return peak | {
        "device": devices or "unknown",
        "images": records[-1]["images"],
        "seconds": round(sum(record["seconds"] for record in records)),
        "precision": ", then ".join(dict.fromkeys(record["precision"] for record in records)),
        "networks": ", ".join(records[-1]["networks"]),
        "parameters": records[-1]["parameters"],
    }
