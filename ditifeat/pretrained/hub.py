"""Files of a Hub repository, with errors that say the fix."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ditifeat.errors import InputError, MissingFileError, ModelError
from ditifeat.files import sha256

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

logger = logging.getLogger(__name__)


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

    @property
    def cache(self) -> Path | None:
        """The cache folder, if it is not the default; `~` is the home folder."""
        return None if self.cache_dir is None else Path(self.cache_dir).expanduser()


DEFAULT_OPTIONS = HubOptions()


@dataclass(frozen=True)
class HubSource:
    """A model on the Hub at a commit: where the files that were not fetched yet come from."""

    repo: str
    commit: str
    options: HubOptions = DEFAULT_OPTIONS


HUB_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>[\w./-]+))?")


def local_folder(name: str | Path) -> Path | None:
    """Return the folder of that name, if there is one; an empty name is none.

    Raises:
        ModelError: for a file, which could be taken for a name on the Hub.
    """
    folder = Path(name).expanduser()
    if folder.is_file():
        raise ModelError(f"{name}: is a file; give the folder that holds it")
    return folder if str(name) and folder.is_dir() else None


def parse_hub_name(name: str | Path, kinds: str, options: HubOptions) -> tuple[str, str | None]:
    """Return the repository and the revision that `org/name`, `org/name@revision` and the options ask for.

    Args:
        name: the name; a `Path` is none.
        kinds: what else it could have been, for the message.
        options: whose revision may stand in place of the name's.

    Raises:
        MissingFileError: if it is no such name.
        InputError: if both say a revision.
    """
    match = HUB_NAME.fullmatch(str(name))
    if match is None or isinstance(name, Path):
        raise MissingFileError(f"{name}: is neither {kinds} nor org/name on the Hub")
    if match["revision"] is not None and options.revision is not None:
        raise InputError(f"{name}: says a revision, and revision = {options.revision!r} another; give one of them")
    revision = match["revision"] or options.revision
    if revision is not None and (revision.startswith("/") or ".." in revision):  # the cache keeps a file of its name
        raise InputError(f"{name}: revision = {revision!r} is no branch, tag or commit")
    return match["repo"], revision


class NoSuchEntryError(MissingFileError):
    """The repository exists; the file does not."""


class NotCachedError(MissingFileError):
    """The file is not in the cache, and the Hub was not asked or did not answer."""


# One file at a time: `snapshot_download` asks for the repository's listing first, and says nothing of a missing file.
def download(repo: str, revision: str | None, file: str, options: HubOptions = DEFAULT_OPTIONS) -> Path:
    """Return one file of a Hub repository, from the cache if it is there; large files' sha256 is checked each time.

    A cache that cannot be written to gives what it holds of the revision, with a warning in the log where the Hub has a
    newer commit.

    Raises:
        NoSuchEntryError: if the repository has no such file.
        NotCachedError: if it is not in the cache, and there is no connection.
        ModelError: if it cannot be fetched, with the reason and the fix, or is not what the Hub has.
    """
    try:
        path = _download(repo, revision, file, options)
    except CacheWriteError as error:
        try:
            path = _download(repo, revision, file, replace(options, local_files_only=True))
        except ModelError:
            raise error from None
        logger.warning("%s; the commit in the cache is taken, %s", error, path.parts[-1 - len(Path(file).parts)])
    _verify(path, f"{repo}@{revision or 'main'}/{file}")
    return path


SHA256 = re.compile("[0-9a-f]{64}")


# The client checks sizes alone. Its cache names the content of a large file by the sha256 that the Hub states, of a small one by
# git's hash; where a file system has no links, or files are small, there is nothing to compare with.
def _verify(path: Path, where: str) -> None:
    if not path.is_symlink():
        return
    content = path.parent / os.readlink(path)  # one step: a cache shared by Xet has links to links
    if not SHA256.fullmatch(content.name) or sha256(content) == content.name:
        return
    try:
        content.unlink()
        fix = "it was removed from the cache; try again"
    except OSError:
        fix = f"remove {content}, and try again"
    raise ModelError(f"{where}: its sha256 is not {content.name}, which the Hub states; {fix}")


def download_optional(repo: str, commit: str, file: str, options: HubOptions = DEFAULT_OPTIONS) -> Path | None:
    """Return a file that a repository may have or not, or None; the cache knows, once it was asked for.

    Without a connection, a file that was never asked for counts as absent, with a warning in the log.
    """
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repo, file, cache_dir=options.cache, revision=commit)
    if isinstance(known, str):
        _verify(Path(known), f"{repo}@{commit}/{file}")
        return Path(known)
    if known is not None:  # it was asked for, and is not there
        return None
    try:
        return download(repo, commit, file, options)
    except NoSuchEntryError:
        return None
    except NotCachedError as error:
        logger.warning("%s; the model is taken to have none", error)
        return None


class CacheWriteError(ModelError):
    """The cache cannot be written to."""


def _download(repo: str, revision: str | None, file: str, options: HubOptions) -> Path:
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
                cache_dir=options.cache,
                local_files_only=options.local_files_only,
            )
        )
    except hub_errors.LocalEntryNotFoundError as error:
        raise _not_cached(where, error, options) from error
    except hub_errors.GatedRepoError as error:
        raise ModelError(f"{where}: access must be asked for on the Hub first; then log in (hf auth login)") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise MissingFileError(
            f"{where}: there is no such repository (nor a folder of that name here), or it is private; "
            "log in (hf auth login) or pass token if it is yours"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise MissingFileError(f"{where}: the repository has no such revision") from error
    except hub_errors.EntryNotFoundError as error:
        raise NoSuchEntryError(f"{where}: the repository has no such file") from error
    except hub_errors.HFValidationError as error:
        raise InputError(f"{where}: is no name that the Hub can have ({one_line(error)})") from error
    except hub_errors.LocalTokenNotFoundError as error:
        raise ModelError(f"{where}: token = True needs one that is stored; log in (hf auth login)") from error
    except hub_errors.HfHubHTTPError as error:
        raise _refusal(where, error) from error
    except OSError as error:
        if error.errno is None:  # the client's own, where the size is not what the Hub states
            raise ModelError(
                f"{where}: what arrived is not what the Hub states ({one_line(error)}); try again"
            ) from error
        raise CacheWriteError(
            f"{where}: cannot be written to the cache ({one_line(error)}); free space, or pass cache_dir (or set HF_HOME)"
        ) from error
    except Exception as error:  # a connection that breaks raises whatever the client's transport has
        raise ModelError(f"{where}: could not be fetched ({one_line(error)}); try again") from error


def one_line(error: Exception) -> str:
    """Return an error's message without its line breaks; the client's have several, and links."""
    return " ".join(str(error).split())


def _not_cached(where: str, error: Exception, options: HubOptions) -> ModelError:
    """What the client calls a missing cache entry: no connection, or an answer that was none."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub_errors

    if isinstance(error.__cause__, hub_errors.HfHubHTTPError):
        return _refusal(where, error.__cause__)
    if options.local_files_only:
        reason = "local_files_only forbids to ask the Hub"
    elif constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE forbids to ask the Hub"
    elif isinstance(error.__cause__, hub_errors.FileMetadataError):
        reason = f"what answers at {constants.ENDPOINT} is no Hub: look at HF_ENDPOINT, and at proxies"
    else:
        reason = "the Hub cannot be reached"
    return NotCachedError(f"{where}: is not in the cache, and {reason}; connect once, or pass a folder")


def _refusal(where: str, error: HfHubHTTPError) -> ModelError:
    """An HTTP status of the Hub, as a reason and a fix."""
    status = error.response.status_code
    if status == 401:
        return ModelError(f"{where}: the Hub does not know the token; log in again (hf auth login), or pass token")
    if status == 403:
        return ModelError(f"{where}: the token may not read it; give it that right on the Hub, or pass another token")
    if status == 429:
        return ModelError(f"{where}: the Hub was asked too often; wait, or log in (hf auth login), which allows more")
    if status >= 500:
        return NotCachedError(f"{where}: is not in the cache, and the Hub is out of order ({status}); try again later")
    return ModelError(f"{where}: the Hub refuses it ({one_line(error)})")
