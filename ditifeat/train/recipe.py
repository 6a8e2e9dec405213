"""A recipe: everything that decides what a training run makes. YAML in, checked dataclasses out."""

from __future__ import annotations

import json
import typing
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from ditifeat.align import Align
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import MissingRecipeError, RecipeError
from ditifeat.model.config import ModelConfig
from ditifeat.model.encoders import ENCODERS, EncoderSpec, build_encoder
from ditifeat.model.partition import TimeStepPartition
from ditifeat.schema import from_dict, integer, parse_yaml
from ditifeat.train.sections import CardFacts, CodecRecipe, DMRecipe, Optimiser
from ditifeat.train.tasks import TASKS, task_class

MAX_SEED = 2**32 - 1


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
        align: find and align the faces of photos, as in `encode`: true for photos of one face each, largest for the largest
            of each; photos without one are left out. The model's images are to be aligned too, then.
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
    codec: CodecRecipe = CodecRecipe()
    flip: bool = True
    align: Align = False
    seed: int = 0
    holdout: int = 0
    card: CardFacts = CardFacts()

    def __post_init__(self) -> None:
        if isinstance(self.encoder, str) and self.encoder not in ENCODERS:
            raise RecipeError(f"encoder {self.encoder!r} is not one of {', '.join(ENCODERS)}")
        own_dm = self.dm is None or self.dm.pretrained is None
        if self.codec.kind == "vae" and self.codec.path is None and own_dm:
            raise RecipeError("codec: give path, where the VAE is: a diffusers folder or org/name on the Hub")
        if self.dm is not None and self.dm.unet is not None and self.codec.kind != "vae":
            # Before the DM is trained, and not after.
            side, halved = self.image.size // self.codec.factor, 2 ** (len(self.dm.unet.channels) - 1)
            if side % halved:
                raise RecipeError(
                    f"dm: {len(self.dm.unet.channels)} channels halve maps to 1/{halved}, not of {side} px"
                )
        if self.image.size % self.codec.factor:
            raise RecipeError(
                f"codec: factor = {self.codec.factor} does not divide the image's {self.image.size} pixels"
            )
        _ = self.encoder_inputs
        if not 0 <= self.seed <= MAX_SEED:
            raise RecipeError(f"seed = {self.seed} is not within 0..{MAX_SEED}")
        if self.holdout < 0:
            raise RecipeError(f"holdout = {self.holdout} must be at least 0")

    @property
    def encoder_spec(self) -> EncoderSpec:
        return ENCODERS[self.encoder] if isinstance(self.encoder, str) else self.encoder

    @property
    def encoder_inputs(self) -> int:
        """How many numbers the encoder's head reads of an image.

        Raises:
            ModelError: if the encoder cannot read images of this size.
        """
        with torch.device("meta"):
            return build_encoder(self.encoder_spec, self.image.size, self.partition.d).head.in_features


@dataclass(frozen=True)
class MethodRecipe:
    """A method's section of a recipe; each task file has its own subclass.

    Attributes:
        optimiser: how long and how fast the method's networks learn.
        initial: a trained model to begin from, in place of all initialisation: a folder, a bundled name or a name on the Hub.
            DiTi and PDAE take its encoder and estimator, Diff-AE its encoder and its frozen DM's weights, contrastive methods
            its encoder.
    """

    optimiser: Optimiser
    initial: str | None = field(default=None, kw_only=True)

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
        return recipe_from_dict(parse_yaml(path.read_text("utf-8")))
    except (ValueError, OSError) as error:
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
    """Return what `recipe_from_dict` reads: plain lists, dicts, texts and numbers.

    >>> from ditifeat.train.recipe import load_recipe, recipe_from_dict, recipe_to_dict
    >>> recipe = load_recipe("images64")
    >>> recipe_from_dict(recipe_to_dict(recipe)) == recipe
    True
    """
    plain = json.loads(json.dumps(asdict(recipe)))
    plain[plain.pop("method")] = plain.pop("section")
    return plain


def with_overrides(
    recipe: str | Path | Recipe,
    *,
    dm: str | None = None,
    initial: str | None = None,
    seed: int | None = None,
    images: float | None = None,
) -> Recipe:
    """Return a recipe with another frozen DM, initial model, seed or number of images seen.

    Raises:
        RecipeError: as `load_recipe`; or for a DM where the method freezes none.
        InputError: for a seed or a number of images that is no integer.

    >>> from ditifeat.train.recipe import with_overrides
    >>> with_overrides("images64", images=96000).section.optimiser.steps
    1500
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if dm is not None:
        if recipe.dm is None:
            raise RecipeError(f"dm = {dm!r}: the method {recipe.method} has no frozen DM")
        recipe = replace(recipe, dm=replace(recipe.dm, unet=None, optimiser=None, pretrained=dm))
    if initial is not None:
        recipe = replace(recipe, section=replace(recipe.section, initial=initial))
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

    >>> from ditifeat.train.recipe import load_recipe, model_config
    >>> model_config(load_recipe("images64"), method="diti").image.size
    64
    """
    image = recipe.image
    if recipe.align is not False:
        image = replace(image, alignment="faces of photos, found and aligned by align=True")
    return ModelConfig(
        name=recipe.name,
        image=image,
        encoder=recipe.encoder_spec,
        latent_dim=recipe.partition.d,
        partition=recipe.partition,
        codec=recipe.codec.spec,
        **changes,
    )


def _switches(section: type[MethodRecipe], data: Any) -> Any:
    """YAML 1.1 reads on and off as booleans: make them texts again, where on and off are among the choices."""
    if not isinstance(data, dict):
        return data
    hints = typing.get_type_hints(section)
    switches = [key for key, hint in hints.items() if {"on", "off"} <= set(typing.get_args(hint))]
    return data | {key: "on" if data[key] else "off" for key in switches if isinstance(data.get(key), bool)}
