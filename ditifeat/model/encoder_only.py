"""A model that is an encoder and nothing else, as contrastive learning leaves it: it encodes, and cannot edit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.model.config import ModelConfig, configured_last
from ditifeat.model.encoders import EncoderNetwork, write_encoder


class EncoderOnly(nn.Module):
    """An encoder and the statistics of its codes.

    Attributes:
        config: what `config.json` says.
        encoder: images `(B, 3, S, S)` in [-1, 1] to codes `(B, d)`.
        mean, std: of the training images' codes, float32 `(d,)`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, encoder: EncoderNetwork):
        super().__init__()
        self.config = config
        self.partition = config.partition
        self.encoder = encoder
        self.register_buffer("mean", torch.zeros(config.latent_dim))
        self.register_buffer("std", torch.ones(config.latent_dim))

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the model folder: configuration and encoder.

        Args:
            folder: the model folder; one that is there is overwritten.
            dtype: of the weights; half precision is read back as float32.

        Raises:
            WriteError: if it cannot be written.
        """
        folder = Path(folder)
        with configured_last(folder, self.config):
            write_encoder(folder, self.encoder, self.mean, self.std, dtype)
