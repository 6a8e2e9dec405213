"""Training of the encoder and the estimator over the frozen DM."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ditifeat.codec import UnshuffleCodec, VAECodec
from ditifeat.config import DMReference, ModelConfig
from ditifeat.diffae import DiffAE
from ditifeat.diffusion import DiffusionModel
from ditifeat.encoder_only import EncoderOnly
from ditifeat.encoders import EncoderSpec, ResidualBlock, build_encoder, to_images
from ditifeat.errors import ModelError, RecipeError
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
def encoder_from_dm(encoder: nn.Sequential, spec: EncoderSpec, dm: DiffusionModel, time_step: int = 50) -> None:
    """Gives an encoder of style "residual" the weights of the DM's down path, with a time-step's embedding folded in.

    Clean pictures are encoded, so an early time-step fits.

    Raises:
        RecipeError: if the encoder's layers are not those of the DM.
    """
    unet = dm.unet
    config = unet.config
    factor = dm.codec.factor if isinstance(dm.codec, UnshuffleCodec) else 1
    wanted = EncoderSpec(
        tuple(config.block_out_channels),
        style="residual",
        layers=config.layers_per_block,
        unshuffle=factor,
        mirrored=spec.mirrored,
    )
    if (
        spec != wanted
        or any(kind != "DownBlock2D" for kind in config.down_block_types)
        or isinstance(dm.codec, VAECodec)
    ):
        raise RecipeError(f"encoder_from_dm: this DM's down path needs the encoder {wanted}, and no attention in it")
    embedding = unet.time_embedding(unet.time_proj(torch.tensor([time_step])))
    ours = iter(layer for layer in encoder if isinstance(layer, nn.Conv2d | ResidualBlock))
    next(ours).load_state_dict(unet.conv_in.state_dict())
    for block in unet.down_blocks:
        for theirs in block.resnets:
            _copy_block(cast(ResidualBlock, next(ours)), theirs, embedding)
        for sampler in block.downsamplers or ():
            next(ours).load_state_dict(sampler.conv.state_dict())


def _copy_block(ours: ResidualBlock, theirs: ResnetBlock2D, embedding: Tensor) -> None:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    if theirs.conv_shortcut is not None:
        ours.shortcut.load_state_dict(theirs.conv_shortcut.state_dict())
    # What is added for the time-step is a constant here, like a bias.
    ours.conv1.bias += theirs.time_emb_proj(theirs.nonlinearity(embedding))[0]


@torch.no_grad()
def whiten_codes(encoder: nn.Sequential, images: Tensor) -> Tensor:
    """Sets the encoder's last layer so that codes of `images` `(N, 3, S, S)` begin white: uncorrelated, mean 0, std 1.

    They are the principal components of the layer's input, scaled to equal variance, the largest last: what varies most
    is coarse, and belongs to late time-steps. A random layer's codes vary along few directions, and training them narrows
    these further before it widens them.

    Returns:
        `(d,)`: how much each code varied before it was scaled, root mean square 1.
    """
    last = encoder[-1]
    inputs = torch.cat([encoder[:-1](part) for part in images.split(256)]).double()
    mean = inputs.mean(0)
    variances, components = torch.linalg.eigh((inputs - mean).T @ (inputs - mean) / len(inputs))
    kept = slice(-last.out_features, None)  # type: ignore[operator]
    # The floor keeps components that hardly vary from being blown up into noise.
    weight = (components[:, kept] / (variances[kept] + 1e-3 * variances[kept].mean()).sqrt()).T
    weight /= ((inputs - mean) @ weight.T).std(0)[:, None]
    if len(weight) < last.out_features:  # type: ignore[operator]
        raise ModelError(f"{len(weight)} inputs of the encoder's last layer cannot be whitened to more codes")
    last.weight.copy_(weight)  # type: ignore[operator]
    last.bias.copy_(-weight @ mean)  # type: ignore[operator]
    scale = variances[kept].clamp(min=0).sqrt()
    return (scale / scale.square().mean().sqrt()).float()


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
