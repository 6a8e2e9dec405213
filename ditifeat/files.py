"""Files: atomic writes, strict reads, locked folders. A writer killed in the middle leaves the old file or none."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ditifeat.errors import DitifeatError, FolderInUseError, MissingFileError, ModelError, WriteError

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)

_COUNTER = itertools.count()  # next() is atomic: each write of this process has its own number

_RENAMING = Lock()  # a folder's two renamings are one

_WRITING: set[str] = set()  # names of this process's temporary files; others with its number are a dead one's


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a temporary file beside `path`, sync it to disk, and only then give it its name.

    Writers of the same path in other threads and processes do not disturb each other: the last one's file stays.
    Temporary files that dead processes left of the same name are removed.

    Args:
        path: the file; its folder is made if it is missing.
        write: is given the temporary file's path.

    Raises:
        WriteError: if it cannot be written: no space, no permission, a folder of that name.

    Example:
        >>> from pathlib import Path
        >>> from ditifeat.files import atomic_write
        >>> atomic_write(Path("note.txt"), lambda partial: partial.write_text("whole", "utf-8"))
        >>> Path("note.txt").read_text()
        'whole'
    """
    partial = path.with_name(_partial_name(path))
    _WRITING.add(partial.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        partial.touch()
        mode = partial.stat().st_mode  # as the umask has it; safetensors would have its files read by their owner alone
        write(partial)
        partial.chmod(mode)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    except DitifeatError:
        raise
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        _WRITING.discard(partial.name)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Have a new folder filled beside `folder`, and give it that name at the end, in place of what was there.

    If filling fails, the old one stays. A kill in the instant between two renamings leaves the old one as `.NAME.old`.

    Raises:
        WriteError: if it cannot be made or renamed.
    """
    fresh, old = folder.with_name(_partial_name(folder)), folder.with_name(f".{folder.name}.old")
    _WRITING.add(fresh.name)
    try:
        fresh.mkdir(parents=True)
        _remove_leftovers(folder)
        yield fresh
        with _RENAMING:
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                os.replace(folder, old)
            os.replace(fresh, folder)
            shutil.rmtree(old, ignore_errors=True)
        _sync(folder.parent)
    except OSError as error:
        raise error if isinstance(error, DitifeatError) else _write_error(folder, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        _WRITING.discard(fresh.name)


def check_writable(path: Path) -> None:
    """Refuse, before long work, a path that its result could not be written to.

    Raises:
        WriteError: if no file can be made in its folder, or it is a folder itself.
    """
    if path.is_dir():
        raise WriteError(f"{path}: is a folder; give the name of a file")
    probe = path.with_name(_partial_name(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _write_error(path, error) from error


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder for one writer: `with exclusive(folder): ...`. The lock ends with its process, however that ends.

    Its file, `.lock`, stays: removing it would let a third writer in beside one that waits for it.

    Raises:
        FolderInUseError: if another process, or another thread of this one, holds the folder.
        WriteError: if the folder cannot be written to.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        folder.mkdir(parents=True, exist_ok=True)
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise _write_error(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FolderInUseError(
                f"{folder}: process {file.read().strip() or '?'} is writing to it; wait for it, or use another folder"
            ) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s: cannot be locked (%s); do not write to it twice at a time", folder, error.strerror)
        else:
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def _sync(path: Path) -> None:
    """Have the disk hold what was written; a folder's sync makes a renaming last."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)(\.\d+)?\.partial")
    for entry in path.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and entry.name not in _WRITING and not _is_alive(int(match[1])):
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            with suppress(OSError):
                entry.unlink(missing_ok=True)


def _partial_name(path: Path) -> str:
    return f".{path.name}.{os.getpid()}.{next(_COUNTER)}.partial"


def _is_alive(process: int) -> bool:
    """Whether another process of this number runs."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _write_error(path: Path, error: OSError) -> WriteError:
    return WriteError(
        f"{path}: cannot be written ({error.strerror or error}); free space, or choose a folder that you may write to"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as `atomic_write`."""
    atomic_write(path, lambda partial: partial.write_text(text, "utf-8"))


CHECKSUM = "sha256"  # the key of a safetensors file's metadata that holds the hash of all else


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, as `atomic_write`; the same tensors and metadata give the same bytes.

    Its metadata hold a hash of all else, by which `read_tensors` finds damage.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    metadata = metadata or {}
    said = metadata | {CHECKSUM: _checksum(contiguous, metadata)}

    def write(partial: Path) -> None:
        try:
            save_file(contiguous, partial, said)
        except SafetensorError as error:  # its writer's way to say that the disk is full
            raise OSError(str(error)) from error
        _sort_metadata(partial)

    atomic_write(path, write)


def _sort_metadata(path: Path) -> None:
    """Order a safetensors file's metadata, which its writer has in another order each time, by key."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(tensor_label(key, str(tensor.dtype).removeprefix("torch."), tensor.shape))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tensor_label(key: str, dtype: str, shape: Sequence[int]) -> bytes:
    """What a file's checksum says of a tensor before its bytes."""
    return json.dumps([key, dtype, list(shape)]).encode()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a safetensors file's tensors and metadata.

    Raises:
        MissingFileError: if it does not exist.
        ModelError: if it is not a whole safetensors file, or, of those that `write_tensors` wrote, not what was written.
    """
    while True:
        version = _version(path)
        try:
            return _read_tensors(path)
        except ModelError:
            # `safe_open` opens a file by its name twice, and it may have been replaced between; then it is read again.
            if _version(path) == version:
                raise


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    _check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, ValueError, RuntimeError, AttributeError) as error:  # the latter of types that torch lacks
        raise ModelError(f"{path}: is not a whole safetensors file ({error}); fetch or make it again") from error
    checksum = metadata.pop(CHECKSUM, None)
    if checksum is not None and checksum != _checksum(tensors, metadata):
        raise ModelError(f"{path}: is damaged, as its {CHECKSUM} is another; fetch or make it again")
    return tensors, metadata


DTYPES = ("torch.float32", "torch.float16", "torch.bfloat16")


def sha256(path: Path) -> str:
    """Return the sha256 of a file, 64 hex digits.

    Raises:
        MissingFileError: if it does not exist.
        ModelError: if it cannot be read.

    Example:
        >>> from ditifeat.files import sha256
        >>> sha256(encoder.folder / "model.safetensors") == encoder.weights
        True
    """
    _check_regular(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error})") from error


def read_json(path: Path) -> Any:
    """Return a JSON file in UTF-8.

    Raises:
        MissingFileError: if it does not exist.
        ModelError: if it is not JSON, or says a key twice.
    """
    _check_regular(path)
    try:
        return json.loads(path.read_text("utf-8"), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error


def _check_regular(path: Path) -> None:
    """Refuse what a link in a stranger's folder may lead to: a pipe or device, which has no end."""
    if path.exists() and not path.is_file():
        raise ModelError(f"{path}: is no regular file")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"a key is said twice among {', '.join(key for key, _ in pairs)}")
    return made


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give `module`, built on the meta device, its float32 weights: every key, shape and type checked first.

    Raises:
        ModelError: for a missing, extra or misshapen tensor, another type than a float, or values that are not finite.
    """
    expected = module.state_dict()
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        raise ModelError(f"{where}: does not fit its configuration; missing: {_some(missing)}; unknown: {_some(extra)}")
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            raise ModelError(f"{where}: {key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}")
        if str(tensor.dtype) not in DTYPES:
            raise ModelError(f"{where}: {key} is of type {tensor.dtype}, expected one of {', '.join(DTYPES)}")
        if not tensor.isfinite().all():
            raise ModelError(f"{where}: {key} holds NaN or infinite values")
    module.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, assign=True)


def _some(keys: list[str]) -> str:
    return (", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")) or "none"


def select_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose key begins with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
