"""DiTi, and with one subset PDAE: encoder and gradient estimator over the frozen DM."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ditifeat.errors import RecipeError
from ditifeat.model.config import DMReference, EstimatorKind
from ditifeat.model.decoded import DecodedEstimator
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.diti import WEIGHTINGS, Detach, DiTi, build_estimator
from ditifeat.model.encoders import EncoderSpec, build_encoder
from ditifeat.train.data import TrainingImages
from ditifeat.train.initial_model import initialise_from_model
from ditifeat.train.initialise import (
    INITIALISATION_IMAGES,
    Autocast,
    initialise_decoder,
    initialise_error_predictive,
    initialise_from_dm,
    initialise_whitened,
)
from ditifeat.train.loop import Task
from ditifeat.train.optimise import Group
from ditifeat.train.recipe import MethodRecipe, Recipe, Settings, model_config
from ditifeat.train.run import Run
from ditifeat.train.sections import UNetSpec
from ditifeat.train.tasks.dm import TIME_STEPS, frozen_dm


@dataclass(frozen=True)
class DiTiRecipe(MethodRecipe):
    """The section `diti` of a recipe.

    Attributes:
        detach: "off" (base), "on" (gradients reach the current subset alone), "both" (the two losses added).
        warm_start: the estimator is initialised as the frozen DM's middle and up path with a zero output layer, not at
            random.
        encoder_from_dm: the encoder (of style "residual", with the DM's own channels, layers and unshuffling) is initialised
            as the frozen DM's down path at time-step 50, not at random.
        codes: initialisation of the encoder's head: "random"; "whitened", the principal components of its inputs at
            equal variance; or "error_predictive", the components that best predict the frozen DM's error at each range of
            time-steps, at their own scale, each in the range where it is first lost. The estimator's first layer is then
            scaled by the error that they explain (or, whitened, by their standard deviations), and a decoded estimator's `D`
            is the least-squares decoder of these codes.
        encoder_lr: the encoder's learning rate as a share of the optimiser's.
        encoder_begin: the share of the run, 0..1, after which the encoder learns; the estimator alone does before.
        estimator: "published" (PDAE's half U-Net) or "decoded" (`ditifeat.model.decoded.DecodedEstimator`).
        decoder_lr: the learning rate of a decoded estimator's `D` as a share of the optimiser's.
        weighting: of the time-steps' losses, one of `model.diti.WEIGHTINGS`.

    Raises:
        RecipeError: for a value out of its range.
    """

    detach: Detach = "on"
    warm_start: bool = False
    encoder_from_dm: bool = False
    codes: Literal["random", "whitened", "error_predictive"] = "random"
    encoder_lr: float = 1.0
    encoder_begin: float = 0.0
    estimator: EstimatorKind = "published"
    decoder_lr: float = 0.1
    weighting: str = "published"

    def __post_init__(self) -> None:
        for key in ("encoder_lr", "decoder_lr"):
            if not 0 < getattr(self, key) <= 100:
                raise RecipeError(f"diti: {key} = {getattr(self, key)} is not within 0..100")
        if not 0 <= self.encoder_begin <= 1:
            raise RecipeError(f"diti: encoder_begin = {self.encoder_begin} is not within 0..1")
        if self.estimator == "decoded" and not self.warm_start:
            raise RecipeError("diti: a decoded estimator is always warm-started; give warm_start: true")
        if self.weighting not in WEIGHTINGS:
            raise RecipeError(f"diti: weighting = {self.weighting!r} is not one of {', '.join(WEIGHTINGS)}")

    def check(self, settings: Settings) -> None:
        if settings.dm is None:
            raise RecipeError("missing key dm")
        if settings.dm.unet is not None and settings.dm.optimiser is None:
            raise RecipeError("dm: there is no optimiser to train it with")
        steps = settings.partition.num_time_steps
        if settings.dm.unet is not None and steps != TIME_STEPS:
            raise RecipeError(f"partition: num_time_steps = {steps}, but a DM that is trained here has {TIME_STEPS}")
        if self.codes != "random" and settings.encoder_inputs < settings.partition.d:
            raise RecipeError(
                f"diti: {self.codes} codes are at most {settings.encoder_inputs}, what the encoder's head reads; d is "
                f"{settings.partition.d}"
            )
        if self.encoder_from_dm and settings.dm.unet is not None:
            _check_down_path(settings, settings.dm.unet)


def _check_down_path(settings: Settings, unet: UNetSpec) -> None:
    """Before the DM is trained; `initialise_from_dm` looks again."""
    spec, codec = settings.encoder_spec, settings.codec
    wanted = EncoderSpec(unet.channels, (), 1, "residual", unet.layers, codec.factor, spec.levels)
    if spec != wanted or unet.attention or unet.style != "ddpm" or codec.kind == "vae":
        raise RecipeError(
            f"diti: encoder_from_dm needs an encoder {{style: residual, channels: {list(unet.channels)}, layers: {unet.layers}, "
            f"unshuffle: {codec.factor}}}, and a DM of style ddpm without attention, not over a VAE"
        )


def build_diti(recipe: Recipe, dm: DiffusionModel, reference: DMReference) -> DiTi:
    """Return the untrained model of a recipe over a DM, its weights drawn from the recipe's seed."""
    section = cast(DiTiRecipe, recipe.section)
    config = model_config(recipe, method="diti", dm=reference, estimator=section.estimator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        encoder = build_encoder(config.encoder, recipe.image.size, config.latent_dim)
        estimator = build_estimator(config, dm, warm_start=section.warm_start)
    return DiTi(config, dm, encoder, estimator)


class DiTiTask(Task):
    """The loss of `DiTi.losses`; the frozen DM's own error is logged beside it.

    Args:
        model: the untrained model.
        recipe: its section of the recipe.
        seed: of the time-steps and noise that the initialisation draws.
    """

    section = DiTiRecipe

    def __init__(self, model: DiTi, recipe: DiTiRecipe, seed: int = 0):
        super().__init__()
        self.model, self.recipe, self.seed = model, recipe, seed
        self.trained = nn.ModuleDict({"encoder": model.encoder, "estimator": model.estimator})
        self.num_time_steps = model.partition.num_time_steps
        self.noise_shape = model.noise_shape

    @classmethod
    def build(cls, run: Run, section: DiTiRecipe) -> DiTiTask:
        return cls(build_diti(run.recipe, *frozen_dm(run)), section, run.recipe.seed)

    def initialise(self, images: TrainingImages, autocast: Autocast = nullcontext) -> None:
        model, encoder = self.model, self.model.encoder
        if self.recipe.initial is not None:
            initialise_from_model(model, self.recipe.initial)
            return
        if self.recipe.encoder_from_dm:
            initialise_from_dm(encoder, model.config.encoder, model.dm)
        if self.recipe.codes == "random":
            return
        first = images.first(INITIALISATION_IMAGES)
        if self.recipe.codes == "whitened":
            scale = initialise_whitened(encoder, first)
        else:
            scale = initialise_error_predictive(model, first, self.recipe.weighting, seed=self.seed, autocast=autocast)
        # To a random first layer all these codes are alike; it should see most of what varies or explains most.
        model.estimator.code_embedding.weight.data *= scale
        if isinstance(model.estimator, DecodedEstimator):
            initialise_decoder(model, first)

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        loss, frozen = self.model.losses(images, t, noise, self.recipe.detach, self.recipe.weighting)
        return {"loss": loss, "frozen": frozen}

    def parameter_groups(self) -> list[Group]:
        recipe, estimator = self.recipe, self.model.estimator
        decoder = list(estimator.decoder.parameters()) if isinstance(estimator, DecodedEstimator) else []
        others = [p for p in estimator.parameters() if all(p is not held for held in decoder)]
        return [
            Group(list(self.model.encoder.parameters()), recipe.encoder_lr, recipe.encoder_begin),
            Group(others),
            Group(decoder, recipe.decoder_lr),
        ]

    def preview(self, averaged: nn.ModuleDict, images: Tensor) -> Tensor:
        """Return the images; those from their own inferred `x_T`; those from random `x_T`, which show what the code holds."""
        model = self.finished(averaged)
        z = model.encoder(images)
        x_T = torch.randn((len(images), *self.noise_shape), generator=torch.Generator().manual_seed(0))
        inferred = model.sample(model.invert(images, z, 50), z, 25)
        return torch.cat([images, inferred, model.sample(x_T.to(images.device), z, 25)])

    def finished(self, averaged: nn.ModuleDict) -> DiTi:
        model = DiTi(self.model.config, self.model.dm, averaged["encoder"], averaged["estimator"])  # type: ignore[arg-type]
        return model.to(self.model.mean.device)
