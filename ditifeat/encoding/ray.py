"""Encoding on many machines by Ray: workers write the shards of one Parquet folder; a class for Ray Data's `map_batches`.

The driver lists images and holds no features. A worker decodes and encodes the images of a shard on one core, writes it, and
returns two counts. A worker that dies is replaced, and its shard made again: shards are written atomically.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ditifeat.analysis.shards import SUFFIX, Rows, join_rows, shard_path, write_shard
from ditifeat.data.batches import Listed, batches_with_errors
from ditifeat.data.counting import count_images
from ditifeat.data.preprocessing import Crop
from ditifeat.data.readers import Source
from ditifeat.data.sources import sources
from ditifeat.encoding.device import choose_device
from ditifeat.encoding.encoder import Encoder, load_encoder, make_job
from ditifeat.encoding.network import Codes
from ditifeat.encoding.output import Encoded, Numbered, Output
from ditifeat.encoding.rows import with_bar
from ditifeat.encoding.run import Job, batch_to_rows, check_on_error, decide
from ditifeat.encoding.speed import Way, codes_in
from ditifeat.errors import ImageDecodeError, InputError, require
from ditifeat.files import exclusive

logger = logging.getLogger(__name__)

SHARD = 2048  # images per shard; of 12-megapixel ones a few minutes' work for a core

THREADS = 2  # that decode per worker: while one waits for storage, the other decodes

AHEAD = 2  # shards that are listed per worker: one that it works on, one that waits


def encode_on_ray(
    encoder: Encoder,
    images: Any,
    out: str | Path,
    *,
    address: str | None = None,
    dtype: torch.dtype | str | None = None,
    storage_dtype: Any = "float32",
    overwrite: bool = False,
    **options: Any,
) -> Encoded:
    """Encode images on all cores, or GPUs, of a Ray cluster to a folder of Parquet shards, row by row as `encode` does.

    Images and `out` are on storage that all machines see. A run that was stopped goes on when it is
    started again.

    Args:
        encoder, images, dtype, storage_dtype, overwrite: as `encode` takes them.
        out: `NAME.parquet`.
        address: of the cluster; None for this machine alone. A connection that there is already is used.
        options: the other arguments of `encode`.

    Raises:
        MissingDependencyError: without Ray.
        InputError, ImageDecodeError: as `encode`.
    """
    ray = require("ray", "scale")
    path = Path(out)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: many machines write Parquet alone; give NAME.parquet")
    progress = options.pop("progress", False)
    job = make_job(encoder, path, dtype=dtype, storage_dtype=storage_dtype, **options)
    check_on_error(path, job.on_error)
    output = Output(path, job.header, job.request(images, path))
    if output.resume(overwrite):
        logger.info("%s: is finished already; nothing is encoded again", path)
        return output.result._replace(before=output.done - output.failed)
    with exclusive(path):
        total = count_images(images)
        way = output.way() or decide(job, images, total)
        numbered = output.begin_numbered(way, SHARD)
        _connect(ray, address)
        done = _write_shards(ray, job, way, sources(images), output.folder, numbered)
        before = numbered.start
        for names, new in with_bar(done, total, numbered.start) if progress else done:
            before += 0 if new else len(names)
        output.recount()
        if output.done == output.failed:
            output.remove()
            raise InputError(f"{path}: no image was encoded; {output.failed} could not be decoded")
        output.finish(single=False)
    return output.result._replace(before=before)


def _encoded(job: Job, codes: Codes, images: Any) -> Rows:
    """Decode and encode images; an error stands in the row of one that cannot be decoded."""
    found = batches_with_errors(
        images,
        job.preprocessing,
        job.batch_size,
        job.crop,
        draft=job.draft,
        threads=THREADS,
        align=job.aligner,
    )
    return join_rows([batch_to_rows(batch, codes, job.width) for batch in found], job.storage_dtype)


class ShardWriter:
    """A worker: one core, or one GPU."""

    def __init__(self, job: Job, way: Way):
        self.job = job
        self.codes = codes_in(job.network.to(choose_device()), way, job.flip_average)

    def write(self, path: Path, images: list[Source]) -> int:
        """Decode and encode images and write their shard; return how many they are."""
        job = self.job
        rows = _encoded(job, self.codes, Listed(images))
        wrong = next((error for error in rows.errors if error is not None), None)
        if wrong is not None and job.on_error == "raise":
            raise ImageDecodeError(wrong)
        write_shard(path, rows, job.header)
        return len(images)


def _write_shards(
    ray: Any, job: Job, way: Way, images: Iterator[Source], folder: Path, numbered: Numbered
) -> Iterator[tuple[list[str], bool]]:
    """Have all shards written that are missing; yield the names of each one's images, and whether it is new."""
    count, options = _workers(ray)
    remote = ray.remote(**options, max_restarts=-1, max_task_retries=-1)(ShardWriter)
    shared = ray.put(job)
    workers = [remote.remote(shared, way) for _ in range(count)]
    idle = [worker for _ in range(AHEAD) for worker in workers]
    pending: dict[Any, tuple[Any, list[str]]] = {}

    def collect() -> list[str]:
        (ready,), _ = ray.wait(list(pending), num_returns=1)
        worker, names = pending.pop(ready)
        try:
            ray.get(ready)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        idle.append(worker)
        return names

    images = islice(images, numbered.start, None)
    number = numbered.shard
    try:
        while part := list(islice(images, numbered.rows)):
            path, names = shard_path(folder.absolute(), number), [name for name, _ in part]
            number += 1
            if path.exists():
                yield names, False
                continue
            if not idle:
                yield collect(), True
            worker = idle.pop(0)
            pending[worker.write.remote(path, part)] = (worker, names)
        while pending:
            yield collect(), True
    finally:
        for worker in workers:
            ray.kill(worker)


