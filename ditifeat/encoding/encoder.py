"""The loaded encoder: `load_encoder` and `encode`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, overload

import numpy as np
import torch
from torch import Tensor

from ditifeat.align import Align, model_aligner
from ditifeat.analysis.features import Features
from ditifeat.analysis.shards import SUFFIX
from ditifeat.data.batches import OnError, batches
from ditifeat.data.counting import count_images
from ditifeat.data.preprocessing import Crop
from ditifeat.data.sources import SourceReport, is_single
from ditifeat.encoding.device import choose_device, choose_dtype
from ditifeat.encoding.loaded import LoadedEncoder
from ditifeat.encoding.network import in_threads, pixels_to_codes
from ditifeat.encoding.output import Encoded
from ditifeat.encoding.rows import GrowingRows, with_bar
from ditifeat.encoding.run import Job, OnErrorToDisk, encode_to
from ditifeat.errors import InputError, ModelError
from ditifeat.pretrained.hub import HubOptions
from ditifeat.pretrained.names import BUNDLED
from ditifeat.schema import boolean, integer


def load_encoder(
    name: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    dtype: torch.dtype | str | None = None,
) -> Encoder:
    """Load a pretrained encoder, ready for `encode`, `probe` and `edit`.

    Args:
        name: None for the bundled model; a bundled name; a folder; or `org/name`, `org/name@revision` on the Hub.
        device: a torch device; by default cuda, else mps, else cpu.
        revision: of a Hub repository: a branch, tag or commit.
        token: for the Hub, in place of the one that `hf auth login` stored.
        cache_dir: for the Hub's files, in place of the default folder.
        local_files_only: read the cache alone, without a connection.
        dtype: of the encoder's weights, like `torch.bfloat16`; float32 by default. Codes are float32 always, and so is the
            rest of the model.

    Raises:
        InputError: for a device that is not there, or another argument that does not fit.
        ModelError: for an unknown or ambiguous name, no connection, or files that are missing or do not fit.

    >>> ditifeat.load_encoder(device="cpu")
    Encoder('celeba64-mini', 64 px -> 512 dimensions in 64 subsets, cpu)
    """
    device, dtype = choose_device(device), choose_dtype(dtype)
    return Encoder(name, HubOptions(revision, token, cache_dir, local_files_only), device, dtype)


def stream(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = 64,
    crop: Crop = "model",
    on_error: OnError = "raise",
    flip_average: bool = False,
    draft: bool = False,
    align: Align = False,
    report: SourceReport | None = None,
) -> Iterator[tuple[list[str], Tensor]]:
    """Encode as `encode`, but yield the names and codes `(B, d)`, float32, of each batch, so that memory does not grow.

    `encoder.stream(images)` is the same. A few batches are read and encoded ahead, in threads.

    Args:
        encoder, images, batch_size, crop, on_error, flip_average, draft, align: as `encode` takes them.
        report: collects what is left out.

    Raises:
        ImageDecodeError, InputError: as `encode`.

    >>> [(names, tuple(codes.shape)) for names, codes in encoder.stream(["me.png", "you.png"], batch_size=1)]
    [(['me.png'], (1, 512)), (['you.png'], (1, 512))]
    """
    check_encoder(encoder)
    if crop not in ("model", "center"):
        raise InputError(f"crop = {crop!r} must be model or center")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error = {on_error!r} must be raise or skip")
    batch_size, draft = integer("batch_size", batch_size, 1), boolean("draft", draft)
    codes = pixels_to_codes(encoder.network, encoder.device, encoder.dtype, boolean("flip_average", flip_average))
    aligner = model_aligner(align, encoder.config.image, crop)
    found = batches(images, encoder.config.image, batch_size, crop, on_error, report, draft=draft, align=aligner)
    return in_threads(lambda batch: (batch[0], codes(batch[1])), found, encoder.device)


class EncodeOptions(TypedDict, total=False):
    """The arguments of `encode` that do not change what it returns."""

    batch_size: int
    crop: Crop
    on_error: OnErrorToDisk | None
    flip_average: bool
    draft: bool
    align: Align
    progress: bool


@overload
def encode(
    encoder: Encoder, images: Any, *, output: Literal["numpy"] = ..., **options: Unpack[EncodeOptions]
) -> Features: ...


@overload
def encode(encoder: Encoder, images: Any, *, output: Literal["torch"], **options: Unpack[EncodeOptions]) -> Tensor: ...


@overload
def encode(
    encoder: Encoder,
    images: Any,
    *,
    out: str | Path,
    dtype: torch.dtype | str | None = ...,
    storage_dtype: Literal["float32", "float16"] = ...,
    overwrite: bool = ...,
    **options: Unpack[EncodeOptions],
) -> Encoded: ...


def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = 64,
    crop: Crop = "model",
    on_error: OnErrorToDisk | None = None,
    flip_average: bool = False,
    draft: bool = False,
    align: Align = False,
    output: Literal["numpy", "torch"] = "numpy",
    progress: bool = False,
    out: str | Path | None = None,
    dtype: torch.dtype | str | None = None,
    storage_dtype: Literal["float32", "float16"] = "float32",
    overwrite: bool = False,
) -> Features | Tensor | Encoded:
    """Encode images to features, one row each, in their order; `encoder.encode(images)` is the same.

    Rows do not depend on `batch_size` beyond float32 rounding. Decoding and resizing run in threads beside the network.

    With `out`, features go to disk as they are made, and memory does not grow with the number of images. A run that is
    stopped, or killed, goes on where it was when it is called again; one that is finished is not done again. Long runs
    choose between float32 and bfloat16 by a measurement, once for all of a file.

    Args:
        encoder: from `load_encoder`.
        images: a path of an image, a folder (recursive, sorted) or a tar; a PIL image; an array `(H, W, 3)` or
            `(N, H, W, 3)`, uint8 or float in [0, 1]; a tensor `(3, H, W)` or `(N, 3, H, W)`, uint8 or float in [-1, 1];
            or an iterable of any of these.
        batch_size: images per batch.
        crop: "model" crops as the model's training images were cropped (see `encoder.config.image`); "center" takes the
            largest central square, for images that are cropped already.
        on_error: "raise" stops at an image that cannot be decoded; "skip" leaves its row out, and names it in `skipped`;
            "record", the default for Parquet and for that alone, gives it a row with the error and no features.
        flip_average: a row is the mean over the codes of the image and of its horizontal flip, for twice the cost: better for
            probes and search where left and right do not matter, and of no use to `edit`, which encodes plainly.
        draft: reduce large JPEGs while they are decoded: several times faster, and nearly the same rows.
        align: whether the images are photos, whose faces are to be found and aligned as CelebA's are (`ditifeat.align.Aligner`):
            True for photos of one face each, "largest" for the largest face of each. A photo without a face counts as one
            that cannot be decoded.
        output: "numpy" for `Features`, "torch" for a float32 tensor on the encoder's device.
        progress: show a bar.
        out: a file to write: `.npz`, `.safetensors` or `.npy`; or `NAME.parquet`, a folder of Parquet shards.
        dtype: of the network, with `out`: float32, float16 or bfloat16; the encoder's own where it is not float32, else the
            fastest of float32 and bfloat16 for 2,000 images or more.
        storage_dtype: of the features in `out`.
        overwrite: do not go on with what `out` holds, but begin again.

    Returns:
        `Features` of shape `(n, d)`, `(d,)` for one image, `(0, d)` for none; what was written, `Encoded`, with `out`.

    Raises:
        ImageDecodeError, InputError: for an image or argument that does not fit, with its name, the reason and the fix.
        InputError: if `out` holds features of another model, crop, dtype or source.

    >>> features = ditifeat.encode(encoder, "photos/", crop="center")
    >>> features.shape, features.names[0]
    ((8, 512), '0.png')
    >>> encoder.encode("me.png", crop="center", output="torch").shape
    torch.Size([512])
    >>> encoder.encode("me.png", crop="center", flip_average=True)
    Features((512,), 64 subsets, model 'celeba64-mini', averaged over flips)
    >>> print(encoder.encode("photos/", crop="center", out="faces.npz"))
    faces.npz: 8 images encoded
    >>> encoder.encode("me.png", align=True).preprocessing  # doctest: +ELLIPSIS
    '...+aligned'
    """
    if output not in ("numpy", "torch"):
        raise InputError(f"output = {output!r} is not one of numpy, torch")
    if out is not None:
        job = make_job(
            encoder,
            Path(out),
            batch_size=batch_size,
            crop=crop,
            on_error=on_error,
            flip_average=flip_average,
            draft=draft,
            align=align,
            dtype=dtype,
            storage_dtype=storage_dtype,
        )
        return encode_to(Path(out), images, job, overwrite=boolean("overwrite", overwrite), progress=progress)
    if dtype is not None or storage_dtype != "float32" or overwrite is not False:
        raise InputError("dtype, storage_dtype and overwrite belong to out; load_encoder takes a dtype")
    report = SourceReport()
    found = stream(
        encoder,
        images,
        batch_size=batch_size,
        crop=crop,
        on_error="raise" if on_error is None else on_error,  # type: ignore[arg-type]  # "record" is refused there
        flip_average=flip_average,
        draft=draft,
        align=align,
        report=report,
    )
    names: list[str] = []
    rows = GrowingRows(encoder.partition.d)
    for batch_names, codes in with_bar(found, count_images(images)) if progress else found:
        names += batch_names
        rows.append(codes.cpu().numpy())
    array = rows.finish()
    if is_single(images) and len(array) == 1:
        array = array[0]
    if output == "torch":
        return torch.from_numpy(array).to(encoder.device)
    skipped = tuple(name for name, _ in report.skipped)
    return replace(_no_features(encoder, crop, flip_average, align), array=array, names=tuple(names), skipped=skipped)


def make_job(
    encoder: Encoder,
    out: Path,
    *,
    batch_size: int = 64,
    crop: Crop = "model",
    on_error: OnErrorToDisk | None = None,
    flip_average: bool = False,
    draft: bool = False,
    align: Align = False,
    dtype: torch.dtype | str | None = None,
    storage_dtype: Literal["float32", "float16"] = "float32",
) -> Job:
    """Check the arguments of a run that writes to disk.

    Raises:
        InputError: for one that does not fit.
    """
    check_encoder(encoder)
    if on_error not in (None, "raise", "skip", "record"):
        raise InputError(f"on_error = {on_error!r} must be raise, skip or record")
    if storage_dtype not in ("float32", "float16"):
        raise InputError(f"storage_dtype = {storage_dtype!r} is not one of float32, float16")
    own = None if encoder.dtype == torch.float32 else encoder.dtype
    return Job(
        encoder.network,
        choose_dtype(dtype) or own,
        _no_features(encoder, crop, boolean("flip_average", flip_average), align).header,
        encoder.config.image,
        crop,
        flip_average,
        boolean("draft", draft),
        model_aligner(align, encoder.config.image, crop),
        integer("batch_size", batch_size, 1),
        on_error or ("record" if out.suffix == SUFFIX else "raise"),
        storage_dtype,
    )


def _no_features(encoder: Encoder, crop: Crop, flip_average: bool, align: Align) -> Features:
    """Features of no image, which say what the others' origin is."""
    if crop not in ("model", "center"):
        raise InputError(f"crop = {crop!r} must be model or center")
    nothing = np.empty((0, encoder.partition.d), np.float32)
    preprocessing = encoder.config.image.fingerprint(crop, aligned=align is not False)
    return Features(nothing, (), encoder.partition, encoder.config.name, encoder.weights, preprocessing, flip_average)


