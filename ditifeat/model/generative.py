"""What every model with a DM can do under a code: find the `x_T` of an image, and make images from one."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor, nn

from ditifeat.errors import InputError
from ditifeat.model.codec import PixelCodec
from ditifeat.model.config import ModelConfig
from ditifeat.model.sampling import (
    NoiseFunction,
    Solver,
    ddim_invert,
    ddim_sample,
    fixed_point_invert,
    fixed_point_sample,
)
from ditifeat.model.schedule import NoiseSchedule


class GenerativeModel(nn.Module):
    """A model with a DM; subclasses give their configuration, schedule, codec, and the noise under a code.

    Solvers: "ddim" is the published one: time-steps 0, T / steps, ..., `x_0_hat` clamped to [-1, 1] (over pixels), the
    published coefficient of G. "fixed_point" has an almost exact round trip: `x_T` is that of time-step 0.95 T, nothing is
    clamped, and G's coefficient is that of training. The `x_T` of one solver are not those of the other.

    Attributes:
        noise_shape: `(C, h, w)` of `x_t`, `x_T` and noise: the DM's space, which over pixels is the image's.
    """

    config: ModelConfig
    schedule: NoiseSchedule
    codec: PixelCodec
    noise_shape: tuple[int, int, int]

    def _noise_function(self, z: Tensor | None, solver: Solver, *, cumulative: bool) -> NoiseFunction:
        raise NotImplementedError

    def invert(self, x_0: Tensor, z: Tensor | None, steps: int = 100, solver: Solver = "ddim") -> Tensor:
        """Return the `x_T` whose sampling gives the images back, `(B, *noise_shape)` (DDIM, Song et al. 2021).

        Args:
            x_0: images `(B, 3, S, S)` in [-1, 1].
            z: codes `(B, d)`; None for the frozen DM alone.
            steps: evaluations of the networks.
            solver: "ddim" (published) or "fixed_point".

        Raises:
            InputError: for an unknown solver, a number of steps that it cannot take, or other shapes.
        """
        noise = self._noise_function(z, _checked(solver), cumulative=True)
        self._check_images(x_0)
        latents = self.codec.encode(x_0)
        if solver == "ddim":
            return ddim_invert(noise, self.schedule, latents, steps, bounded=self.codec.bounded)
        return fixed_point_invert(noise, self.schedule, latents, steps)

    def sample(
        self, x_T: Tensor, z: Tensor | None, steps: int = 100, *, cumulative: bool = True, solver: Solver = "ddim"
    ) -> Tensor:
        """Sample images `(B, 3, S, S)` in [-1, 1], but for the solver's overshoot, from `x_T` (DiTi section 5.2).

        Args:
            x_T: `(B, *noise_shape)`: standard normal, or of `invert` by the same solver.
            z: codes `(B, d)`; None for unconditional images (no G at all, not G of a zero code).
            steps: evaluations of the networks.
            cumulative: whether later subsets are 0 at each time-step; otherwise G is that of the whole code throughout.
            solver: "ddim" (published) or "fixed_point".

        Raises:
            InputError: as `invert`.
        """
        noise = self._noise_function(z, _checked(solver), cumulative=cumulative)
        if solver == "ddim":
            latents = ddim_sample(noise, self.schedule, x_T, steps, bounded=self.codec.bounded)
        else:
            latents = fixed_point_sample(noise, self.schedule, x_T, steps)
        return self.codec.decode(latents)

    def _check_images(self, images: Tensor) -> None:
        size = self.config.image.size
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise InputError(f"images have shape {tuple(images.shape)}, expected (B, 3, {size}, {size})")

    def _check(self, x_t: Tensor, t: Tensor, z: Tensor | None = None) -> None:
        """Refuse shapes that would be broadcast, and time-steps that would be counted from the end."""
        if x_t.ndim != 4 or x_t.shape[1:] != self.noise_shape:
            expected = ", ".join(map(str, self.noise_shape))
            raise InputError(f"x_t, x_T and noise have shape {tuple(x_t.shape)}, expected (B, {expected})")
        if t.shape != x_t.shape[:1] or t.is_floating_point():
            raise InputError(f"t has shape {tuple(t.shape)} and type {t.dtype}, expected integers ({len(x_t)},)")
        if z is not None and z.shape != (len(x_t), self.config.latent_dim):
            raise InputError(f"z has shape {tuple(z.shape)}, expected ({len(x_t)}, {self.config.latent_dim})")
        total = self.schedule.num_time_steps
        # Elsewhere than on the CPU, looking at the values would wait for the device; compiled, it would cut the graph in two.
        if t.device.type != "cpu" or torch.compiler.is_compiling():
            return
        if len(t) and not 0 <= int(t.min()) <= int(t.max()) < total:
            raise InputError(f"t is within {int(t.min())}..{int(t.max())}, expected 0..{total - 1}")


def _checked(solver: str) -> Solver:
    if solver not in get_args(Solver):
        raise InputError(f"solver = {solver!r} is not one of {', '.join(get_args(Solver))}")
    return solver  # type: ignore[return-value]
