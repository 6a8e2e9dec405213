"""Whole models of a folder, with what must be fetched for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ditifeat.errors import ModelError
from ditifeat.model.config import ModelConfig
from ditifeat.pretrained.dm import DM_FILES, NETWORK_FILES, download_dm
from ditifeat.pretrained.hub import DEFAULT_OPTIONS, HubOptions, HubSource, download, download_optional

if TYPE_CHECKING:
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

ESTIMATOR_FILES: tuple[str, ...] = ("estimator.safetensors",)

DIFFAE_FILES: tuple[str, ...] = ("conditional.safetensors", "dm/unet/config.json", "dm/scheduler/scheduler_config.json")

VAE_FILES = tuple(f"vae/{file}" for file in NETWORK_FILES)


def find_file(folder: Path, source: HubSource | None, file: str) -> Path | None:
    """Return a file that a model may have or not, or None; fetched if the model came from the Hub.

    Without a connection, a file that was never asked for counts as absent, with a warning in the log.
    """
    if source is not None:
        return download_optional(source.repo, source.commit, file, source.options)
    return folder / file if (folder / file).exists() else None


def load_model(
    config: ModelConfig, folder: Path, source: HubSource | None, options: HubOptions = DEFAULT_OPTIONS
) -> DiTi | DiffAE:
    """Return the whole model whose encoder lies in `folder`; what is missing is fetched.

    Args:
        config: of the model.
        folder: the model's.
        source: where on the Hub the folder came from, if so.
        options: for a local model whose frozen DM is on the Hub; a model of the Hub brings its own.

    Raises:
        ModelError: for an encoder alone, or files that are missing or do not fit.
    """
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

    if config.method == "contrastive":
        raise ModelError(f"{config.name}: is an encoder alone; it encodes, and makes no images")
    dm_folder = prefetch(config, folder, source, options)
    return DiffAE.load(folder) if config.method == "diffae" else DiTi.assemble(config, folder, dm_folder)


def prefetch(
    config: ModelConfig, folder: Path, source: HubSource | None, options: HubOptions = DEFAULT_OPTIONS
) -> Path:
    """Fetch all files that the model has, so that everything works without a connection later; return the DM's folder.

    Args:
        config, folder, source, options: as `load_model`.

    Raises:
        ModelError: if one cannot be fetched.
    """
    if source is not None:
        for file in model_files(config):
            download(source.repo, source.commit, file, source.options)
    if config.dm.repo is None:
        return folder / "dm"
    vae = config.codec.kind == "vae" and config.codec.vae == "dm"
    return download_dm(config.dm, options if source is None else source.options, vae=vae)


def model_files(config: ModelConfig) -> tuple[str, ...]:
    """Return the files that the whole model needs beside its encoder's, relative to its folder."""
    if config.method == "contrastive":
        return ()
    own = DIFFAE_FILES if config.method == "diffae" else ESTIMATOR_FILES
    if config.method == "diti" and config.dm.repo is None:
        own += tuple(f"dm/{file}" for file in DM_FILES)
    if config.codec.kind == "vae" and config.codec.vae == "model":
        own += VAE_FILES
    elif config.codec.kind == "vae" and config.dm.repo is None:
        own += tuple(f"dm/vqvae/{file}" for file in NETWORK_FILES)
    return own
