"""The training loop: exact resume, averaging, modes, seeds, checkpoints, the log."""

import time
from dataclasses import replace

import pytest
import torch

from ditifeat import RecipeError
from ditifeat.train.loop import Trainer, list_checkpoints
from ditifeat.train.sections import Optimiser
from tests.train.conftest import OPTIMISER, assert_equal_weights, make_run, make_task, read_log

EIGHT_STEPS = replace(OPTIMISER, images=8 * 4)


@pytest.mark.parametrize(
    "kind", ["dm", "dm+dropout", "diti", "diti+settings", "diti+dropout", "diffae", "simclr", "simsiam"]
)
def test_four_and_four_steps_are_eight(tmp_path, kind, no_previews):
    whole = make_task(kind)
    averaged = Trainer(whole, make_run(tmp_path / "whole"), EIGHT_STEPS, "s").train()
    Trainer(make_task(kind), make_run(tmp_path / "parts"), EIGHT_STEPS, "s").train(until=4)
    resumed = make_task(kind)
    torch.rand(7)  # what happened to the global generator in between does not matter
    again = Trainer(resumed, make_run(tmp_path / "parts", resume=True), EIGHT_STEPS, "s").train()
    assert_equal_weights(whole.trained, resumed.trained)
    assert_equal_weights(averaged, again)


@pytest.mark.parametrize("kind", ["dm+dropout", "diti+dropout", "diffae+dropout"])
def test_previews_change_nothing(tmp_path, kind, monkeypatch):
    """Not the weights, not a mode, not the global generator; and they are made at step counts."""
    with_previews, without = make_task(kind), make_task(kind)
    monkeypatch.setattr("ditifeat.train.loop.PREVIEW_STEPS", 3)
    monkeypatch.setattr("ditifeat.train.loop.PREVIEWED", 1)
    a = Trainer(with_previews, make_run(tmp_path / "a"), replace(OPTIMISER, images=28), "s")
    before = torch.get_rng_state()
    a.train()
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setattr(Trainer, "_preview", lambda trainer: None)
    Trainer(without, make_run(tmp_path / "b"), replace(OPTIMISER, images=28), "s").train()
    assert_equal_weights(with_previews.trained, without.trained)
    names = sorted(path.name for path in (tmp_path / "a" / "s-run").glob("preview-*"))
    assert names == [f"preview-{step:07d}.png" for step in (3, 6, 7)]


def test_a_preview_has_no_dropout(tmp_path, monkeypatch):
    monkeypatch.setattr("ditifeat.train.loop.PREVIEWED", 1)
    task = make_task("dm+dropout")
    Trainer(task, make_run(tmp_path / "a"), OPTIMISER, "s").train(until=1)
    Trainer(make_task("dm+dropout"), make_run(tmp_path / "b"), OPTIMISER, "s").train(until=1)
    a, b = ((tmp_path / name / "s-run" / "preview-0000001.png").read_bytes() for name in "ab")
    assert a == b and task.training


@pytest.mark.parametrize("kind", ["dm+dropout", "diti+dropout", "diffae+dropout"])
def test_dropout_is_on_in_training_and_off_in_what_is_averaged(tmp_path, kind, no_previews):
    """Whatever mode a network was built in: a warm-started estimator is copied from a U-Net in evaluation mode."""
    task = make_task(kind).eval()
    seen = []
    dropouts = [m for m in task.trained.modules() if isinstance(m, torch.nn.Dropout) and m.p > 0]
    dropouts[0].register_forward_hook(lambda module, inputs, output: seen.append((output == 0).float().mean().item()))
    trainer = Trainer(task, make_run(tmp_path), OPTIMISER, "s")
    averaged = trainer.train(until=4)
    assert len(seen) == 4 and all(0.2 < share < 0.4 for share in seen) and len(set(seen)) > 1
    assert not any(module.training for module in averaged.modules())
    if kind.startswith("diti"):
        assert not any(module.training for module in task.model.dm.modules())


def test_the_average_follows_the_published_update(tmp_path, no_previews):
    """`average = d average + (1 - d) weights` from the first step on, without a warm-up."""
    task = make_task("diti")
    start = {k: v.clone() for k, v in task.trained.state_dict().items()}
    averaged = Trainer(task, make_run(tmp_path), replace(OPTIMISER, warmup=0), "s").train(until=1)
    for key, value in averaged.state_dict().items():
        assert torch.allclose(value, 0.9 * start[key] + 0.1 * task.trained.state_dict()[key], atol=1e-6)
    assert any((value != start[key]).any() for key, value in averaged.state_dict().items())


def test_training_lowers_the_loss(tmp_path, monkeypatch, no_previews):
    monkeypatch.setattr("ditifeat.train.loop.LOGGED_STEPS", 20)
    Trainer(make_task("dm"), make_run(tmp_path), Optimiser(70 * 8, batch=8, lr=4e-3, ema=0.9), "dm").train()
    records = read_log(tmp_path / "dm-run")
    assert [r["step"] for r in records] == [20, 40, 60, 70] and records[-1]["images"] == 560
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert len(records[0]["loss_by_range"]) == 5
    assert records[0]["networks"] == ["unet"] and records[0]["precision"] == "float32"
    assert not records[0]["compiled"] and "peak_share" not in records[0]


