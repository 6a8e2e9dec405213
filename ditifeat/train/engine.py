"""The processes of a run: how many there are, which device each has, and what they tell each other."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed

from ditifeat.errors import RecipeError

T = TypeVar("T")


def accelerator() -> Accelerator:
    """Return accelerate's view of this process; nothing else in this package makes one.

    Where there is no GPU, `cpu=True` must say so: without it, accelerate finds nothing to form a group of processes over, and
    each trains alone.

    Raises:
        RecipeError: where the launcher asks for what this machine lacks.
    """
    try:
        return Accelerator(cpu=not torch.accelerator.is_available())
    except (ValueError, ImportError) as error:
        raise RecipeError(f"accelerate cannot run here as it is configured: {error}") from error


def asked_precision() -> str | None:
    """Return the precision that accelerate was asked for, "float32", "bf16", "fp16" or "fp8"; None where it was not asked.

    `accelerate launch` always asks for one, by `--mixed-precision`; elsewhere the variable ACCELERATE_MIXED_PRECISION may.
    """
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return None
    mixed: str = accelerator().mixed_precision
    return "float32" if mixed == "no" else mixed


def agreed(value: T) -> T:
    """Return the main process's value, in every process."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        distributed.all_reduce(total)
        return own_share(total)


def gather(x: Tensor) -> Tensor:
    """Concatenate the rows `(B / processes, ...)` of all processes to the global batch's `(B, ...)`, in its order.

    Gradients are summed over the processes, so that the mean over processes of losses of own shares (`own_share`) has
    the gradient of the global batch's mean loss.
    """
    several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    return _Gather.apply(x) if several else x  # type: ignore[no-untyped-call]


def own_share(x: Tensor) -> Tensor:
    """Return this process's rows of the global batch's `(B, ...)`: undoes `gather`."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    return x.chunk(distributed.get_world_size())[distributed.get_rank()]
