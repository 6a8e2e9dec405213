"""What every model with a DM can do under a code: find an image's `x_T`, and make images from one."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ditifeat.errors import InputError
from ditifeat.model.codec import PixelCodec
from ditifeat.model.sampling import Solver, ddim_invert, ddim_sample, fixed_point_invert, fixed_point_sample
from ditifeat.model.schedule import NoiseSchedule


class GenerativeModel(nn.Module):
    """Subclasses tell their schedule, their codec, and the noise under a code.

    `solver` "ddim" is the published way: time-steps 0, T / steps, ..., `x_0_hat` clamped, published coefficient of G. "fixed_point"
    is the accurate one: its sampling undoes its inversion, its `x_T` stands at 0.95 T, nothing is clamped, and G's coefficient is
    that of training. `x_T` of one solver are not those of the other.
    """

    schedule: NoiseSchedule
    codec: PixelCodec

    def _noise_function(self, z: Tensor | None, cumulative: bool, solver: Solver) -> Callable[[Tensor, Tensor], Tensor]:
        raise NotImplementedError

    def invert(self, x_0: Tensor, z: Tensor | None, steps: int = 100, solver: Solver = "ddim") -> Tensor:
        """The `x_T` `(B, *noise_shape)` of images `x_0` under the code `z` `(B, d)`, in `steps` evaluations of the networks.

        Raises:
            InputError: for an unknown solver, or a number of steps that it cannot take.
        """
        noise = self._noise_function(z, True, _check(solver))
        if solver == "ddim":
            return ddim_invert(noise, self.schedule, self.codec.encode(x_0), steps, self.codec.bounded)
        return fixed_point_invert(noise, self.schedule, self.codec.encode(x_0), steps)

    def sample(
        self, x_T: Tensor, z: Tensor | None, steps: int = 100, cumulative: bool = True, solver: Solver = "ddim"
    ) -> Tensor:
        """Images `(B, 3, H, W)` from `x_T` `(B, *noise_shape)` under the code `z` `(B, d)`.

        `z=None` is unconditional (no G at all); `cumulative=False` gives G the whole code at every step.

        Raises:
            InputError: as `invert`.
        """
        noise = self._noise_function(z, cumulative, _check(solver))
        if solver == "ddim":
            return self.codec.decode(ddim_sample(noise, self.schedule, x_T, steps, self.codec.bounded))
        return self.codec.decode(fixed_point_sample(noise, self.schedule, x_T, steps))


def _check(solver: str) -> Solver:
    if solver not in ("ddim", "fixed_point"):
        raise InputError(f"solver = {solver!r} is not one of ddim, fixed_point")
    return solver  # type: ignore[return-value]
