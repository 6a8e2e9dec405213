"""The columns of codes: their names, and which belong to a range of time-steps."""

from __future__ import annotations

from typing import Any

from ditifeat.errors import InputError
from ditifeat.model.partition import TimeStepPartition


def column_names(partition: TimeStepPartition) -> list[str]:
    """The names of a code's dimensions: `s07_d034` is dimension 34, of subset 7.

    >>> from ditifeat.analysis.columns import column_names
    >>> column_names(encoder.partition)[:2]
    ['s00_d000', 's00_d001']
    """
    return [f"s{s:02d}_d{d:03d}" for d, s in enumerate(partition.subset_of_dim)]


def dims_of_range(partition: TimeStepPartition, time_steps: Any) -> slice:
    """The dimensions of a range (lo, hi) of time-steps.

    Raises:
        InputError: for anything but two time-steps between which a subset begins.

    >>> from ditifeat.analysis.columns import dims_of_range
    >>> dims_of_range(encoder.partition, (0, 50))
    slice(0, 10, None)
    """
    try:
        lo, hi = time_steps
    except (TypeError, ValueError):
        raise InputError(f"time_steps = {time_steps!r} is not (lo, hi), like (500, 1000)") from None
    return partition.dims_of_time_steps(lo, hi)
