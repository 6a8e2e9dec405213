"""Frozen DMs of other people: a diffusers folder, or a Hub repository at a pinned commit."""

from __future__ import annotations

from pathlib import Path

from ditifeat.errors import MissingFileError
from ditifeat.model.config import DMReference
from ditifeat.pretrained.hub import DEFAULT_OPTIONS, HubOptions, NoSuchEntryError, download
from ditifeat.pretrained.names import HUB_NAME, hub_revision

DM_FILES = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json")

FLAT_DM_FILES = ("config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json")


def download_dm(reference: DMReference, options: HubOptions = DEFAULT_OPTIONS) -> Path:
    """The folder of somebody's DM on the Hub, at its pinned commit.

    Raises:
        ModelError: if it cannot be had.
    """
    repo, commit = str(reference.repo), str(reference.commit)
    try:
        files = [download(repo, commit, file, options) for file in DM_FILES]
        return files[0].parent.parent
    except NoSuchEntryError:
        files = [download(repo, commit, file, options) for file in FLAT_DM_FILES]
        return files[0].parent


def resolve_dm(name: str, options: HubOptions = DEFAULT_OPTIONS) -> tuple[Path, DMReference]:
    """The folder of a frozen DM, and the reference that an artefact keeps of it.

    Args:
        name: a diffusers folder, which the artefact will hold a copy of; or `org/name`, `org/name@revision`.

    Raises:
        MissingFileError: if it is neither, or cannot be had.
    """
    if Path(name).is_dir():
        return Path(name), DMReference()
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise MissingFileError(f"{name}: is neither a diffusers folder nor org/name on the Hub")
    repo, revision = match["repo"], hub_revision(name, match["revision"], options)
    try:
        first = download(repo, revision, DM_FILES[0], options).parent
    except NoSuchEntryError:
        first = download(repo, revision, FLAT_DM_FILES[0], options)
    reference = DMReference(repo, first.parent.name)
    return download_dm(reference, options), reference
