"""What a record of the log says of the steps since the last one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

LOG_RANGES = 5  # equal ranges of time-steps whose losses are logged apart


class Meter:
    """Means of the losses since the last flush, over all processes: of all time-steps and per range of them.

    Until then nothing is read, so that the device is not waited for.

    Args:
        num_time_steps: T.
        gather: concatenates a tensor's rows over all processes.
    """

    def __init__(self, num_time_steps: int, gather: Callable[[Tensor], Tensor]):
        self.num_time_steps, self.gather = num_time_steps, gather
        self.restart()

    def restart(self) -> None:
        """Forget what was kept, and start the clock."""
        self.started, self.idle = time.monotonic(), 0.0
        self.t: list[Tensor] = []
        self.losses: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, t: Tensor, losses: dict[str, Tensor]) -> None:
        """Keep a step's time-steps and losses, `(B,)` each."""
        self.t.append(t)
        for name, value in losses.items():
            self.losses[name].append(value.detach().float())

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count the time spent inside, but not as time of the steps."""
        started = time.monotonic()
        yield
        self.idle += time.monotonic() - started

    def finite(self) -> bool:
        """Return whether the losses of this process since the last flush are finite."""
        return all(bool(torch.isfinite(torch.cat(values)).all()) for values in self.losses.values())

    def flush(self) -> dict[str, Any]:
        """Return steps, seconds in all and of the steps alone, and means; and begin anew."""
        steps = len(self.t)
        ranges = self.gather(torch.cat(self.t)).cpu() * LOG_RANGES // self.num_time_steps
        losses = {name: self.gather(torch.cat(values)).cpu() for name, values in self.losses.items()}
        seconds = time.monotonic() - self.started
        record: dict[str, Any] = {"steps": steps, "seconds": seconds, "steps_seconds": seconds - self.idle}
        for name, flat in losses.items():
            record[name] = flat.mean().item()
            record[f"{name}_by_range"] = list(_range_means(flat, ranges))
        self.restart()
        return record


def _range_means(values: Tensor, ranges: Tensor) -> Iterator[float | None]:
    for i in range(LOG_RANGES):
        members = values[ranges == i]
        yield members.mean().item() if len(members) else None