def _connect(ray: Any, address: str | None) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it when it starts
    if not ray.is_initialized():
        ray.init(address=address or "local", include_dashboard=False if address is None else None, log_to_driver=False)


def _workers(ray: Any) -> tuple[int, dict[str, int]]:
    """How many workers the cluster has room for, one per GPU or else per core, and what each takes."""
    found = ray.cluster_resources()
    cores, gpus = int(found.get("CPU", 1)), int(found.get("GPU", 0))
    if gpus:
        return gpus, {"num_gpus": 1, "num_cpus": max(1, cores // gpus)}
    return max(1, cores), {"num_cpus": 1}


class ImagesToFeatures:
    """A class for Ray Data's `map_batches`: encodes a column of images, and keeps the other columns.

    `dataset.map_batches(ImagesToFeatures, fn_constructor_kwargs={"model": None}, concurrency=4, batch_size=64)`; then
    `write_parquet`. Columns `features`, float32 `(n, d)`, NaN where there is an error, and `error`, "" where there is none, are
    added, and the images left out.

    Args:
        model: as `load_encoder` takes it.
        column: of paths, bytes, or arrays `(H, W, 3)` as `ray.data.read_images` has them.
        crop, flip_average, draft: as `encode` takes them.

    >>> from ditifeat.encoding.ray import ImagesToFeatures
    >>> with open("me.png", "rb") as file:
    ...     batch = {"image": np.array([file.read(), b"no image"], dtype=object), "label": np.array([1, 0])}
    >>> found = ImagesToFeatures()(batch)
    >>> found["features"].shape, found["label"], [bool(error) for error in found["error"]]
    ((2, 512), array([1, 0]), [False, True])
    """

    def __init__(
        self,
        model: str | Path | None = None,
        column: str = "image",
        crop: Crop = "model",
        flip_average: bool = False,
        draft: bool = False,
    ):
        encoder = load_encoder(model)
        self.column = column
        self.job = make_job(encoder, Path("x.parquet"), crop=crop, flip_average=flip_average, draft=draft)
        self.codes = codes_in(encoder.network, Way(encoder.dtype, False), flip_average)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = _encoded(self.job, self.codes, batch[self.column])
        kept = {name: values for name, values in batch.items() if name != self.column}
        return {**kept, "features": rows.features, "error": np.array([error or "" for error in rows.errors])}
