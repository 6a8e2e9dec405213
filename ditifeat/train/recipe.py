"""A recipe: everything that decides what a training run makes. YAML in, checked dataclasses out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import yaml

from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import RecipeError
from ditifeat.model.codec import CodecSpec
from ditifeat.model.config import DMReference, EstimatorOutput, Method, ModelConfig
from ditifeat.model.encoders import ENCODERS, EncoderSpec
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import from_dict


@dataclass(frozen=True)
class Optimiser:
    """How long and how fast a network learns.

    Attributes:
        images: pictures seen in all.
        batch: the global batch, over all processes.
        lr: the peak learning rate for that global batch, whatever the number of processes.
        decay: "cosine" to zero over the run after `warmup` steps, or "none".
        weight_decay: AdamW's; 0 is Adam.
        ema: decay of the average of the weights, per step.
    """

    images: int
    batch: int = 128
    lr: float = 1e-4
    decay: Literal["none", "cosine"] = "none"
    warmup: int = 0
    weight_decay: float = 0.0
    ema: float = 0.9999

    def __post_init__(self) -> None:
        if self.images < self.batch or self.batch < 1:
            raise RecipeError(f"images = {self.images} must be at least one batch = {self.batch}")
        if not (0 < self.lr < 1 and 0 <= self.ema < 1 and 0 <= self.weight_decay < 1 and self.warmup >= 0):
            raise RecipeError("lr must be within 0..1, ema and weight_decay in [0, 1), warmup at least 0")

    @property
    def steps(self) -> int:
        return self.images // self.batch


@dataclass(frozen=True)
class UNetSpec:
    """The frozen DM's U-Net, as a diffusers `UNet2DModel`.

    Attributes:
        channels: of each level; each level halves the map.
        layers: residual blocks a level on the way down.
        attention: the levels that have self-attention (the middle always has).
        head_dim: channels of an attention head.
        style: "ddpm" (additive time embedding, convolutions between levels) or "guided" (scale and shift, residual
            blocks between levels, as guided-diffusion).
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


