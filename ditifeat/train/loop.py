"""The training loop: one task, one log, atomic checkpoints, resume that is bit-exact on the CPU.

Every random number of a step follows from the seed, the step and, on the CPU, the image's place in the batch (dropout's: from
the process). So a resumed run needs no random states, a preview changes nothing, and several processes draw the images,
time-steps and noise that one would, each its own share. A GPU is waited for only where the log, a preview or a checkpoint
needs what it has computed.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ditifeat.analysis.metrics import effective_rank
from ditifeat.data.drawing import grid, save_image, to_pixels
from ditifeat.errors import ModelError, RecipeError
from ditifeat.files import read_tensors, select_prefix, write_tensors
from ditifeat.train.data import TrainingImages
from ditifeat.train.draw import Batch, Draws
from ditifeat.train.engine import accelerator, agreed, asked_precision
from ditifeat.train.initialise import Autocast
from ditifeat.train.meter import Meter
from ditifeat.train.optimise import Average, Group, adamw, match_layout, set_rates
from ditifeat.train.recipe import MethodRecipe
from ditifeat.train.run import Run
from ditifeat.train.sections import Optimiser
from ditifeat.train.speed import (
    Losses,
    autocast,
    choose_precision,
    compiled,
    device_name,
    fast_kernels,
    flops_per_image,
    is_gpu,
    peak,
)

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2

CHECKPOINT_MINUTES = 4

PREVIEWS, PREVIEW_STEPS = 10, 250  # at most per stage, and the least number of steps between two

PREVIEWED = 8  # images per preview

MEASURED = 1024  # images whose codes' effective rank is logged, with each preview

LOGGED_STEPS = 50  # that a record of the log is the mean of


class Task(nn.Module):
    """What a stage trains: subclasses give `trained`, the losses, a preview and the finished model.

    Attributes:
        section: the type of the method's section in a recipe.
        trained: the networks that learn, and that are averaged.
        num_time_steps: T; time-steps are drawn from 0..T-1.
        noise_shape: of the noise that comes with each image.
    """

    section: ClassVar[type[MethodRecipe]]
    trained: nn.ModuleDict
    num_time_steps: int = 1000
    noise_shape: tuple[int, ...] = ()

    @classmethod
    def build(cls, run: Run, section: Any) -> Task:
        """Return the task of a run with its networks at random, drawn from the recipe's seed.

        Args:
            run: the run.
            section: the recipe's section of this method.
        """
        raise NotImplementedError

    def initialise(self, images: TrainingImages, autocast: Autocast = nullcontext) -> None:
        """Set the weights that follow from the training images; not called where training is resumed.

        Args:
            images: of the run.
            autocast: the precision that frozen networks may run in: that of the run.
        """

    def parameter_groups(self) -> list[Group]:
        """Return the trained networks' parameters, each once, by learning rate and by when they begin to move.

        Checkpoints number the parameters in this order.
        """
        return [Group(list(network.parameters())) for network in self.trained.values()]

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return losses per image, `(B,)` each: "loss" is minimised, others (the frozen DM's, say) are logged beside it.

        Args:
            images: `(B, 3, S, S)` in [-1, 1]; of several processes, this one's share of the batch.
            t: time-steps, int64 `(B,)`.
            noise: standard normal, `(B, *noise_shape)`; the only randomness beside dropout.
        """
        raise NotImplementedError

    def preview(self, averaged: nn.ModuleDict, images: Tensor) -> Tensor:
        """Return rows of as many images as `images` `(N, 3, S, S)` has: what the averaged networks make, `(rows * N, 3, S, S)`."""
        raise NotImplementedError

    def finished(self, averaged: nn.ModuleDict) -> nn.Module:
        """Return the model with the averaged networks in place of the trained ones."""
        raise NotImplementedError


