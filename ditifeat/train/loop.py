"""The training loop: one task, one log, atomic checkpoints, resume that is bit-exact on the CPU.

Every random number of a step comes from a generator seeded by (seed, step), so a resumed run needs no random states,
and a run on several processes sees the same pictures, time-steps and noise as a run on one.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from ditifeat.errors import RecipeError
from ditifeat.files import read_tensors, select_prefix, write_tensors
from ditifeat.train.data import Pictures
from ditifeat.train.recipe import Optimiser

KEPT_CHECKPOINTS = 2

LOG_RANGES = 5  # equal ranges of time-steps whose losses are logged apart


class Task(nn.Module):
    """What is trained: subclasses give `trained` and the losses.

    Attributes:
        trained: the networks that learn, and that are averaged.
    """

    trained: nn.ModuleDict
    num_time_steps: int
    noise_shape: tuple[int, int, int]

    def learning_rates(self) -> dict[str, float]:
        """Factors of the learning rate, by the name of a trained network; 1 where none is given."""
        return {}

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Losses per image, `(B,)` each: "loss" is minimised, others (the frozen DM's, say) are logged beside it."""
        raise NotImplementedError

    def preview(self, averaged: nn.ModuleDict, images: Tensor, path: Path) -> None:
        """Writes a PNG that shows what the averaged networks make."""
        raise NotImplementedError


def learning_rate(optimiser: Optimiser, step: int) -> float:
    """The learning rate of a step: linear warm-up, then constant or a half cosine to zero."""
    warm = min(1.0, (step + 1) / optimiser.warmup) if optimiser.warmup else 1.0
    if optimiser.decay == "none":
        return optimiser.lr * warm
    progress = max(0, step - optimiser.warmup) / max(1, optimiser.steps - optimiser.warmup)
    return optimiser.lr * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


