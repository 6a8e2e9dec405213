"""The gradient estimator G over any diffusers `UNet2DModel` (PDAE section 3.3, DiTi section 4.3).

diffusers' blocks hand the time embedding on to their residual blocks unchanged. So a deep copy of the DM's middle
and up blocks, in which each `ResnetBlock2D` also takes the code's embedding, is the estimator for every such U-Net. The
two embeddings travel as one tensor, side by side, and each block takes them apart.
"""

from __future__ import annotations

import copy

import torch
from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ditifeat.model.unet import DownPath, attention_layers, check_unet, down_path, up_path, without_channels_last


class CodeResnetBlock(nn.Module):
    """A `ResnetBlock2D` whose second normalisation the code scales and shifts too: `h = (1 + s_z) norm(h, t) + b_z`.

    Args:
        block: the block; not copied.
        time_width, code_width: of the two embeddings, which `forward` takes as one tensor, side by side.
    """

    def __init__(self, block: ResnetBlock2D, time_width: int, code_width: int):
        super().__init__()
        self.time_width = time_width
        self.block = block
        self.code_proj = nn.Linear(code_width, 2 * block.out_channels)
        nn.init.zeros_(self.code_proj.bias)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        block = self.block
        time, code = temb.split([self.time_width, temb.shape[1] - self.time_width], dim=1)
        hidden = block.nonlinearity(block.norm1(x))
        if block.upsample is not None:
            x, hidden = block.upsample(x.contiguous()), block.upsample(hidden.contiguous())
        hidden = self._condition(block.conv1(hidden), time)
        scale, shift = self.code_proj(block.nonlinearity(code))[:, :, None, None].chunk(2, dim=1)
        hidden = block.nonlinearity((1 + scale) * hidden + shift)
        hidden = block.conv2(block.dropout(hidden))
        if block.conv_shortcut is not None:
            x = block.conv_shortcut(x)
        return (x + hidden) / block.output_scale_factor

    def _condition(self, hidden: Tensor, time: Tensor) -> Tensor:
        """`norm(h, t)`: the block's own normalisation with its own time condition."""
        block = self.block
        projected = block.time_emb_proj(block.nonlinearity(time))[:, :, None, None]
        if block.time_embedding_norm == "scale_shift":
            scale, shift = projected.chunk(2, dim=1)
            return block.norm2(hidden) * (1 + scale) + shift
        return block.norm2(hidden + projected)


def _random_copy(unet: UNet2DModel) -> UNet2DModel:
    copied = UNet2DModel.from_config(unet.config)
    for ours, theirs in zip(attention_layers(copied), attention_layers(unet), strict=True):
        ours.heads = theirs.heads
    return copied


def _take_code(module: nn.Module, width: int) -> None:
    """Replace every residual block by one that takes a code's embedding beside the time's, `width` numbers each."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResnetBlock2D):
                setattr(parent, name, CodeResnetBlock(child, width, width))


class ConditionalUNet(nn.Module):
    """A U-Net that a code conditions in every residual block, by scale and shift (Diff-AE section 3.1).

    Args:
        unet: the unconditional U-Net whose weights it is initialised with; copied and not changed.
        latent_dim: `d`, the code's dimensions.

    Raises:
        ModelError: for a U-Net that is not an unconditional DDPM.
    """

    def __init__(self, unet: UNet2DModel, latent_dim: int):
        super().__init__()
        check_unet(unet)
        width = unet.time_embedding.linear_2.out_features
        self.code_embedding = nn.Linear(latent_dim, width)
        self.unet = copy.deepcopy(unet).requires_grad_(True)
        _take_code(self.unet, width)
        self.train()  # a frozen U-Net's copy would have no dropout

    def forward(self, x_t: Tensor, t: Tensor, code: Tensor) -> Tensor:
        """Return what the U-Net predicts, `(B, C, h, w)`, at `x_t` `(B, C, h, w)`, `t` int `(B,)`, under the code `(B, d)`."""
        features = down_path(self.unet, x_t, t, self.code_embedding(code))
        return up_path(self.unet, features, features.time_embedding)


class GradientEstimator(nn.Module):
    """`G(x_t, z_bar_t, t)`: own middle, up and output layers over the frozen DM's down path.

    Args:
        unet: the frozen DM's U-Net, copied and not changed.
        latent_dim: `d`, the code's dimensions.
        warm_start: whether it is initialised with the U-Net's weights and a zero output layer, so that G is 0 and its
            features are not; otherwise at random.

    Raises:
        ModelError: for a U-Net that is not an unconditional DDPM.
    """

    def __init__(self, unet: UNet2DModel, latent_dim: int, warm_start: bool = False):
        super().__init__()
        check_unet(unet)
        width = unet.time_embedding.linear_2.out_features
        if not warm_start:
            unet = _random_copy(unet)
        self.code_embedding = nn.Linear(latent_dim, width)
        self.mid_block = copy.deepcopy(unet.mid_block)
        self.up_blocks = copy.deepcopy(unet.up_blocks)
        self.conv_norm_out = copy.deepcopy(unet.conv_norm_out)
        self.conv_act = copy.deepcopy(unet.conv_act)
        self.conv_out = copy.deepcopy(unet.conv_out)
        if warm_start:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)
        self.requires_grad_(True)
        _take_code(self, width)
        self.train()  # a frozen U-Net's copy would have no dropout

    def forward(self, features: DownPath, code: Tensor) -> Tensor:
        """Return the estimator's output `(B, C, h, w)` for the DM's `features` at `x_t` and the code `(B, d)`."""
        features = DownPath(
            without_channels_last(features.bottleneck),
            tuple(without_channels_last(skip) for skip in features.skips),
            features.time_embedding,
        )
        embedding = torch.cat([features.time_embedding, self.code_embedding(code)], dim=1)
        return up_path(self, features, embedding)
