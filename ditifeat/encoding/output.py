"""Features on disk while they are made: shards, from which a run that was killed goes on; then one file of them, if asked."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ditifeat.analysis.shards import (
    SHARD_ROWS,
    STATE,
    SUFFIX,
    Rows,
    iterate_shard,
    join_rows,
    shard_path,
    write_shard,
)
from ditifeat.analysis.storage import WRITERS, Content, read_about, read_file, write_file
from ditifeat.encoding.request import check_same_request
from ditifeat.encoding.speed import Way
from ditifeat.errors import InputError, require
from ditifeat.files import read_json, write_text

logger = logging.getLogger(__name__)

SHARD_SECONDS = 60.0  # work that a kill may cost, at most


class Encoded(NamedTuple):
    """What `encode(..., out=path)` made.

    Attributes:
        path: of the features.
        rows: images that it holds.
        failed: images that could not be decoded, beside them.
        before: images that were there already, from a run before.

    >>> print(ditifeat.encode(encoder, "photos/", out="photos.npz", crop="center"))
    photos.npz: 8 images encoded
    """

    path: Path
    rows: int
    failed: int
    before: int

    def __str__(self) -> str:
        before = f", {self.before} of them before" if self.before else ""
        failed = f"; {self.failed} could not be decoded" if self.failed else ""
        return f"{self.path}: {self.rows} images encoded{before}{failed}"


class Numbered(NamedTuple):
    """Shards that are written in any order: number `shard + i` begins at image `start + i * rows`."""

    shard: int
    start: int
    rows: int


class Output:
    """A path of features that a run fills, from where an earlier one stopped.

    Shards of a Parquet folder are in the folder itself; those of the single files are in a folder `NAME.partial` beside it.

    Attributes:
        request: what is asked for, plain JSON; shards and file carry it.
        state: of the run: the request, whether it is finished, and what it decided at its start.
        done: images that have a row or an error in finished shards.
    """

    def __init__(self, path: Path, header: dict[str, Any], request: dict[str, Any]):
        self.path, self.header, self.request = path, header, request
        self.parquet = path.suffix == SUFFIX
        self.folder = path if self.parquet else partial_folder(path)
        self.state: dict[str, Any] = {}
        self.shards = 0
        self.done = 0
        self.failed = 0

    def resume(self, overwrite: bool) -> bool:
        """Take what an earlier run left. Return whether nothing is left to do.

        Raises:
            InputError: if it was asked for something else.
        """
        if overwrite:
            self.remove()
        if not self.parquet and self.path.exists():
            about = read_about(self.path)
            if "request" not in about:
                raise InputError(
                    f"{self.path}: is there already, and not made by encode; give another path, or overwrite"
                )
            check_same_request(self.request, about["request"], self.path)
            self.done, self.failed = len(about["names"]) + len(about["skipped"]), len(about["skipped"])
            shutil.rmtree(self.folder, ignore_errors=True)
            return True
        if (self.folder / STATE).exists():
            self.state = read_json(self.folder / STATE)
            check_same_request(self.request, self.state["request"], self.path)
        elif self.folder.is_dir() and any(self.folder.glob("part-*")):
            raise InputError(f"{self.path}: holds shards that no run of encode left; give another path, or overwrite")
        self._count_shards()
        return bool(self.state.get("finished"))

    def way(self) -> Way | None:
        """How the run before ran its network, which all of a file's features come from."""
        if not self.state:
            return None
        return Way(getattr(torch, self.state["dtype"]), self.state["channels_last"])

    def begin(self, way: Way) -> None:
        """Say that a run is under way; shards after a gap, which many writers left, are made anew."""
        for path in self.folder.glob("part-*"):
            if int(path.stem.partition("-")[2]) >= self.shards:
                path.unlink()
        self._begin(way, {})

    def begin_numbered(self, way: Way, rows: int) -> Numbered:
        """Say that a run is under way which writes shards of so many rows in any order."""
        numbered = self.state.get("numbered") or {"shard": self.shards, "start": self.done, "rows": rows}
        self._begin(way, {"numbered": numbered})
        return Numbered(**numbered)

    def _begin(self, way: Way, more: dict[str, Any]) -> None:
        decided = {"dtype": str(way.dtype).removeprefix("torch."), "channels_last": way.channels_last}
        self.state = {"finished": False, "request": self.request, **decided, **more}
        self._write_state()

    def recount(self) -> None:
        """Count the shards again, after others wrote them."""
        self.shards = self.done = self.failed = 0
        self._count_shards()

    def _count_shards(self) -> None:
        while self._shard(self.shards).exists():
            self._count(self._shard(self.shards))
            self.shards += 1

    def write(self, parts: Iterator[Rows]) -> None:
        """Write shards of all parts; what there is when a part fails, or the run is interrupted, is written too."""
        pending: list[Rows] = []
        count, since = 0, time.monotonic()
        try:
            for part in parts:
                pending.append(part)
                count += len(part.names)
                if count >= SHARD_ROWS or time.monotonic() - since > SHARD_SECONDS:
                    self._write(pending)
                    pending, count, since = [], 0, time.monotonic()
        finally:
            if pending:
                self._write(pending)

    def finish(self, single: bool) -> None:
        """Mark the folder as finished, or make one file of it.

        Args:
            single: whether one image was given, whose features are one row `(d,)`.
        """
        if self.parquet:
            if not self.shards:
                self._write([Rows([], np.empty((0, self.header["partition"]["d"]), np.float32), [])])
            self.state |= {"finished": True, "rows": self.done, "failed": self.failed}
            self._write_state()
            return
        rows = self.done - self.failed
        width = self.header["partition"]["d"]
        shape = (width,) if single and rows == 1 else (rows, width)
        names: list[str] = []
        skipped: list[str] = []
        for number in range(self.shards):
            for part in self._read(self._shard(number)):
                for name, error in zip(part.names, part.errors, strict=True):
                    (names if error is None else skipped).append(name)
        blocks = (part.fine()[1] for number in range(self.shards) for part in self._read(self._shard(number)))
        about = {**self.header, "names": names, "skipped": skipped, "request": self.request}
        write_file(self.path, Content(shape, np.dtype(self.request["storage_dtype"]), blocks, about))
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove what there is of it."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def result(self) -> Encoded:
        return Encoded(self.path, self.done - self.failed, self.failed, 0)

    def _write(self, parts: list[Rows]) -> None:
        rows = join_rows(parts, self.request["storage_dtype"])
        path = self._shard(self.shards)
        if self.parquet:
            write_shard(path, rows, self.header)
        else:
            about = {"names": rows.names, "errors": rows.errors, "skipped": []}
            write_file(path, Content(rows.features.shape, rows.features.dtype, [rows.features], about))
        self.shards += 1
        self.done += len(rows.errors)
        self.failed += sum(error is not None for error in rows.errors)

    def _shard(self, number: int) -> Path:
        path = shard_path(self.folder, number)
        return path if self.parquet else path.with_suffix(".npz")

    def _read(self, shard: Path) -> Iterator[Rows]:
        if self.parquet:
            yield from iterate_shard(shard)
        else:
            features, about = read_file(shard)
            yield Rows(about["names"], features, about["errors"])

    def _count(self, shard: Path) -> None:
        for rows in self._read(shard):
            self.done += len(rows.names)
            self.failed += sum(error is not None for error in rows.errors)

    def _write_state(self) -> None:
        write_text(self.folder / STATE, json.dumps(self.state))


def partial_folder(path: Path) -> Path:
    """Where the shards of a single file are while it is made.

    >>> from ditifeat.encoding.output import partial_folder
    >>> partial_folder(Path("x.npz")).name
    'x.npz.partial'
    """
    return path.with_name(path.name + ".partial")


def check_output(path: Path) -> None:
    """Refuse a path that features cannot be written to, before long work.

    Raises:
        InputError: for another suffix.
        MissingDependencyError: for Parquet without pyarrow.
    """
    if path.suffix == SUFFIX:
        require("pyarrow.parquet", "parquet")
    elif path.suffix not in WRITERS:
        raise InputError(f"{path}: features are saved as .npz, .safetensors, .npy or .parquet")
