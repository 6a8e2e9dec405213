"""Whole models of a folder, with what must be fetched for them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ditifeat.errors import ModelError
from ditifeat.model.config import ModelConfig
from ditifeat.pretrained.dm import DM_FILES, download_dm
from ditifeat.pretrained.hub import DEFAULT_OPTIONS, HubSource, NoSuchEntryError, download

if TYPE_CHECKING:
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

ESTIMATOR_FILES = ("estimator.safetensors",)

DIFFAE_FILES = ("conditional.safetensors", "dm/unet/config.json", "dm/scheduler/scheduler_config.json")

VAE_FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")


def find_file(folder: Path, source: HubSource | None, file: str) -> Path | None:
    """A file that a model may have or not; fetched if the model came from the Hub."""
    if source is not None:
        with suppress(NoSuchEntryError):
            return _fetch(source, file)
    return folder / file if (folder / file).exists() else None


def load_model(config: ModelConfig, folder: Path, source: HubSource | None) -> DiTi | DiffAE:
    """The whole model whose encoder lies in `folder`; what is missing is fetched.

    Raises:
        ModelError: for an encoder alone, or files that are missing or do not fit.
    """
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

    if config.method == "contrastive":
        raise ModelError(f"{config.name}: is an encoder alone; it encodes, and makes no images")
    dm_folder = prefetch(config, folder, source)
    return DiffAE.load(folder) if config.method == "diffae" else DiTi.assemble(config, folder, dm_folder)


def prefetch(config: ModelConfig, folder: Path, source: HubSource | None) -> Path:
    """Fetches all files that `load_model` needs, so that it works offline later; returns the DM's folder.

    Raises:
        ModelError: if one cannot be fetched.
    """
    if source is not None:
        for file in model_files(config):
            _fetch(source, file)
    if config.dm.repo is None:
        return folder / "dm"
    return download_dm(config.dm, DEFAULT_OPTIONS if source is None else replace(source.options, revision=None))


def model_files(config: ModelConfig) -> tuple[str, ...]:
    """The files that the whole model needs beside its encoder's, relative to its folder."""
    if config.method == "contrastive":
        return ()
    if config.method == "diffae":
        own: tuple[str, ...] = DIFFAE_FILES
    else:
        own = ESTIMATOR_FILES + (tuple(f"dm/{file}" for file in DM_FILES) if config.dm.repo is None else ())
    return own + (VAE_FILES if config.codec.kind == "vae" else ())


def _fetch(source: HubSource, file: str) -> Path:
    return download(source.repo, source.commit, file, source.options)
