"""The map time-step -> subset -> dimensions of the code (DiTi, section 4.2). Pure: NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ditifeat.errors import InputError
from ditifeat.schema import integer

MAX_LATENT_DIM = 65536

MAX_TIME_STEPS = 100_000

MAX_MASK = 2**24  # k x d, entries of the masks of cumulative codes


@dataclass(frozen=True)
class TimeStepPartition:
    """Cuts the `d` dimensions of a code into `k` subsets, one per range of time-steps.

    Balanced when `stages` is empty: subset `i` starts at dimension `floor(d * i / k)`. Staged otherwise: a subset belongs
    to the stage that holds its first time-step; of a stage with `n` subsets and `m` dimensions each subset gets
    `floor(m / n)`, and the last takes the rest, as published; or, with `even`, subset `j` of the stage starts at its
    dimension `floor(m * j / n)`.

    Attributes:
        k: how many subsets; time-step `t` is in subset `floor(t * k / T)`.
        d: dimensions of the code.
        num_time_steps: T, of the diffusion.
        stages: upper time-steps of the stages, rising, the last one T.
        dims_per_stage: dimensions of each stage; they sum to `d`.
        even: whether a stage's dimensions are spread evenly over its subsets. The published rule gives 19 of the paper's last
            50 dimensions to the last subset, which samplers that begin before it never use.

    Raises:
        InputError: if the numbers do not describe a partition.

    Example:
        >>> p = ditifeat.TimeStepPartition(64, 512, stages=(50, 100, 300, 500, 1000), dims_per_stage=(10, 25, 327, 100, 50))
        >>> p.subset(999), p.dims_of_time_steps(300, 500), p.time_steps_of_subset(63)
        (63, slice(362, 462, None), range(985, 1000))
        >>> p.subsets_of_time_steps(300, 500), p.dims_of_subsets(20, 32)
        (range(20, 32), slice(362, 462, None))
        >>> p.subset_masks().shape, p.cumulative_masks()[31].sum()
        ((64, 512), np.int64(462))
    """

    k: int
    d: int
    num_time_steps: int = 1000
    stages: tuple[int, ...] = ()
    dims_per_stage: tuple[int, ...] = ()
    even: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.d <= MAX_LATENT_DIM:
            raise InputError(f"partition: d = {self.d} is not within 1..{MAX_LATENT_DIM}")
        if not 1 <= self.num_time_steps <= MAX_TIME_STEPS:
            raise InputError(f"partition: num_time_steps = {self.num_time_steps} is not within 1..{MAX_TIME_STEPS}")
        if not 1 <= self.k <= self.num_time_steps:
            raise InputError(
                f"partition: k = {self.k} is not within 1..{self.num_time_steps}, the time-steps there are"
            )
        if self.k * self.d > MAX_MASK:
            raise InputError(f"partition: k x d = {self.k} x {self.d} is over the limit of {MAX_MASK}")
        if len(self.stages) != len(self.dims_per_stage):
            raise InputError(f"partition: {len(self.stages)} stages but {len(self.dims_per_stage)} dims_per_stage")
        if self.stages:
            self._check_stages()
        elif self.even:
            raise InputError("partition: even is of stages; without them, dimensions are spread evenly anyway")

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
        """Return index of the subset of time-step `t`: an int, or an integer array or tensor in `[0, T)`; same type out."""
        return t * self.k // self.num_time_steps

    def time_steps_of_subset(self, subset: int) -> range:
        """Return the time-steps `t` whose subset is `subset`.

        Raises:
            InputError: if it is not within `0..k-1`.
        """
        subset = integer("subset", subset, 0, self.k - 1)
        first, last = (-(-i * self.num_time_steps // self.k) for i in (subset, subset + 1))
        return range(first, last)

    def subsets_of_time_steps(self, lo: int, hi: int) -> range:
        """Return the subsets whose first time-step is within `lo..hi-1`.

        Raises:
            InputError: if `lo..hi` are not rising time-steps, or no subset begins there.
        """
        lo, hi = _checked("time-steps", lo, hi, self.num_time_steps)
        subsets = self._subsets(lo, hi)
        if not subsets:
            around = [self.time_steps_of_subset(i).start for i in (subsets.start - 1, subsets.start) if i < self.k]
            raise InputError(
                f"time-steps {lo}..{hi}: no subset begins there; the nearest begin at {' and '.join(map(str, around))}"
            )
        return subsets

    def _subsets(self, lo: int, hi: int) -> range:
        # Subset i begins at ceil(i T / k), which is at least t for all i > (t - 1) k / T.
        first, end = ((t - 1) * self.k // self.num_time_steps + 1 for t in (lo, hi))
        return range(first, end)

    @cached_property
    def boundaries(self) -> tuple[int, ...]:
        """Return first dimension of each subset, and `d` at the end: `k + 1` rising numbers."""
        if not self.stages:
            return tuple(self.d * i // self.k for i in range(self.k + 1))
        sizes = [0] * self.k
        lower = 0
        for upper, dims in zip(self.stages, self.dims_per_stage, strict=True):
            members = self._subsets(lower, upper)
            for place, i in enumerate(members):
                start, end = (dims * j // len(members) for j in (place, place + 1))
                sizes[i] = end - start if self.even else dims // len(members)
            if members and not self.even:
                sizes[members[-1]] += dims % len(members)
            lower = upper
        return (0, *(int(n) for n in np.cumsum(sizes)))

    def dims_of_subsets(self, lo: int, hi: int | None = None) -> slice:
        """Return the dimensions of subset `lo`, or of subsets `lo..hi-1`.

        Raises:
            InputError: if the subsets are not within `0..k`, or hold no dimension.
        """
        lo, hi = _checked("subsets", lo, lo + 1 if hi is None else hi, self.k)
        dims = slice(self.boundaries[lo], self.boundaries[hi])
        if dims.start == dims.stop:
            raise InputError(f"subsets {lo}..{hi}: hold no dimension, as {self.k} subsets share {self.d}")
        return dims

    def dims_of_time_steps(self, lo: int, hi: int) -> slice:
        """Return the dimensions of the subsets whose first time-step is within `lo..hi-1`.

        Raises:
            InputError: if `lo..hi` are not rising time-steps, or no subset with a dimension begins there.
        """
        subsets = self.subsets_of_time_steps(lo, hi)
        return self.dims_of_subsets(subsets.start, subsets.stop)

    @cached_property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return the ranges of time-steps worth a line in a report: the stages, or ten equal parts, or as few as there are subsets.

        They cover `0..T` without a gap: a part whose subsets hold no dimension joins the next one, or at the end the last.
        """
        parts = min(self.k, 10)
        uppers = self.stages or tuple(-(-self.num_time_steps * (i + 1) // parts) for i in range(parts))
        found: list[tuple[int, int]] = []
        lower = 0
        for upper in uppers:
            subsets = self._subsets(lower, upper)
            if self.boundaries[subsets.start] < self.boundaries[subsets.stop]:
                found.append((lower, upper))
                lower = upper
        return (*found[:-1], (found[-1][0], self.num_time_steps))

    @cached_property
    def subset_of_dim(self) -> np.ndarray:
        """Return subset of each dimension, int64 `(d,)`."""
        return np.repeat(np.arange(self.k), np.diff(self.boundaries))

    def subset_masks(self) -> np.ndarray:
        """Return which dimensions are of subset `i`: bool `(k, d)`."""
        return np.arange(self.k)[:, None] == self.subset_of_dim

    def cumulative_masks(self) -> np.ndarray:
        """Return which dimensions the cumulative code keeps at subset `i`, that is subsets `0..i`: bool `(k, d)`."""
        return np.arange(self.k)[:, None] >= self.subset_of_dim


def _checked(what: str, lo: int, hi: int, most: int) -> tuple[int, int]:
    lo, hi = integer(f"{what}: the first", lo), integer(f"{what}: the end", hi)
    if not 0 <= lo <= hi <= most:
        raise InputError(f"{what} {lo}..{hi} are not within 0..{most}, or do not rise")
    if lo == hi:
        raise InputError(f"{what} {lo}..{hi}: hold nothing, as the end is left out; one alone is {lo}..{lo + 1}")
    return lo, hi
