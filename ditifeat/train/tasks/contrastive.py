"""Training of SimCLR and SimSiam: the encoder alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.data.drawing import grid, save_image, to_pixels
from ditifeat.train.augment import DRAWS, augment
from ditifeat.train.loop import Task
from ditifeat.train.losses import nt_xent, simsiam
from ditifeat.train.recipe import Recipe


class ContrastiveTask(Task):
    """SimCLR or SimSiam: two views of each picture shall have one code, different pictures different ones.

    A view's random numbers are drawn from the step's noise, so a resumed run sees the same views.
    """

    def __init__(self, encoder: nn.Module, recipe: Recipe):
        super().__init__()
        if recipe.contrastive is None:
            raise TypeError("the recipe has no section `contrastive`")
        self.recipe = recipe.contrastive
        d, width = recipe.partition.d, self.recipe.projection
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            head = nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, width))
            predictor = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))
        networks = {"encoder": encoder, "head": head}
        if self.recipe.loss == "simsiam":
            networks |= {"predictor": predictor}
        self.trained = nn.ModuleDict(networks)
        self.num_time_steps = recipe.partition.num_time_steps
        self.noise_shape = (1, 2, DRAWS)

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        uniform = torch.special.ndtr(noise[:, 0])
        a, b = (self.trained["head"](self.trained["encoder"](augment(images, uniform[:, i]))) for i in (0, 1))
        if self.recipe.loss == "nt_xent":
            return {"loss": nt_xent(a, b, self.recipe.temperature)}
        predictor = self.trained["predictor"]
        return {"loss": simsiam(predictor(a), predictor(b), a, b)}

    @torch.no_grad()
    def preview(self, averaged: nn.ModuleDict, images: Tensor, path: Path) -> None:
        """Rows: the pictures, and three views of them."""
        generator = torch.Generator().manual_seed(0)
        rows = [
            augment(images, torch.rand(len(images), DRAWS, generator=generator).to(images.device)) for _ in range(3)
        ]
        save_image(grid(to_pixels(torch.cat([images, *rows])), columns=len(images)), path)
