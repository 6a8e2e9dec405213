"""Begin from a trained model: with its encoder and, for DiTi and PDAE, its estimator and frozen DM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from ditifeat.errors import RecipeError
from ditifeat.model.config import ModelConfig, read_config
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import EncoderNetwork, read_encoder
from ditifeat.pretrained.models import load_model, prefetch
from ditifeat.pretrained.names import resolve


def dm_of_model(name: str) -> str:
    """Return where a trained model's frozen DM is, as `--dm` takes it: a folder, or `org/name@commit`.

    Raises:
        ModelError: for an unknown name, or files that are missing.

    >>> from ditifeat.train.initial_model import dm_of_model
    >>> dm_of_model("celeba64-mini").endswith("dm")
    True
    """
    folder, source = resolve(name)
    config = read_config(folder)
    if config.method != "diti":
        raise RecipeError(f"{name}: is a model of method {config.method}; only those of DiTi and PDAE have a frozen DM")
    if config.dm.repo is not None:
        return f"{config.dm.repo}@{config.dm.commit}"
    return str(prefetch(config, folder, source))


def initialise_from_model(model: DiTi, name: str) -> None:
    """Give an untrained model the encoder and estimator of a trained one.

    Args:
        model: of the run.
        name: of the trained model: a folder, a bundled name, or one on the Hub.

    Raises:
        RecipeError: if its networks, partition or codec are not those of the recipe, or its DM is another.
        ModelError: for an unknown name, or files that are missing.
    """
    trained = load_trained(name, model.config, ("encoder", "partition", "codec", "estimator"))
    if not _same_dm(trained, model):
        raise RecipeError(
            f"initial = {name!r}: its frozen DM is not that of this run; leave out --dm to take the model's"
        )
    model.encoder.load_state_dict(trained.encoder.state_dict())
    model.estimator.load_state_dict(trained.estimator.state_dict())


def initialise_from_encoder(encoder: EncoderNetwork, config: ModelConfig, name: str) -> None:
    """Give an untrained encoder the weights of a trained model's, of whatever method.

    Args:
        encoder: of the run.
        config: of the run.
        name: as in `initialise_from_model`.

    Raises:
        RecipeError: if the model's encoder is not that of the recipe.
        ModelError: for an unknown name, or files that are missing.
    """
    folder, _ = resolve(name)
    trained = _fitting(name, folder, config, ("encoder", "latent_dim"))
    theirs, _, _ = read_encoder(folder, trained.encoder, trained.image.size, trained.latent_dim)
    encoder.load_state_dict(theirs.state_dict())


def load_trained(name: str, wanted: ModelConfig, same: Sequence[str]) -> DiTi:
    """Load a trained DiTi or PDAE model.

    Args:
        name: as in `initialise_from_model`.
        wanted: the configuration that it is to fit.
        same: the configuration's attributes that must be equal.

    Raises:
        RecipeError: if one is not, or the model is of another method.
    """
    folder, source = resolve(name)
    config = _fitting(name, folder, wanted, same)
    if config.method != "diti":
        raise RecipeError(f"initial = {name!r}: is a model of method {config.method}; give one of DiTi or PDAE")
    return cast(DiTi, load_model(config, folder, source))


def _fitting(name: str, folder: Path, wanted: ModelConfig, same: Sequence[str]) -> ModelConfig:
    config = read_config(folder)
    different = [key for key in same if getattr(config, key) != getattr(wanted, key)]
    if config.image.size != wanted.image.size:
        different.append("image size")
    if different:
        raise RecipeError(f"initial = {name!r}: does not fit the recipe, whose {' and '.join(different)} differ")
    return config


def _same_dm(one: DiTi, other: DiTi) -> bool:
    """Whether two models denoise alike; weights in half precision and those they were rounded from count as equal."""
    theirs = other.dm.state_dict()
    return all(
        key in theirs and value.shape == theirs[key].shape and value.half().equal(theirs[key].half())
        for key, value in one.dm.state_dict().items()
    )
