"""The loaded encoder: `load_encoder` and `encode`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from ditifeat.analysis.features import Features
from ditifeat.analysis.report import ProbeReport
from ditifeat.data.batches import OnError, batches, load_images
from ditifeat.data.preprocessing import Crop
from ditifeat.data.sources import SourceReport, is_single
from ditifeat.encoding.device import choose_device, choose_dtype
from ditifeat.encoding.rows import GrowingRows, count_images, with_bar
from ditifeat.errors import InputError, ModelError
from ditifeat.files import sha256
from ditifeat.model.config import read_config
from ditifeat.model.encoders import flip_averaged, read_encoder
from ditifeat.pretrained.hub import HubOptions
from ditifeat.pretrained.models import find_file, load_model, prefetch
from ditifeat.pretrained.names import BUNDLED, resolve
from ditifeat.schema import boolean, integer

if TYPE_CHECKING:
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

ATTRIBUTES, SPARSE_ATTRIBUTES = "attributes.safetensors", "attributes-sparse.safetensors"

WEIGHTS = "model.safetensors"


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
    report: SourceReport | None = None,
) -> Iterator[tuple[list[str], Tensor]]:
    """Encode as `encode`, but yield the names and codes `(B, d)`, float32, of each batch, so that memory does not grow.

    Args:
        encoder, images, batch_size, crop, on_error, flip_average: as `encode` takes them.
        report: collects what is left out.

    Raises:
        ImageDecodeError, InputError: as `encode`.

    >>> from ditifeat.encoding.encoder import stream
    >>> [(names, tuple(codes.shape)) for names, codes in stream(encoder, ["me.png", "you.png"], batch_size=1)]
    [(['me.png'], (1, 512)), (['you.png'], (1, 512))]
    """
    check_encoder(encoder)
    batch_size = integer("batch_size", batch_size, 1)
    if crop not in ("model", "center"):
        raise InputError(f"crop = {crop!r} must be model or center")
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error = {on_error!r} must be raise or skip")
    codes = flip_averaged(encoder) if boolean("flip_average", flip_average) else encoder
    return (
        (names, codes(load_images(rows, encoder.device)))
        for names, rows in batches(images, encoder.config.image, batch_size, crop, on_error, report)
    )


@overload
def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = ...,
    crop: Crop = ...,
    on_error: OnError = ...,
    flip_average: bool = ...,
    output: Literal["numpy"] = ...,
    progress: bool = ...,
) -> Features: ...


@overload
def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = ...,
    crop: Crop = ...,
    on_error: OnError = ...,
    flip_average: bool = ...,
    output: Literal["torch"],
    progress: bool = ...,
) -> Tensor: ...


def encode(
    encoder: Encoder,
    images: Any,
    *,
    batch_size: int = 64,
    crop: Crop = "model",
    on_error: OnError = "raise",
    flip_average: bool = False,
    output: Literal["numpy", "torch"] = "numpy",
    progress: bool = False,
) -> Features | Tensor:
    """Encode images to features, one row each, in their order; `encoder.encode(images)` is the same.

    Rows do not depend on `batch_size` beyond float32 rounding. Decoding and resizing run in threads beside the network.

    Args:
        encoder: from `load_encoder`.
        images: a path of an image, a folder (recursive, sorted) or a tar; a PIL image; an array `(H, W, 3)` or
            `(N, H, W, 3)`, uint8 or float in [0, 1]; a tensor `(3, H, W)` or `(N, 3, H, W)`, uint8 or float in [-1, 1];
            or an iterable of any of these.
        batch_size: images per batch.
        crop: "model" crops as the model's training images were cropped (see `encoder.config.image`); "center" takes the
            largest central square, for images that are cropped already.
        on_error: "raise" stops at an image that cannot be decoded; "skip" leaves its row out, and names it in `skipped`.
        flip_average: a row is the mean over the codes of the image and of its horizontal flip, for twice the cost: better for
            probes and search where left and right do not matter, and of no use to `edit`, which encodes plainly.
        output: "numpy" for `Features`, "torch" for a float32 tensor on the encoder's device.
        progress: show a bar.

    Returns:
        `Features` of shape `(n, d)`, `(d,)` for one image, `(0, d)` for none.

    Raises:
        ImageDecodeError, InputError: for an image or argument that does not fit, with its name, the reason and the fix.

    >>> features = ditifeat.encode(encoder, "photos/", crop="center")
    >>> features.shape, features.names[0]
    ((8, 512), '0.png')
    >>> encoder.encode("me.png", crop="center", output="torch").shape
    torch.Size([512])
    >>> encoder.encode("me.png", crop="center", flip_average=True)
    Features((512,), 64 subsets, model 'celeba64-mini', averaged over flips)
    """
    if output not in ("numpy", "torch"):
        raise InputError(f"output = {output!r} is not one of numpy, torch")
    report = SourceReport()
    found = stream(
        encoder,
        images,
        batch_size=batch_size,
        crop=crop,
        on_error=on_error,
        flip_average=flip_average,
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
    return Features(
        array,
        tuple(names),
        encoder.partition,
        encoder.config.name,
        encoder.weights,
        encoder.config.image.fingerprint(crop),
        bool(flip_average),
        tuple(name for name, _ in report.skipped),
    )


class Encoder:
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

    def __init__(
        self,
        name: str | Path | None,
        options: HubOptions,
        device: torch.device | None,
        dtype: torch.dtype | None,
    ):
        folder, source = resolve(name, options)
        self.config = read_config(folder)
        self.folder = folder
        self.partition = self.config.partition
        self.weights = sha256(folder / WEIGHTS)
        self._name, self._source, self._options, self._asked_device = name, source, options, device
        self._lock = Lock()
        self._model: DiTi | DiffAE | None = None
        config = self.config
        self.network, self.mean, self.std = read_encoder(folder, config.encoder, config.image.size, config.latent_dim)
        self.to(device or choose_device(), dtype)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights; codes are float32 always."""
        return next(self.network.parameters()).dtype

    def to(self, device: Any = None, dtype: Any = None) -> Encoder:
        """Move the encoder, and the rest of the model if it is loaded, to a device; cast the encoder's weights to a dtype.

        Args:
            device: a torch device; a dtype alone is understood too.
            dtype: float32, float16 or bfloat16.

        Returns:
            The encoder itself.

        Raises:
            InputError: for a device that is not there, or another dtype.

        >>> encoder.to("cpu").to(torch.float32).dtype
        torch.float32
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        chosen = self.device if device is None else choose_device(device)
        with self._lock:
            self.network.to(device=chosen, dtype=choose_dtype(dtype))
            if self._model is not None:
                self._model.to(chosen)
        if device is not None:
            self._asked_device = chosen
        return self

    @property
    def model(self) -> DiTi | DiffAE:
        """The whole model; the estimator and the frozen DM are read, or downloaded, at the first use.

        Raises:
            ModelError: for a contrastive model, which is an encoder alone; for files that are missing, do not fit, or belong to
                other weights than the encoder's.
        """
        with self._lock:
            if self._model is None:
                model = load_model(self.config, self.folder, self._source, self._options)
                if sha256(self.folder / WEIGHTS) != self.weights:
                    raise ModelError(f"{self.folder}: its weights have changed since; load the encoder again")
                model.encoder = self.network  # one network, not two
                self._model = model.to(self.device)
            return self._model

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Codes `(B, d)`, float32, of images `(B, 3, S, S)` in [-1, 1] that are preprocessed already.

        Raises:
            InputError: for another shape.
        """
        size = self.config.image.size
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1:] != (3, size, size):
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise InputError(f"the encoder takes a tensor (B, 3, {size}, {size}), not {shape}; encode() preprocesses")
        codes: Tensor = self.network(images.to(self.device, self.dtype))
        return codes.float()

    def prefetch(self) -> None:
        """Download all that `edit`, `lost` and `attributes` need, so that they work offline later.

        Raises:
            ModelError: if a file cannot be had.

        >>> encoder.prefetch()  # a bundled model has all its files
        """
        prefetch(self.config, self.folder, self._source, self._options)
        for file in (ATTRIBUTES, SPARSE_ATTRIBUTES):
            find_file(self.folder, self._source, file)

    def attributes(self, *, sparse: bool = False) -> ProbeReport | None:
        """Return the probe of its training's attributes that came with the model, or None.

        Args:
            sparse: the one that may use few dimensions per attribute.

        >>> "Smiling" in encoder.attributes()
        True
        """
        path = find_file(self.folder, self._source, SPARSE_ATTRIBUTES if sparse else ATTRIBUTES)
        return ProbeReport.load(path) if path is not None else None

    def __reduce__(self) -> tuple[Any, ...]:
        options = replace(self._options, token=None)
        if self._source is not None:
            name: str | None = self._source.repo
            options = replace(options, revision=self._source.commit)
        else:
            bundled = self._name is None or str(self._name) in BUNDLED
            name = None if self._name is None else str(self._name) if bundled else str(self.folder.absolute())
        return _restore, (name, options, self._asked_device, self.dtype, self.weights)

    def __repr__(self) -> str:
        p = self.partition
        size = self.config.image.size
        return f"Encoder({self.config.name!r}, {size} px -> {p.d} dimensions in {p.k} subsets, {self.device})"


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
