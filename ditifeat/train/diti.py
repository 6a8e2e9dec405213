"""Training of the encoder and the estimator over the frozen DM."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.config import DMReference, ModelConfig
from ditifeat.diffusion import DiffusionModel
from ditifeat.encoders import build_encoder, to_images
from ditifeat.errors import ModelError
from ditifeat.images import grid, save_picture, to_pixels
from ditifeat.model import Detach, DiTi
from ditifeat.train.config import Recipe
from ditifeat.train.data import Pictures
from ditifeat.train.loop import Task
from ditifeat.unet import GradientEstimator


def build_diti(recipe: Recipe, dm: DiffusionModel, reference: DMReference) -> DiTi:
    """The untrained model of a recipe over a DM, its weights drawn from the recipe's seed."""
    config = ModelConfig(
        name=recipe.name,
        image=recipe.image,
        encoder=recipe.encoder_spec,
        latent_dim=recipe.partition.d,
        partition=recipe.partition,
        codec=recipe.codec,
        dm=reference,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = build_encoder(config.encoder, recipe.image.size, config.latent_dim)
        estimator = GradientEstimator(dm.unet, config.latent_dim, recipe.diti.warm_start)
    return DiTi(config, dm, encoder, estimator)


class DiTiTask(Task):
    """The loss of `DiTi.losses`; the frozen DM's own error is logged beside it."""

    def __init__(self, model: DiTi, detach: Detach):
        super().__init__()
        self.model = model
        self.detach = detach
        self.trained = nn.ModuleDict({"encoder": model.encoder, "estimator": model.estimator})
        self.num_time_steps = model.partition.num_time_steps
        self.noise_shape = model.noise_shape

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        loss, frozen = self.model.losses(images, t, noise, self.detach)
        return {"loss": loss, "frozen": frozen}

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
def whiten_codes(encoder: nn.Sequential, images: Tensor, seed: int) -> None:
    """Sets the encoder's last layer so that codes of `images` `(N, 3, S, S)` begin white: uncorrelated, mean 0, std 1.

    The principal components of the layer's input are scaled to equal variance and turned by a random rotation, so that
    every subset begins with as much of each. A random layer's codes vary along few directions, and training them
    narrows these further before it widens them.
    """
    last = encoder[-1]
    inputs = torch.cat([encoder[:-1](part) for part in images.split(256)]).double()
    mean = inputs.mean(0)
    variances, components = torch.linalg.eigh((inputs - mean).T @ (inputs - mean) / len(inputs))
    kept = slice(-last.out_features, None)  # type: ignore[operator]
    # The floor keeps components that hardly vary from being blown up into noise.
    weight = (components[:, kept] / (variances[kept] + 1e-3 * variances[kept].mean()).sqrt()).T
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(len(weight), len(weight), dtype=torch.float64, generator=generator))
    weight = rotation @ weight
    weight /= ((inputs - mean) @ weight.T).std(0)[:, None]
    if len(weight) < last.out_features:  # type: ignore[operator]
        raise ModelError(f"{len(weight)} inputs of the encoder's last layer cannot be whitened to more codes")
    last.weight.copy_(weight)  # type: ignore[operator]
    last.bias.copy_(-weight @ mean)  # type: ignore[operator]


@torch.no_grad()
def set_code_statistics(model: DiTi, pictures: Pictures, batch: int = 256) -> None:
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
