"""The closed table of encoder networks: image `(B, 3, S, S)` in [-1, 1] -> code `(B, d)`.

An encoder is a trunk, which reduces the image, and a head, one linear layer on all that is left. A new one is a trunk
(a module with `outputs`, the numbers that it leaves of an image) and its entry in `TRUNKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ditifeat.errors import InputError, ModelError
from ditifeat.files import load_strictly, read_tensors, select_prefix, write_tensors

MAX_LINEAR = 2**28  # weights of the last layer: 1 GiB in float32


@dataclass(frozen=True)
class EncoderSpec:
    """Which encoder: convolutions that halve the map, then one linear layer on all of it.

    Attributes:
        channels: per level.
        attention: the indices of the convolutions that self-attention follows; "plain" alone.
        heads: heads of that attention.
        style: "plain" (PDAE's and DiTi's: stride-2 convolutions, each with GroupNorm and SiLU) or "residual" (the down
            path of a DM's U-Net, without time-steps).
        layers: residual blocks per level; "residual" alone.
        unshuffle: blocks of so many pixels per side become channels first; "residual" alone.
        levels: how many of the last levels the head reads, earlier ones averaged to the size of the last; "residual" alone.

    Raises:
        ModelError: for numbers out of bounds, or that the style has no use for.

    Example:
        >>> from ditifeat.model.encoders import EncoderSpec, build_encoder
        >>> network = build_encoder(EncoderSpec((32, 64)), image_size=16, latent_dim=8)
        >>> network(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 8])
    """

    channels: tuple[int, ...]
    attention: tuple[int, ...] = ()
    heads: int = 1
    style: str = "plain"
    layers: int = 1
    unshuffle: int = 1
    levels: int = 1

    def __post_init__(self) -> None:
        if self.style not in TRUNKS:
            raise ModelError(f"encoder: style = {self.style!r} is not one of {', '.join(TRUNKS)}")
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
        if not 1 <= self.levels <= len(self.channels):
            raise ModelError(
                f"encoder: levels = {self.levels} is not within 1..{len(self.channels)}, the levels there are"
            )
        if self.style == "plain" and (self.layers, self.unshuffle, self.levels) != (1, 1, 1):
            raise ModelError("encoder: layers, unshuffle and levels belong to the style residual")
        if self.style == "residual" and self.attention:
            raise ModelError("encoder: the style residual has no attention")


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
    """GroupNorm, SiLU, convolution, twice, beside a shortcut: diffusers' `ResnetBlock2D` without a time embedding.

    Ours, because importing diffusers takes seconds, and encoding needs nothing else of it.
    """

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


class PlainTrunk(nn.Sequential):
    """PDAE's and DiTi's: stride-2 convolutions, each with GroupNorm and SiLU, one of them with self-attention.

    Attributes:
        outputs: numbers that are left of an image.
    """

    def __init__(self, spec: EncoderSpec, image_size: int):
        layers: list[nn.Module] = []
        previous = 3
        for i, channels in enumerate(spec.channels):
            layers.append(nn.Conv2d(previous, channels, 3, stride=2, padding=1))
            if i in spec.attention:
                layers.append(SelfAttention(channels, spec.heads))
            layers += [nn.GroupNorm(32, channels), nn.SiLU()]
            previous = channels
        super().__init__(*layers)
        self.outputs = previous * _halved(image_size, len(spec.channels)) ** 2


class ResidualTrunk(nn.Sequential):
    """The down path of a DM's U-Net, without time-steps; the last level keeps its size.

    Earlier levels that the head reads too are averaged to that size, and their channels come after.

    Attributes:
        outputs: numbers that are left of an image.
    """

    def __init__(self, spec: EncoderSpec, image_size: int):
        previous = spec.channels[0]
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(spec.unshuffle),
            nn.Conv2d(3 * spec.unshuffle**2, previous, 3, padding=1),
        ]
        ends = []
        for i, channels in enumerate(spec.channels):
            if i:
                layers.append(nn.Conv2d(previous, previous, 3, stride=2, padding=1))
            for _ in range(spec.layers):
                layers.append(ResidualBlock(previous, channels))
                previous = channels
            ends.append(len(layers) - 1)
        super().__init__(*layers)
        self.read = tuple(ends[-spec.levels :])  # the layers whose maps the head reads
        side = _halved(image_size, len(spec.channels) - 1, spec.unshuffle)
        self.outputs = sum(spec.channels[-spec.levels :]) * side**2

    def forward(self, images: Tensor) -> Tensor:
        maps = []
        hidden = images
        for i, layer in enumerate(self):
            hidden = layer(hidden)
            if i in self.read:
                maps.append(hidden)
        *earlier, last = maps
        pooled = [nn.functional.adaptive_avg_pool2d(each, last.shape[-2:]) for each in reversed(earlier)]
        return torch.cat([last, *pooled], dim=1) if pooled else last


TRUNKS: dict[str, Callable[[EncoderSpec, int], nn.Module]] = {"plain": PlainTrunk, "residual": ResidualTrunk}


ENCODERS: dict[str, EncoderSpec] = {
    # PDAE's and DiTi's encoders. The 64 px one agrees with published layouts tensor by tensor; the 128 px one is how we
    # read the papers and has met no published checkpoint. Those at 32 and 256 px are ours, after the same rule: down to a map
    # of 4 x 4, with attention at 16 x 16.
    "diti32": EncoderSpec((64, 128, 128), attention=(0,), heads=4),
    "diti64": EncoderSpec((64, 128, 128, 128), attention=(1,), heads=4),
    "diti128": EncoderSpec((64, 128, 256, 256, 256), attention=(2,), heads=4),
    "diti256": EncoderSpec((64, 128, 256, 256, 256, 256), attention=(3,), heads=4),
}


def _halved(image_size: int, halvings: int, unshuffle: int = 1) -> int:
    """The map's side at the end."""
    side = image_size // unshuffle >> halvings
    if side < 1 or (side << halvings) * unshuffle != image_size:
        raise ModelError(f"encoder: {image_size} px cannot be cut by {unshuffle} and halved {halvings} times")
    return side