class Trainer:
    """Runs a task to the end of its `Optimiser`, from the newest checkpoint in `out` if asked.

    Args:
        task: the task, on the CPU.
        pictures: the training pictures.
        optimiser: how long and how fast.
        out: folder for checkpoints, `log.jsonl` and previews.
        seed: of every random number.
        checkpoint_minutes: between checkpoints.
    """

    def __init__(
        self,
        task: Task,
        pictures: Pictures,
        optimiser: Optimiser,
        out: Path,
        seed: int = 0,
        checkpoint_minutes: float = 4,
    ):
        self.accelerator = Accelerator()
        self.pictures, self.optimiser, self.out, self.seed = pictures, optimiser, out, seed
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.step = 0
        if optimiser.batch % self.accelerator.num_processes:
            raise RecipeError(
                f"batch = {optimiser.batch} cannot be shared by {self.accelerator.num_processes} processes"
            )
        self.task = task
        self.averaged = AveragedModel(task.trained, multi_avg_fn=get_ema_multi_avg_fn(optimiser.ema))
        self.averaged.n_averaged.fill_(1)  # it holds a first value already: no warm-up, as published
        factors = task.learning_rates()
        groups = [
            {"params": [p for p in network.parameters() if p.requires_grad], "factor": factors.get(name, 1.0)}
            for name, network in task.trained.items()
        ]
        adam = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=optimiser.lr, weight_decay=optimiser.weight_decay
        )
        self.averaged.to(self.accelerator.device)
        self.wrapped, self.adam = self.accelerator.prepare(task, adam)

    def run(self, resume: bool = False, until: int | None = None) -> nn.ModuleDict:
        """Trains to the last step (or to step `until`) and returns the averaged networks.

        Raises:
            RecipeError: if `out` holds checkpoints and `resume` is False, or the loss stops being finite.
        """
        # Dropout alone draws from torch's global generator, which is left as it was.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return self._run(resume, until)

    def _run(self, resume: bool, until: int | None) -> nn.ModuleDict:
        checkpoints = list_checkpoints(self.out)
        if checkpoints and not resume:
            raise RecipeError(f"{self.out}: holds checkpoints already; resume (--resume) or use another folder")
        if checkpoints:
            self._load(checkpoints[-1])
        self.out.mkdir(parents=True, exist_ok=True)
        end = self.optimiser.steps if until is None else min(until, self.optimiser.steps)
        saved = shown = time.monotonic()
        meter = _Meter(self.task.num_time_steps)
        hidden = not self.accelerator.is_main_process
        with tqdm(total=self.optimiser.steps, initial=self.step, unit="step", disable=hidden, mininterval=2) as bar:
            for _ in range(self.step, end):
                meter.add(*self._train_step())
                bar.update()
                if self.step % 50 == 0 or self.step == end:
                    record = meter.flush(self.step, self.optimiser.batch)
                    mixed = self.accelerator.mixed_precision
                    record["precision"] = "float32" if mixed == "no" else mixed
                    self._log(record, bar)
                if time.monotonic() - saved > self.checkpoint_seconds and self.step < end:
                    self.save()
                    saved = time.monotonic()
                if time.monotonic() - shown > 3 * self.checkpoint_seconds:
                    self._preview()
                    shown = time.monotonic()
        self.save()
        self._preview()
        return self._averaged()

    def _averaged(self) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.averaged.module)

    def _train_step(self) -> tuple[Tensor, dict[str, Tensor]]:
        batch, workers = self.optimiser.batch, self.accelerator.num_processes
        generator = torch.Generator().manual_seed(self.seed * 1_000_000_007 + self.step)
        images = self.pictures.batch(self.step, batch, generator)
        t = torch.randint(self.task.num_time_steps, (batch,), generator=generator)
        noise = torch.randn((batch, *self.task.noise_shape), generator=generator)
        mine = slice(
            self.accelerator.process_index * batch // workers, (self.accelerator.process_index + 1) * batch // workers
        )
        device = self.accelerator.device
        with self.accelerator.autocast():
            losses = self.wrapped(images[mine].to(device), t[mine].to(device), noise[mine].to(device))
        loss = losses["loss"].mean()
        if not torch.isfinite(loss):
            raise RecipeError(
                f"the loss is not finite at step {self.step}; lower lr, and resume from the last checkpoint"
            )
        self.accelerator.backward(loss)
        for group in self.adam.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.optimiser, self.step)
        self.adam.step()
        self.adam.zero_grad()
        self.averaged.update_parameters(self.task.trained)
        self.step += 1
        return t[mine], {name: value.detach().float().cpu() for name, value in losses.items()}

    def _log(self, record: dict[str, Any], bar: Any) -> None:
        if not self.accelerator.is_main_process:
            return
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        shown = {"loss": f"{record['loss']:.5f}", "img/s": f"{record['images_per_second']:.0f}"}
        if "frozen" in record:
            shown["vs frozen"] = f"{record['loss'] / record['frozen']:.4f}"
        bar.set_postfix(shown)

    def _preview(self) -> None:
        if self.accelerator.is_main_process:
            images = self.pictures.first(8).to(self.accelerator.device)
            self.task.preview(self._averaged(), images, self.out / f"preview-{self.step:07d}.png")

    def save(self) -> None:
        """Writes a checkpoint select_prefix its step number, whole or not at all; the oldest go."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"trained.{k}": v for k, v in self.task.trained.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.module.state_dict().items()}
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        tensors["random_state"] = torch.get_rng_state()
        write_tensors(self.out / f"checkpoint-{self.step:09d}.safetensors", tensors, {"step": str(self.step)})
        for old in list_checkpoints(self.out)[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def _load(self, path: Path) -> None:
        tensors, metadata = read_tensors(path)
        self.step = int(metadata["step"])
        self.task.trained.load_state_dict(select_prefix(tensors, "trained."))
        self.averaged.module.load_state_dict(select_prefix(tensors, "averaged."))
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in select_prefix(tensors, "adam.").items():
            index, name = key.split(".", 1)
            state[int(index)][name] = value
        self.adam.load_state_dict({"state": dict(state), "param_groups": self.adam.state_dict()["param_groups"]})
        torch.set_rng_state(tensors["random_state"])


def list_checkpoints(out: Path) -> list[Path]:
    """The checkpoints of a run, by step."""
    return sorted(out.glob("checkpoint-*.safetensors"))


class _Meter:
    """Means of the losses since the last flush, whole and per range of time-steps."""

    def __init__(self, num_time_steps: int):
        self.num_time_steps = num_time_steps
        self._reset()

    def _reset(self) -> None:
        self.started = time.monotonic()
        self.t: list[Tensor] = []
        self.losses: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, t: Tensor, losses: dict[str, Tensor]) -> None:
        self.t.append(t)
        for name, value in losses.items():
            self.losses[name].append(value)

    def flush(self, step: int, batch: int) -> dict[str, Any]:
        seconds = time.monotonic() - self.started
        record: dict[str, Any] = {"step": step, "images": step * batch, "seconds": seconds}
        record["images_per_second"] = len(self.t) * batch / seconds
        ranges = torch.cat(self.t) * LOG_RANGES // self.num_time_steps
        for name, values in self.losses.items():
            flat = torch.cat(values)
            record[name] = flat.mean().item()
            record[f"{name}_by_range"] = [v for v in _range_means(flat, ranges)]
        self._reset()
        return record


def _range_means(values: Tensor, ranges: Tensor) -> Iterator[float | None]:
    for i in range(LOG_RANGES):
        members = values[ranges == i]
        yield members.mean().item() if len(members) else None
