"""The gradient estimator that gets the code as an image: a linear decoder of the code beside the published half U-Net.

Everything here lives in the frozen DM's space, after the codec, in units of `x_0`.
"""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional

from ditifeat.model.estimator import GradientEstimator
from ditifeat.model.unet import DownPath, without_channels_last

MAX_DECODED_SIDE = 64  # of the map that a code is decoded to; larger DMs get it upsampled


class CodeDecoder(nn.Module):
    """`D`: the image, in the DM's space, that a (cumulative) code stands for; linear.

    Args:
        latent_dim: `d`, the code's dimensions.
        shape: `(C, h, w)` of the DM's space.
    """

    def __init__(self, latent_dim: int, shape: tuple[int, int, int]):
        super().__init__()
        channels, height, width = shape
        self.shape = shape
        self.decoded = (channels, min(height, MAX_DECODED_SIDE), min(width, MAX_DECODED_SIDE))
        self.linear = nn.Linear(latent_dim, self.decoded[0] * self.decoded[1] * self.decoded[2])

    def forward(self, code: Tensor) -> Tensor:
        """Images `(B, C, h, w)` of codes `(B, d)`."""
        decoded = self.linear(code).unflatten(1, self.decoded)
        if self.decoded != self.shape:
            decoded = functional.interpolate(decoded, self.shape[1:], mode="bilinear", align_corners=False)
        return decoded


class CodePyramid(nn.Module):
    """What two images, stacked, add to each map that a half U-Net reads: nothing before training.

    Args:
        unet: the frozen DM's U-Net, whose skips and bottleneck are added to.
        channels: of the stacked images.
    """

    def __init__(self, unet: UNet2DModel, channels: int):
        super().__init__()
        widths = tuple(unet.config.block_out_channels)
        self.levels = nn.ModuleList()
        previous = channels
        for level, width in enumerate(widths):
            stride = 2 if level else 1
            self.levels.append(
                nn.Sequential(
                    nn.Conv2d(previous, width, 3, stride=stride, padding=1),
                    nn.SiLU(),
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.SiLU(),
                )
            )
            previous = width
        # The skips in the order of `down_path`: the first convolution's, then each block's and its downsampling's.
        self.places = [(0, widths[0])]
        for level, width in enumerate(widths):
            self.places += [(level, width)] * unet.config.layers_per_block
            if level + 1 < len(widths):
                self.places.append((level + 1, width))
        self.places.append((len(widths) - 1, widths[-1]))  # the bottleneck
        self.outputs = nn.ModuleList(nn.Conv2d(widths[level], width, 1) for level, width in self.places)
        for output in self.outputs:
            nn.init.zeros_(output.weight)  # type: ignore[arg-type]
            nn.init.zeros_(output.bias)  # type: ignore[arg-type]

    def forward(self, features: DownPath, images: Tensor) -> DownPath:
        """The DM's features with the pyramid's maps of `images` `(B, channels, h, w)` added."""
        maps = []
        hidden = images
        for level in self.levels:
            hidden = level(hidden)
            maps.append(hidden)
        added = [output(maps[level]) for output, (level, _) in zip(self.outputs, self.places, strict=True)]
        skips = tuple(without_channels_last(skip) + more for skip, more in zip(features.skips, added[:-1], strict=True))
        return DownPath(without_channels_last(features.bottleneck) + added[-1], skips, features.time_embedding)


class DecodedEstimator(nn.Module):
    """A correction of the frozen DM's `x_0_hat` under a code: `gate_t (D(z_bar) - x_0_hat) + sigma_t U(features, z_bar)`.

    `U` is the published half U-Net, which here reads features to which a pyramid of convolutions has added what `D(z_bar)` and
    `x_0_hat` show. All of it is 0 before training, so that the model is initialised as the frozen DM.

    Args:
        unet: the frozen DM's U-Net, copied and not changed.
        latent_dim: `d`, the code's dimensions.
        shape: `(C, h, w)` of the DM's space.
        bounded: whether `x_0` lies within [-1, 1] in that space, so that estimates of it may be clamped.

    Raises:
        ModelError: for a U-Net that is not an unconditional DDPM.
    """

    def __init__(self, unet: UNet2DModel, latent_dim: int, shape: tuple[int, int, int], bounded: bool = True):
        super().__init__()
        self.bounded = bounded
        self.half_unet = GradientEstimator(unet, latent_dim, warm_start=True)
        self.decoder = CodeDecoder(latent_dim, shape)
        self.pyramid = CodePyramid(unet, 2 * shape[0])
        self.gate = nn.Linear(unet.time_embedding.linear_2.out_features, shape[0])
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    @property
    def code_embedding(self) -> nn.Linear:
        """The first layer on a code, of the half U-Net."""
        return self.half_unet.code_embedding

    def forward(self, features: DownPath, code: Tensor, x_0_hat: Tensor, sigma: Tensor) -> Tensor:
        """`x_0' - x_0_hat`, `(B, C, h, w)`.

        Args:
            features: the frozen DM's down path at `x_t`.
            code: the cumulative code `z_bar_t`, `(B, d)`.
            x_0_hat: the frozen DM's estimate of `x_0`, `(B, C, h, w)`.
            sigma: `sqrt(1 - alpha_bar_t)`, `(B, 1, 1, 1)`.
        """
        known = x_0_hat.clamp(-1, 1) if self.bounded else x_0_hat
        decoded = self.decoder(code)
        gate = self.gate(functional.silu(features.time_embedding))[:, :, None, None]
        correction = self.half_unet(self.pyramid(features, torch.cat([decoded, known], dim=1)), code)
        return gate * (decoded - x_0_hat) + sigma * correction
