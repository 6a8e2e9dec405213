"""What moves the weights: groups of parameters with rates of their own, the schedule of the rates, AdamW, the average."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ditifeat.errors import RecipeError
from ditifeat.train.sections import Optimiser

RAMP = 0.02  # share of a run over which the rate of a group that begins later rises


@dataclass(frozen=True)
class Group:
    """Parameters that have one learning rate.

    Attributes:
        parameters: which; those that take no gradient are left out.
        factor: of the optimiser's learning rate.
        begin: share of the run, 0..1, before which they do not move; their rate then rises to the schedule's over 2 % of the run.

    Raises:
        RecipeError: for a factor or a beginning out of its range.

    >>> from ditifeat.train.optimise import Group
    >>> Group([torch.nn.Parameter(torch.zeros(2))], factor=0.5).begin
    0.0
    """

    parameters: Sequence[nn.Parameter]
    factor: float = 1.0
    begin: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.factor <= 100 and 0 <= self.begin <= 1):
            raise RecipeError(f"factor = {self.factor} is not within 0..100, or begin = {self.begin} not within 0..1")

    def rate(self, optimiser: Optimiser, step: int) -> float:
        """Return the learning rate at a step."""
        since = step / optimiser.steps - self.begin
        ramp = min(max(since / RAMP, 0.0), 1.0) if self.begin else 1.0
        return optimiser.lr * self.factor * ramp * decayed(optimiser, step)


def decayed(optimiser: Optimiser, step: int) -> float:
    """Return the share of the peak learning rate at a step, 0..1: warm-up, then `Optimiser.decay`.

    >>> from ditifeat.train.optimise import decayed
    >>> from ditifeat.train.sections import Optimiser
    >>> [decayed(Optimiser(8, batch=1, decay="cooldown", cooldown=0.5), step) for step in (0, 4, 6, 8)]
    [1.0, 1.0, 0.5, 0.0]
    """
    steps, warmup = optimiser.steps, optimiser.warmup
    warm = min(step / warmup, 1.0) if warmup else 1.0
    if optimiser.decay == "cooldown":
        return min(warm, max(steps - step, 0) / (optimiser.cooldown * steps))
    if optimiser.decay == "none" or step < warmup:
        return warm
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def adamw(groups: Sequence[Group], networks: nn.Module, optimiser: Optimiser) -> torch.optim.AdamW:
    """Return the optimiser of `groups`, which hold the trained networks' parameters once each.

    Raises:
        ValueError: if they leave one out.
    """
    learning = [[p for p in group.parameters if p.requires_grad] for group in groups]
    held = {id(p) for parameters in learning for p in parameters}
    left = [name for name, p in networks.named_parameters() if p.requires_grad and id(p) not in held]
    if left:
        raise ValueError(f"no group of parameters holds {', '.join(left[:3])}")
    # `group` says which rates are whose: a group without parameters has no place in the optimiser.
    members = [{"params": p, "group": i, "lr": optimiser.lr} for i, p in enumerate(learning) if p]
    fused = all(p.device.type in ("cpu", "cuda") for parameters in learning for p in parameters)
    return torch.optim.AdamW(members, weight_decay=optimiser.weight_decay, fused=fused)


def set_rates(adam: torch.optim.Optimizer, groups: Sequence[Group], optimiser: Optimiser, step: int) -> None:
    """Set the learning rates of a step."""
    for member in adam.param_groups:
        member["lr"] = groups[member["group"]].rate(optimiser, step)


def match_layout(adam: torch.optim.Optimizer) -> None:
    """Lay out the optimiser's state, read from a file, as its parameters are, which the fused AdamW takes for granted."""
    for parameter, state in adam.state.items():
        for key, value in state.items():
            if value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class Average:
    """The exponential moving average of networks: `average = decay average + (1 - decay) weights`, from the first step on.

    torch's `AveragedModel` does the same, but asks the device at every step how many it has averaged.

    Args:
        networks: what is averaged; buffers are copied.
        decay: per update.
    """

    def __init__(self, networks: nn.ModuleDict, decay: float):
        self.networks = copy.deepcopy(networks).eval()
        self._average = get_ema_multi_avg_fn(decay)
        self._parameters = [list(each.parameters()) for each in (self.networks, networks)]
        self._buffers = list(zip(self.networks.buffers(), networks.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take the networks' present weights in."""
        self._average(*self._parameters, 1)
        for ours, theirs in self._buffers:
            ours.copy_(theirs)
