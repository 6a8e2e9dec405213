"""The diffusion model (DM): trained from a recipe's `dm` section, or taken from elsewhere; DiTi then freezes it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from ditifeat.errors import RecipeError
from ditifeat.files import read_json, write_text
from ditifeat.model.codec import PixelCodec, VAECodec, load_codec, load_vae
from ditifeat.model.config import DMReference
from ditifeat.model.diffusion import DiffusionModel, check_fit
from ditifeat.pretrained.dm import has_vae, resolve_dm, resolve_vae
from ditifeat.train.engine import accelerator
from ditifeat.train.loop import PREVIEWED, Task, Trainer
from ditifeat.train.losses import denoising
from ditifeat.train.recipe import Recipe, model_config
from ditifeat.train.run import Run
from ditifeat.train.sections import DMRecipe, UNetSpec

TIME_STEPS = 1000

# The published schedule: linear from 1e-4 to 0.02 in 1000 time-steps.
SCHEDULER = {"num_train_timesteps": TIME_STEPS, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def build_unet(spec: UNetSpec, channels: int, size: int) -> UNet2DModel:
    """Return a random `UNet2DModel` over maps of `channels` x `size` x `size`.

    >>> from ditifeat.train.sections import UNetSpec
    >>> from ditifeat.train.tasks.dm import build_unet
    >>> build_unet(UNetSpec((32, 64), layers=1), channels=12, size=16).config.block_out_channels
    (32, 64)
    """
    guided = spec.style == "guided"
    plain = "Resnet{}sampleBlock2D" if guided else "{}Block2D"
    levels = range(len(spec.channels))
    down = tuple("AttnDownBlock2D" if i in spec.attention else plain.format("Down") for i in levels)
    up = tuple("AttnUpBlock2D" if i in spec.attention else plain.format("Up") for i in reversed(levels))
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=spec.channels,
        layers_per_block=spec.layers,
        down_block_types=down,
        up_block_types=up,
        attention_head_dim=spec.head_dim,
        dropout=spec.dropout,
        downsample_type="resnet" if guided else "conv",
        upsample_type="resnet" if guided else "conv",
        resnet_time_scale_shift="scale_shift" if guided else "default",
        attn_norm_num_groups=32,  # with scale_shift, diffusers would leave the middle's attention unnormalised
    )


def build_codec(recipe: Recipe, dm_folder: Path | None = None) -> PixelCodec:
    """Return the codec of a recipe; a VAE is read, or fetched, from its path, or from a pretrained DM's folder.

    Raises:
        ModelError: if the VAE is missing or does not fit its configuration.
    """
    if recipe.codec.path is not None:
        return VAECodec(load_vae(resolve_vae(recipe.codec.path)))
    return load_codec(recipe.codec.spec, dm_folder=dm_folder)


def build_dm(recipe: Recipe) -> DiffusionModel:
    """Return the untrained DM of a recipe, its weights drawn from the recipe's seed.

    Raises:
        RecipeError: if the recipe has no DM, or takes a pretrained one.
    """
    if recipe.dm is None or recipe.dm.unet is None:
        raise RecipeError("dm: there is no unet to build")
    codec = build_codec(recipe)
    channels, size, _ = codec.shape(recipe.image.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = build_unet(recipe.dm.unet, channels, size)
    check_fit(unet, codec, model_config(recipe), Path("dm"))
    return DiffusionModel(unet, {**SCHEDULER, "prediction_type": recipe.dm.prediction}, codec)


def frozen_dm(run: Run) -> tuple[DiffusionModel, DMReference]:
    """Return the DM to freeze and where it is: a given one, or one trained here, whose averaged weights lie in `dm/`.

    Raises:
        RecipeError, ModelError: if there is none, or it does not read what the codec gives.
    """
    recipe = run.recipe
    if recipe.dm is None:
        raise RecipeError("missing key dm")
    if recipe.dm.pretrained is not None:
        return _pretrained(run, recipe.dm.pretrained)
    folder = run.folder / "dm"
    dm = build_dm(recipe)
    if not (folder / "model_index.json").exists():
        if recipe.dm.optimiser is None:
            raise RecipeError("dm: there is no optimiser to train it with")
        task = DMTask(dm, recipe.dm, recipe.image.size)
        averaged = Trainer(task, run, recipe.dm.optimiser, "dm").train()
        if accelerator().is_main_process:
            task.finished(averaged).save(folder)
        accelerator().wait_for_everyone()
    return DiffusionModel.load(folder, dm.codec), DMReference()


def _pretrained(run: Run, name: str) -> tuple[DiffusionModel, DMReference]:
    recipe = run.recipe
    latent = recipe.codec.kind == "vae"
    folder, reference = resolve_dm(name, vae=latent and recipe.codec.path is None)
    if not latent and has_vae(folder, reference):
        raise RecipeError(
            f"{name}: is a DM over the latents of the VAE beside it; give the recipe codec: {{kind: vae}}"
        )
    dm = DiffusionModel.load(folder, build_codec(recipe, folder))
    check_fit(dm.unet, dm.codec, model_config(recipe), folder)
    _check_training(dm, recipe, name)
    _check_same_weights(run.folder / "dm.json", name, dm)
    return dm, reference


def _check_training(dm: DiffusionModel, recipe: Recipe, name: str) -> None:
    """Refuse a DM that would run on images of another size, or be asked for other time-steps, than it was trained for."""
    size, sample = recipe.image.size, dm.unet.config.sample_size
    _, side, _ = dm.codec.shape(size)
    sides = set(sample) if isinstance(sample, list | tuple) else {sample}
    if sample is not None and sides != {side}:
        trained = max(sides)
        raise RecipeError(
            f"{name}: was trained on maps of {trained} x {trained}, the recipe's {size} px give {side} x {side}; give "
            f"image.size: {trained * size // side}, and an encoder for it"
        )
    steps, wanted = dm.schedule.num_time_steps, recipe.partition.num_time_steps
    if steps != wanted:
        raise RecipeError(
            f"{name}: has {steps} time-steps, the partition {wanted}; give partition.num_time_steps: {steps}, and the last of "
            f"its stages {steps}"
        )


def _check_same_weights(path: Path, name: str, dm: DiffusionModel) -> None:
    """A folder may have got another DM since the run began, and a branch on the Hub another commit."""
    if not accelerator().is_main_process:
        return
    digest = hashlib.sha256()
    for key, value in dm.state_dict().items():
        digest.update(key.encode())
        digest.update(value.contiguous().numpy().data)
    if not path.exists():
        write_text(path, json.dumps({"dm": name, "sha256": digest.hexdigest()}) + "\n")
    elif read_json(path)["sha256"] != digest.hexdigest():
        raise RecipeError(f"{name}: its weights are not those that the run was begun with; use another output folder")


class DMTask(Task):
    """Denoising: the loss of `losses.denoising`."""

    def __init__(self, dm: DiffusionModel, recipe: DMRecipe, image_size: int):
        super().__init__()
        self.dm = dm
        self.recipe = recipe
        self.trained = nn.ModuleDict({"unet": dm.unet})
        self.num_time_steps = dm.schedule.num_time_steps
        self.noise_shape = dm.codec.shape(image_size)

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        schedule = self.dm.schedule
        x_0 = self.dm.codec.encode(images)
        x_t = schedule.add_noise(x_0, noise, t)
        output = self.dm.unet(x_t, t).sample.float()
        return {"loss": denoising(self.recipe, schedule, output, x_0, x_t, t, noise)}

    def preview(self, averaged: nn.ModuleDict, images: Tensor) -> Tensor:
        """Return two rows of samples."""
        x_T = torch.randn((2 * PREVIEWED, *self.noise_shape), generator=torch.Generator().manual_seed(0))
        return self.finished(averaged).sample(x_T[: 2 * len(images)].to(images.device), steps=25)

    def finished(self, averaged: nn.ModuleDict) -> DiffusionModel:
        dm = DiffusionModel(averaged["unet"], self.dm.scheduler, self.dm.codec)  # type: ignore[arg-type]
        return dm.to(next(averaged.parameters()).device)