class EncoderNetwork(nn.Module):
    """Image -> code: `head(inputs(images))`.

    Attributes:
        trunk: images `(B, 3, S, S)` in [-1, 1] to a map.
        head: the linear layer from all of the map to the code.
        image_size: S, pixels per side of the images.
    """

    def __init__(self, trunk: nn.Module, image_size: int, latent_dim: int):
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(cast(int, trunk.outputs), latent_dim)
        self.image_size = image_size

    def inputs(self, images: Tensor) -> Tensor:
        """Return what the head reads of images `(B, 3, S, S)` in [-1, 1]: `(B, trunk.outputs)`.

        Raises:
            InputError: for images of another shape.
        """
        size = self.image_size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise InputError(f"images have shape {tuple(images.shape)}, expected (B, 3, {size}, {size})")
        maps: Tensor = self.trunk(images)
        return maps.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Return codes `(B, d)` of images `(B, 3, S, S)` in [-1, 1]; errors are those of `inputs`."""
        codes: Tensor = self.head(self.inputs(images))
        return codes


def build_encoder(spec: EncoderSpec, image_size: int, latent_dim: int) -> EncoderNetwork:
    """Return the encoder network for images of `image_size` pixels per side.

    Raises:
        ModelError: if the image cannot be halved so often, or the head would be too large.
    """
    trunk = TRUNKS[spec.style](spec, image_size)
    if cast(int, trunk.outputs) * latent_dim > MAX_LINEAR:
        raise ModelError(
            f"encoder: {image_size} px, channels {spec.channels} and d = {latent_dim} need over {MAX_LINEAR} weights"
        )
    return EncoderNetwork(trunk, image_size, latent_dim)


def flip_averaged(encoder: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the encoder whose codes are the mean over the codes of each image and of its horizontal flip.

    Such a code is the same for an image and its flip, so it cannot tell left from right; it costs two encodings.

    Args:
        encoder: images `(B, 3, S, S)` to codes `(B, d)`.

    >>> from ditifeat.model.encoders import flip_averaged
    >>> averaged, images = flip_averaged(encoder), torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
    >>> torch.equal(averaged(images), averaged(images.flip(-1)))
    True
    """
    return lambda images: (encoder(images) + encoder(images.flip(-1))) / 2


def write_encoder(folder: Path, encoder: nn.Module, mean: Tensor, std: Tensor, dtype: torch.dtype) -> None:
    """Write what `read_encoder` reads: the network in `dtype`, its codes' mean and std in float32."""
    tensors = {f"encoder.{key}": value.to(dtype) for key, value in encoder.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors | {"code.mean": mean, "code.std": std})


def read_encoder(
    folder: Path, spec: EncoderSpec, image_size: int, latent_dim: int
) -> tuple[EncoderNetwork, Tensor, Tensor]:
    """Return the encoder of a model folder, in eval mode, and its codes' mean and std `(d,)`.

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
