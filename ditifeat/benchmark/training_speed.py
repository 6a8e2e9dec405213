"""Images per second of training, as `ditifeat train` computes a step and plainly, in float32 and not compiled, in one run.

`python -m ditifeat.benchmark.training_speed celeba64-mini` prints a table; it takes minutes on a CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from ditifeat.benchmark.tables import markdown
from ditifeat.errors import DitifeatError, require
from ditifeat.train.data import TrainingImages
from ditifeat.train.initialise import Autocast
from ditifeat.train.loop import Task, Trainer
from ditifeat.train.recipe import Recipe, load_recipe
from ditifeat.train.run import Run
from ditifeat.train.sections import Optimiser
from ditifeat.train.tasks import task_class
from ditifeat.train.tasks.dm import DMTask, build_dm

REPEATS = 3  # of each, in turn; the best counts


def training_speed(recipe: str | Path | Recipe, steps: int = 5) -> list[dict[str, Any]]:
    """Time a recipe's stages on random images with untrained networks; nothing is kept.

    Args:
        recipe: a recipe's name, a YAML file, or a `Recipe`; its steps and their number decide as in a run.
        steps: that are timed at once.

    Returns:
        Per stage: "stage", "plain" and "chosen" (images per second), "ratio", "precision", "compiled", "device".

    Raises:
        RecipeError: for a recipe that cannot be read.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    size = recipe.image.size
    pixels = np.random.default_rng(0).integers(0, 256, (2 * recipe.section.optimiser.batch, size, size, 3), np.uint8)
    images = TrainingImages(pixels, [str(i) for i in range(len(pixels))], flip=recipe.flip, seed=recipe.seed)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, images, Path(folder))
        return [_measure(run, optimiser, stage, steps) for stage, optimiser in _stages(recipe)]


def _stages(recipe: Recipe) -> Iterator[tuple[str, Optimiser]]:
    if recipe.dm is not None and recipe.dm.optimiser is not None:
        yield "dm", recipe.dm.optimiser
    yield recipe.method, recipe.section.optimiser


def _measure(run: Run, optimiser: Optimiser, stage: str, steps: int) -> dict[str, Any]:
    trainers = [Trainer(_task(run, stage), run, optimiser, stage) for _ in range(2)]
    plain, chosen = trainers
    plain.precision, plain.compile = "float32", False
    best = [0.0, 0.0]
    for _ in range(REPEATS):
        best = [max(before, trainer.time_steps(steps)) for before, trainer in zip(best, trainers, strict=True)]
    return {
        "stage": stage,
        "plain": best[0],
        "chosen": best[1],
        "ratio": best[1] / best[0],
        "precision": chosen.precision,
        "compiled": bool(chosen.compile),
        "device": chosen.device.type,
    }


def _task(run: Run, stage: str) -> Task:
    """A stage's task, not initialised: that takes images that are images, and changes no speed."""
    recipe = run.recipe
    if stage == "dm":
        if recipe.dm is None:
            raise ValueError("the recipe has no DM")
        task: Task = DMTask(build_dm(recipe), recipe.dm, recipe.image.size)
    else:
        if recipe.dm is not None and recipe.dm.optimiser is not None:
            build_dm(recipe).save(run.folder / "dm")  # taken as trained already
        task = task_class(recipe.method).build(run, recipe.section)
    task.initialise = _leave  # type: ignore[method-assign]
    return task


def _leave(images: TrainingImages, autocast: Autocast = nullcontext) -> None:
    """Set nothing."""


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Return `training_speed`'s rows as a Markdown table."""
    lines = []
    for row in rows:
        how = f"{row['precision']}{', compiled' if row['compiled'] else ''}, {row['device']}"
        line = {"stage": row["stage"], "float32, images/s": f"{row['plain']:.1f}", "as trained": f"{row['chosen']:.1f}"}
        lines.append(line | {"times as fast": f"{row['ratio']:.2f}", "how": how})
    return markdown(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table of a recipe."""
    parser = argparse.ArgumentParser(prog="python -m ditifeat.benchmark.training_speed", description=__doc__)
    parser.add_argument("recipe", help="a recipe's name or YAML file")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed at once")
    chosen = parser.parse_args(arguments)
    require("accelerate", "train")
    try:
        print(speed_table(training_speed(chosen.recipe, chosen.steps)), end="")
    except DitifeatError as error:
        print(f"ditifeat: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
