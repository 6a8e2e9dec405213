"""Frozen DMs and VAEs of other people: a diffusers folder, or a Hub repository at a pinned commit."""

from __future__ import annotations

from pathlib import Path

from ditifeat.model.codec import VAE_FOLDERS, vae_folder
from ditifeat.model.config import DMReference
from ditifeat.model.diffusers_folder import NOT_SAFETENSORS
from ditifeat.pretrained.hub import (
    DEFAULT_OPTIONS,
    HubOptions,
    NoSuchEntryError,
    download,
    download_optional,
    local_folder,
    parse_hub_name,
)

NETWORK_FILES = ("config.json", "diffusion_pytorch_model.safetensors")

DM_FILES = (*(f"unet/{file}" for file in NETWORK_FILES), "scheduler/scheduler_config.json")

FLAT_DM_FILES = (*NETWORK_FILES, "scheduler_config.json")


def download_dm(reference: DMReference, options: HubOptions = DEFAULT_OPTIONS, *, vae: bool = False) -> Path:
    """Return the folder of somebody's DM on the Hub, at its pinned commit.

    Args:
        reference: the repository and the commit; files under `unet/` and `scheduler/`, or flat as google/ddpm-* have them.
        options: how the Hub is asked; its revision is not looked at.
        vae: whether the VAE of a latent DM is needed too, `vqvae/` or `vae/` beside the U-Net.

    Raises:
        ModelError: if a file cannot be fetched, or the configurations are not those of an unconditional DM.
    """
    repo, commit = str(reference.repo), str(reference.commit)
    nested = download_optional(repo, commit, DM_FILES[0], options) is not None
    config, weights, scheduler = DM_FILES if nested else FLAT_DM_FILES
    folder = download(repo, commit, config, options).parent
    _check_dm(folder, download(repo, commit, scheduler, options).parent)
    if vae:
        _download_vae(repo, commit, VAE_FOLDERS, options)
    _weights(repo, commit, weights, options)
    return folder.parent if nested else folder


def _check_dm(network: Path, scheduler: Path) -> None:
    """Refuse what cannot be used by its configurations, before its weights are fetched, which are large."""
    from ditifeat.model.diffusion import read_unet_config  # imports diffusers, which encoding needs nothing of
    from ditifeat.model.schedule import read_scheduler

    read_unet_config(network)
    read_scheduler(scheduler)


def has_vae(folder: Path, reference: DMReference, options: HubOptions = DEFAULT_OPTIONS) -> bool:
    """Return whether a DM comes with a VAE, so that it works over latents.

    Args:
        folder, reference: as `resolve_dm` returns them.
        options: how the Hub is asked.
    """
    if reference.repo is None:
        return vae_folder(folder) is not None
    if not (folder / "unet").is_dir():  # flat, so that there is one network
        return False
    places = (f"{place}/{NETWORK_FILES[0]}" for place in VAE_FOLDERS)
    return any(download_optional(reference.repo, str(reference.commit), file, options) for file in places)


def resolve_dm(
    name: str | Path, options: HubOptions = DEFAULT_OPTIONS, *, vae: bool = False
) -> tuple[Path, DMReference]:
    """Return the folder of a frozen DM, and the reference that a model folder keeps of it.

    Args:
        name: a diffusers folder, which the model folder will hold a copy of; or `org/name`, `org/name@revision`.
        options: how the Hub is asked.
        vae: whether the VAE of a latent DM is needed too.

    Raises:
        MissingFileError: if it is neither, or not there.
        ModelError: if a file cannot be fetched.
    """
    folder = local_folder(name)
    if folder is not None:
        return folder, DMReference()
    repo, revision = parse_hub_name(name, "a diffusers folder", options)
    # The cache keeps each commit in a folder of its name.
    try:
        commit = download(repo, revision, DM_FILES[0], options).parent.parent.name
    except NoSuchEntryError:
        commit = download(repo, revision, FLAT_DM_FILES[0], options).parent.name
    reference = DMReference(repo, commit)
    return download_dm(reference, options, vae=vae), reference


def resolve_vae(name: str | Path, options: HubOptions = DEFAULT_OPTIONS) -> Path:
    """Return the folder of a VAE, for `ditifeat.model.codec.load_vae`.

    Args:
        name: a diffusers folder of a VAE, or of a pipeline that has one (`vqvae/`, `vae/`); or such a Hub repository,
            `org/name` or `org/name@revision`.
        options: how the Hub is asked.

    Raises:
        MissingFileError: if there is none.
        ModelError: if a file cannot be fetched.
    """
    local = local_folder(name)
    if local is not None:
        return vae_folder(local) or local
    repo, revision = parse_hub_name(name, "a diffusers folder", options)
    return _download_vae(repo, revision, (*VAE_FOLDERS, ""), options)


def _download_vae(repo: str, revision: str | None, folders: tuple[str, ...], options: HubOptions) -> Path:
    """The first of the folders that there is; "" is the repository's top."""
    for folder in folders:
        files = [f"{folder}/{file}".lstrip("/") for file in NETWORK_FILES]
        try:
            path = download(repo, revision, files[0], options)
        except NoSuchEntryError:
            continue
        commit = path.parents[1 if folder else 0].name
        _weights(repo, commit, files[1], options)
        return path.parent
    places = " nor ".join(f"{folder}/" if folder else "config.json" for folder in folders)
    raise NoSuchEntryError(f"{repo}@{revision or 'main'}: holds no VAE: neither {places}")


def _weights(repo: str, revision: str | None, file: str, options: HubOptions) -> Path:
    try:
        return download(repo, revision, file, options)
    except NoSuchEntryError as error:
        if file.endswith(".safetensors"):
            raise NoSuchEntryError(f"{error}; {NOT_SAFETENSORS}") from None
        raise
