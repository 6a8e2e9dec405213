"""The training loop: one task, one log, atomic checkpoints, resume that is bit-exact on the CPU.

Every random number of a step follows from the seed, the step and the image's place in the batch (dropout's: from the
process). So a resumed run needs no random states, a preview changes nothing, and several processes draw the images,
time-steps and noise that one would, each its own share.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from diffusers.optimization import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from ditifeat.data.drawing import grid, save_image, to_pixels
from ditifeat.errors import ModelError, RecipeError
from ditifeat.files import read_tensors, select_prefix, write_tensors
from ditifeat.train.data import TrainingImages
from ditifeat.train.engine import accelerator
from ditifeat.train.recipe import MethodRecipe
from ditifeat.train.run import Run
from ditifeat.train.sections import Optimiser

logger = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2

CHECKPOINT_MINUTES = 4

PREVIEWS, PREVIEW_STEPS = 10, 250  # at most per stage, and the least number of steps between two

PREVIEWED = 8  # images per preview

LOGGED_STEPS = 50  # that a record of the log is the mean of

LOG_RANGES = 5  # equal ranges of time-steps whose losses are logged apart


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

    def initialise(self, images: TrainingImages) -> None:
        """Set the weights that follow from the training images; not called where training is resumed."""

    def learning_rates(self) -> dict[str, float]:
        """Return factors of the learning rate, by the name of a trained network; 1 where none is given."""
        return {}

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
        self.images, self.optimiser, self.progress = run.images, optimiser, run.progress
        self.seed, self.out = run.recipe.seed, run.stage_folder(stage)
        if optimiser.batch % self.accelerator.num_processes:
            raise RecipeError(
                f"batch = {optimiser.batch} cannot be shared by {self.accelerator.num_processes} processes"
            )
        checkpoints = list_checkpoints(self.out)
        if checkpoints and not run.resume:
            raise RecipeError(f"{self.out}: holds checkpoints already; resume (--resume) or use another folder")
        self.task = task.to(self.accelerator.device)
        if not checkpoints:
            task.initialise(run.images)
        self.averaged = AveragedModel(task.trained, multi_avg_fn=get_ema_multi_avg_fn(optimiser.ema)).eval()
        self.averaged.n_averaged.fill_(1)  # it holds a first value already: no warm-up, as published
        self.wrapped, self.adam = self.accelerator.prepare(task, _adam(task, optimiser))
        self.step = 0
        if checkpoints:
            self._load(checkpoints[-1])
        self.schedule = _schedule(self.adam.optimizer, optimiser, self.step)

    def train(self, until: int | None = None) -> nn.ModuleDict:
        """Train to the last step (or to step `until`), and return the averaged networks.

        Raises:
            RecipeError: if the loss stops being finite.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        end = self.optimiser.steps if until is None else min(until, self.optimiser.steps)
        preview_steps = max(PREVIEW_STEPS, self.optimiser.steps // PREVIEWS)
        saved = time.monotonic()
        meter = _Meter(self.task.num_time_steps, self.accelerator.gather)
        hidden = not (self.progress and self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            logger.info("%s: steps %d to %d of %d images each", self.out, self.step, end, self.optimiser.batch)
        # Dropout alone draws from torch's global generators, which are left as they were.
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        with (
            torch.random.fork_rng(devices),
            tqdm(total=self.optimiser.steps, initial=self.step, desc=self.out.name, disable=hidden) as bar,
        ):
            for _ in range(self.step, end):
                meter.add(*self._train_step())
                bar.update()
                if self.step % LOGGED_STEPS == 0 or self.step == end:
                    self._log(meter.flush(), bar)
                if time.monotonic() - saved > 60 * CHECKPOINT_MINUTES and self.step < end:
                    self.save()
                    saved = time.monotonic()
                if self.step % preview_steps == 0 or self.step == end:
                    self._preview()
        self.save()
        return self._networks()

    def _networks(self) -> nn.ModuleDict:
        return cast(nn.ModuleDict, self.averaged.module)

    def _train_step(self) -> tuple[Tensor, dict[str, Tensor]]:
        rank, device = self.accelerator.process_index, self.accelerator.device
        images, t, noise = (x.to(device) for x in self._draw_share())
        self.wrapped.train()
        torch.manual_seed(int(np.random.SeedSequence((self.seed, self.step, rank)).generate_state(1)[0]))
        with self.accelerator.autocast():
            losses = self.wrapped(images, t, noise)
        loss = losses["loss"].mean()
        if not torch.isfinite(loss):
            raise RecipeError(
                f"the loss is not finite at step {self.step}; lower lr, and resume from the last checkpoint"
            )
        self.accelerator.backward(loss)
        self.adam.step()
        self.adam.zero_grad()
        self.schedule.step()
        self.averaged.update_parameters(self.task.trained)
        self.step += 1
        return t, {name: value.detach().float() for name, value in losses.items()}

    def _draw_share(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, time-steps and noise of this process's share of the batch: each image has a generator of its own."""
        batch, workers, rank = self.optimiser.batch, self.accelerator.num_processes, self.accelerator.process_index
        share = range(rank * batch // workers, (rank + 1) * batch // workers)
        seeds = np.random.SeedSequence((self.seed, self.step)).generate_state(batch)
        images = self.images.batch(self.images.indices(self.step, batch)[share.start : share.stop])
        t = torch.empty(len(share), dtype=torch.int64)
        noise = torch.empty(len(share), *self.task.noise_shape)
        generator = torch.Generator()
        for i, place in enumerate(share):
            generator.manual_seed(int(seeds[place]))
            if torch.rand((), generator=generator) < 0.5 and self.images.flip:
                images[i] = images[i].flip(-1)
            t[i].random_(self.task.num_time_steps, generator=generator)
            noise[i].normal_(generator=generator)
        return images, t, noise

    def _log(self, means: dict[str, Any], bar: Any) -> None:
        if not self.accelerator.is_main_process:
            return
        mixed = self.accelerator.mixed_precision
        record = {"step": self.step, "images": self.step * self.optimiser.batch} | means
        record["images_per_second"] = record.pop("steps") * self.optimiser.batch / record["seconds"]
        record["precision"] = "float32" if mixed == "no" else mixed
        record["networks"] = list(self.task.trained)
        record["parameters"] = sum(p.numel() for p in self.task.trained.parameters())
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        shown = {"loss": f"{record['loss']:.5f}", "img/s": f"{record['images_per_second']:.0f}"}
        if "frozen" in record:
            shown["relative to the frozen DM"] = f"{record['loss'] / record['frozen']:.4f}"
        bar.set_postfix(shown)

    @torch.no_grad()
    def _preview(self) -> None:
        if self.accelerator.is_main_process:
            images = self.images.first(PREVIEWED).to(self.accelerator.device)
            rows = self.task.preview(self._networks(), images)
            save_image(grid(to_pixels(rows), columns=len(images)), self.out / f"preview-{self.step:07d}.png")

    def save(self) -> None:
        """Write a checkpoint named after its step, atomically; the oldest go."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"trained.{k}": v for k, v in self.task.trained.state_dict().items()}
        tensors |= {f"averaged.{k}": v for k, v in self.averaged.module.state_dict().items()}
        for index, state in self.adam.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        if self.accelerator.scaler is not None:  # of float16 gradients
            scaler = self.accelerator.scaler.state_dict()
            tensors |= {f"scaler.{key}": torch.tensor(value) for key, value in scaler.items()}
        write_tensors(self.out / f"checkpoint-{self.step:09d}.safetensors", tensors, {"step": str(self.step)})
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

    def _set_state(self, tensors: dict[str, Tensor], step: int) -> None:
        self.step = step
        self.task.trained.load_state_dict(select_prefix(tensors, "trained."))
        self.averaged.module.load_state_dict(select_prefix(tensors, "averaged."))
        state: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for key, value in select_prefix(tensors, "adam.").items():
            index, name = key.split(".", 1)
            state[int(index)][name] = value
        self.adam.load_state_dict({"state": dict(state), "param_groups": self.adam.state_dict()["param_groups"]})
        if self.accelerator.scaler is not None:
            scaler = {key: value.item() for key, value in select_prefix(tensors, "scaler.").items()}
            self.accelerator.scaler.load_state_dict(scaler)


def _adam(task: Task, optimiser: Optimiser) -> torch.optim.AdamW:
    factors = task.learning_rates()
    groups: list[dict[str, Any]] = []
    for name, network in task.trained.items():
        lr = optimiser.lr * factors.get(name, 1.0)
        parameters = [p for p in network.parameters() if p.requires_grad]
        # The schedule multiplies `initial_lr`, also where it goes on from a checkpoint.
        groups.append({"params": parameters, "lr": lr, "initial_lr": lr})
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=optimiser.weight_decay)


def _schedule(adam: torch.optim.Optimizer, optimiser: Optimiser, step: int) -> LambdaLR:
    """The learning rates, `step` steps into training."""
    if optimiser.decay == "none":
        return get_constant_schedule_with_warmup(adam, optimiser.warmup, step - 1)
    return get_cosine_schedule_with_warmup(adam, optimiser.warmup, optimiser.steps, last_epoch=step - 1)


def list_checkpoints(out: Path) -> list[Path]:
    """List the checkpoints of a stage, by step."""
    return sorted(out.glob("checkpoint-*.safetensors"))


class _Meter:
    """Means of the losses since the last flush, over all processes: of all time-steps and per range of them."""

    def __init__(self, num_time_steps: int, gather: Callable[[Tensor], Tensor]):
        self.num_time_steps, self.gather = num_time_steps, gather
        self._reset()

    def _reset(self) -> None:
        self.started = time.monotonic()
        self.t: list[Tensor] = []
        self.losses: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, t: Tensor, losses: dict[str, Tensor]) -> None:
        self.t.append(t)
        for name, value in losses.items():
            self.losses[name].append(value)

    def flush(self) -> dict[str, Any]:
        record: dict[str, Any] = {"steps": len(self.t), "seconds": time.monotonic() - self.started}
        ranges = self.gather(torch.cat(self.t)).cpu() * LOG_RANGES // self.num_time_steps
        for name, values in self.losses.items():
            flat = self.gather(torch.cat(values)).cpu()
            record[name] = flat.mean().item()
            record[f"{name}_by_range"] = list(_range_means(flat, ranges))
        self._reset()
        return record


def _range_means(values: Tensor, ranges: Tensor) -> Iterator[float | None]:
    for i in range(LOG_RANGES):
        members = values[ranges == i]
        yield members.mean().item() if len(members) else None
