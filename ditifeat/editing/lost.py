"""What is lost at which time-step: an image on a ladder of noise, and what comes back (DiTi, figure 1b)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ditifeat.data.batches import batches, load_images
from ditifeat.data.drawing import to_pixels
from ditifeat.data.preprocessing import Crop
from ditifeat.errors import InputError

if TYPE_CHECKING:
    from ditifeat.encoding.encoder import Encoder

LADDER = (50, 100, 200, 300, 400, 500, 700, 900)


@torch.no_grad()
def lost(
    encoder: Encoder, image: Any, time_steps: Sequence[int] = LADDER, *, crop: Crop = "model", seed: int = 0
) -> dict[str, np.ndarray]:
    """One image with the noise of each time-step, and single-step guesses of the image from it.

    Args:
        encoder: a DiTi or PDAE model's.
        image: one image, as `encode` takes it.
        time_steps: in `[0, T)`.
        crop: as in `encode`.
        seed: of the noise, which all time-steps share.

    Returns:
        Rows of uint8 images `(len(time_steps), S, S, 3)` by their titles: "with noise", "the frozen DM" (its `x_0_hat`:
        what is missing is lost at that time-step) and "with the code" (`x_0_hat` under the cumulative code).

    Raises:
        ImageDecodeError, InputError, ModelError: for an image, time-steps or a model that do not fit.
    """
    from ditifeat.model.diti import DiTi

    model = encoder.model
    if not isinstance(model, DiTi):
        raise InputError(f"{encoder.config.name}: has no frozen DM, so there is nothing that it has lost")
    steps = list(time_steps)
    if not steps or not all(0 <= t < model.partition.num_time_steps for t in steps):
        raise InputError(f"time-steps {steps} must be some within 0..{model.partition.num_time_steps - 1}")
    found = [rows for _, rows in batches(image, encoder.config.image, 2, crop)]
    if len(found) != 1 or len(found[0]) != 1:
        raise InputError("what is lost is shown of one image at a time")
    x_0 = load_images(found[0], encoder.device)
    z = encoder(x_0).expand(len(steps), -1)
    t = torch.tensor(steps, device=encoder.device)
    schedule, codec = model.dm.schedule, model.dm.codec
    noise = torch.randn(model.noise_shape, generator=torch.Generator().manual_seed(seed)).to(encoder.device)
    x_t = schedule.add_noise(codec.encode(x_0), noise, t)

    def guess(eps: torch.Tensor) -> np.ndarray:
        return to_pixels(codec.decode((x_t - schedule.at("sigma", t) * eps) / schedule.at("signal", t)))

    return {
        "with noise": to_pixels(codec.decode(x_t)),
        "the frozen DM": guess(model.noise(x_t, t, None)),
        "with the code": guess(model.noise(x_t, t, z)),
    }
