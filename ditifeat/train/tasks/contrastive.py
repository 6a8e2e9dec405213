"""SimCLR and SimSiam: the encoder alone, by agreement of two views of each image."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ditifeat.errors import RecipeError
from ditifeat.model.config import ModelConfig
from ditifeat.model.encoder_only import EncoderOnly
from ditifeat.model.encoders import EncoderNetwork, build_encoder
from ditifeat.train.augment import DRAWS, augment
from ditifeat.train.data import TrainingImages
from ditifeat.train.engine import gather, own_share
from ditifeat.train.initial_model import initialise_from_encoder
from ditifeat.train.initialise import INITIALISATION_IMAGES, Autocast, initialise_whitened
from ditifeat.train.loop import Task
from ditifeat.train.losses import nt_xent, simsiam
from ditifeat.train.recipe import MethodRecipe, Recipe, Settings, model_config
from ditifeat.train.run import Run


@dataclass(frozen=True)
class ContrastiveRecipe(MethodRecipe):
    """The section `contrastive` of a recipe.

    Attributes:
        loss: "nt_xent" (SimCLR, Chen et al. 2020) or "simsiam" (Chen and He 2021).
        temperature: of NT-Xent.
        projection: the width of the head's output.
        whiten: the encoder's head is initialised with the principal components of its inputs at equal variance, and
            not at random.

    Raises:
        RecipeError: for a value out of its range.
    """

    loss: Literal["nt_xent", "simsiam"] = "nt_xent"
    temperature: float = 0.5
    projection: int = 128
    whiten: bool = False

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 2 <= self.projection <= 8192):
            raise RecipeError("contrastive: temperature must be above 0, projection within 2..8192")
        if self.optimiser.batch < 2:
            raise RecipeError("contrastive: a batch needs at least 2 images")

    def check(self, settings: Settings) -> None:
        if settings.dm is not None:
            raise RecipeError("contrastive: trains the encoder alone; leave out dm")
        if self.whiten and settings.encoder_inputs < settings.partition.d:
            raise RecipeError(
                f"contrastive: the encoder's head reads {settings.encoder_inputs} numbers, under d; whiten fewer"
            )


class ContrastiveTask(Task):
    """Two views of each image shall have one code, different images different ones.

    A view's random numbers are taken from the step's noise, so a resumed run sees the same views. Over several processes
    the projections' batch statistics and SimCLR's negatives are those of the global batch.
    """

    section = ContrastiveRecipe
    noise_shape = (2, DRAWS)

    def __init__(self, config: ModelConfig, encoder: EncoderNetwork, recipe: ContrastiveRecipe, seed: int = 0):
        super().__init__()
        self.config, self.recipe = config, recipe
        d, width = config.latent_dim, recipe.projection
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d), nn.ReLU(), nn.Linear(d, width))
            predictor = nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, width))
        networks = {"encoder": encoder, "head": head}
        if recipe.loss == "simsiam":
            networks |= {"predictor": predictor}
        self.trained = nn.ModuleDict(networks)

    @classmethod
    def build(cls, run: Run, section: ContrastiveRecipe) -> ContrastiveTask:
        config = model_config(run.recipe, method="contrastive")
        return cls(config, random_encoder(run.recipe), section, run.recipe.seed)

    def initialise(self, images: TrainingImages, autocast: Autocast = nullcontext) -> None:
        encoder = cast(EncoderNetwork, self.trained["encoder"])
        if self.recipe.initial is not None:
            initialise_from_encoder(encoder, self.config, self.recipe.initial)
        elif self.recipe.whiten:
            initialise_whitened(encoder, images.first(INITIALISATION_IMAGES))

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        uniform = torch.special.ndtr(noise)
        codes = (self.trained["encoder"](augment(images, uniform[:, i])) for i in (0, 1))
        # From here on every process works on the global batch, and keeps its share of the losses.
        a, b = (self.trained["head"](gather(z)) for z in codes)
        if self.recipe.loss == "nt_xent":
            return {"loss": own_share(nt_xent(a, b, self.recipe.temperature))}
        predictor = self.trained["predictor"]
        return {"loss": own_share(simsiam(predictor(a), predictor(b), a, b))}

    def preview(self, averaged: nn.ModuleDict, images: Tensor) -> Tensor:
        """Return the images, and three views of them."""
        generator = torch.Generator().manual_seed(0)
        draws = [torch.rand(len(images), DRAWS, generator=generator).to(images.device) for _ in range(3)]
        return torch.cat([images, *(augment(images, draw) for draw in draws)])

    def finished(self, averaged: nn.ModuleDict) -> EncoderOnly:
        return EncoderOnly(self.config, cast(EncoderNetwork, averaged["encoder"])).to(
            next(averaged.parameters()).device
        )


def random_encoder(recipe: Recipe) -> EncoderNetwork:
    """Return the encoder of a recipe, its weights drawn from the recipe's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_encoder(recipe.encoder_spec, recipe.image.size, recipe.partition.d)
