"""One file of a Hub repository at a time, with errors that say the way out."""

from __future__ import annotations

from pathlib import Path

from ditifeat.errors import ModelError


class MissingFileError(ModelError):
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
        raise MissingFileError(f"{where}: the repository has no such file, so it is not a ditifeat model") from error
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError) as error:
        raise ModelError(f"{where}: could not be fetched ({error})") from error
