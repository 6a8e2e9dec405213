"""A model folder to the Hub."""

from __future__ import annotations

from pathlib import Path

from ditifeat.errors import InputError, ModelError
from ditifeat.model.config import ModelConfig, read_config
from ditifeat.model.encoders import read_encoder
from ditifeat.pretrained.hub import HUB_NAME, one_line
from ditifeat.pretrained.models import load_model, model_files
from ditifeat.pretrained.names import ENCODER_FILES

BESIDE = (".json", ".md", ".png", ".safetensors")  # the card, its figures and numbers, the attributes' probes


def push(folder: str | Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a model folder to the Hub as one commit, after it was loaded whole; return the commit's address.

    Args:
        folder: the model's; its files alone are uploaded, and those beside them (`BESIDE`).
        repo: `org/name`; made if there is none.
        private: whether a new repository is private.
        token: in place of the one that `hf auth login` stored.

    Raises:
        InputError: for a name that is not org/name.
        ModelError: if the folder is not a whole model, or the Hub refuses it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    folder = Path(folder)
    match = HUB_NAME.fullmatch(repo)
    if match is None or match["revision"] is not None:
        raise InputError(f"repo = {repo!r} is not org/name")
    config = _check(folder)
    names = uploaded_files(folder, config)
    _check_links(folder, names)
    # `upload_folder` may make several commits, of which the first could be taken for a whole model.
    files = [CommitOperationAdd(file, folder / file) for file in names]
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(repo, files, commit_message=f"Upload {config.name} with ditifeat")
    except Exception as error:  # a connection that breaks raises whatever the client's transport has
        raise ModelError(
            f"{repo}: could not be uploaded ({one_line(error)}); log in with a token that may write (hf auth login)"
        ) from error
    return commit.commit_url


def _check(folder: Path) -> ModelConfig:
    """What does not load is not published."""
    config = read_config(folder)
    read_encoder(folder, config.encoder, config.image.size, config.latent_dim)
    if config.method != "contrastive":
        load_model(config, folder, None)
    return config


def _check_links(folder: Path, names: list[str]) -> None:
    """A stranger's folder may hold links to files of ours, which would be published."""
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{folder / name}: is a link out of the folder; put the file itself there to publish it")


def uploaded_files(folder: Path, config: ModelConfig) -> list[str]:
    """Return the files that `push` uploads, relative to the folder: no checkpoints, caches or hidden files."""
    beside = (p.name for p in folder.iterdir() if p.is_file() and p.suffix in BESIDE and not p.name.startswith("."))
    named = {*ENCODER_FILES, *model_files(config), "dm/model_index.json", *beside}
    return sorted(file for file in named if (folder / file).is_file())
