"""A diffusers `UNet2DModel` taken apart: down path, up path, what the method supports."""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ditifeat.errors import ModelError

# Blocks with image pyramids beside their features (score-SDE's "Skip" ones) and class conditions are no DDPM.
DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")

UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")


class DownPath(NamedTuple):
    """What the first half of a U-Net leaves: the bottleneck, the skips, and the time embedding `(B, e)`."""

    bottleneck: Tensor
    skips: tuple[Tensor, ...]
    time_embedding: Tensor


def check_unet(unet: UNet2DModel) -> None:
    """Refuse U-Nets that are not unconditional DDPMs.

    Raises:
        ModelError: with what is not supported.
    """
    config = unet.config
    kinds = {*config.down_block_types, *config.up_block_types} - {*DOWN_BLOCKS, *UP_BLOCKS}
    if kinds:
        raise ModelError(
            f"the frozen DM has blocks {', '.join(sorted(kinds))}; supported are {', '.join(DOWN_BLOCKS + UP_BLOCKS)}"
        )
    if unet.class_embedding is not None:
        raise ModelError(
            "the frozen DM takes a class beside the image and the time-step; only an unconditional one can be used"
        )
    if config.time_embedding_type == "fourier":
        raise ModelError(
            "the frozen DM embeds noise levels by random Fourier features; one of discrete time-steps is needed"
        )


def cut_learned_variance(unet: UNet2DModel) -> None:
    """Keep the first half of a U-Net's output channels, its prediction; the rest is a variance (Nichol & Dhariwal 2021).

    DDIM needs none.
    """
    channels = unet.config.in_channels
    weight, bias = unet.conv_out.weight[:channels].detach(), unet.conv_out.bias[:channels].detach()
    unet.conv_out = nn.Conv2d(weight.shape[1], channels, 3, padding=1, device="meta")
    unet.conv_out.load_state_dict({"weight": weight.clone(), "bias": bias.clone()}, assign=True)
    unet.register_to_config(out_channels=channels)


def down_path(unet: UNet2DModel, x_t: Tensor, t: Tensor, code: Tensor | None = None) -> DownPath:
    """Return the first half of `UNet2DModel.forward`: `x_t` `(B, C, h, w)`, `t` int `(B,)`.

    A code's embedding, for a U-Net whose residual blocks take one, travels beside the time embedding.
    """
    if unet.config.center_input_sample:
        x_t = 2 * x_t - 1
    embedding = unet.time_embedding(unet.time_proj(t).to(x_t.dtype))
    if code is not None:
        embedding = torch.cat([embedding, code], dim=1)
    hidden = unet.conv_in(x_t)
    skips: tuple[Tensor, ...] = (hidden,)
    for block in unet.down_blocks:
        hidden, block_skips = block(hidden, embedding)
        skips += block_skips
    return DownPath(hidden, skips, embedding)


def up_path(half: nn.Module, features: DownPath, embedding: Tensor) -> Tensor:
    """Return the second half of `UNet2DModel.forward`, of a U-Net or of an estimator."""
    hidden, skips = features.bottleneck, features.skips
    if half.mid_block is not None:
        hidden = half.mid_block(hidden, embedding)  # type: ignore[operator]
    for block in half.up_blocks:  # type: ignore[union-attr]
        count = len(block.resnets)  # type: ignore[arg-type]
        hidden = block(hidden, skips[-count:], embedding)
        skips = skips[:-count]
    return half.conv_out(half.conv_act(half.conv_norm_out(hidden)))  # type: ignore[operator]


def without_channels_last(x: Tensor) -> Tensor:
    """Return a map that GroupNorm can take: on a CPU in contiguous layout, else as it is.

    torch 2.13's CPU backward of GroupNorm crashes on a channels-last input that takes no gradient while its weights do.
    """
    return x.contiguous() if x.device.type == "cpu" else x


def attention_layers(module: nn.Module) -> list[Attention]:
    """Return the attention layers of a U-Net, whose number of heads its configuration cannot always say."""
    return [child for child in module.modules() if isinstance(child, Attention)]
