"""What is trained: one file per method, and the table of them. A method is a line here and its file."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# A recipe's section -> the task that it trains.
TASKS = {
    "diti": "ditifeat.train.tasks.diti.DiTiTask",
    "diffae": "ditifeat.train.tasks.diffae.DiffAETask",
    "contrastive": "ditifeat.train.tasks.contrastive.ContrastiveTask",
}


def task_class(method: str) -> Any:
    """Import the task of a method at its first use: torch and diffusers take seconds.

    >>> from ditifeat.train.tasks import task_class
    >>> task_class("diti").section.__name__
    'DiTiRecipe'
    """
    module, name = TASKS[method].rsplit(".", 1)
    return getattr(import_module(module), name)
