"""The closed table of encoder networks: image `(B, 3, S, S)` in [-1, 1] -> code `(B, d)`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.artefact import load_strictly, read_tensors, under
from ditifeat.errors import ModelError

MAX_LINEAR = 2**28  # weights of the last layer: 1 GiB in float32


@dataclass(frozen=True)
class EncoderSpec:
    """A stack of stride-2 convolutions, each with GroupNorm and SiLU, then one linear layer.

    Attributes:
        channels: the output channels of each convolution; each halves the map.
        attention: the indices of the convolutions that self-attention follows.
        heads: heads of that attention.
    """

    channels: tuple[int, ...]
    attention: tuple[int, ...] = ()
    heads: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= 10 or not all(32 <= c <= 2048 and c % 32 == 0 for c in self.channels):
            raise ModelError(f"encoder: channels {self.channels} must be 1 to 10 multiples of 32 up to 2048")
        if not set(self.attention) <= set(range(len(self.channels))):
            raise ModelError(
                f"encoder: attention {self.attention} must name some of the {len(self.channels)} convolutions"
            )
        if self.heads < 1 or any(self.channels[i] % self.heads for i in self.attention):
            raise ModelError(f"encoder: heads = {self.heads} must divide the channels that attention sees")


ENCODERS: dict[str, EncoderSpec] = {
    # PDAE's and DiTi's encoders at 64 and at 128 px.
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


def build_encoder(spec: EncoderSpec, image_size: int, latent_dim: int) -> nn.Sequential:
    """The encoder network for images of `image_size` pixels a side.

    Raises:
        ModelError: if the image is too small for the number of convolutions.
    """
    side = image_size >> len(spec.channels)
    if side < 1 or side << len(spec.channels) != image_size:
        raise ModelError(f"encoder: {image_size} px cannot be halved {len(spec.channels)} times")
    if side**2 * spec.channels[-1] * latent_dim > MAX_LINEAR:
        raise ModelError(
            f"encoder: {image_size} px, channels {spec.channels} and d = {latent_dim} need over {MAX_LINEAR} weights"
        )
    layers: list[nn.Module] = []
    previous = 3
    for i, channels in enumerate(spec.channels):
        layers.append(nn.Conv2d(previous, channels, 3, stride=2, padding=1))
        if i in spec.attention:
            layers.append(SelfAttention(channels, spec.heads))
        layers += [nn.GroupNorm(32, channels), nn.SiLU()]
        previous = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(previous * side**2, latent_dim))


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
    load_strictly(encoder, under(tensors, "encoder."), str(path))
    mean, std = (value.float() for value in statistics.values() if value is not None)
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
        raise ModelError(f"{path}: code.mean and code.std must be finite, and std above 0")
    return encoder.eval().requires_grad_(False), mean, std


def to_images(images: Tensor) -> Tensor:
    """uint8 `(B, H, W, 3)` to float32 `(B, 3, H, W)` in [-1, 1]."""
    return images.permute(0, 3, 1, 2).contiguous().to(torch.float32) / 127.5 - 1
