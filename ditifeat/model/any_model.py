"""Every kind of model that training makes."""

from __future__ import annotations

from ditifeat.model.diffae import DiffAE
from ditifeat.model.diti import DiTi
from ditifeat.model.encoder_only import EncoderOnly

AnyModel = DiTi | DiffAE | EncoderOnly
