"""How a step is computed: in which precision, compiled or not, and what share of the device's peak it reaches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ditifeat.train.draw import Batch

logger = logging.getLogger(__name__)

Losses = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]

MEASURED_STEPS = 500  # shorter runs on a CPU stay in float32: measuring costs a dozen steps

MEASURED_REPEATS = 3

FASTER = 1.2  # times as fast as float32, for bf16 to be worth its rounding

FLOPS_IMAGES = 2  # that operations are counted on

# Floating-point operations per second of dense matrix products in bf16, by words of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L4": 121e12}


def is_gpu(device: torch.device) -> bool:
    """Return whether images are kept on the device, draws made there, and maps laid out channels-last."""
    return device.type == "cuda"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context of a forward pass in "bf16"; for other precisions one that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def untouched(networks: nn.Module) -> Iterator[None]:
    """Leave buffers as they were, torch's generators too, and no gradients."""
    buffers = [(buffer, buffer.clone()) for buffer in networks.buffers()]
    devices = {p.device for p in networks.parameters() if p.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        networks.zero_grad()


def try_step(losses: Losses, batch: Batch, precision: str) -> None:
    """Run forward and backward; no weight changes."""
    with autocast(batch.images.device, precision):
        loss = losses(*batch)["loss"].mean()
    loss.backward()  # type: ignore[no-untyped-call]


def choose_precision(networks: nn.Module, batch: Batch, steps: int) -> str:
    """Return "bf16" where it pays, or "float32".

    On a GPU it does where the hardware has it. On a CPU a few steps are timed in both, if the run has so many steps that this
    is worth its time.

    Args:
        networks: a task in training mode; left as it was.
        batch: of this process.
        steps: of the run.
    """
    device = batch.images.device
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu" or steps < MEASURED_STEPS:
        return "float32"
    seconds: dict[str, list[float]] = {"float32": [], "bf16": []}
    with untouched(networks):
        for _ in range(1 + MEASURED_REPEATS):
            for precision, spent in seconds.items():
                networks.zero_grad()
                started = time.perf_counter()
                try_step(networks, batch, precision)
                spent.append(time.perf_counter() - started)
    best = {precision: min(spent[1:]) for precision, spent in seconds.items()}  # the first prepares
    logger.info("forward and backward take %.3g s in float32, %.3g s in bf16", best["float32"], best["bf16"])
    return "bf16" if best["float32"] >= FASTER * best["bf16"] else "float32"


def compiled(losses: Losses, networks: nn.Module, batch: Batch, precision: str) -> Losses | None:
    """Return the losses of `networks` compiled, or None, with a warning, where that fails."""
    fast: Losses = torch.compile(losses, dynamic=False)
    started = time.perf_counter()
    try:
        with untouched(networks):
            try_step(fast, batch, precision)
    except Exception as error:  # whatever a compiler, or the lack of one, leads to
        reason = str(error).strip().split("\n")[0]
        logger.warning("cannot be compiled, and runs as it is (%s: %s)", type(error).__name__, reason)
        return None
    logger.info("compiled in %.0f s", time.perf_counter() - started)
    return fast


def device_name(device: torch.device, count: int) -> str:
    """Return what a run's processes compute on, for people: "CPU", "2 x NVIDIA L4".

    >>> from ditifeat.train.speed import device_name
    >>> device_name(torch.device("cpu"), 1)
    'CPU'
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return name if count == 1 else f"{count} x {name}"


def peak(device: torch.device) -> float | None:
    """Return the device's peak in bf16, floating-point operations per second; None where it is not known."""
    words = torch.cuda.get_device_name(device).replace("-", " ").split() if device.type == "cuda" else []
    return next((PEAKS[word] for word in words if word in PEAKS), None)


def flops_per_image(networks: nn.Module, batch: Batch, precision: str) -> float | None:
    """Count the floating-point operations of a step's forward and backward passes, per image; None where that fails.

    A multiplication and an addition are two. Only matrix products, convolutions and attention count.
    """
    few = Batch(*(x[:FLOPS_IMAGES] for x in batch))
    try:
        with untouched(networks), FlopCounterMode(display=False) as counter:
            try_step(networks, few, precision)
    except Exception as error:  # a number for the log stops no run
        logger.warning("the operations of a step cannot be counted (%s: %s)", type(error).__name__, error)
        return None
    return float(counter.get_total_flops()) / len(few.t)


@contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """On a GPU: let cuDNN choose its convolutions by timing them, and products of float32 be rounded to TensorFloat32."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.set_float32_matmul_precision(before[1])
