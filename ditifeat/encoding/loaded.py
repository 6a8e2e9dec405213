"""A pretrained encoder's network and the model around it, as they are loaded."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ditifeat.analysis.report import ProbeReport
from ditifeat.encoding.device import choose_device, choose_dtype
from ditifeat.errors import InputError, ModelError
from ditifeat.files import sha256
from ditifeat.model.config import read_config
from ditifeat.model.encoders import read_encoder
from ditifeat.pretrained.hub import HubOptions
from ditifeat.pretrained.models import find_file, load_model, prefetch
from ditifeat.pretrained.names import resolve

if TYPE_CHECKING:
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

ATTRIBUTES, SPARSE_ATTRIBUTES = "attributes.safetensors", "attributes-sparse.safetensors"

WEIGHTS = "model.safetensors"


class LoadedEncoder:
    """What `Encoder` knows and does beside encoding images; its attributes are described there."""

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

    def to(self, device: Any = None, dtype: Any = None) -> Self:
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

    def __repr__(self) -> str:
        p = self.partition
        size = self.config.image.size
        return f"Encoder({self.config.name!r}, {size} px -> {p.d} dimensions in {p.k} subsets, {self.device})"
