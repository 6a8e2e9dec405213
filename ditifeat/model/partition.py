"""The map time-step -> subset -> dimensions of the code (DiTi, section 4.2). Pure: NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ditifeat.errors import InputError

MAX_LATENT_DIM = 65536

MAX_TIME_STEPS = 100_000


@dataclass(frozen=True)
class TimeStepPartition:
    """Cuts the `d` dimensions of a code into `k` subsets, one per range of time-steps.

    Balanced when `stages` is empty: subset `i` starts at dimension `floor(d * i / k)`. Staged otherwise:
    `stages` are the upper time-steps of each stage (last = `num_time_steps`) and `dims_per_stage` their
    dimensions (sum = `d`). Subset `i(t) = floor(t * k / T)`.

    Raises:
        InputError: if the numbers do not describe a partition.
    """

    k: int
    d: int
    num_time_steps: int = 1000
    stages: tuple[int, ...] = ()
    dims_per_stage: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.d <= MAX_LATENT_DIM:
            raise InputError(f"partition: d = {self.d} is not within 1..{MAX_LATENT_DIM}")
        if not 1 <= self.num_time_steps <= MAX_TIME_STEPS:
            raise InputError(f"partition: num_time_steps = {self.num_time_steps} is not within 1..{MAX_TIME_STEPS}")
        if not 1 <= self.k <= self.num_time_steps:
            raise InputError(
                f"partition: k = {self.k} is not within 1..{self.num_time_steps}, the time-steps there are"
            )
        if len(self.stages) != len(self.dims_per_stage):
            raise InputError(f"partition: {len(self.stages)} stages but {len(self.dims_per_stage)} dims_per_stage")
        if self.stages:
            self._check_stages()

    def _check_stages(self) -> None:
        if (
            list(self.stages) != sorted(set(self.stages))
            or self.stages[0] < 1
            or self.stages[-1] != self.num_time_steps
        ):
            raise InputError(f"partition: stages {self.stages} must rise and end at {self.num_time_steps}")
        if min(self.dims_per_stage) < 0 or sum(self.dims_per_stage) != self.d:
            raise InputError(
                f"partition: dims_per_stage {self.dims_per_stage} must be positive and sum to d = {self.d}"
            )
        if self.boundaries[-1] != self.d:
            raise InputError(
                f"partition: a stage of {self.stages} holds no first time-step of the {self.k} subsets; use more subsets"
            )

    def subset(self, t: Any) -> Any:
        """Index of the subset of time-step `t`: an int, or an integer array or tensor in `[0, T)`; same type out."""
        return t * self.k // self.num_time_steps

    def time_steps_of_subset(self, subset: int) -> range:
        """The time-steps `t` whose subset is `subset`."""
        first, last = (-(-i * self.num_time_steps // self.k) for i in (subset, subset + 1))
        return range(first, last)

    def subsets_of_time_steps(self, lo: int, hi: int) -> range:
        """The subsets whose first time-step is within `lo..hi-1`; empty where there is none."""
        members = [i for i in range(self.k) if lo <= self.time_steps_of_subset(i).start < hi]
        return range(members[0], members[-1] + 1) if members else range(0)

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """First dimension of each subset, and `d` at the end: `k + 1` rising numbers."""
        if not self.stages:
            return tuple(self.d * i // self.k for i in range(self.k + 1))
        sizes = [0] * self.k
        lower = 0
        for upper, dims in zip(self.stages, self.dims_per_stage, strict=True):
            members = self.subsets_of_time_steps(lower, upper)
            for i in members:
                sizes[i] = dims // len(members)
            if members:
                sizes[members[-1]] += dims % len(members)
            lower = upper
        return (0, *(int(n) for n in np.cumsum(sizes)))

    def dims_of_subsets(self, lo: int, hi: int | None = None) -> slice:
        """The dimensions of subset `lo`, or of subsets `lo..hi-1`.

        Raises:
            InputError: if the subsets are not within `0..k`.
        """
        hi = lo + 1 if hi is None else hi
        if not 0 <= lo <= hi <= self.k:
            raise InputError(f"subsets {lo}..{hi} are not within 0..{self.k}")
        return slice(self.boundaries[lo], self.boundaries[hi])

    def dims_of_time_steps(self, lo: int, hi: int) -> slice:
        """The dimensions of the subsets whose first time-step is within `lo..hi-1`.

        Raises:
            InputError: if `lo` and `hi` are not time-steps in rising order.
        """
        if not 0 <= lo <= hi <= self.num_time_steps:
            raise InputError(f"time-steps {lo}..{hi} are not within 0..{self.num_time_steps}")
        subsets = self.subsets_of_time_steps(lo, hi)
        return self.dims_of_subsets(subsets.start, subsets.stop) if subsets else slice(0, 0)

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The ranges of time-steps worth a line in a report: the stages, or ten equal parts; empty ones left out."""
        uppers = self.stages or tuple(self.num_time_steps * (i + 1) // 10 for i in range(10))
        pairs = zip((0, *uppers[:-1]), uppers, strict=True)
        return tuple(
            (lo, hi) for lo, hi in pairs if self.dims_of_time_steps(lo, hi).start < self.dims_of_time_steps(lo, hi).stop
        )

    @cached_property
    def subset_of_dim(self) -> np.ndarray:
        """Subset of each dimension, int64 `(d,)`."""
        return np.repeat(np.arange(self.k), np.diff(self.boundaries))

    def subset_masks(self) -> np.ndarray:
        """Which dimensions are of subset `i`: bool `(k, d)`."""
        return np.arange(self.k)[:, None] == self.subset_of_dim

    def cumulative_masks(self) -> np.ndarray:
        """Which dimensions the cumulative code keeps at subset `i`, that is subsets `0..i`: bool `(k, d)`."""
        return np.arange(self.k)[:, None] >= self.subset_of_dim
