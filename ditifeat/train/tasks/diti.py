"""Training of the encoder and the estimator over the frozen DM."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.data.drawing import grid, save_image, to_pixels
from ditifeat.model.config import DMReference
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import build_encoder
from ditifeat.model.estimator import GradientEstimator
from ditifeat.train.loop import Task
from ditifeat.train.recipe import DiTiRecipe, Recipe, model_config


def build_diti(recipe: Recipe, dm: DiffusionModel, reference: DMReference) -> DiTi:
    """The untrained model of a recipe over a DM, its weights drawn from the recipe's seed."""
    if recipe.diti is None:
        raise TypeError("the recipe has no section `diti`")
    config = model_config(recipe, reference)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = build_encoder(config.encoder, recipe.image.size, config.latent_dim)
        estimator = GradientEstimator(dm.unet, config.latent_dim, recipe.diti.warm_start)
    return DiTi(config, dm, encoder, estimator)


class DiTiTask(Task):
    """The loss of `DiTi.losses`; the frozen DM's own error is logged beside it."""

    def __init__(self, model: DiTi, recipe: DiTiRecipe):
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.trained = nn.ModuleDict({"encoder": model.encoder, "estimator": model.estimator})
        self.num_time_steps = model.partition.num_time_steps
        self.noise_shape = model.noise_shape

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        loss, frozen = self.model.losses(images, t, noise, self.recipe.detach, self.recipe.weighting)
        return {"loss": loss, "frozen": frozen}

    def learning_rates(self) -> dict[str, float]:
        return {"encoder": self.recipe.encoder_lr}

    def averaged(self, networks: nn.ModuleDict) -> DiTi:
        """The model with the averaged networks in place of the trained ones."""
        model = DiTi(self.model.config, self.model.dm, networks["encoder"], networks["estimator"])  # type: ignore[arg-type]
        model.mean.copy_(self.model.mean)
        model.std.copy_(self.model.std)
        return model.to(self.model.mean.device)

    @torch.no_grad()
    def preview(self, averaged: nn.ModuleDict, images: Tensor, path: Path) -> None:
        """Rows: the pictures; from their own inferred `x_T`; from random `x_T`, which leaves what the code holds."""
        model = self.averaged(averaged)
        z = model.encoder(images)
        x_T = torch.randn((len(images), *self.noise_shape), generator=torch.Generator().manual_seed(0)).to(
            images.device
        )
        inferred = model.sample(model.invert(images, z, 50), z, 25)
        rows = torch.cat([images, inferred, model.sample(x_T, z, 25)])
        save_image(grid(to_pixels(rows), columns=len(images)), path)
