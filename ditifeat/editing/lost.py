"""What is lost at which time-step: an image with the noise of several, and what comes back (DiTi, figure 1b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ditifeat.align import Align
from ditifeat.data.batches import load_images
from ditifeat.data.drawing import to_pixels
from ditifeat.data.preprocessing import Crop
from ditifeat.editing.arguments import decode_one
from ditifeat.encoding.encoder import Encoder, check_encoder
from ditifeat.errors import InputError
from ditifeat.schema import integer

TIME_STEPS = (50, 100, 200, 300, 400, 500, 700, 900)


@torch.no_grad()
def lost(
    encoder: Encoder,
    image: Any,
    time_steps: Sequence[int] = TIME_STEPS,
    *,
    crop: Crop = "model",
    align: Align = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Add the noise of each of a grid of time-steps to an image, and predict the image from it in a single step.

    Args:
        encoder: a DiTi or PDAE model's.
        image: one image, as `encode` takes it.
        time_steps: within 0..T-1.
        crop, align: as in `encode`.
        seed: of the noise, which all time-steps share.

    Returns:
        Rows of uint8 images `(len(time_steps), S, S, 3)` by their titles: "with noise", "the frozen DM" (its `x_0_hat`:
        what is missing is lost at that time-step) and "with the code" (`x_0_hat` under the cumulative code).

    Raises:
        ImageDecodeError, InputError, ModelError: for an image, time-steps or a model that do not fit.

    >>> from ditifeat.editing.lost import lost
    >>> rows = lost(encoder, "me.png", (100, 500, 900), crop="center")
    >>> list(rows), rows["with the code"].shape
    (['with noise', 'the frozen DM', 'with the code'], (3, 64, 64, 3))
    """
    from ditifeat.model.diti import DiTi

    check_encoder(encoder)
    steps = _checked_time_steps(time_steps, encoder.partition.num_time_steps)
    generator = torch.Generator().manual_seed(integer("seed", seed, 0))
    pixels = decode_one(encoder, image, crop, "what is lost", align)
    model = encoder.model
    if not isinstance(model, DiTi):
        raise InputError(f"{encoder.config.name}: has no frozen DM, so there is nothing that it has lost")
    x_0 = load_images(pixels, encoder.device)
    z = encoder(x_0).expand(len(steps), -1)
    t = torch.tensor(steps, device=encoder.device)
    schedule, codec = model.dm.schedule, model.dm.codec
    noise = torch.randn(model.noise_shape, generator=generator).to(encoder.device)
    x_t = schedule.add_noise(codec.encode(x_0), noise, t)

    def predicted(eps: torch.Tensor) -> np.ndarray:
        return to_pixels(codec.decode((x_t - schedule.at("sigma", t) * eps) / schedule.at("signal", t)))

    return {
        "with noise": to_pixels(codec.decode(x_t)),
        "the frozen DM": predicted(model.noise(x_t, t, None)),
        "with the code": predicted(model.noise(x_t, t, z)),
    }


def _checked_time_steps(time_steps: Any, num_time_steps: int) -> list[int]:
    try:
        steps = [integer("time_steps", t, 0, num_time_steps - 1) for t in time_steps]
    except TypeError as error:
        raise InputError(f"time_steps = {time_steps!r} is not a sequence of time-steps") from error
    if not steps:
        raise InputError("time_steps is empty; give some, like (100, 500, 900)")
    return steps
