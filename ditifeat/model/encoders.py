"""The closed table of encoder networks: image `(B, 3, S, S)` in [-1, 1] -> code `(B, d)`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ditifeat.errors import ModelError
from ditifeat.files import load_strictly, read_tensors, select_prefix, write_tensors

MAX_LINEAR = 2**28  # weights of the last layer: 1 GiB in float32


@dataclass(frozen=True)
class EncoderSpec:
    """Convolutions that halve the map, then one linear layer on all of it.

    Attributes:
        channels: of each level.
        attention: the indices of the convolutions that self-attention follows; "plain" alone.
        heads: heads of that attention.
        style: "plain" (PDAE's and DiTi's: stride-2 convolutions, each with GroupNorm and SiLU) or "residual" (the down
            path of a DM's U-Net, without time-steps: two residual blocks a level would be `layers=2`).
        layers: residual blocks a level; "residual" alone.
        unshuffle: blocks of so many pixels a side become channels first; "residual" alone.
        mirrored: a picture's code is the mean of its own and its mirror image's: no dimension tells left from
            right, and encoding costs twice as much.
    """

    channels: tuple[int, ...]
    attention: tuple[int, ...] = ()
    heads: int = 1
    style: Literal["plain", "residual"] = "plain"
    layers: int = 1
    unshuffle: int = 1
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= 10 or not all(32 <= c <= 2048 and c % 32 == 0 for c in self.channels):
            raise ModelError(f"encoder: channels {self.channels} must be 1 to 10 multiples of 32 up to 2048")
        if not set(self.attention) <= set(range(len(self.channels))):
            raise ModelError(
                f"encoder: attention {self.attention} must name some of the {len(self.channels)} convolutions"
            )
        if self.heads < 1 or any(self.channels[i] % self.heads for i in self.attention):
            raise ModelError(f"encoder: heads = {self.heads} must divide the channels that attention sees")
        if not (1 <= self.layers <= 8 and 1 <= self.unshuffle <= 16):
            raise ModelError("encoder: layers must be within 1..8, unshuffle within 1..16")
        if self.style == "plain" and (self.layers, self.unshuffle) != (1, 1):
            raise ModelError("encoder: layers and unshuffle belong to the style residual")
        if self.style == "residual" and self.attention:
            raise ModelError("encoder: the style residual has no attention")

    @property
    def halvings(self) -> int:
        """How often the map is halved; the down path of a U-Net keeps its last level's size."""
        return len(self.channels) - (self.style == "residual")


ENCODERS: dict[str, EncoderSpec] = {
    # PDAE's and DiTi's encoders. The 64 px one agrees with published layouts tensor by tensor; the 128 px one is how we
    # read the papers and has met no published checkpoint.
    "diti64": EncoderSpec((64, 128, 128, 128), attention=(1,), heads=4),
    "diti128": EncoderSpec((64, 128, 256, 256, 256), attention=(2,), heads=4),
}


class SelfAttention(nn.Module):
    """Attention over the positions of a map, with GroupNorm before and a residual (as in guided-diffusion).

    The rows of `qkv` are ordered head by head: q, k, v of the first head, then of the next.
    """

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x).flatten(2))
        q, k, v = qkv.view(batch, self.heads, 3, channels // self.heads, -1).transpose(-1, -2).unbind(2)
        attended = nn.functional.scaled_dot_product_attention(q, k, v)
        attended = attended.transpose(-1, -2).reshape(batch, channels, -1)
        return x + self.proj_out(attended).view(batch, channels, height, width)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, beside a shortcut: diffusers' `ResnetBlock2D` without a time embedding."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, inputs, eps=1e-5)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = nn.GroupNorm(32, outputs, eps=1e-5)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(nn.functional.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(nn.functional.silu(self.norm2(hidden)))


class MirroredEncoder(nn.Sequential):
    """The mean over pictures `(B, 3, S, S)` and their mirror images of what the layers give; so is what its first layers give."""

    def forward(self, images: Tensor) -> Tensor:
        both: Tensor = super().forward(torch.cat([images, images.flip(-1)]))  # type: ignore[no-untyped-call]
        return both.unflatten(0, (2, -1)).mean(0)


def build_encoder(spec: EncoderSpec, image_size: int, latent_dim: int) -> nn.Sequential:
    """The encoder network for images of `image_size` pixels a side.

    Raises:
        ModelError: if the image is too small for the number of halvings.
    """
    side = image_size // spec.unshuffle >> spec.halvings
    if side < 1 or (side << spec.halvings) * spec.unshuffle != image_size:
        raise ModelError(f"encoder: {image_size} px cannot be cut by {spec.unshuffle} and halved {spec.halvings} times")
    if side**2 * spec.channels[-1] * latent_dim > MAX_LINEAR:
        raise ModelError(
            f"encoder: {image_size} px, channels {spec.channels} and d = {latent_dim} need over {MAX_LINEAR} weights"
        )
    layers = _plain_layers(spec) if spec.style == "plain" else _residual_layers(spec)
    sequence = MirroredEncoder if spec.mirrored else nn.Sequential
    return sequence(*layers, nn.Flatten(), nn.Linear(spec.channels[-1] * side**2, latent_dim))


def _plain_layers(spec: EncoderSpec) -> list[nn.Module]:
    layers: list[nn.Module] = []
    previous = 3
    for i, channels in enumerate(spec.channels):
        layers.append(nn.Conv2d(previous, channels, 3, stride=2, padding=1))
        if i in spec.attention:
            layers.append(SelfAttention(channels, spec.heads))
        layers += [nn.GroupNorm(32, channels), nn.SiLU()]
        previous = channels
    return layers


def _residual_layers(spec: EncoderSpec) -> list[nn.Module]:
    previous = spec.channels[0]
    layers: list[nn.Module] = [
        nn.PixelUnshuffle(spec.unshuffle),
        nn.Conv2d(3 * spec.unshuffle**2, previous, 3, padding=1),
    ]
    for i, channels in enumerate(spec.channels):
        if i:
            layers.append(nn.Conv2d(previous, previous, 3, stride=2, padding=1))
        for _ in range(spec.layers):
            layers.append(ResidualBlock(previous, channels))
            previous = channels
    return layers


def write_encoder(folder: Path, encoder: nn.Module, mean: Tensor, std: Tensor, dtype: torch.dtype) -> None:
    """Writes what `read_encoder` reads: the network in `dtype`, its codes' mean and std in float32."""
    tensors = {f"encoder.{key}": value.to(dtype) for key, value in encoder.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors | {"code.mean": mean, "code.std": std})


def read_encoder(folder: Path, spec: EncoderSpec, image_size: int, latent_dim: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The encoder of a model folder, in eval mode, and its codes' mean and std `(d,)`.

    Raises:
        ModelError: if the weights are missing or do not fit the configuration.
    """
    path = folder / "model.safetensors"
    with torch.device("meta"):
        encoder = build_encoder(spec, image_size, latent_dim)
    tensors, _ = read_tensors(path)
    statistics = {key: tensors.pop(f"code.{key}", None) for key in ("mean", "std")}
    if any(value is None or value.shape != (latent_dim,) for value in statistics.values()):
        raise ModelError(f"{path}: code.mean and code.std must be there, with {latent_dim} numbers each")
    outside = sorted(key for key in tensors if not key.startswith("encoder."))
    if outside:
        raise ModelError(f"{path}: unknown tensor {', '.join(outside[:3])}")
    load_strictly(encoder, select_prefix(tensors, "encoder."), str(path))
    mean, std = (value.float() for value in statistics.values() if value is not None)
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
        raise ModelError(f"{path}: code.mean and code.std must be finite, and std above 0")
    return encoder.eval().requires_grad_(False), mean, std
