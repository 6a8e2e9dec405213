"""The loaded encoder, and `load_encoder`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ditifeat.errors import InputError
from ditifeat.model.config import read_config
from ditifeat.model.encoders import read_encoder
from ditifeat.pretrained.models import find_file, load_model
from ditifeat.pretrained.names import resolve

if TYPE_CHECKING:
    from ditifeat.analysis.report import ProbeReport
    from ditifeat.model.config import ModelConfig
    from ditifeat.model.diffae import DiffAE
    from ditifeat.model.diti import DiTi

ATTRIBUTES, SPARSE_ATTRIBUTES = "attributes.safetensors", "attributes-sparse.safetensors"


def load_encoder(name: str | Path | None = None, *, device: str = "cpu") -> Encoder:
    """A pretrained encoder, ready for `encode`, `probe` and `edit`.

    Args:
        name: None for the bundled model; a bundled name; a folder; or `org/name`, `org/name@revision` on the Hub.
        device: a torch device.

    Raises:
        ModelError: unknown or ambiguous name, no connection, or files that are missing or do not fit; with the way out.
    """
    folder, revision = resolve(name)
    config = read_config(folder)
    return Encoder(
        config,
        folder,
        device,
        lambda: load_model(config, folder, revision),
        lambda file: find_file(folder, revision, file),
    )


class Encoder:
    """A pretrained encoder, as `load_encoder` returns it: image -> code, with all that `encode` and `edit` need.

    Attributes:
        config: name, preprocessing, partition and where the frozen DM is.
        folder: the model's.
        partition: time-step -> subset -> dimensions.
        mean, std: of the training pictures' codes, `(d,)` float32.
        device: where it runs.
    """

    def __init__(
        self,
        config: ModelConfig,
        folder: Path,
        device: str,
        load_model: Callable[[], DiTi | DiffAE],
        find_file: Callable[[str], Path | None],
    ):
        self.config = config
        self.folder = folder
        self.partition = config.partition
        try:
            self.device = torch.device(device)
        except RuntimeError as error:
            raise InputError(f"device = {device!r} is not a torch device, like cpu or cuda:0") from error
        network, self.mean, self.std = read_encoder(folder, config.encoder, config.image.size, config.latent_dim)
        self.network = network.to(self.device)
        self._load_model = load_model
        self._find_file = find_file

    @cached_property
    def model(self) -> DiTi | DiffAE:
        """The whole model; the estimator and the frozen DM are read, or downloaded, at the first use.

        Raises:
            ModelError: for a contrastive model, which is an encoder alone.
        """
        return self._load_model().to(self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Codes `(B, d)` of images `(B, 3, S, S)` in [-1, 1] that are preprocessed already."""
        return self.network(images.to(self.device))

    def attributes(self, sparse: bool = False) -> ProbeReport | None:
        """The probe of its training's attributes that came with the model, or None.

        Args:
            sparse: the one that may use few dimensions an attribute.
        """
        from ditifeat.analysis.report import ProbeReport

        path = self._find_file(SPARSE_ATTRIBUTES if sparse else ATTRIBUTES)
        return ProbeReport.load(path) if path is not None else None

    def __repr__(self) -> str:
        p = self.partition
        return f"Encoder({self.config.name!r}, {self.config.image.size} px -> {p.d} numbers in {p.k} subsets, {self.device})"
