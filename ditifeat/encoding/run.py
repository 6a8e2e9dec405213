"""One run of encoding to a path: decided at its start, or as the run before it decided; stopped and gone on with at will."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ditifeat.align import Aligner
from ditifeat.analysis.shards import SUFFIX, Rows
from ditifeat.analysis.storage import about_path
from ditifeat.data.batches import Batch, batches_with_errors
from ditifeat.data.counting import count_images
from ditifeat.data.preprocessing import Crop, Preprocessing
from ditifeat.data.sources import is_single
from ditifeat.encoding.network import Codes, in_threads
from ditifeat.encoding.output import Encoded, Output, check_output, partial_folder
from ditifeat.encoding.request import fingerprint
from ditifeat.encoding.rows import with_bar
from ditifeat.encoding.speed import LONG_RUN, Way, codes_in, fastest_way
from ditifeat.errors import ImageDecodeError, InputError
from ditifeat.files import exclusive
from ditifeat.model.encoders import EncoderNetwork

logger = logging.getLogger(__name__)

SMALL_IMAGE = 4096  # bytes

OnErrorToDisk = Literal["raise", "skip", "record"]


@dataclass(frozen=True)
class Job:
    """What is encoded, by what, and how.

    Attributes:
        network: of the encoder, whose `dtype` is asked for, or None for the fastest.
        header: of the features.
        preprocessing, crop, flip_average, draft, batch_size: as `encode` takes them.
        aligner: of photos, or None.
        on_error: "raise", "skip" for single files, "record" for Parquet.
        storage_dtype: of the features on disk.
    """

    network: EncoderNetwork
    dtype: torch.dtype | None
    header: dict[str, Any]
    preprocessing: Preprocessing
    crop: Crop
    flip_average: bool
    draft: bool
    aligner: Aligner | None
    batch_size: int
    on_error: OnErrorToDisk
    storage_dtype: str

    @property
    def width(self) -> int:
        """Dimensions of a row."""
        return int(self.header["partition"]["d"])

    def request(self, images: Any, path: Path) -> dict[str, Any]:
        """What a run that goes on must have been asked for too."""
        own = (path, partial_folder(path), about_path(path))
        return {
            **self.header,
            "images": fingerprint(images, own),
            "draft": self.draft,
            "align": self.aligner.faces if self.aligner else "",
            "asked_dtype": str(self.dtype or "fastest"),
            "storage_dtype": self.storage_dtype,
        }


def encode_to(path: Path, images: Any, job: Job, *, overwrite: bool, progress: bool) -> Encoded:
    """Encode images to a path, or what is left to encode of them.

    Raises:
        InputError: if the path holds features that were asked for in another way.
        ImageDecodeError: for a damaged image under "raise"; what came before it is kept.
        WriteError, FolderInUseError: if the path cannot be written to, or another process does.
    """
    check_output(path)
    check_on_error(path, job.on_error)
    output = Output(path, job.header, job.request(images, path))
    if output.resume(overwrite):
        logger.info("%s: is finished already; nothing is encoded again", path)
        return output.result._replace(before=output.done - output.failed)
    before = output.done - output.failed
    with exclusive(output.folder):
        try:
            _fill(output, images, job, progress)
        except BaseException:
            if output.done == output.failed:  # nothing that is worth going on with
                output.remove()
            raise
        output.finish(is_single(images))
    return output.result._replace(before=before)


def _fill(output: Output, images: Any, job: Job, progress: bool) -> None:
    total = count_images(images)
    if output.done:
        logger.info("%s: goes on after %d images", output.path, output.done)
    way = output.way() or decide(job, images, total)
    output.begin(way)
    codes = codes_in(job.network, way, job.flip_average)
    rows = _rows(images, job, codes, output.done)
    output.write(with_bar(rows, total, output.done) if progress else rows)
    if output.done == output.failed:
        failed = f"; {output.failed} could not be decoded" if output.failed else ""
        raise InputError(f"{output.path}: no image was encoded{failed}")


def check_on_error(path: Path, on_error: OnErrorToDisk) -> None:
    """Refuse what a format cannot hold.

    Raises:
        InputError: for "skip" with Parquet, where each image has a row; for "record" without.
    """
    if path.suffix == SUFFIX and on_error == "skip":
        raise InputError(f"{path}: every image has a row in Parquet; use on_error = record, the default there")
    if path.suffix != SUFFIX and on_error == "record":
        raise InputError(f"{path}: errors are recorded in Parquet alone; use on_error = skip, or a .parquet")


def decide(job: Job, images: Any, total: int | None) -> Way:
    """Decide how the network runs: as asked, or, if the run is long, as it is fastest here."""
    asked = job.dtype or torch.float32
    if not _is_long(images, total):
        return Way(asked, channels_last=False)
    way = fastest_way(job.network, [asked] if job.dtype else [torch.float32, torch.bfloat16])
    logger.info("the network runs in %s", way)
    return way


def _is_long(images: Any, total: int | None) -> bool:
    """Whether there are many images; in archives, whose images nobody has counted, by their size."""
    if total is not None:
        return total >= LONG_RUN
    paths = images if isinstance(images, list | tuple) else [images]
    files = [path for path in paths if isinstance(path, str | os.PathLike) and os.path.isfile(path)]
    return sum(map(os.path.getsize, files)) >= LONG_RUN * SMALL_IMAGE


def _rows(images: Any, job: Job, codes: Codes, start: int) -> Iterator[Rows]:
    device = next(job.network.parameters()).device
    found = batches_with_errors(
        images, job.preprocessing, job.batch_size, job.crop, start, job.draft, align=job.aligner
    )
    for rows in in_threads(lambda batch: batch_to_rows(batch, codes, job.width), found, device):
        for i, error in enumerate(rows.errors):
            if error is not None and job.on_error == "raise":
                if i:
                    yield Rows(rows.names[:i], rows.features[:i], rows.errors[:i])
                raise ImageDecodeError(error)
            if error is not None:
                logger.warning("no features: %s", error)
        yield rows


def batch_to_rows(batch: Batch, codes: Codes, width: int) -> Rows:
    """Encode a batch: features `(B, width)`, NaN where there is an error.

    >>> from ditifeat.data.batches import Batch
    >>> from ditifeat.encoding.run import batch_to_rows
    >>> batch = Batch(["x.png"], np.empty((0, 64, 64, 3), np.uint8), ["x.png: is damaged"])
    >>> batch_to_rows(batch, encoder, 2).features
    array([[nan, nan]], dtype=float32)
    """
    features = np.full((len(batch.names), width), np.nan, np.float32)
    if len(batch.pixels):
        features[[error is None for error in batch.errors]] = codes(batch.pixels).cpu().numpy()
    return Rows(batch.names, features, batch.errors)
