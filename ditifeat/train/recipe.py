"""A recipe: everything that decides what a training run makes. YAML in, checked dataclasses out."""

from __future__ import annotations

import json
import typing
from collections.abc import Hashable
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import MissingRecipeError, RecipeError
from ditifeat.model.codec import CodecSpec
from ditifeat.model.config import ModelConfig
from ditifeat.model.encoders import ENCODERS, EncoderSpec
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import from_dict, integer
from ditifeat.train.tasks import TASKS, task_class

MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Optimiser:
    """How long and how fast a network learns.

    Attributes:
        images: images seen in all.
        batch: the global batch, over all processes.
        lr: the peak learning rate for that global batch, whatever the number of processes.
        decay: "cosine" to zero over the run after `warmup` steps, or "none".
        warmup: steps over which the learning rate rises linearly from 0.
        weight_decay: AdamW's; 0 is Adam.
        ema: decay of the exponential moving average of the weights, per step.

    Raises:
        RecipeError: for a value out of its range.
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


@dataclass(frozen=True)
class Settings:
    """What every recipe says, whatever its method.

    Attributes:
        name: of the model that is made.
        image: how an image is cut and resized.
        partition: time-step -> subset -> dimensions of the code.
        dm: the diffusion model, for methods that have one.
        encoder: a name of `model.encoders.ENCODERS`, or the layers.
        codec: the space that the DM works in.
        flip: whether training images are flipped with probability 1/2.
        seed: of every random number, 0..2^32 - 1.
        holdout: the last N images, by name, are evaluated and not trained on.
        card: what the model card says of the data.

    Raises:
        RecipeError: for an unknown encoder, or a value out of its range.
    """

    name: str
    image: Preprocessing
    partition: TimeStepPartition
    dm: DMRecipe | None = None
    encoder: str | EncoderSpec = "diti64"
    codec: CodecSpec = CodecSpec()
    flip: bool = True
    seed: int = 0
    holdout: int = 0
    card: CardFacts = CardFacts()

    def __post_init__(self) -> None:
        if isinstance(self.encoder, str) and self.encoder not in ENCODERS:
            raise RecipeError(f"encoder {self.encoder!r} is not one of {', '.join(ENCODERS)}")
        if not 0 <= self.seed <= MAX_SEED:
            raise RecipeError(f"seed = {self.seed} is not within 0..{MAX_SEED}")
        if self.holdout < 0:
            raise RecipeError(f"holdout = {self.holdout} must be at least 0")

    @property
    def encoder_spec(self) -> EncoderSpec:
        return ENCODERS[self.encoder] if isinstance(self.encoder, str) else self.encoder


@dataclass(frozen=True)
class MethodRecipe:
    """A method's section of a recipe; each task file has its own subclass.

    Attributes:
        optimiser: how long and how fast the method's networks learn.
    """

    optimiser: Optimiser

    def check(self, settings: Settings) -> None:
        """Refuse, with a RecipeError, what the rest of the recipe lacks for this method."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """A whole run: settings that all methods share, the method, and its section.

    Attributes:
        method: a key of `tasks.TASKS`.
        section: the settings of that method, of its task's type.

    Raises:
        RecipeError: for an unknown method, a section of another one, or settings that it cannot use.
    """

    method: str
    section: MethodRecipe

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in TASKS:
            raise RecipeError(f"method {self.method!r} is not one of {', '.join(TASKS)}")
        if not isinstance(self.section, task_class(self.method).section):
            raise RecipeError(f"{self.method}: its section cannot be a {type(self.section).__name__}")
        self.section.check(self)


def recipe_names() -> list[str]:
    """List the recipes that come with the package.

    >>> from ditifeat.train.recipe import recipe_names
    >>> "images64" in recipe_names()
    True
    """
    folder = resources.files("ditifeat.train") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe of the package by name, or a YAML file.

    Raises:
        MissingRecipeError: for an unknown name, or a path without a file.
        RecipeError: for an unreadable file, an unknown key, a wrong type or bound; with the place and the fix.

    >>> from ditifeat.train.recipe import load_recipe
    >>> recipe = load_recipe("images64")
    >>> recipe.method, recipe.section.detach
    ('diti', 'on')
    """
    if str(name_or_path) in recipe_names():
        path = Path(str(resources.files("ditifeat.train"))) / "recipes" / f"{name_or_path}.yaml"
    else:
        path = Path(name_or_path)
    if not path.is_file():
        raise MissingRecipeError(f"{name_or_path}: neither a recipe file nor one of {', '.join(recipe_names())}")
    try:
        return recipe_from_dict(yaml.load(path.read_text("utf-8"), _Loader))
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe {name_or_path}: {error}") from error


