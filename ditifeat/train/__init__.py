"""The trainer: from a folder of pictures to a finished artefact. Never imported by the modules above it.

`ditifeat train RECIPE --data FOLDER --out RUN`, `accelerate launch -m ditifeat.train RECIPE ...`, or `train()` here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditifeat.train.recipe import Recipe


def train(
    recipe: str | Path | Recipe,
    data: str | Path,
    out: str | Path,
    *,
    dm: str | None = None,
    labels: Any = None,
    resume: bool = False,
    seed: int | None = None,
    images: int | None = None,
) -> Path:
    """Trains the DM (or takes one), then encoder and estimator; evaluates; writes the artefact and its card.

    Args:
        recipe: a recipe's name, a YAML file, or a `Recipe`.
        data: a folder or tar of pictures.
        out: folder of the run: `data/`, `dm-run/`, `dm/`, one named after the method (`diti-run/`) and, at the end, the
            artefact in `model/`.
        dm: a frozen DM in place of the recipe's: a diffusers folder or `org/name[@revision]` on the Hub.
        labels: of the pictures, for the evaluation; as `ditifeat.probe` takes them.
        resume: go on from the newest checkpoint in `out`.
        seed: in place of the recipe's.
        images: pictures that the method (not the DM) sees, in place of the recipe's number.

    Returns:
        The artefact's folder.

    Raises:
        RecipeError, ModelError, InputError: for a recipe, DM or pictures that do not fit; nothing is overwritten.
    """
    from ditifeat.train.run import run, with_overrides

    return run(with_overrides(recipe, dm, seed, images), Path(data), Path(out), labels, resume)
