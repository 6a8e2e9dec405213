"""The space that the frozen DM works in: pixels, unshuffled pixels, or a VAE's latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ditifeat.errors import ModelError


@dataclass(frozen=True)
class CodecSpec:
    """Which codec: "pixels", "unshuffle" by `factor`, or "vae" (a diffusers folder named `vae` beside the configuration)."""

    kind: Literal["pixels", "unshuffle", "vae"] = "pixels"
    factor: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 16 or (self.factor != 1 and self.kind != "unshuffle"):
            raise ModelError(f"codec: factor = {self.factor} must be within 1..16, and 1 unless the kind is unshuffle")


class PixelCodec(nn.Module):
    """The DM works on the picture itself."""

    bounded = True  # x_0 lies in [-1, 1], so an estimate of it may be clamped

    def encode(self, image: Tensor) -> Tensor:
        """Image `(B, 3, H, W)` in [-1, 1] to the DM's space."""
        return image

    def decode(self, code: Tensor) -> Tensor:
        """The DM's space back to an image."""
        return code

    def shape(self, size: int) -> tuple[int, int, int]:
        """`(C, h, w)` in the DM's space of a `size` x `size` image."""
        return 3, size, size


class UnshuffleCodec(PixelCodec):
    """Blocks of `factor` x `factor` pixels become channels: the same numbers on a smaller map, so the same diffusion."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def encode(self, image: Tensor) -> Tensor:
        return functional.pixel_unshuffle(image, self.factor)

    def decode(self, code: Tensor) -> Tensor:
        return functional.pixel_shuffle(code, self.factor)

    def shape(self, size: int) -> tuple[int, int, int]:
        return 3 * self.factor**2, size // self.factor, size // self.factor


class VAECodec(PixelCodec):
    """A diffusers `AutoencoderKL` (its mode, times its scaling factor) or `VQModel` (before quantisation). Frozen."""

    bounded = False

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae = vae.eval().requires_grad_(False)
        self.scale = float(vae.config.get("scaling_factor") or 1.0)  # type: ignore[union-attr, operator]

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        encoded = self.vae.encode(image)  # type: ignore[operator]
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents * self.scale

    @torch.no_grad()
    def decode(self, code: Tensor) -> Tensor:
        return self.vae.decode(code / self.scale).sample  # type: ignore[operator]

    def shape(self, size: int) -> tuple[int, int, int]:
        factor = 2 ** (len(self.vae.config["block_out_channels"]) - 1)  # type: ignore[index, arg-type]
        return self.vae.config["latent_channels"], size // factor, size // factor  # type: ignore[index, return-value]


def load_codec(spec: CodecSpec, folder: Path) -> PixelCodec:
    """The codec of a configuration; a VAE lies in the folder `vae`.

    Raises:
        ModelError: if the VAE is missing or of an unknown class.
    """
    if spec.kind == "vae":
        return VAECodec(load_vae(folder / "vae"))
    return UnshuffleCodec(spec.factor) if spec.kind == "unshuffle" else PixelCodec()


def load_vae(folder: Path) -> nn.Module:
    """A diffusers `AutoencoderKL` or `VQModel` from its folder.

    Raises:
        ModelError: if it is missing or of another class.
    """
    from diffusers import AutoencoderKL, VQModel

    from ditifeat.files import read_json

    name = read_json(folder / "config.json").get("_class_name")
    classes = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    if name not in classes:
        raise ModelError(f"{folder}/config.json: {name!r} is not one of {', '.join(classes)}")
    return classes[name].from_pretrained(folder, local_files_only=True, use_safetensors=True)