def recipe_from_dict(data: Any) -> Recipe:
    """Make a recipe of plain lists and dicts, as a YAML file gives them; its one section of `tasks.TASKS` is the method.

    Raises:
        RecipeError, ModelError: as `load_recipe`, with the place of what is wrong.
    """
    if not isinstance(data, dict):
        raise RecipeError(f"must be a mapping, not {type(data).__name__}")
    methods = [key for key in TASKS if data.get(key) is not None]
    if len(methods) != 1:
        raise RecipeError(f"give one of the sections {', '.join(TASKS)}: it is the method")
    (method,) = methods
    settings = from_dict(Settings, {key: value for key, value in data.items() if key not in TASKS})
    kind = task_class(method).section
    section = from_dict(kind, _switches(kind, data[method]), f"{method}.")
    return Recipe(**vars(settings), method=method, section=section)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return what `recipe_from_dict` reads: plain lists, dicts, texts and numbers."""
    plain = json.loads(json.dumps(asdict(recipe)))
    plain[plain.pop("method")] = plain.pop("section")
    return plain


def with_overrides(
    recipe: str | Path | Recipe, *, dm: str | None = None, seed: int | None = None, images: float | None = None
) -> Recipe:
    """Return a recipe with another frozen DM, seed or number of images seen.

    Raises:
        RecipeError: as `load_recipe`; or for a DM where the method freezes none.
        InputError: for a seed or a number of images that is no integer.

    >>> from ditifeat.train.recipe import with_overrides
    >>> with_overrides("images64", images=96000).section.optimiser.steps
    3000
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if dm is not None:
        if recipe.dm is None:
            raise RecipeError(f"dm = {dm!r}: the method {recipe.method} has no frozen DM")
        recipe = replace(recipe, dm=replace(recipe.dm, unet=None, optimiser=None, pretrained=dm))
    if seed is not None:
        recipe = replace(recipe, seed=integer("seed", seed))
    if images is not None:
        # 1e6 is an integer to whoever writes it.
        whole = int(images) if isinstance(images, float) and images.is_integer() else images
        optimiser = replace(recipe.section.optimiser, images=integer("images", whole))
        recipe = replace(recipe, section=replace(recipe.section, optimiser=optimiser))
    return recipe


def model_config(recipe: Recipe, **changes: Any) -> ModelConfig:
    """Return the configuration of the model that a recipe makes.

    Args:
        recipe: the recipe.
        changes: what depends on the method: `method` and other attributes of `ModelConfig`.
    """
    return ModelConfig(
        name=recipe.name,
        image=recipe.image,
        encoder=recipe.encoder_spec,
        latent_dim=recipe.partition.d,
        partition=recipe.partition,
        codec=recipe.codec,
        **changes,
    )


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe loader, which refuses a key that is given twice; PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {', '.join(twice)} given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _switches(section: type[MethodRecipe], data: Any) -> Any:
    """YAML 1.1 reads on and off as booleans: make them texts again, where on and off are among the choices."""
    if not isinstance(data, dict):
        return data
    hints = typing.get_type_hints(section)
    switches = [key for key, hint in hints.items() if {"on", "off"} <= set(typing.get_args(hint))]
    return data | {key: "on" if data[key] else "off" for key in switches if isinstance(data.get(key), bool)}