class Encoder(LoadedEncoder):
    """A pretrained encoder, as `load_encoder` returns it: image -> code, with all that `encode` and `edit` need.

    It may be shared by threads. A pickle holds the model's name, commit or folder and a hash of its weights, but neither the
    weights nor a token: where it is unpickled the model is loaded, on the device that was asked for, or on the one that is
    there if none was.

    Attributes:
        config: name, preprocessing, partition and where the frozen DM is.
        folder: the model's.
        partition: time-step -> subset -> dimensions.
        weights: sha256 of the file of the encoder's weights, 64 hex digits.
        network: the encoder itself, `(B, 3, S, S)` in [-1, 1] -> `(B, d)`, in eval mode.
        mean, std: of the training images' codes, `(d,)` float32, on the CPU.

    >>> codes = encoder(torch.zeros(2, 3, 64, 64))
    >>> codes.shape, codes.dtype
    (torch.Size([2, 512]), torch.float32)
    >>> encoder.model.encoder is encoder.network
    True
    """

    encode = encode
    stream = stream

    def __reduce__(self) -> tuple[Any, ...]:
        options = replace(self._options, token=None)
        if self._source is not None:
            name: str | None = self._source.repo
            options = replace(options, revision=self._source.commit)
        else:
            bundled = self._name is None or str(self._name) in BUNDLED
            name = None if self._name is None else str(self._name) if bundled else str(self.folder.absolute())
        return _restore, (name, options, self._asked_device, self.dtype, self.weights)


def check_encoder(encoder: Any) -> None:
    """Refuse anything but an encoder.

    Raises:
        InputError: with what to do.
    """
    if not isinstance(encoder, Encoder):
        raise InputError(f"{type(encoder).__name__} is not an encoder; pass what ditifeat.load_encoder returns")


def _restore(
    name: str | None, options: HubOptions, device: torch.device | None, dtype: torch.dtype, weights: str
) -> Encoder:
    """Unpickle an encoder."""
    encoder = Encoder(name, options, None if device is None else choose_device(device), dtype)
    if encoder.weights != weights:
        raise ModelError(
            f"{encoder.folder}: its weights have changed since the encoder was pickled; load it again, pickle it again"
        )
    return encoder