class Trainer:
    """Trains a task to the end of its `Optimiser`, from the newest checkpoint of the stage if the run is resumed.

    The loop alone sets training and evaluation modes: at every step the trained networks are in training mode, whatever
    they were built from; the averaged ones never are.

    Args:
        task: the task, on the CPU.
        run: the run that this is a stage of.
        optimiser: how long and how fast.
        stage: its name.

    Raises:
        RecipeError: if the stage has checkpoints and the run is not resumed, or processes cannot share the batch.
    """

    def __init__(self, task: Task, run: Run, optimiser: Optimiser, stage: str):
        self.accelerator = accelerator()
        self.device: torch.device = self.accelerator.device
        self.images, self.optimiser, self.progress = run.images, optimiser, run.progress
        self.seed, self.out = run.recipe.seed, run.stage_folder(stage)
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        if optimiser.batch % processes:
            raise RecipeError(f"batch = {optimiser.batch} cannot be shared by {processes} processes")
        checkpoints = list_checkpoints(self.out)
        if checkpoints and not run.resume:
            raise RecipeError(f"{self.out}: holds checkpoints already; resume (--resume) or use another folder")
        self.task = task.to(self.device)
        self.on_gpu = is_gpu(self.device)
        if self.on_gpu:
            run.images.load_onto(self.device)
        self.draws = Draws(
            run.images, task.num_time_steps, task.noise_shape, self.seed, optimiser.batch, rank, processes
        )
        self.step = 0
        self.precision, self.compile = asked_precision(), run.compile  # None until they are chosen
        if not checkpoints:
            task.initialise(run.images, partial(autocast, self.device, self._choose_precision()))
        self.average = Average(task.trained, optimiser.ema)
        self.groups = task.parameter_groups()
        self.adam: Any = adamw(self.groups, task.trained, optimiser)
        self._lay_out(torch.channels_last)
        self.wrapped, self.adam = self.accelerator.prepare(task, self.adam)
        self.losses: Losses = self.wrapped
        self.effort: float | None = None  # seconds that an image takes at the peak of all devices, where that is known
        self.meter = Meter(task.num_time_steps, self.accelerator.gather)
        self.measured: dict[str, float] = {}  # repeated in the log until the next preview
        if checkpoints:
            self._load(checkpoints[-1])

    def train(self, until: int | None = None) -> nn.ModuleDict:
        """Train to the last step (or to step `until`), and return the averaged networks.

        Raises:
            RecipeError: if the loss stops being finite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        end = self.optimiser.steps if until is None else min(until, self.optimiser.steps)
        hidden = not (self.progress and self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            logger.info("%s: steps %d to %d of %d images each", self.out, self.step, end, self.optimiser.batch)
        with (
            self._running(),
            tqdm(total=self.optimiser.steps, initial=self.step, desc=self.out.name, disable=hidden) as bar,
        ):
            if self.step < end:
                with self.meter.aside():
                    self._choose()
            self._steps(end, bar)
        self.save()
        self._lay_out(torch.contiguous_format)
        return self.average.networks

    def time_steps(self, steps: int) -> float:
        """Train for so many steps, and return images per second; nothing is logged, drawn or saved."""
        with self._running():
            self._choose()
            for count in (1, steps):  # the first prepares
                self.meter.restart()
                for _ in range(count):
                    self._train_step()
                seconds = self.meter.flush()["seconds"]
        return steps * self.optimiser.batch / float(seconds)

    @contextmanager
    def _running(self) -> Iterator[None]:
        self.meter.restart()
        self._lay_out(torch.channels_last)
        # Dropout alone draws from torch's global generators, which are left as they were.
        devices = [self.device] if self.device.type == "cuda" else []
        with fast_kernels(self.device), torch.random.fork_rng(devices):
            yield

    def _steps(self, end: int, bar: Any) -> None:
        preview_steps = max(PREVIEW_STEPS, self.optimiser.steps // PREVIEWS)
        saved = time.monotonic()
        self.wrapped.train()
        for _ in range(self.step, end):
            self._train_step()
            bar.update()
            to_preview = self.step % preview_steps == 0 or self.step == end
            if to_preview:
                with self.meter.aside():
                    self._measure()
            if self.step % LOGGED_STEPS == 0 or self.step == end:
                self._log(bar)
            to_save = time.monotonic() - saved > 60 * CHECKPOINT_MINUTES and self.step < end
            if (to_save or to_preview) and self.device.type == "cuda":
                torch.cuda.synchronize(self.device)  # the steps so far are not what takes time aside
            with self.meter.aside():
                if to_save:
                    self.save()
                    saved = time.monotonic()
                if to_preview:
                    self._preview()
                    self.wrapped.train()

    def _lay_out(self, memory_format: torch.memory_format) -> None:
        """Channels-last, which a GPU's convolutions want, or back; on a CPU torch 2.13's GroupNorm can crash of it."""
        if self.on_gpu:
            for networks in (self.task, self.average.networks):
                networks.to(memory_format=memory_format)  # type: ignore[call-overload]
            match_layout(self.adam)

    def _choose_precision(self) -> str:
        if self.precision is None:
            self.task.train()
            self.precision = agreed(choose_precision(self.task, self._draw(), self.optimiser.steps))
        return self.precision

    def _choose(self) -> None:
        """Precision, and whether the step is compiled, unless they were asked for or come from a checkpoint."""
        self.wrapped.train()
        if self.losses is not self.wrapped:
            return  # compiled already
        precision, batch = self._choose_precision(), self._draw()
        if self.compile is None:
            self.compile = self.on_gpu  # on two CPU cores it took minutes, and its steps were no faster
        most = peak(self.device)
        flops = None if most is None or precision == "float32" else flops_per_image(self.task, batch, precision)
        if most is not None and flops is not None:
            self.effort = flops / (most * self.accelerator.num_processes)
        if self.compile:
            fast = compiled(self.wrapped, self.task, batch, precision)
            self.losses, self.compile = (self.wrapped, False) if fast is None else (fast, True)

    def _draw(self) -> Batch:
        if self.on_gpu:
            return self.draws.on_device(self.step, self.device)
        return Batch(*(x.to(self.device) for x in self.draws.per_image(self.step)))

    def _train_step(self) -> None:
        batch = self._draw()
        seed = (self.seed, self.step, self.accelerator.process_index)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        with autocast(self.device, str(self.precision)):
            losses = self.losses(*batch)
        set_rates(self.adam, self.groups, self.optimiser, self.step)
        self.accelerator.backward(losses["loss"].mean())
        self.adam.step()
        self.adam.zero_grad()
        self.average.update()
        self.meter.add(batch.t, losses)
        self.step += 1

    def _log(self, bar: Any) -> None:
        means = self.meter.flush()
        steps, seconds = means.pop("steps"), means.pop("steps_seconds")
        if not np.isfinite(means["loss"]):
            self._stop(f"the loss is not finite within steps {self.step - steps}..{self.step - 1}")
        if not self.accelerator.is_main_process:
            return
        record = {"step": self.step, "images": self.step * self.optimiser.batch} | means
        record["images_per_second"] = steps * self.optimiser.batch / seconds
        if self.effort is not None:
            record["peak_share"] = record["images_per_second"] * self.effort
        record["precision"], record["compiled"] = self.precision, bool(self.compile)
        record["device"] = device_name(self.device, self.accelerator.num_processes)
        record["networks"] = list(self.task.trained)
        record |= self.measured
        record["parameters"] = sum(p.numel() for p in self.task.trained.parameters())
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        shown = {"loss": f"{record['loss']:.5f}", "img/s": f"{record['images_per_second']:.0f}"}
        if "frozen" in record:
            shown["relative to the frozen DM"] = f"{record['loss'] / record['frozen']:.4f}"
        bar.set_postfix(shown)

    def _stop(self, reason: str) -> None:
        raise RecipeError(f"{self.out}: {reason}; lower lr, and resume from the last checkpoint")

    @torch.no_grad()
    def _measure(self) -> None:
        if self.accelerator.is_main_process and "encoder" in self.average.networks:
            parts = self.images.first(MEASURED).to(self.device).split(self.optimiser.batch)
            codes = torch.cat([self.average.networks["encoder"](part) for part in parts])
            self.measured = {"effective_rank": effective_rank(codes.cpu().numpy())}

    @torch.no_grad()
    def _preview(self) -> None:
        if self.accelerator.is_main_process:
            images = self.images.first(PREVIEWED).to(self.device)
            rows = self.task.preview(self.average.networks, images)
            save_image(grid(to_pixels(rows), columns=len(images)), self.out / f"preview-{self.step:07d}.png")

    def save(self) -> None:
        """Write a checkpoint named after its step, atomically; the oldest go.

        Raises:
            RecipeError: if it would hold, or follow from, a loss that is not finite; nothing is written.
        """
        if not self.accelerator.is_main_process:
            return
        tensors = {f"trained.{k}": v for k, v in self.task.trained.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.average.networks.state_dict().items()}
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        if not (self.meter.finite() and all(bool(torch.isfinite(value).all()) for value in tensors.values())):
            self._stop(f"the loss is not finite before step {self.step}")
        if self.accelerator.scaler is not None:  # of float16 gradients
            scaler = self.accelerator.scaler.state_dict()
            tensors |= {f"scaler.{key}": torch.tensor(value) for key, value in scaler.items()}
        about = {"step": str(self.step), "precision": self.precision or "float32", "compiled": str(bool(self.compile))}
        write_tensors(self.out / f"checkpoint-{self.step:09d}.safetensors", tensors, about)
        for old in list_checkpoints(self.out)[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def _load(self, path: Path) -> None:
        try:
            tensors, metadata = read_tensors(path)
            self._set_state(tensors, int(metadata["step"]))
        except (ModelError, RuntimeError, KeyError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise RecipeError(
                f"{path}: does not fit the recipe's networks, or is damaged ({reason}); delete it to go on from the one before"
            ) from error
        self._set_choices(metadata)

    def _set_choices(self, begun: dict[str, str]) -> None:
        """A run goes on as it began, unless it is asked otherwise; the oldest checkpoints say nothing."""
        if self.precision is None:
            self.precision = begun.get("precision", "float32")
            if self.precision not in ("float32", "bf16"):
                raise RecipeError(
                    f"{self.out}: was begun in {self.precision}; set ACCELERATE_MIXED_PRECISION={self.precision}, or =no to go "
                    "on in float32"
                )
        if self.compile is None:
            self.compile = begun.get("compiled") == "True"

    def _set_state(self, tensors: dict[str, Tensor], step: int) -> None:
        self.step = step
        self.task.trained.load_state_dict(select_prefix(tensors, "trained."))
        self.average.networks.load_state_dict(select_prefix(tensors, "averaged."))
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in select_prefix(tensors, "adam.").items():
            index, name = key.split(".", 1)
            state[int(index)][name] = value
        self.adam.load_state_dict({"state": dict(state), "param_groups": self.adam.state_dict()["param_groups"]})
        match_layout(self.adam)
        if self.accelerator.scaler is not None:
            scaler = {key: value.item() for key, value in select_prefix(tensors, "scaler.").items()}
            self.accelerator.scaler.load_state_dict(scaler)


def list_checkpoints(out: Path) -> list[Path]:
    """List the checkpoints of a stage, by step."""
    return sorted(out.glob("checkpoint-*.safetensors"))
