"""Diff-AE (Preechakul et al., CVPR 2022): encoder and conditional DM, trained together."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ditifeat.errors import RecipeError
from ditifeat.model.diffae import DiffAE
from ditifeat.model.encoders import build_encoder
from ditifeat.model.estimator import ConditionalUNet
from ditifeat.train.data import TrainingImages
from ditifeat.train.initial_model import load_trained
from ditifeat.train.initialise import Autocast
from ditifeat.train.loop import Task
from ditifeat.train.losses import denoising
from ditifeat.train.recipe import MethodRecipe, Recipe, Settings, model_config
from ditifeat.train.run import Run
from ditifeat.train.sections import DMRecipe
from ditifeat.train.tasks.dm import build_dm


@dataclass(frozen=True)
class DiffAERecipe(MethodRecipe):
    """The section `diffae` of a recipe; the section `dm` says what the conditional DM is, and which loss trains both."""

    def check(self, settings: Settings) -> None:
        if settings.dm is None or settings.dm.unet is None:
            raise RecipeError("diffae: trains its own DM; give dm.unet")
        if settings.dm.optimiser is not None:
            raise RecipeError("diffae: trains encoder and DM together; give diffae.optimiser, and no dm.optimiser")


def build_diffae(recipe: Recipe) -> DiffAE:
    """Return the untrained Diff-AE of a recipe, its weights drawn from the recipe's seed."""
    dm, config = build_dm(recipe), model_config(recipe, method="diffae")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = build_encoder(config.encoder, recipe.image.size, config.latent_dim)
        unet = ConditionalUNet(dm.unet, config.latent_dim)
    return DiffAE(config, unet, encoder, dm.scheduler, dm.codec)


class DiffAETask(Task):
    """The conditional DM's loss; the encoder learns from it alone."""

    section = DiffAERecipe

    def __init__(self, model: DiffAE, dm: DMRecipe, initial: str | None = None):
        super().__init__()
        self.model, self.dm, self.initial = model, dm, initial
        self.trained = nn.ModuleDict({"encoder": model.encoder, "unet": model.unet})
        self.num_time_steps = model.schedule.num_time_steps
        self.noise_shape = model.noise_shape

    @classmethod
    def build(cls, run: Run, section: DiffAERecipe) -> DiffAETask:
        if run.recipe.dm is None:
            raise RecipeError("missing key dm")
        return cls(build_diffae(run.recipe), run.recipe.dm, section.initial)

    def initialise(self, images: TrainingImages, autocast: Autocast = nullcontext) -> None:
        if self.initial is None:
            return
        trained = load_trained(self.initial, self.model.config, ("encoder", "latent_dim", "codec"))
        self.model.encoder.load_state_dict(trained.encoder.state_dict())
        unet = ConditionalUNet(trained.dm.unet, self.model.config.latent_dim).unet
        try:
            self.model.unet.unet.load_state_dict(unet.state_dict())
        except RuntimeError as error:
            raise RecipeError(f"initial = {self.initial!r}: its DM is not of the recipe's U-Net ({error})") from error

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        schedule = self.model.schedule
        x_0 = self.model.codec.encode(images)
        x_t = schedule.add_noise(x_0, noise, t)
        output = self.model.unet(x_t, t, self.model.encoder(images)).float()
        return {"loss": denoising(self.dm, schedule, output, x_0, x_t, t, noise)}

    def preview(self, averaged: nn.ModuleDict, images: Tensor) -> Tensor:
        """Return the images; those from their own inferred `x_T`; those from random `x_T`."""
        model = self.finished(averaged)
        z = model.encoder(images)
        x_T = torch.randn((len(images), *self.noise_shape), generator=torch.Generator().manual_seed(0))
        inferred = model.sample(model.invert(images, z, 50), z, 25)
        return torch.cat([images, inferred, model.sample(x_T.to(images.device), z, 25)])

    def finished(self, averaged: nn.ModuleDict) -> DiffAE:
        old = self.model
        model = DiffAE(old.config, averaged["unet"], averaged["encoder"], old.scheduler, old.codec)  # type: ignore[arg-type]
        return model.to(old.mean.device)