@dataclass(frozen=True)
class DMRecipe:
    """The diffusion model that will be frozen: trained here from `unet`, or taken from `pretrained`.

    Attributes:
        pretrained: a diffusers folder or a Hub id (`org/name@commit`) instead of training.
        prediction: what the U-Net predicts.
        loss: "epsilon" (mean squared error of the noise), or "min_snr" (of the picture, weighted by
            `min(SNR + 1, snr_cap)`; after Hang et al. 2023).
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


@dataclass(frozen=True)
class DiTiRecipe:
    """Encoder and estimator over the frozen DM.

    Attributes:
        detach: "off" (base), "on" (gradients reach the current subset alone), "both" (the two losses added).
        warm_start: the estimator begins as the frozen DM's middle and up path with a zero output layer, not at random.
        encoder_from_dm: the encoder (of style "residual", with the DM's own channels, layers and unshuffling) begins as the
            frozen DM's down path at time-step 50, not at random.
        codes: how the encoder's last layer begins: "random"; "white", the principal components of its inputs at equal
            variance; or "lost", the components that best tell what the frozen DM has lost at each range of time-steps, at their
            own scale. The estimator's first layer begins with what they tell (or, white, with how they varied).
        encoder_lr: the encoder's learning rate as a share of the optimiser's.
        output: what the estimator's network gives, G itself or a correction of the DM's v (`ModelConfig`).
        weighting: of the time-steps' losses, `DiTi.losses`.
    """

    optimiser: Optimiser
    detach: Literal["off", "on", "both"] = "on"
    warm_start: bool = False
    encoder_from_dm: bool = False
    codes: Literal["random", "white", "lost"] = "random"
    encoder_lr: float = 1.0
    output: EstimatorOutput = "gradient"
    weighting: Literal["published", "v", "relative"] = "published"

    def __post_init__(self) -> None:
        if not 0 < self.encoder_lr <= 100:
            raise RecipeError(f"diti: encoder_lr = {self.encoder_lr} is not within 0..100")


@dataclass(frozen=True)
class DiffAERecipe:
    """Diff-AE: encoder and conditional DM (the recipe's `dm.unet`) together."""

    optimiser: Optimiser


@dataclass(frozen=True)
class ContrastiveRecipe:
    """The encoder alone, by agreement of two views of each picture.

    Attributes:
        loss: "nt_xent" (SimCLR) or "simsiam".
        temperature: of NT-Xent.
        projection: the width of the head's output.
        whiten: the encoder's last layer begins with DiTi's "white" codes, and not at random.
    """

    optimiser: Optimiser
    loss: Literal["nt_xent", "simsiam"] = "nt_xent"
    temperature: float = 0.5
    projection: int = 128
    whiten: bool = False

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and 2 <= self.projection <= 8192):
            raise RecipeError("contrastive: temperature must be above 0, projection within 2..8192")
        if self.loss == "nt_xent" and self.optimiser.batch < 2:
            raise RecipeError("contrastive: nt_xent needs at least 2 pictures a batch")


@dataclass(frozen=True)
class CardFacts:
    """What a model card must say that a run cannot know.

    Attributes:
        data: the training pictures, in a sentence with their source.
        terms: what their terms mean for the weights.
        license: the weights' licence, as the Hub names it.
        limits: what follows from these pictures for whoever uses the weights.
    """

    data: str = "the pictures of whoever ran this recipe"
    terms: str = "as those pictures allow"
    license: str = "other"
    limits: str = ""


@dataclass(frozen=True)
class Recipe:
    """A whole run: pictures, DM, encoder, partition, and one of `diti`, `diffae` and `contrastive`, the method.

    Attributes:
        holdout: the last so many pictures, by name, are not trained on but evaluated.
    """

    name: str
    image: Preprocessing
    partition: TimeStepPartition
    dm: DMRecipe | None = None
    diti: DiTiRecipe | None = None
    diffae: DiffAERecipe | None = None
    contrastive: ContrastiveRecipe | None = None
    encoder: str | EncoderSpec = "diti64"
    codec: CodecSpec = CodecSpec()
    flip: bool = True
    seed: int = 0
    holdout: int = 0
    card: CardFacts = CardFacts()

    def __post_init__(self) -> None:
        if isinstance(self.encoder, str) and self.encoder not in ENCODERS:
            raise RecipeError(f"encoder {self.encoder!r} is not one of {', '.join(ENCODERS)}")
        if sum(section is not None for section in (self.diti, self.diffae, self.contrastive)) != 1:
            raise RecipeError("give one of the sections diti, diffae and contrastive: it is the method")
        if self.contrastive is None and self.dm is None:
            raise RecipeError("missing key dm")
        if self.diffae is not None and (self.dm is None or self.dm.unet is None):
            raise RecipeError("diffae: trains its own DM; give dm.unet")

    @property
    def method(self) -> Method:
        """What the recipe makes, as the artefact names it."""
        return "diti" if self.diti else "diffae" if self.diffae else "contrastive"

    @property
    def encoder_spec(self) -> EncoderSpec:
        return ENCODERS[self.encoder] if isinstance(self.encoder, str) else self.encoder


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("ditifeat.train") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe of the package by name, or of a YAML file.

    Raises:
        RecipeError: unknown name, unreadable file, unknown key, wrong type or bound; with the place and the way out.
    """
    if str(name_or_path) in recipe_names():
        text = (resources.files("ditifeat.train") / "recipes" / f"{name_or_path}.yaml").read_text("utf-8")
    elif Path(name_or_path).is_file():
        text = Path(name_or_path).read_text("utf-8")
    else:
        raise RecipeError(f"{name_or_path}: neither a recipe file nor one of {', '.join(recipe_names())}")
    try:
        return from_dict(Recipe, yaml.safe_load(text))
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {name_or_path}: {error}") from error


def model_config(recipe: Recipe, reference: DMReference | None = None) -> ModelConfig:
    """The configuration of what a recipe makes."""
    return ModelConfig(
        name=recipe.name,
        image=recipe.image,
        encoder=recipe.encoder_spec,
        latent_dim=recipe.partition.d,
        partition=recipe.partition,
        codec=recipe.codec,
        dm=reference or DMReference(),
        method=recipe.method,
        estimator_output=recipe.diti.output if recipe.diti else "gradient",
    )
