"""Devices and dtypes as people name them."""

from __future__ import annotations

from typing import Any

import torch

from ditifeat.errors import InputError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def choose_device(device: Any = None) -> torch.device:
    """Check a device by putting something on it; None picks cuda, else mps, else cpu.

    Raises:
        InputError: if it is no torch device, or not there.

    >>> from ditifeat.encoding.device import choose_device
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if device is None:
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    try:
        chosen = torch.device(device)
        if chosen.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=chosen)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:  # torch without CUDA raises AssertionError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"device = {device!r} cannot be used ({reason}); use cpu, or leave it out") from error
    return chosen


def choose_dtype(dtype: Any) -> torch.dtype | None:
    """Check a dtype, or its name; None stays None.

    Raises:
        InputError: for anything but float32, float16 and bfloat16.

    >>> from ditifeat.encoding.device import choose_dtype
    >>> choose_dtype("bfloat16")
    torch.bfloat16
    """
    chosen = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and chosen not in DTYPES:
        raise InputError(f"dtype = {dtype!r} is not one of float32, float16, bfloat16")
    return chosen
