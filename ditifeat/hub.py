"""Names -> models: bundled, a local folder, or the Hugging Face Hub. Only files named here are asked for."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ditifeat.config import DMReference, ModelConfig, read_config
from ditifeat.errors import ModelError
from ditifeat.features import Encoder

if TYPE_CHECKING:
    from ditifeat.diffae import DiffAE
    from ditifeat.model import DiTi

BUNDLED = ("celeba64-mini",)
HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")
ENCODER_FILES = ("config.json", "model.safetensors")
ESTIMATOR_FILES = ("estimator.safetensors",)
DIFFAE_FILES = ("conditional.safetensors", "dm/unet/config.json", "dm/scheduler/scheduler_config.json")
DM_FILES = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json")
FLAT_DM_FILES = ("config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json")
VAE_FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")


def load_encoder(name: str | Path | None = None, *, device: str = "cpu") -> Encoder:
    """A pretrained encoder, ready for `encode`, `probe` and `edit`.

    Args:
        name: None for the bundled model; a bundled name; a folder; or `org/name`, `org/name@revision` on the Hub.
        device: a torch device.

    Raises:
        ModelError: unknown or ambiguous name, no connection, or files that are missing or do not fit; with the way out.
    """
    folder, revision = resolve(name)
    config = read_config(folder)
    return Encoder(
        config,
        folder,
        device,
        lambda: _load_model(config, folder, revision),
        lambda file: _find_file(folder, revision, file),
    )


def _find_file(folder: Path, source: tuple[str, str] | None, file: str) -> Path | None:
    """A file that a model may have or not; fetched if the model came from the Hub."""
    if source is not None:
        with suppress(_MissingFileError):
            return download(*source, file)
    return folder / file if (folder / file).exists() else None


def resolve(name: str | Path | None) -> tuple[Path, tuple[str, str] | None]:
    """The folder of a name's encoder files, and (repository, commit) if they came from the Hub.

    Raises:
        ModelError: as `load_encoder`.
    """
    if name is None:
        return bundled_folder(BUNDLED[0]), None
    text = str(name)
    if text in BUNDLED:
        if Path(text).is_dir():
            raise ModelError(
                f"{text}: is a bundled model and a folder here; write './{text}' for the folder, or None for the former"
            )
        return bundled_folder(text), None
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return folder, None
    match = HUB_NAME.fullmatch(text)
    if isinstance(name, Path) or match is None:
        raise ModelError(
            f"{text}: is neither a folder, a bundled model ({', '.join(BUNDLED)}), nor org/name on the Hub"
        )
    repo, revision = match["repo"], match["revision"]
    config = download(repo, revision, ENCODER_FILES[0])
    # The cache keeps each commit in a folder of its name; all other files must be of the same one.
    commit = config.parent.name
    for file in ENCODER_FILES[1:]:
        download(repo, commit, file)
    return config.parent, (repo, commit)


def bundled_folder(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        ModelError: if the installation lacks it.
    """
    folder = Path(str(resources.files("ditifeat") / "weights" / name))
    if not folder.is_dir():
        raise ModelError(f"{folder}: the bundled model is missing; install ditifeat again")
    return folder


def _load_model(config: ModelConfig, folder: Path, source: tuple[str, str] | None) -> DiTi | DiffAE:
    """The whole model whose encoder lies in `folder`; fetches what is on the Hub."""
    from ditifeat.diffae import DiffAE
    from ditifeat.model import DiTi

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


def download_dm(reference: DMReference) -> Path:
    """The folder of somebody's DM on the Hub, at its pinned commit.

    Raises:
        ModelError: if it cannot be had.
    """
    repo, commit = str(reference.repo), str(reference.commit)
    try:
        files = [download(repo, commit, file) for file in DM_FILES]
        return files[0].parent.parent
    except _MissingFileError:
        files = [download(repo, commit, file) for file in FLAT_DM_FILES]
        return files[0].parent


def resolve_dm(name: str) -> tuple[Path, DMReference]:
    """The folder of a frozen DM, and the reference that an artefact keeps of it.

    Args:
        name: a diffusers folder, which the artefact will hold a copy of; or `org/name`, `org/name@revision`.

    Raises:
        ModelError: if it is neither, or cannot be had.
    """
    if Path(name).is_dir():
        return Path(name), DMReference()
    match = HUB_NAME.fullmatch(name)
    if match is None:
        raise ModelError(f"{name}: is neither a diffusers folder nor org/name on the Hub")
    try:
        first = download(match["repo"], match["revision"], DM_FILES[0]).parent
    except _MissingFileError:
        first = download(match["repo"], match["revision"], FLAT_DM_FILES[0])
    reference = DMReference(match["repo"], first.parent.name)
    return download_dm(reference), reference


class _MissingFileError(ModelError):
    """The repository exists; the file does not."""


def download(repo: str, revision: str | None, file: str) -> Path:
    """One file of a Hub repository, from the cache if it is there.

    Raises:
        ModelError: if it cannot be had, with the reason and the way out.
    """
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download

    where = f"{repo}@{revision or 'main'}/{file}"
    try:
        return Path(hf_hub_download(repo, file, revision=revision))
    except hub_errors.LocalEntryNotFoundError as error:
        raise ModelError(
            f"{where}: is not in the cache and the Hub cannot be reached; connect once, or pass a folder"
        ) from error
    except hub_errors.GatedRepoError as error:
        raise ModelError(f"{where}: access must be asked for on the Hub first; then log in (hf auth login)") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{where}: there is no such repository, or it is private; log in (hf auth login) if it is yours"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ModelError(f"{where}: the repository has no such revision") from error
    except hub_errors.EntryNotFoundError as error:
        raise _MissingFileError(f"{where}: the repository has no such file, so it is not a ditifeat model") from error
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError) as error:
        raise ModelError(f"{where}: could not be fetched ({error})") from error


def push(folder: str | Path, repo: str, *, private: bool = False) -> str:
    """Uploads a model folder to the Hub, after it was loaded whole; returns the commit's address.

    Raises:
        ModelError: if the folder is not a whole model.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    encoder = load_encoder(folder)
    if encoder.config.method != "contrastive":
        encoder.model  # noqa: B018 - what does not load is not published
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    files = ["config.json", "*.safetensors", "README.md", "dm/**", "vae/**", "*.png", "*.json"]
    return str(api.upload_folder(repo_id=repo, folder_path=folder, allow_patterns=files))
