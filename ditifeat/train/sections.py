"""The sections of a recipe that methods share: optimiser, diffusion model, codec, card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ditifeat.errors import RecipeError
from ditifeat.model.codec import CodecSpec

COOLDOWN = 0.25


@dataclass(frozen=True)
class Optimiser:
    """How long and how fast a network learns.

    Attributes:
        images: images seen in all.
        batch: the global batch, over all processes.
        lr: the peak learning rate for that global batch, whatever the number of processes.
        decay: of the learning rate after `warmup` steps: "none"; "cosine", to zero over the rest of the run; or "cooldown",
            linear to zero over its last part.
        warmup: steps over which the learning rate rises linearly from 0.
        cooldown: share of the run that the decay "cooldown" takes.
        weight_decay: AdamW's; 0 is Adam.
        ema: decay of the exponential moving average of the weights, per step.

    Raises:
        RecipeError: for a value out of its range.

    >>> from ditifeat.train.sections import Optimiser
    >>> Optimiser(images=1000, batch=32).steps
    31
    """

    images: int
    batch: int = 128
    lr: float = 1e-4
    decay: Literal["none", "cosine", "cooldown"] = "none"
    warmup: int = 0
    weight_decay: float = 0.0
    ema: float = 0.9999
    cooldown: float = COOLDOWN

    def __post_init__(self) -> None:
        if self.images < self.batch or self.batch < 1:
            raise RecipeError(f"images = {self.images} must be at least one batch = {self.batch}")
        if not (0 < self.lr < 1 and 0 <= self.ema < 1 and 0 <= self.weight_decay < 1 and self.warmup >= 0):
            raise RecipeError("lr must be within 0..1, ema and weight_decay in [0, 1), warmup at least 0")
        if not 0 < self.cooldown <= 1:
            raise RecipeError(f"cooldown = {self.cooldown} is not in (0, 1]")
        if self.cooldown != COOLDOWN and self.decay != "cooldown":
            raise RecipeError(f"cooldown = {self.cooldown} belongs to the decay cooldown, not {self.decay}")

    @property
    def steps(self) -> int:
        return self.images // self.batch


@dataclass(frozen=True)
class UNetSpec:
    """A DM's U-Net, as a diffusers `UNet2DModel`.

    Attributes:
        channels: of each level; each level halves the map.
        layers: residual blocks per level on the way down.
        attention: the levels that have self-attention (the middle always has).
        head_dim: channels of an attention head.
        dropout: share of a residual block's channels that are set to 0 in training.
        style: "ddpm" (additive time embedding, convolutions between levels) or "guided" (scale and shift, residual
            blocks between levels, as guided-diffusion).

    Raises:
        RecipeError: for a value out of its range.
    """

    channels: tuple[int, ...]
    layers: int = 2
    attention: tuple[int, ...] = ()
    head_dim: int = 32
    dropout: float = 0.0
    style: Literal["ddpm", "guided"] = "ddpm"

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= 8 or not all(32 <= c <= 2048 and c % 32 == 0 for c in self.channels):
            raise RecipeError(f"unet: channels {self.channels} must be 1 to 8 multiples of 32 up to 2048")
        if not set(self.attention) <= set(range(len(self.channels))) or not 1 <= self.layers <= 8:
            raise RecipeError("unet: attention must name levels, and layers be within 1..8")
        if not (self.head_dim >= 1 and all(c % self.head_dim == 0 for c in self._attended)):
            raise RecipeError(f"unet: head_dim = {self.head_dim} must divide the channels that attention sees")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"unet: dropout = {self.dropout} is not in [0, 1)")

    @property
    def _attended(self) -> list[int]:
        return [self.channels[-1], *(self.channels[level] for level in self.attention)]


@dataclass(frozen=True)
class DMRecipe:
    """The diffusion model (DM): trained from `unet`, or taken from `pretrained`.

    Attributes:
        pretrained: a diffusers folder or a Hub id (`org/name@commit`) instead of training.
        prediction: what the U-Net predicts.
        loss: "epsilon" (mean squared error of the noise), or "min_snr" (of the image, weighted by
            `min(SNR + 1, snr_cap)`; after Hang et al. 2023).
        snr_cap: of the weights of "min_snr".

    Raises:
        RecipeError: unless either `pretrained` or `unet` is given.
    """

    unet: UNetSpec | None = None
    optimiser: Optimiser | None = None
    pretrained: str | None = None
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    loss: Literal["epsilon", "min_snr"] = "epsilon"
    snr_cap: float = 5.0

    def __post_init__(self) -> None:
        if (self.pretrained is None) == (self.unet is None) or (self.pretrained and self.optimiser):
            raise RecipeError("dm: give either `pretrained`, or `unet` and, unless the method is diffae, `optimiser`")
        if not self.snr_cap > 0:
            raise RecipeError(f"dm: snr_cap = {self.snr_cap} must be above 0")


@dataclass(frozen=True)
class CodecRecipe:
    """The space that the DM works in.

    Attributes:
        kind: "pixels", "unshuffle" (blocks of `factor` x `factor` pixels become channels) or "vae" (latents of a diffusers
            `AutoencoderKL` or `VQModel`).
        factor: of "unshuffle" alone.
        path: where the VAE is, a diffusers folder or `org/name[@revision]` on the Hub; without it, that of a pretrained
            latent DM is taken. The finished model holds a copy, or names the DM's commit.

    Raises:
        RecipeError: for a path without a VAE.
        ModelError: for a factor out of its range.

    >>> from ditifeat.train.sections import CodecRecipe
    >>> CodecRecipe("vae", path="org/name").spec.vae, CodecRecipe("vae").spec.vae
    ('model', 'dm')
    """

    kind: Literal["pixels", "unshuffle", "vae"] = "pixels"
    factor: int = 1
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is not None and self.kind != "vae":
            raise RecipeError(f"codec: path = {self.path!r} belongs to the kind vae")
        _ = self.spec

    @property
    def spec(self) -> CodecSpec:
        """What the finished model's configuration says."""
        own = self.kind != "vae" or self.path is not None
        return CodecSpec(self.kind, self.factor, vae="model" if own else "dm")


@dataclass(frozen=True)
class CardFacts:
    """What a model card must say that a run cannot know.

    Attributes:
        data: the training images, in a sentence with their source.
        terms: what their terms mean for the weights.
        license: the weights' licence, as the Hub names it; "unknown" where the recipe does not say.
        license_name: of a licence "other".
        license_link: where to read a licence "other": a URL.
        limits: what follows from these images for whoever uses the weights.

    Raises:
        RecipeError: for a licence "other" without name or link, or a name or link of another.
    """

    data: str = "the images of whoever ran this recipe"
    terms: str = "as those images allow"
    license: str = "unknown"
    license_name: str = ""
    license_link: str = ""
    limits: str = ""

    def __post_init__(self) -> None:
        details = bool(self.license_name), self.license_link.startswith(("https://", "http://"))
        if self.license == "other" and not all(details):
            raise RecipeError("card: license other needs license_name, and license_link with a URL")
        if self.license != "other" and (self.license_name or self.license_link):
            raise RecipeError(f"card: license {self.license} has a name and a text; license_name is for other")
