"""Names -> model folders: bundled, local, or the Hugging Face Hub. Only files named here are asked for."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ditifeat.errors import InputError, MissingFileError, ModelError
from ditifeat.pretrained.hub import (
    DEFAULT_OPTIONS,
    HubOptions,
    HubSource,
    NoSuchEntryError,
    download,
    local_folder,
    parse_hub_name,
)

BUNDLED = ("celeba64-mini",)

ENCODER_FILES = ("config.json", "model.safetensors")


def resolve(name: str | Path | None, options: HubOptions = DEFAULT_OPTIONS) -> tuple[Path, HubSource | None]:
    """Return the folder of a name's encoder files, and where on the Hub they came from, if so.

    Args:
        name: as `load_encoder` takes it: None, a bundled name, a folder, or `org/name`, `org/name@revision` on the Hub.
        options: how the Hub is asked.

    Raises:
        MissingFileError: for a name that means nothing, or nothing that is there.
        InputError: for two revisions, or the revision of a folder.
        ModelError: for an ambiguous name, or files that cannot be fetched.

    Example:
        >>> from ditifeat.pretrained.names import resolve
        >>> folder, source = resolve("celeba64-mini")
        >>> folder.name, source
        ('celeba64-mini', None)
    """
    local = _own_folder(name)
    if local is not None:
        if options.revision is not None:
            raise InputError(f"{local}: is a folder; revision = {options.revision!r} belongs to org/name on the Hub")
        return local, None
    kinds = f"a folder, a bundled model ({', '.join(BUNDLED)}),"
    repo, revision = parse_hub_name(name or "", kinds, options)
    try:
        config = download(repo, revision, ENCODER_FILES[0], options)
    except NoSuchEntryError as error:
        raise NoSuchEntryError(f"{error}, so it is not a ditifeat model") from None
    # The cache keeps each commit in a folder of its name; all other files must be of the same one.
    commit = config.parent.name
    for file in ENCODER_FILES[1:]:
        download(repo, commit, file, options)
    return config.parent, HubSource(repo, commit, options)


def _own_folder(name: str | Path | None) -> Path | None:
    if name is None:
        return bundled_folder(BUNDLED[0])
    if str(name) in BUNDLED:
        if Path(name).is_dir():
            raise ModelError(
                f"{name}: is a bundled model and a folder here; write './{name}' for the folder, or None for the former"
            )
        return bundled_folder(str(name))
    return local_folder(name)


def bundled_folder(name: str) -> Path:
    """Return the folder of a bundled model.

    Raises:
        MissingFileError: if the installation lacks it.
    """
    folder = Path(str(resources.files("ditifeat.pretrained") / "weights" / name))
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: the bundled model is missing; install ditifeat again")
    return folder
