"""The systems that DiTi is measured against: Diff-AE, SimCLR, SimSiam. PDAE is DiTi with one subset.

Each has the encoder network, the pictures, the loop and the evaluation of DiTi.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ditifeat.config import ModelConfig
from ditifeat.diffae import DiffAE
from ditifeat.encoders import build_encoder
from ditifeat.images import grid, save_picture, to_pixels
from ditifeat.model import load_codec
from ditifeat.train.augment import DRAWS, augment
from ditifeat.train.config import Recipe
from ditifeat.train.dm import build_dm
from ditifeat.train.loop import Task
from ditifeat.unet import ConditionalUNet


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
            networks["encoder"],
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
        save_picture(grid(to_pixels(rows), columns=len(images)), path)


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy per pair `(B,)` (SimCLR eq. 1), the mean of both directions.

    Args:
        a, b: projections `(B, p)` of two views of each picture.
        temperature: above 0.
    """
    both = functional.normalize(torch.cat([a, b]), dim=1)
    similarity = both @ both.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    count = len(a)
    partners = (torch.arange(2 * count, device=a.device) + count) % (2 * count)
    return functional.cross_entropy(similarity, partners, reduction="none").view(2, count).mean(0)


def simsiam(predicted_a: Tensor, predicted_b: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Negative cosine of each view's prediction and the other's projection, a constant, per pair `(B,)` (SimSiam eq. 2)."""
    cosines = (
        functional.cosine_similarity(predicted_a, b.detach()),
        functional.cosine_similarity(predicted_b, a.detach()),
    )
    return -(cosines[0] + cosines[1]) / 2


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
        save_picture(grid(to_pixels(torch.cat([images, *rows])), columns=len(images)), path)
