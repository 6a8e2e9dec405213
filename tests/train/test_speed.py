"""Precision, compilation, operations: chosen once, kept, and without a trace in what is trained."""

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ditifeat import RecipeError
from ditifeat.train import speed
from ditifeat.train.draw import Draws
from ditifeat.train.loop import Trainer, list_checkpoints
from ditifeat.train.speed import (
    choose_precision,
    compiled,
    fast_kernels,
    flops_per_image,
    peak,
    untouched,
)
from tests.train.conftest import OPTIMISER, assert_equal_weights, make_run, make_task, read_log, training_images
from tests.train.test_loop import EIGHT_STEPS

CPU, GPU = torch.device("cpu"), torch.device("cuda")

KINDS = ["dm+dropout", "diti+dropout", "diffae", "simclr", "simsiam"]


def first_batch(task):
    return Draws(training_images(8), task.num_time_steps, task.noise_shape, 0, 4).per_image(0)


@pytest.fixture
def dynamo(monkeypatch):
    """`torch.compile` without the compiler of the graphs that it finds, which takes minutes."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


@pytest.fixture
def timed(monkeypatch):
    """Clocks and steps: what a step takes in each precision, in seconds."""
    seconds, clock = {"float32": 1.0, "bf16": 1.0}, [0.0]

    def step(losses, batch, precision):
        clock[0] += seconds[precision]

    monkeypatch.setattr(speed, "try_step", step)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    return seconds


@pytest.mark.parametrize("bf16,chosen", [(0.4, "bf16"), (0.83, "bf16"), (0.84, "float32"), (2.0, "float32")])
def test_bf16_where_it_is_faster_by_a_fifth(timed, bf16, chosen):
    task = make_task("simclr")
    timed["bf16"] = bf16
    assert choose_precision(task, first_batch(task), steps=500) == chosen
    assert choose_precision(task, first_batch(task), steps=499) == "float32"  # not worth measuring


@pytest.mark.parametrize("kind", ["dm+dropout", "simclr"])
def test_measuring_leaves_nothing(kind):
    task = make_task(kind).train()
    before, state = {k: v.clone() for k, v in task.state_dict().items()}, torch.get_rng_state()
    batch = first_batch(task)
    assert choose_precision(task, batch, steps=500) in ("float32", "bf16")
    assert flops_per_image(task, batch, "float32") > 1e5
    for key, value in task.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in task.parameters()) and torch.equal(torch.get_rng_state(), state)


def test_operations_of_a_linear_layer():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3 * 32 * 32, 5, bias=False)

        def forward(self, images, t, noise):
            return {"loss": self.layer(images.flatten(1)).square().mean(1)}

    task = make_task("dm")
    # A product in the forward pass, and one for the weights' gradient; the images need none.
    assert flops_per_image(Two(), first_batch(task), "float32") == 2 * (2 * 3 * 32 * 32 * 5)


def test_operations_that_cannot_be_counted_stop_nothing(caplog):
    def broken(*batch):
        raise NotImplementedError("odd")

    task = make_task("simclr")
    task.forward = broken
    assert flops_per_image(task, first_batch(task), "float32") is None and "odd" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_tasks_compile_as_one_graph(kind, dynamo):
    """Without a break, in bf16 too; the losses are those of the task as it is."""
    task = make_task(kind.removesuffix("+dropout")).train()
    batch = first_batch(task)
    whole = torch.compile(task, dynamic=False, fullgraph=True)
    with speed.autocast(CPU, "bf16"):
        assert torch.allclose(whole(*batch)["loss"], task(*batch)["loss"], rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_runs_are_resumed_exactly(tmp_path, kind, dynamo, no_previews):
    whole, resumed = make_task(kind), make_task(kind)
    averaged = Trainer(whole, make_run(tmp_path / "whole", compile=True), EIGHT_STEPS, "s").train()
    Trainer(make_task(kind), make_run(tmp_path / "parts", compile=True), EIGHT_STEPS, "s").train(until=4)
    trainer = Trainer(resumed, make_run(tmp_path / "parts", resume=True), EIGHT_STEPS, "s")
    assert trainer.compile  # as it began
    assert_equal_weights(averaged, trainer.train())
    assert_equal_weights(whole.trained, resumed.trained)
    assert [record["compiled"] for record in read_log(tmp_path / "parts" / "s-run")] == [True, True]


def test_what_cannot_be_compiled_runs_as_it_is(tmp_path, monkeypatch, caplog, no_previews):
    def refuse(losses, **options):
        def run(*batch):
            raise RuntimeError("no compiler\nand a long story")

        return run

    plain, refused = make_task("simclr"), make_task("simclr")
    Trainer(plain, make_run(tmp_path / "a"), EIGHT_STEPS, "s").train()
    monkeypatch.setattr(torch, "compile", refuse)
    Trainer(refused, make_run(tmp_path / "b", compile=True), EIGHT_STEPS, "s").train()
    assert_equal_weights(plain.trained, refused.trained)
    assert "cannot be compiled, and runs as it is (RuntimeError: no compiler)" in caplog.text
    assert not read_log(tmp_path / "b" / "s-run")[0]["compiled"]
    assert compiled(plain, plain, first_batch(plain), "float32") is None


def test_a_run_goes_on_in_the_precision_that_it_began_in(tmp_path, monkeypatch, no_previews):
    monkeypatch.setattr("ditifeat.train.loop.choose_precision", lambda *a: "bf16")
    whole, resumed = make_task("dm"), make_task("dm")
    Trainer(whole, make_run(tmp_path / "whole"), EIGHT_STEPS, "s").train()
    Trainer(make_task("dm"), make_run(tmp_path / "parts"), EIGHT_STEPS, "s").train(until=4)
    monkeypatch.setattr("ditifeat.train.loop.choose_precision", lambda *a: pytest.fail("chosen again"))
    Trainer(resumed, make_run(tmp_path / "parts", resume=True), EIGHT_STEPS, "s").train()
    assert_equal_weights(whole.trained, resumed.trained)
    assert {r["precision"] for r in read_log(tmp_path / "parts" / "s-run")} == {"bf16"}
    plain = make_task("dm")
    monkeypatch.setattr("ditifeat.train.loop.choose_precision", lambda *a: "float32")
    Trainer(plain, make_run(tmp_path / "plain"), EIGHT_STEPS, "s").train()
    assert not torch.equal(plain.trained["unet"].conv_in.weight, whole.trained["unet"].conv_in.weight)


def test_precision_that_was_asked_for_wins(tmp_path, monkeypatch, no_previews):
    monkeypatch.setattr("ditifeat.train.loop.choose_precision", lambda *a: "bf16")
    Trainer(make_task("simclr"), make_run(tmp_path), EIGHT_STEPS, "s").train(until=2)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    Trainer(make_task("simclr"), make_run(tmp_path, resume=True), EIGHT_STEPS, "s").train(until=4)
    assert [r["precision"] for r in read_log(tmp_path / "s-run")] == ["bf16", "float32"]


def test_a_run_in_float16_asks_for_it_again(tmp_path, monkeypatch, no_previews):
    trainer = Trainer(make_task("simclr"), make_run(tmp_path), EIGHT_STEPS, "s")
    trainer.precision = "fp16"
    trainer.save()
    with pytest.raises(RecipeError, match="was begun in fp16; set ACCELERATE_MIXED_PRECISION"):
        Trainer(make_task("simclr"), make_run(tmp_path, resume=True), EIGHT_STEPS, "s")
    assert list_checkpoints(tmp_path / "s-run")


@pytest.mark.parametrize(
    "name,known",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),
    ],
)
def test_peaks_by_name(monkeypatch, name, known):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak(GPU) == known and peak(CPU) is None


def test_the_share_of_the_peak_is_logged_and_summed_up(tmp_path, monkeypatch, no_previews):
    monkeypatch.setattr("ditifeat.train.loop.peak", lambda device: 1e12)
    monkeypatch.setattr("ditifeat.train.loop.choose_precision", lambda *a: "bf16")
    run = make_run(tmp_path)
    trainer = Trainer(make_task("dm"), run, OPTIMISER, "dm")
    trainer.train()
    (record,) = read_log(tmp_path / "dm-run")
    flops = flops_per_image(trainer.task, first_batch(trainer.task), "bf16")
    assert record["peak_share"] == pytest.approx(record["images_per_second"] * flops / 1e12)
    assert 0 < run.summary()["dm_peak_share"] == round(record["peak_share"], 3)


def test_kernels_are_set_as_they_were():
    before = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), fast_kernels(GPU):
        assert (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()) == (True, "high")
        raise KeyError
    with fast_kernels(CPU):
        assert (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()) == before
    assert (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()) == before


def test_untouched_puts_buffers_back_after_an_error():
    layer = torch.nn.BatchNorm1d(2)
    with pytest.raises(KeyError), untouched(layer):
        layer(torch.randn(4, 2)).sum().backward()
        raise KeyError
    assert torch.equal(layer.running_mean, torch.zeros(2)) and layer.weight.grad is None


@pytest.mark.parametrize("kind", ["dm", "diti+dropout", "simclr"])
def test_steps_of_a_gpu_are_resumed_exactly(tmp_path, monkeypatch, kind, no_previews):
    """Images kept and draws made on the device, channels-last: here on the CPU, whose kernels are deterministic."""
    monkeypatch.setattr("ditifeat.train.loop.is_gpu", lambda device: True)
    monkeypatch.setattr("ditifeat.train.loop.compiled", lambda *a: None)
    whole, resumed = make_task(kind), make_task(kind)
    averaged = Trainer(whole, make_run(tmp_path / "whole"), EIGHT_STEPS, "s").train()
    trainer = Trainer(make_task(kind), make_run(tmp_path / "parts"), EIGHT_STEPS, "s")
    trainer.train(until=2)
    assert all(p.is_contiguous() for p in trainer.task.parameters())
    trainer.train(until=4)
    again = Trainer(resumed, make_run(tmp_path / "parts", resume=True), EIGHT_STEPS, "s").train()
    assert_equal_weights(averaged, again)
    assert_equal_weights(whole.trained, resumed.trained)


class Reads(TorchDispatchMode):
    """Counts what waits for a device: values that Python reads."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in WAITS:
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


WAITS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}


@pytest.mark.parametrize("kind", KINDS)
def test_steps_of_a_gpu_wait_for_nothing(tmp_path, monkeypatch, kind, no_previews):
    monkeypatch.setattr("ditifeat.train.loop.is_gpu", lambda device: True)
    monkeypatch.setattr("ditifeat.model.diti.DiTi._check", lambda *a: None)  # which looks at values on the CPU alone
    trainer = Trainer(make_task(kind), make_run(tmp_path, compile=False), EIGHT_STEPS, "s")
    trainer.train(until=1)
    trainer.wrapped.train()
    with Reads() as reads:
        with monkeypatch.context() as patched:
            patched.setattr(torch, "tensor", lambda *a, **k: pytest.fail("a constant that is copied onto the device"))
            trainer._train_step()
        assert reads.seen == []
        trainer.meter.flush()
    assert reads.seen
