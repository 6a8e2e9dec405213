"""Training of the diffusion model that DiTi then freezes."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from ditifeat.data.drawing import grid, save_image, to_pixels
from ditifeat.model.codec import load_codec
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.train.loop import Task
from ditifeat.train.recipe import DMRecipe, Recipe, UNetSpec

# The published schedule: linear from 1e-4 to 0.02 in 1000 time-steps.
SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def build_unet(spec: UNetSpec, channels: int, size: int) -> UNet2DModel:
    """A random `UNet2DModel` over maps of `channels` x `size` x `size`."""
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


def build_dm(recipe: Recipe) -> DiffusionModel:
    """The untrained DM of a recipe, its weights drawn from the recipe's seed."""
    if recipe.dm is None or recipe.dm.unet is None:
        raise TypeError("a pretrained DM is loaded, not built")
    codec = load_codec(recipe.codec, Path())
    channels, size, _ = codec.shape(recipe.image.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        unet = build_unet(recipe.dm.unet, channels, size)
    return DiffusionModel(unet, {**SCHEDULER, "prediction_type": recipe.dm.prediction}, codec)


class DMTask(Task):
    """Denoising (Ho et al. 2020), on the noise or on what the U-Net predicts with a capped weight."""

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
        if self.recipe.loss == "epsilon":
            return {"loss": (schedule.to_noise(output, x_t, t) - noise).square().mean((1, 2, 3))}
        # 1 / (1 - alpha_bar) = SNR + 1 turns an error of the picture into one of v; the cap keeps the
        # nearly clean time-steps, which teach texture alone, from ruling the gradient.
        weight = (1 / (1 - schedule.alpha_bar[t])).clamp(max=self.recipe.snr_cap)
        error = schedule.to_image(output, x_t, t) - x_0
        return {"loss": weight * error.square().mean((1, 2, 3))}

    @torch.no_grad()
    def preview(self, averaged: nn.ModuleDict, images: Tensor, path: Path) -> None:
        dm = DiffusionModel(averaged["unet"], self.dm.scheduler, self.dm.codec).to(images.device)  # type: ignore[arg-type]
        x_T = torch.randn((16, *self.noise_shape), generator=torch.Generator().manual_seed(0))
        save_image(grid(to_pixels(dm.sample(x_T.to(images.device), steps=25)), columns=8), path)
