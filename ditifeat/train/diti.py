"""Training of the encoder and the estimator over the frozen DM."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.config import DMReference, ModelConfig
from ditifeat.diffae import DiffAE
from ditifeat.diffusion import DiffusionModel
from ditifeat.encoder_only import EncoderOnly
from ditifeat.encoders import build_encoder, to_images
from ditifeat.images import grid, save_picture, to_pixels
from ditifeat.model import DiTi
from ditifeat.train.config import DiTiRecipe, Recipe
from ditifeat.train.data import Pictures
from ditifeat.train.loop import Task
from ditifeat.unet import GradientEstimator


def model_config(recipe: Recipe, reference: DMReference | None = None) -> ModelConfig:
    """The configuration of what a recipe makes."""
    return ModelConfig(
        name=recipe.name,
        image=recipe.image,
        encoder=recipe.encoder_spec,
        latent_dim=recipe.partition.d,
        partition=recipe.partition,
        codec=recipe.codec,
        dm=reference or DMReference(),
        method=recipe.method,
        estimator_output=recipe.diti.output if recipe.diti else "gradient",
    )


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


AnyModel = DiTi | DiffAE | EncoderOnly


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
        save_picture(grid(to_pixels(rows), columns=len(images)), path)


@torch.no_grad()
def set_code_statistics(model: AnyModel, pictures: Pictures, batch: int = 256) -> None:
    """Sets the codes' mean and std over the training pictures, in float64 sums."""
    total = torch.zeros(2, model.partition.d, dtype=torch.float64)
    for start in range(0, len(pictures), batch):
        rows = torch.from_numpy(pictures.array[start : start + batch].copy())
        z = model.encoder(to_images(rows).to(model.mean.device)).double().cpu()
        total += torch.stack([z.sum(0), z.square().sum(0)])
    mean = total[0] / len(pictures)
    # A dimension that never moves keeps a std above 0, so that standardising it stays finite.
    std = (total[1] / len(pictures) - mean.square()).clamp(min=1e-12).sqrt()
    model.mean.copy_(mean)
    model.std.copy_(std)
