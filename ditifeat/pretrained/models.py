"""Whole models of a folder, with what must be fetched for them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ditifeat.errors import ModelError
from ditifeat.model.config import ModelConfig
from ditifeat.pretrained.dm import DM_FILES, download_dm
from ditifeat.pretrained.hub import MissingFileError, download

if TYPE_CHECKING:
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

ESTIMATOR_FILES = ("estimator.safetensors",)

DIFFAE_FILES = ("conditional.safetensors", "dm/unet/config.json", "dm/scheduler/scheduler_config.json")

VAE_FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")


def find_file(folder: Path, source: tuple[str, str] | None, file: str) -> Path | None:
    """A file that a model may have or not; fetched if the model came from the Hub."""
    if source is not None:
        with suppress(MissingFileError):
            return download(*source, file)
    return folder / file if (folder / file).exists() else None


def load_model(config: ModelConfig, folder: Path, source: tuple[str, str] | None) -> DiTi | DiffAE:
    """The whole model whose encoder lies in `folder`; fetches what is on the Hub."""
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

    if config.method == "contrastive":
        raise ModelError(f"{config.name}: is an encoder alone; it encodes, and makes no pictures")
    if config.method == "diffae":
        if source is not None:
            for file in DIFFAE_FILES:
                download(*source, file)
        return DiffAE.load(folder)
    if source is not None:
        own = ESTIMATOR_FILES + (tuple(f"dm/{file}" for file in DM_FILES) if config.dm.repo is None else ())
        for file in own + (VAE_FILES if config.codec.kind == "vae" else ()):
            download(*source, file)
    dm_folder = folder / "dm" if config.dm.repo is None else download_dm(config.dm)
    return DiTi.assemble(config, folder, dm_folder)
