"""Training of Diff-AE: encoder and conditional DM together."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.data.drawing import grid, save_image, to_pixels
from ditifeat.model.codec import load_codec
from ditifeat.model.config import ModelConfig
from ditifeat.model.diffae import DiffAE
from ditifeat.model.encoders import build_encoder
from ditifeat.model.estimator import ConditionalUNet
from ditifeat.train.loop import Task
from ditifeat.train.recipe import Recipe
from ditifeat.train.tasks.dm import build_dm


def build_diffae(recipe: Recipe, config: ModelConfig) -> DiffAE:
    """The untrained Diff-AE of a recipe, its weights drawn from the recipe's seed."""
    dm = build_dm(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = build_encoder(config.encoder, recipe.image.size, config.latent_dim)
        unet = ConditionalUNet(dm.unet, config.latent_dim)
    return DiffAE(config, unet, encoder, dm.scheduler, load_codec(recipe.codec, Path()))


class DiffAETask(Task):
    """The conditional DM's loss; the encoder learns by it alone."""

    def __init__(self, model: DiffAE):
        super().__init__()
        self.model = model
        self.trained = nn.ModuleDict({"encoder": model.encoder, "unet": model.unet})
        self.num_time_steps = model.schedule.num_time_steps
        self.noise_shape = model.noise_shape

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        return {"loss": self.model.losses(images, t, noise)}

    def averaged(self, networks: nn.ModuleDict) -> DiffAE:
        """The model with the averaged networks in place of the trained ones."""
        model = self.model
        return DiffAE(
            model.config,
            networks["unet"],  # type: ignore[arg-type]
            networks["encoder"],  # type: ignore[arg-type]
            model.scheduler,
            model.codec,
        ).to(model.mean.device)

    @torch.no_grad()
    def preview(self, averaged: nn.ModuleDict, images: Tensor, path: Path) -> None:
        """Rows: the pictures; from their own inferred `x_T`; from random `x_T`."""
        model = self.averaged(averaged)
        z = model.encoder(images)
        x_T = torch.randn((len(images), *self.noise_shape), generator=torch.Generator().manual_seed(0))
        inferred = model.sample(model.invert(images, z, 50), z, 25)
        rows = torch.cat([images, inferred, model.sample(x_T.to(images.device), z, 25)])
        save_image(grid(to_pixels(rows), columns=len(images)), path)