def test_time_beside_the_steps_does_not_slow_them(tmp_path, monkeypatch):
    """Previews, checkpoints and choices count as time spent, but not in the images per second."""
    monkeypatch.setattr("ditifeat.train.loop.Trainer._preview", lambda trainer: time.sleep(0.5))
    monkeypatch.setattr("ditifeat.train.loop.Trainer._choose", lambda trainer: time.sleep(0.5))
    monkeypatch.setattr("ditifeat.train.loop.PREVIEW_STEPS", 1)
    Trainer(make_task("simclr"), make_run(tmp_path), EIGHT_STEPS, "s").train()
    (record,) = read_log(tmp_path / "s-run")
    assert record["seconds"] > 4 and record["images_per_second"] > 1.2 * 32 / record["seconds"]


def test_checkpoints_are_atomic_and_two_are_kept(tmp_path, monkeypatch, no_previews):
    monkeypatch.setattr("ditifeat.train.loop.CHECKPOINT_MINUTES", 0)
    Trainer(make_task("diti"), make_run(tmp_path), EIGHT_STEPS, "diti").train()
    assert [p.name for p in list_checkpoints(tmp_path / "diti-run")] == [
        "checkpoint-000000007.safetensors",
        "checkpoint-000000008.safetensors",
    ]
    assert not list((tmp_path / "diti-run").glob(".*"))


def test_old_checkpoints_are_not_overwritten_unasked(tmp_path, no_previews):
    Trainer(make_task("simclr"), make_run(tmp_path), OPTIMISER, "s").train(until=2)
    with pytest.raises(RecipeError, match="--resume"):
        Trainer(make_task("simclr"), make_run(tmp_path), OPTIMISER, "s")


@pytest.mark.parametrize("damage", ["cut", "other networks"])
def test_a_checkpoint_that_does_not_fit_is_named(tmp_path, no_previews, damage):
    Trainer(make_task("simclr"), make_run(tmp_path), OPTIMISER, "s").train(until=2)
    (path,) = list_checkpoints(tmp_path / "s-run")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RecipeError, match=f"{path.name}.*delete it"):
        Trainer(make_task("simclr" if damage == "cut" else "simsiam"), make_run(tmp_path, resume=True), OPTIMISER, "s")


class BreaksAt(torch.nn.Module):
    """Losses that are infinite from a step on."""

    def __init__(self, losses, step):
        super().__init__()
        self.losses, self.left = losses, step

    def forward(self, *batch):
        self.left -= 1
        losses = self.losses(*batch)
        return losses | {"loss": losses["loss"] * (torch.inf if self.left < 0 else 1)}


@pytest.mark.parametrize("step", [0, 3, 5])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch, no_previews, step):
    """At the next record of the log, which is not written."""
    monkeypatch.setattr("ditifeat.train.loop.LOGGED_STEPS", 3)
    trainer = Trainer(make_task("diti"), make_run(tmp_path), OPTIMISER, "s")
    trainer.losses = BreaksAt(trainer.losses, step)
    with pytest.raises(
        RecipeError, match=f"s-run: the loss is not finite within steps {step // 3 * 3}..{step // 3 * 3 + 2}; "
    ):
        trainer.train()
    assert list_checkpoints(tmp_path / "s-run") == []
    assert step < 3 or [r["step"] for r in read_log(tmp_path / "s-run")] == [3]


def test_no_checkpoint_holds_what_is_not_finite(tmp_path, monkeypatch, no_previews):
    """Between two records of the log: neither after the loss, nor with weights that it has spoilt."""
    monkeypatch.setattr("ditifeat.train.loop.CHECKPOINT_MINUTES", 0)
    trainer = Trainer(make_task("diti"), make_run(tmp_path), OPTIMISER, "s")
    trainer.losses = BreaksAt(trainer.losses, 4)
    with pytest.raises(RecipeError, match="not finite before step 5"):
        trainer.train()
    assert [path.name[-6 - len(".safetensors") :][:6] for path in list_checkpoints(tmp_path / "s-run")] == [
        "000003",
        "000004",
    ]
    fine = Trainer(make_task("diti"), make_run(tmp_path / "b"), OPTIMISER, "s")
    with torch.no_grad():
        fine.task.model.encoder.head.bias[0] = torch.nan
    with pytest.raises(RecipeError, match="not finite"):
        fine.save()
    assert list_checkpoints(tmp_path / "b" / "s-run") == []


def test_float16_s_scaler_is_in_the_checkpoint(tmp_path, no_previews):
    trainer = Trainer(make_task("simclr"), make_run(tmp_path), OPTIMISER, "s")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.accelerator.scaler.scale(torch.ones(1))
    trainer.save()
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer._load(list_checkpoints(tmp_path / "s-run")[-1])
    assert trainer.accelerator.scaler.state_dict()["scale"] == 1024.0
