"""The training loop: exact resume, averaging, modes, seeds, checkpoints, the log."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup

from ditifeat import RecipeError
from ditifeat.train.loop import Trainer, _adam, _schedule, list_checkpoints
from ditifeat.train.sections import Optimiser
from tests.conftest import tiny_recipe
from tests.train.conftest import OPTIMISER, assert_equal_weights, make_run, make_task, read_log, training_images

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


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    broken = make_task("diti")
    with torch.no_grad():
        broken.model.encoder.head.weight.fill_(float("inf"))
    with pytest.raises(RecipeError, match="not finite at step 0"):
        Trainer(broken, make_run(tmp_path), OPTIMISER, "s").train()
    assert list_checkpoints(tmp_path / "s-run") == []


def rates(optimiser, step=0):
    task = make_task("diti+settings")
    adam = _adam(task, optimiser)
    schedule = _schedule(adam, optimiser, step)
    found = []
    for _ in range(step, 20):
        found.append([group["lr"] for group in adam.param_groups])
        adam.step()
        schedule.step()
    return found


def test_learning_rates_are_diffusers_s():
    encoder, estimator = zip(*rates(OPTIMISER), strict=True)
    assert estimator[:4] == pytest.approx((0, 1e-3 / 3, 2e-3 / 3, 1e-3))
    assert all(a > b for a, b in pairwise(estimator[3:])) and 0 < estimator[-1] < 1e-4
    assert encoder == pytest.approx([0.5 * rate for rate in estimator])
    other = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    theirs = get_cosine_schedule_with_warmup(other, 3, 20).lr_lambdas[0]
    assert estimator == pytest.approx([1e-3 * theirs(step) for step in range(20)])
    assert {rate for _, rate in rates(replace(OPTIMISER, decay="none", warmup=0))} == {1e-3}


@pytest.mark.parametrize("decay", ["none", "cosine"])
def test_learning_rates_go_on_where_they_were(decay):
    optimiser = replace(OPTIMISER, decay=decay)
    for step in (1, 2, 7):
        assert rates(optimiser, step) == rates(optimiser)[step:]


def test_float16_s_scaler_is_in_the_checkpoint(tmp_path, no_previews):
    trainer = Trainer(make_task("simclr"), make_run(tmp_path), OPTIMISER, "s")
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.accelerator.scaler.scale(torch.ones(1))
    trainer.save()
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    trainer._load(list_checkpoints(tmp_path / "s-run")[-1])
    assert trainer.accelerator.scaler.state_dict()["scale"] == 1024.0


def test_each_image_has_its_own_numbers(tmp_path):
    """They follow from the seed, the step and the place in the batch: a process draws its share as one would draw all."""
    trainer = Trainer(make_task("dm"), make_run(tmp_path), OPTIMISER, "s")
    images, t, noise = trainer._draw_share()

    class Process:
        num_processes, process_index = 2, 1

    trainer.accelerator = Process()
    for whole, share in zip((images, t, noise), trainer._draw_share(), strict=True):
        assert torch.equal(whole[2:], share)
    other = Trainer(make_task("dm"), make_run(tmp_path, tiny_recipe(seed=1)), OPTIMISER, "s")
    assert not torch.equal(other._draw_share()[2], noise) and len(set(map(float, noise[:, 0, 0, 0]))) == 4


def test_flips_are_flips(tmp_path):
    kinds = set()
    plain = training_images(8, flip=False)
    trainer = Trainer(make_task("dm"), make_run(tmp_path, images=training_images(8)), OPTIMISER, "s")
    for trainer.step in range(4):
        for image, index in zip(trainer._draw_share()[0], plain.indices(trainer.step, 4), strict=True):
            before = plain.batch([index])[0]
            kinds.add(torch.equal(image, before) + 2 * torch.equal(image, before.flip(-1)))
    assert kinds == {1, 2}
