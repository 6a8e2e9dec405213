"""Files of a Hub repository, with errors that say the fix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ditifeat.errors import MissingFileError, ModelError


@dataclass(frozen=True)
class HubOptions:
    """How the Hub is asked; the names are those of `huggingface_hub.hf_hub_download`.

    Attributes:
        revision: a branch, tag or commit; the name's own (`org/name@revision`), else the default branch, when None.
        token: in place of the one that `hf auth login` stored.
        cache_dir: in place of the default cache folder.
        local_files_only: read the cache alone, without a connection.
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False


DEFAULT_OPTIONS = HubOptions()


@dataclass(frozen=True)
class HubSource:
    """A model on the Hub at a commit: where the files that were not fetched yet come from."""

    repo: str
    commit: str
    options: HubOptions = DEFAULT_OPTIONS


class NoSuchEntryError(MissingFileError):
    """The repository exists; the file does not."""


def download(repo: str, revision: str | None, file: str, options: HubOptions = DEFAULT_OPTIONS) -> Path:
    """One file of a Hub repository, from the cache if it is there.

    Raises:
        ModelError: if it cannot be fetched, with the reason and the fix; `MissingFileError` if it does not exist.
    """
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download

    where = f"{repo}@{revision or 'main'}/{file}"
    try:
        return Path(
            hf_hub_download(
                repo,
                file,
                revision=revision,
                token=options.token,
                cache_dir=options.cache_dir,
                local_files_only=options.local_files_only,
            )
        )
    except hub_errors.LocalEntryNotFoundError as error:
        raise MissingFileError(
            f"{where}: is not in the cache and the Hub cannot be reached; connect once, or pass a folder"
        ) from error
    except hub_errors.GatedRepoError as error:
        raise ModelError(f"{where}: access must be asked for on the Hub first; then log in (hf auth login)") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise MissingFileError(
            f"{where}: there is no such repository, or it is private; log in (hf auth login) if it is yours"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise MissingFileError(f"{where}: the repository has no such revision") from error
    except hub_errors.EntryNotFoundError as error:
        raise NoSuchEntryError(f"{where}: the repository has no such file, so it is not a ditifeat model") from error
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError) as error:
        raise ModelError(f"{where}: could not be fetched ({error})") from error
