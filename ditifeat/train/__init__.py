"""The trainer: from a folder of images to a finished model folder.

`ditifeat train RECIPE --data FOLDER --out RUN`, `accelerate launch -m ditifeat.train RECIPE ...`, or `train()` here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ditifeat.data.preprocessing import Crop
    from ditifeat.train.recipe import Recipe


def train(
    recipe: str | Path | Recipe,
    data: str | Path,
    out: str | Path,
    *,
    dm: str | None = None,
    initial: str | None = None,
    labels: Any = None,
    resume: bool = False,
    seed: int | None = None,
    images: float | None = None,
    crop: Crop = "model",
    progress: bool = False,
    compile: bool | None = None,
) -> Path:
    """Train the DM (or take one), then encoder and estimator; evaluate; write the model folder and its card.

    A GPU computes in bf16, a CPU where a measurement at the start says that it is 1.2 times as fast; the environment variable
    ACCELERATE_MIXED_PRECISION (no, bf16, fp16) decides otherwise.

    Args:
        recipe: a recipe's name, a YAML file, or a `Recipe`.
        data: a folder or tar of images.
        out: folder of the run: `data/`, `dm-run/`, `dm/`, one named after the method (`diti-run/`) and, at the end, the
            model folder `model/`.
        dm: a frozen DM in place of the recipe's: a diffusers folder or `org/name[@revision]` on the Hub.
        initial: a trained model to begin from: a folder, a bundled name, or `org/name[@revision]`. DiTi and PDAE train its
            encoder and estimator further over its frozen DM, Diff-AE its encoder and DM, contrastive methods its encoder.
        labels: of the images, for the evaluation; as `ditifeat.probe` takes them.
        resume: go on from the newest checkpoint in `out`.
        seed: in place of the recipe's.
        images: how many images the method (not the DM) sees, in place of the recipe's number.
        crop: how the images are cut: "model", as the recipe says, or "center", the largest central square, for images that are
            cropped already. The finished model expects what the recipe says.
        progress: show progress bars.
        compile: whether the networks are compiled (`torch.compile`); by default on a GPU. Where that fails, they run as
            they are, with a warning.

    Returns:
        The model folder.

    Raises:
        RecipeError, ModelError, InputError: for a recipe, DM, images or labels that do not fit; nothing is overwritten.
        FolderInUseError: if another process writes to `out`.
        WriteError: if it cannot be written to, or the disk is full.
        MissingDependencyError: without accelerate (`pip install 'ditifeat[train]'`).

    Example:
        >>> from ditifeat.train import train
        >>> train("images64", "photos", "my-run")  # doctest: +SKIP
        PosixPath('my-run/model')
    """
    from ditifeat.errors import require

    require("accelerate", "train")
    from ditifeat.train.pipeline import run_recipe
    from ditifeat.train.recipe import Recipe, load_recipe, with_overrides

    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if initial is not None and dm is None and loaded.method == "diti":
        from ditifeat.train.initial_model import dm_of_model

        dm = dm_of_model(initial)
    changed = with_overrides(loaded, dm=dm, initial=initial, seed=seed, images=images)
    return run_recipe(
        changed, Path(data), Path(out), labels, crop=crop, resume=resume, progress=progress, compile=compile
    )
