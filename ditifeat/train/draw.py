"""What a step draws: images, flips, time-steps and noise, all of which follow from the seed and the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ditifeat.train.data import TrainingImages


class Batch(NamedTuple):
    """What `Task.forward` takes: images `(B, 3, S, S)` in [-1, 1], time-steps int64 `(B,)`, noise `(B, *noise_shape)`."""

    images: Tensor
    t: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Draws:
    """The draws of a stage's steps; several processes draw what one would, each its own share of the batch.

    Attributes:
        images: of the run.
        num_time_steps: T; time-steps are drawn from 0..T-1.
        noise_shape: of the noise that comes with each image.
        seed: of everything.
        batch: the global batch.
        rank, processes: which share of it.

    >>> from ditifeat.train.data import TrainingImages
    >>> from ditifeat.train.draw import Draws
    >>> images = TrainingImages(np.zeros((5, 8, 8, 3), np.uint8), list("abcde"))
    >>> [tuple(x.shape) for x in Draws(images, 1000, (3, 4, 4), seed=0, batch=2).per_image(step=0)]
    [(2, 3, 8, 8), (2,), (2, 3, 4, 4)]
    """

    images: TrainingImages
    num_time_steps: int
    noise_shape: tuple[int, ...]
    seed: int
    batch: int
    rank: int = 0
    processes: int = 1

    @property
    def _share(self) -> slice:
        return slice(self.rank * self.batch // self.processes, (self.rank + 1) * self.batch // self.processes)

    def per_image(self, step: int) -> Batch:
        """Return a step's draws, made on the CPU: each image has a generator of its own."""
        places = range(self.batch)[self._share]
        seeds = np.random.SeedSequence((self.seed, step)).generate_state(self.batch)
        images = self.images.batch(self.images.indices(step, self.batch)[self._share])
        t = torch.empty(len(places), dtype=torch.int64)
        noise = torch.empty(len(places), *self.noise_shape)
        generator = torch.Generator()
        for i, place in enumerate(places):
            generator.manual_seed(int(seeds[place]))
            if torch.rand((), generator=generator) < 0.5 and self.images.flip:
                images[i] = images[i].flip(-1)
            t[i].random_(self.num_time_steps, generator=generator)
            noise[i].normal_(generator=generator)
        return Batch(images, t, noise)

    def on_device(self, step: int, device: torch.device) -> Batch:
        """Return a step's draws, made on the device by one generator, without waiting for it; maps are channels-last."""
        generator = torch.Generator(device)
        generator.manual_seed(int(np.random.SeedSequence((self.seed, step)).generate_state(1)[0]))
        flips = torch.rand(self.batch, generator=generator, device=device)[self._share] < 0.5
        t = torch.randint(self.num_time_steps, (self.batch,), generator=generator, device=device)[self._share]
        noise = torch.randn(self.batch, *self.noise_shape, generator=generator, device=device)[self._share]
        images = self.images.batch(self.images.indices(step, self.batch)[self._share], device)
        if self.images.flip:
            images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        return Batch(channels_last(images), t, channels_last(noise))


def channels_last(x: Tensor) -> Tensor:
    """Return maps `(B, C, H, W)` in channels-last memory format, and other tensors as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
