"""Names -> model folders: bundled, local, or the Hugging Face Hub. Only files named here are asked for."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from ditifeat.errors import InputError, MissingFileError, ModelError
from ditifeat.pretrained.hub import DEFAULT_OPTIONS, HubOptions, HubSource, download

BUNDLED = ("celeba64-mini",)

HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")

ENCODER_FILES = ("config.json", "model.safetensors")


def resolve(name: str | Path | None, options: HubOptions = DEFAULT_OPTIONS) -> tuple[Path, HubSource | None]:
    """The folder of a name's encoder files, and where on the Hub they came from, if so.

    Args:
        name: as `load_encoder` takes it.
        options: how the Hub is asked.

    Raises:
        ModelError: for an unknown or ambiguous name, or files that cannot be fetched.
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
        raise MissingFileError(
            f"{text}: is neither a folder, a bundled model ({', '.join(BUNDLED)}), nor org/name on the Hub"
        )
    repo, revision = match["repo"], hub_revision(text, match["revision"], options)
    config = download(repo, revision, ENCODER_FILES[0], options)
    # The cache keeps each commit in a folder of its name; all other files must be of the same one.
    commit = config.parent.name
    for file in ENCODER_FILES[1:]:
        download(repo, commit, file, options)
    return config.parent, HubSource(repo, commit, options)


def hub_revision(name: str, own: str | None, options: HubOptions) -> str | None:
    """The revision that a name and the options ask for.

    Raises:
        InputError: if both say one.
    """
    if own is not None and options.revision is not None:
        raise InputError(f"{name}: says a revision, and revision = {options.revision!r} another; give one of them")
    return own or options.revision


def bundled_folder(name: str) -> Path:
    """The folder of a bundled model.

    Raises:
        ModelError: if the installation lacks it.
    """
    folder = Path(str(resources.files("ditifeat.pretrained") / "weights" / name))
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: the bundled model is missing; install ditifeat again")
    return folder
