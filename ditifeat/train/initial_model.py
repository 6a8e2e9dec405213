"""Begin from a trained model: its encoder and estimator are the initial ones, over its frozen DM."""

from __future__ import annotations

from typing import cast

from ditifeat.errors import RecipeError
from ditifeat.model.config import ModelConfig, read_config
from ditifeat.model.diti import DiTi
from ditifeat.pretrained.models import load_model, prefetch
from ditifeat.pretrained.names import resolve

# What must be equal for weights to mean the same; the rest of a configuration (name, crop, training) may differ.
SAME = ("encoder", "partition", "codec", "estimator")


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
    trained = load_trained(name, model.config)
    if not _same_dm(trained, model):
        raise RecipeError(
            f"initial = {name!r}: its frozen DM is not that of this run; leave out --dm to take the model's"
        )
    model.encoder.load_state_dict(trained.encoder.state_dict())
    model.estimator.load_state_dict(trained.estimator.state_dict())


def load_trained(name: str, wanted: ModelConfig) -> DiTi:
    """Load a trained model whose networks have the shapes that a configuration wants.

    Raises:
        RecipeError: for another method, network, partition or codec.
    """
    folder, source = resolve(name)
    config = read_config(folder)
    different = [key for key in SAME if getattr(config, key) != getattr(wanted, key)]
    if config.method != "diti" or config.image.size != wanted.image.size or different:
        what = ", ".join(different) or ("method" if config.method != "diti" else "image size")
        raise RecipeError(
            f"initial = {name!r}: does not fit the recipe, whose {what} differs; use the recipe it was trained by"
        )
    return cast(DiTi, load_model(config, folder, source))


def _same_dm(one: DiTi, other: DiTi) -> bool:
    """Whether two models denoise alike; weights in half precision and those they were rounded from count as equal."""
    theirs = other.dm.state_dict()
    return all(
        key in theirs and value.shape == theirs[key].shape and value.half().equal(theirs[key].half())
        for key, value in one.dm.state_dict().items()
    )
