"""Frozen DMs to measure: read from a folder or a model, sampled, and as features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ditifeat.benchmark.benchmark import load_runs
from ditifeat.benchmark.cache import content_hash
from ditifeat.benchmark.split import in_batches
from ditifeat.data.drawing import to_pixels
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.encoding.device import choose_device
from ditifeat.errors import ModelError
from ditifeat.files import read_json
from ditifeat.model.codec import PixelCodec, UnshuffleCodec, VAECodec, load_vae, vae_folder
from ditifeat.model.diffusion import DiffusionModel, read_unet_config
from ditifeat.model.diti import DiTi
from ditifeat.model.sampling import ddim_sample
from ditifeat.model.unet import attention_layers

TIME_STEP = 50  # whose embedding the features have, as encoders that are initialised from the DM


@dataclass(frozen=True)
class FrozenDM:
    """A DM, and which images it is of.

    Attributes:
        name: as it was given.
        dm: in eval mode, on its device.
        image: how images become its input.
        bf16: whether its U-Net computes in bfloat16 (autocast).
    """

    name: str
    dm: DiffusionModel
    image: Preprocessing
    bf16: bool = False

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.dm.parameters()).device

    def autocast(self) -> torch.autocast:
        """Enter the precision that its U-Net computes in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def key(self) -> str:
        """Hash all that decides what it computes: weights, configurations, attention heads, codec, precision."""
        config = {key: value for key, value in self.dm.unet.config.items() if not key.startswith("_")}
        codec = self.dm.codec
        about = [type(codec).__name__, getattr(codec, "scale", 1.0), getattr(codec, "offset", 0.0), self.image.size]
        heads = [layer.heads for layer in attention_layers(self.dm.unet)]
        return content_hash(dict(self.dm.state_dict()), config, self.dm.scheduler, about, heads, self.bf16)


def load_frozen_dm(name: str | Path, device: str | None = None, *, bf16: bool = False) -> FrozenDM:
    """Load a DM from its diffusers folder, or the frozen one of a model.

    Args:
        name: a diffusers folder (`unet/` and `scheduler/`, or both flat), whose images are central squares of the U-Net's
            size; or a DiTi or PDAE model, as `load_encoder` takes it, or a run folder, whose preprocessing is taken.
        device: a torch device; as `load_encoder` chooses by default.
        bf16: compute in bfloat16, which is faster where the processor has it.

    Raises:
        ModelError: for what does not load, or a model without a frozen DM.

    >>> from ditifeat.benchmark.frozen_dm import load_frozen_dm
    >>> load_frozen_dm("celeba64-mini").image.size, load_frozen_dm(encoder.folder / "dm").image.crop
    (64, (0.0, 0.0, 1.0, 1.0))
    """
    folder = Path(name)
    unet_folder = folder / "unet" if (folder / "unet").is_dir() else folder
    if _is_unet(unet_folder / "config.json"):
        codec, size = _codec_and_size(folder, unet_folder)
        dm = DiffusionModel.load(folder, codec)
        dm = dm.to(choose_device(device)).eval().requires_grad_(False)
        return FrozenDM(str(name), dm, Preprocessing(size), bf16)
    (encoder,) = load_runs(name, device)
    model = encoder.model if encoder.config.method == "diti" else None
    if not isinstance(model, DiTi):
        raise ModelError(f"{name}: is no DiTi or PDAE model, and has no frozen DM")
    return FrozenDM(str(name), model.dm, encoder.config.image, bf16)


def _is_unet(path: Path) -> bool:
    config = read_json(path) if path.is_file() else {}
    return isinstance(config, dict) and config.get("_class_name") == "UNet2DModel"


def _codec_and_size(folder: Path, unet_folder: Path) -> tuple[PixelCodec, int]:
    """What a DM's folder says of its space: a VAE beside it, or else pixels in blocks, as its channels count them."""
    config = read_unet_config(unet_folder).config
    if not isinstance(config.sample_size, int):
        raise ModelError(
            f"{unet_folder / 'config.json'}: sample_size = {config.sample_size} is no side of square images"
        )
    vae = vae_folder(folder)
    if vae is not None:
        latent = VAECodec(load_vae(vae))
        return latent, config.sample_size * 1024 // latent.shape(1024)[1]
    factor = math.isqrt(config.in_channels // 3)
    if 3 * factor**2 != config.in_channels:
        raise ModelError(
            f"{folder}: the DM reads {config.in_channels} channels, which are neither pixels (3) nor blocks of them (12, 27, 48, "
            "...), and holds no VAE; give a model, whose configuration says what they are"
        )
    return UnshuffleCodec(factor) if factor > 1 else PixelCodec(), config.sample_size * factor


def initial_noise(frozen: FrozenDM, count: int, seed: int = 0) -> Tensor:
    """Draw where samples start, `(count, C, h, w)`: on the CPU and all at once, so that they depend on the seed alone."""
    shape = frozen.dm.codec.shape(frozen.image.size)
    return torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))


def sample_images(frozen: FrozenDM, x_T: Tensor, steps: int, batch: int = 64) -> np.ndarray:
    """Sample unconditional images by DDIM, uint8 `(n, S, S, 3)`.

    Args:
        frozen: the DM.
        x_T: `(n, C, h, w)`, as `initial_noise` gives it.
        steps: of DDIM.
        batch: images per batch.
    """
    dm = frozen.dm

    def noise(x_t: Tensor, t: Tensor) -> Tensor:
        with frozen.autocast():
            return dm.noise(x_t, t).float()

    def sample(part: Tensor) -> Tensor:
        return dm.codec.decode(ddim_sample(noise, dm.schedule, part, steps, bounded=dm.codec.bounded))

    return np.concatenate([to_pixels(sample(part.to(frozen.device))) for part in x_T.split(batch)])


def down_path_features(frozen: FrozenDM, images: np.ndarray, *, flip_average: bool = False) -> np.ndarray:
    """Compute all features that the DM's down path leaves of clean images, float32 `(n, C * h * w)`.

    They are what the head of an encoder with this down path reads (`train.initialise.initialise_from_dm`).

    Args:
        frozen: the DM.
        images: uint8 `(n, S, S, 3)`.
        flip_average: mean over each image and its horizontal flip.
    """
    dm = frozen.dm

    def features(batch: Tensor) -> Tensor:
        x_0 = dm.codec.encode(batch)
        with frozen.autocast():
            return dm.features(x_0, torch.full((len(x_0),), TIME_STEP, device=x_0.device)).bottleneck.flatten(1)

    return in_batches(features, images, frozen.device, batch=64, flip_average=flip_average)
