"""The space that the frozen DM works in: pixels, unshuffled pixels, or a VAE's latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ditifeat.errors import MissingFileError, ModelError
from ditifeat.files import read_json

VAE_FOLDERS = ("vqvae", "vae")


@dataclass(frozen=True)
class CodecSpec:
    """Which codec.

    Attributes:
        kind: "pixels", "unshuffle" (blocks of `factor` x `factor` pixels become channels) or "vae" (a diffusers
            `AutoencoderKL` or `VQModel`).
        factor: of "unshuffle" alone.
        vae: where the VAE's folder is: "model" (`vae`, beside the model's `config.json`) or "dm" (`vqvae` or `vae`, beside
            the U-Net, as pipelines of latent DMs have it).

    Raises:
        ModelError: for a factor out of bounds, or a key that the kind has no use for.

    Example:
        >>> from ditifeat.model.codec import CodecSpec, load_codec
        >>> load_codec(CodecSpec("unshuffle", factor=4)).shape(64)
        (48, 16, 16)
    """

    kind: Literal["pixels", "unshuffle", "vae"] = "pixels"
    factor: int = 1
    vae: Literal["model", "dm"] = "model"

    def __post_init__(self) -> None:
        if not 1 <= self.factor <= 16 or (self.factor != 1 and self.kind != "unshuffle"):
            raise ModelError(f"codec: factor = {self.factor} must be within 1..16, and 1 unless the kind is unshuffle")
        if self.vae != "model" and self.kind != "vae":
            raise ModelError(f"codec: vae = {self.vae!r} belongs to the kind vae")


class PixelCodec(nn.Module):
    """The DM works on the image itself.

    Attributes:
        bounded: whether `x_0` lies in [-1, 1], so that an estimate of it may be clamped.
    """

    bounded = True

    def encode(self, image: Tensor) -> Tensor:
        """Map images `(B, 3, H, W)` in [-1, 1] to the DM's space `(B, *shape(H))`."""
        return image

    def decode(self, code: Tensor) -> Tensor:
        """Map the DM's space `(B, C, h, w)` back to images `(B, 3, H, W)`."""
        return code

    def shape(self, size: int) -> tuple[int, int, int]:
        """Return `(C, h, w)` in the DM's space of a `size` x `size` image.

        Raises:
            ModelError: if the codec cannot divide so many pixels.
        """
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
        side = _divided(size, self.factor)
        return 3 * self.factor**2, side, side


class VAECodec(PixelCodec):
    """A diffusers `AutoencoderKL` (its mode) or `VQModel` (before quantisation): `(latents - shift) * scale`. Frozen.

    Args:
        vae: the network; its configuration's `scaling_factor` and `shift_factor` are taken.

    Raises:
        ModelError: if it does not map RGB images to RGB images, or normalises its latents per channel.
    """

    bounded = False

    def __init__(self, vae: nn.Module):
        super().__init__()
        config = cast(dict[str, Any], vae.config)
        if (config["in_channels"], config["out_channels"]) != (3, 3):
            raise ModelError(
                f"the VAE maps {config['in_channels']} to {config['out_channels']} channels; images have 3 (RGB)"
            )
        if config.get("latents_mean") is not None or config.get("latents_std") is not None:
            raise ModelError("the VAE has latents_mean or latents_std, which are not supported; scaling_factor is")
        self.vae = vae.eval().requires_grad_(False)
        self.scale = float(config["scaling_factor"])
        self.offset = float(config.get("shift_factor") or 0.0)

    def train(self, mode: bool = True) -> VAECodec:
        """As `nn.Module.train`, but the VAE stays in eval mode."""
        super().train(mode)
        self.vae.eval()
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        encoded = self.vae.encode(image)  # type: ignore[operator]
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (latents - self.offset) * self.scale

    @torch.no_grad()
    def decode(self, code: Tensor) -> Tensor:
        return self.vae.decode(code / self.scale + self.offset).sample  # type: ignore[operator]

    def shape(self, size: int) -> tuple[int, int, int]:
        config = cast(dict[str, Any], self.vae.config)
        side = _divided(size, 2 ** (len(config["block_out_channels"]) - 1))
        return config.get("vq_embed_dim") or config["latent_channels"], side, side

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the VAE's diffusers folder."""
        from ditifeat.model.diffusers_folder import write_network

        write_network(self.vae, folder, dtype)


def _divided(size: int, factor: int) -> int:
    if size % factor:
        raise ModelError(f"codec: {size} px cannot be divided by {factor}; choose an image size that can")
    return size // factor


def load_codec(spec: CodecSpec, folder: Path | None = None, dm_folder: Path | None = None) -> PixelCodec:
    """Return the codec of a configuration.

    Args:
        spec: which.
        folder: the model's, which holds a VAE as `vae`.
        dm_folder: the DM's, which may hold a VAE as `vqvae` or `vae`.

    Raises:
        ModelError: if the VAE is missing, of an unknown class, or does not fit its configuration.
    """
    if spec.kind == "unshuffle":
        return UnshuffleCodec(spec.factor)
    if spec.kind == "pixels":
        return PixelCodec()
    if spec.vae == "model":
        if folder is None:
            raise ModelError("codec: the folder that holds the VAE is not known")
        return VAECodec(load_vae(folder / "vae"))
    place = vae_folder(dm_folder) if dm_folder is not None else None
    if place is None:
        raise MissingFileError(f"{dm_folder or 'the DM'}: holds no VAE: neither {' nor '.join(VAE_FOLDERS)}")
    return VAECodec(load_vae(place))


def vae_folder(folder: Path) -> Path | None:
    """Return the folder of the VAE in a latent DM's folder, if there is one."""
    return next((folder / name for name in VAE_FOLDERS if (folder / name / "config.json").is_file()), None)


def load_vae(folder: Path) -> nn.Module:
    """Return a diffusers `AutoencoderKL` or `VQModel` from its folder, in float32; keys, bounds, shapes and types checked.

    Raises:
        ModelError: if it is missing, of another class, or does not fit its configuration.
    """
    from diffusers import AutoencoderKL, VQModel

    from ditifeat.model.diffusers_folder import build_from_config, read_weights

    classes = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    config = read_json(folder / "config.json")
    # diffusers' default for a VQModel is that of Stable Diffusion's AutoencoderKL. The latent DMs whose VQModel says no
    # factor, as CompVis/ldm-celebahq-256, were trained on unscaled latents.
    unscaled = isinstance(config, dict) and config.get("_class_name") == "VQModel"
    vae: nn.Module = build_from_config(folder, classes, {"scaling_factor": 1.0} if unscaled else None)
    read_weights(vae, folder)
    return vae.eval()
