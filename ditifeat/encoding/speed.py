"""Which dtype and memory layout encode fastest here: measured, and only where the run is long enough to repay it."""

from __future__ import annotations

import copy
import logging
import time
from typing import NamedTuple

import numpy as np
import torch

from ditifeat.encoding.network import Codes, pixels_to_codes
from ditifeat.model.encoders import EncoderNetwork

logger = logging.getLogger(__name__)

LONG_RUN = 2000  # images; under it the measurement costs more than it gains

MEASURED = 64  # images per measurement: of fewer, the layout that is slower in whole batches can be the faster

WORTHWHILE = 1.3  # how many times as fast a lower precision must be


class Way(NamedTuple):
    """How the network is run.

    Attributes:
        dtype: of its weights and activations.
        channels_last: the memory layout.
    """

    dtype: torch.dtype
    channels_last: bool

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.") + (", channels last" if self.channels_last else "")


def codes_in(network: EncoderNetwork, way: Way, flip_average: bool) -> Codes:
    """The function from pixels to codes that runs a copy of the network in a way; the network itself stays as it is.

    >>> from ditifeat.encoding.speed import Way, codes_in
    >>> codes_in(encoder.network, Way(torch.bfloat16, False), False)(np.zeros((1, 64, 64, 3), np.uint8)).dtype
    torch.float32
    """
    device = next(network.parameters()).device
    ours = copy.deepcopy(network).to(way.dtype)
    if way.channels_last:
        ours = ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's types lack
    return pixels_to_codes(ours, device, way.dtype, flip_average, way.channels_last)


def fastest_way(network: EncoderNetwork, dtypes: list[torch.dtype]) -> Way:
    """Measure which of some dtypes, in which memory layout, encodes the most images per second.

    Args:
        network: of the encoder.
        dtypes: the first is preferred: another one is chosen where it is at least 1.3 times as fast.

    >>> from ditifeat.encoding.speed import fastest_way
    >>> fastest_way(encoder.network, [torch.float32]).dtype
    torch.float32
    """
    size = network.image_size
    pixels = np.zeros((MEASURED, size, size, 3), np.uint8)
    rates: dict[Way, float] = {}

    def rate(way: Way) -> float:
        rates[way] = _rate(codes_in(network, way, False), pixels)
        return rates[way]

    fastest = Way(max(dtypes, key=lambda dtype: rate(Way(dtype, False))), False)
    preferred = Way(dtypes[0], False)
    chosen = fastest if rates[fastest] > WORTHWHILE * rates[preferred] else preferred
    if rate(chosen._replace(channels_last=True)) > rates[chosen]:
        chosen = chosen._replace(channels_last=True)
    logger.info("network: %s", ", ".join(f"{rate:.0f} images/s in {way}" for way, rate in rates.items()))
    return chosen


def _rate(codes: Codes, pixels: np.ndarray) -> float:
    """Images per second, the best of two after one to warm up."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        codes(pixels).cpu()  # which waits for the device
        seconds.append(time.perf_counter() - start)
    return len(pixels) / min(seconds[1:])
