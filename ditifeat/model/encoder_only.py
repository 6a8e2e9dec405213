"""A model that is an encoder and nothing else, as contrastive learning leaves it: it encodes, and cannot edit."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.model.config import ModelConfig, write_config
from ditifeat.model.encoders import EncoderNetwork, write_encoder


class EncoderOnly(nn.Module):
    """Encoder and its codes' statistics.

    Attributes:
        config: of the model folder.
        encoder: image -> code `(B, d)`.
        mean, std: of the training images' codes, `(d,)`.
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
        """Write a model folder: configuration and encoder."""
        folder = Path(folder)
        write_encoder(folder, self.encoder, self.mean, self.std, dtype)
        # Last, so that a folder with a configuration is a whole one.
        write_config(folder, self.config)
