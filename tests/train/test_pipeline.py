"""Whole runs, from a folder of images to a model folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ditifeat
from ditifeat import InputError, RecipeError
from ditifeat.errors import MissingDependencyError, WriteError
from ditifeat.model.codec import load_vae
from ditifeat.model.diti import DiTi
from ditifeat.train import train
from ditifeat.train.loop import list_checkpoints
from ditifeat.train.pipeline import set_code_statistics
from ditifeat.train.sections import CodecRecipe, DMRecipe, Optimiser
from ditifeat.train.tasks.contrastive import random_encoder
from tests.conftest import method_recipe, random_model, tiny_recipe
from tests.model.test_codec import tiny_vae
from tests.train.conftest import assert_equal_weights, read_log, training_images, with_dropout, write_recipe


def test_code_statistics():
    model, data = random_model(tiny_recipe()), training_images()
    set_code_statistics(model, data, batch=5)
    codes = model.encoder(data.first(12))
    assert torch.allclose(model.mean, codes.mean(0), atol=1e-4)
    assert torch.allclose(model.std, codes.std(0, unbiased=False), rtol=1e-3)


class NoFloat64(torch.Tensor):
    """A tensor of a device without float64, as Apple's GPUs."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if isinstance(result, cls) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else result


def test_code_statistics_on_a_device_without_float64():
    with pytest.raises(TypeError, match="float64"):
        torch.ones(2).as_subclass(NoFloat64).double()
    model, plain, data = random_model(tiny_recipe()), random_model(tiny_recipe()), training_images()
    set_code_statistics(plain, data)
    model.encoder.register_forward_hook(lambda module, inputs, codes: codes.as_subclass(NoFloat64))
    set_code_statistics(model, data)
    assert torch.equal(model.mean, plain.mean) and torch.equal(model.std, plain.std)


def refused(monkeypatch, error, words, *arguments, **options):
    """That `train` refuses, before it decodes or trains anything."""
    monkeypatch.setattr("ditifeat.train.loop.Trainer.__init__", lambda *a: pytest.fail("trained"))
    with pytest.raises(error, match=words):
        train(*arguments, **options)


def test_what_is_wrong_is_said_before_training(photos, tmp_path, monkeypatch):
    recipe = tiny_recipe(holdout=3)
    labels = {"bright": np.arange(9) % 2}
    refused(monkeypatch, InputError, "10", recipe, photos, tmp_path / "a", labels=labels)
    refused(monkeypatch, InputError, "nowhere", recipe, photos, tmp_path / "b", labels=tmp_path / "nowhere.csv")
    refused(monkeypatch, RecipeError, "holds none out", tiny_recipe(), photos, tmp_path / "c", labels=labels)
    refused(monkeypatch, RecipeError, "holds out 10", tiny_recipe(holdout=10), photos, tmp_path / "d")
    refused(monkeypatch, RecipeError, "lies in", recipe, photos, photos / "run")
    refused(monkeypatch, InputError, "nowhere", recipe, tmp_path / "nowhere", tmp_path / "e")
    assert not (photos / "run").exists()


def test_without_accelerate(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ditifeat\[train\]'"):
        train("images64", "photos", "run")


def test_a_full_disk_in_training_is_our_error(photos, tmp_path, monkeypatch):
    def full(self, *arguments, **options):
        raise OSError(28, os.strerror(28), "log.jsonl")

    monkeypatch.setattr("ditifeat.train.loop.Trainer._log", full)
    recipe = method_recipe("simclr", holdout=3)
    with pytest.raises(WriteError, match=r"log\.jsonl: No space left"):
        train(recipe, photos, tmp_path / "run")


def test_a_damaged_image_does_not_end_a_run(photos, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(photos, folder)
    (folder / "00a.png").write_bytes(b"")
    model = train(method_recipe("simclr", holdout=3), folder, tmp_path / "run")
    facts = ditifeat.load_encoder(model).config.training
    assert facts["skipped_images"] == 1 and facts["training_images"] == 7
    assert "1 more could not be decoded" in (model / "README.md").read_text()


@pytest.mark.slow
def test_a_whole_run(photos, tmp_path, few_steps):
    recipe = write_recipe(tmp_path)
    labels = {"bright": np.arange(10) % 2, "number": np.arange(10.0)}
    folder = train(recipe, photos, tmp_path / "run", labels=labels)
    encoder = ditifeat.load_encoder(folder)
    assert list(encoder.attributes()) == ["bright", "number"]
    sparse = encoder.attributes(sparse=True)
    assert max((sparse[name].weights != 0).sum() for name in labels) <= 16
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "attributes-sparse.safetensors", "attributes.safetensors", "config.json", "dm",
        "estimator.safetensors", "evaluation.json", "model.safetensors",
    ]  # fmt: skip
    assert ditifeat.encode(encoder, photos).shape == (10, 32)
    assert encoder.config.training["diti_images"] == 80 and encoder.config.training["training_images"] == 7
    assert encoder.config.training["dm_precision"] == "float32"
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["reconstruction"]["held_out"] and evaluation["probe"]["test rows"] == 3
    card = (folder / "README.md").read_text()
    assert f"{evaluation['reconstruction']['mse']['inferred_x_T']:.3g}" in card and "| bright |" in card
    assert "| diti: encoder, estimator | 80 | " in card and " | float32 | " in card
    assert (encoder.mean != 0).any() and (encoder.std > 0).all()


@pytest.mark.slow
def test_a_pretrained_dm_is_frozen_and_copied(photos, tiny_folder, tmp_path, few_steps):
    recipe = write_recipe(tmp_path)
    folder = train(recipe, photos, tmp_path / "run", dm=str(tiny_folder / "dm"))
    assert_equal_weights(DiTi.load(folder).dm.unet, DiTi.load(tiny_folder).dm.unet)
    assert not (tmp_path / "run" / "dm-run").exists()
    assert f"`{tiny_folder / 'dm'}`, not trained here" in (folder / "README.md").read_text()
    pixels = write_recipe(tmp_path, codec=CodecRecipe())
    with pytest.raises(ditifeat.ModelError, match="12 channels"):
        train(pixels, photos, tmp_path / "other", dm=str(tiny_folder / "dm"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["diti", "diffae"])
def test_a_dm_over_latents(method, photos, tmp_path, few_steps):
    """The VAE is read from the recipe's path, and copied into the model; then the DM with it is one that others can freeze."""
    tiny_vae("AutoencoderKL", scaling_factor=0.5).save_pretrained(tmp_path / "vae")
    codec = CodecRecipe("vae", path=str(tmp_path / "vae"))
    base = tiny_recipe(holdout=3, codec=codec) if method == "diti" else method_recipe(method, holdout=3, codec=codec)
    folder = train(write_recipe(tmp_path, base), photos, tmp_path / "run")
    shutil.move(tmp_path / "vae", tmp_path / "elsewhere")
    encoder = ditifeat.load_encoder(folder)
    assert encoder.config.codec.kind == "vae" and encoder.model.noise_shape == (4, 16, 16)
    assert_equal_weights(encoder.model.codec.vae, load_vae(tmp_path / "elsewhere"))
    edited = ditifeat.edit(encoder, photos / "00.png", reference=photos / "01.png", steps=3)
    assert edited.size == (32, 32)
    if method == "diti":
        frozen = DMRecipe(pretrained=str(tmp_path / "run" / "dm"))
        again = train(tiny_recipe(codec=CodecRecipe("vae"), dm=frozen), photos, tmp_path / "again", images=8)
        assert_equal_weights(ditifeat.load_encoder(again).model.codec.vae, load_vae(tmp_path / "elsewhere"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pdae", "diffae", "simclr", "simsiam"])
def test_other_methods_run_whole(method, photos, tmp_path, few_steps):
    recipe = write_recipe(tmp_path, method_recipe(method, holdout=3))
    folder = train(recipe, photos, tmp_path / "run", labels={"bright": np.arange(10) % 2}, seed=3)
    encoder = ditifeat.load_encoder(folder)
    assert ditifeat.encode(encoder, photos).shape == (10, 32) and encoder.partition.k == 1
    assert encoder.config.training["seed"] == 3
    evaluation, card = json.loads((folder / "evaluation.json").read_text()), (folder / "README.md").read_text()
    assert "probe" in evaluation and "| bright |" in card
    assert " | float32 | " in card
    if method in ("pdae", "diffae"):
        assert f"{evaluation['reconstruction']['ssim']['inferred_x_T']:.3f}" in card
        edited = ditifeat.edit(encoder, photos / "00.png", reference=photos / "01.png", steps=5)
        assert edited.size == (32, 32)
    else:
        with pytest.raises(ditifeat.ModelError, match="encoder alone"):
            ditifeat.edit(encoder, photos / "00.png", reference=photos / "01.png", steps=5)


@pytest.mark.slow
def test_a_killed_run_goes_on(photos, tmp_path):
    """SIGKILL in the middle of training, then resume: the end is bitwise that of a run that was left alone."""
    long = Optimiser(60 * 4, batch=4, lr=1e-3, ema=0.5)
    base = with_dropout(tiny_recipe())
    recipe = write_recipe(tmp_path, replace(base, section=replace(base.section, optimiser=long)))
    program = (
        "import sys; import ditifeat.train.evaluate as evaluate; evaluate.STEPS = 5\n"
        "import ditifeat.train.loop as loop; loop.CHECKPOINT_MINUTES = 0.01; loop.PREVIEW_STEPS = 40; loop.PREVIEWED = 2\n"
        "from ditifeat.train import train; train(sys.argv[1], sys.argv[2], sys.argv[3], resume='resume' in sys.argv)"
    )

    def start(out, *arguments):
        command = [sys.executable, "-c", program, str(recipe), str(photos), str(out), *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while not list_checkpoints(tmp_path / "killed" / "diti-run") and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list_checkpoints(tmp_path / "killed" / "diti-run")
    assert not (tmp_path / "killed" / "model").exists()
    resumed, whole = start(tmp_path / "killed", "resume"), start(tmp_path / "whole")
    for process in (resumed, whole):
        assert process.wait() == 0, process.stderr.read()
    assert_equal_weights(*(DiTi.load(tmp_path / name / "model") for name in ("killed", "whole")))


PROCESSES = """
import json, os, sys
from pathlib import Path
import ditifeat.train.evaluate as evaluate
from ditifeat.train import train
from ditifeat.train.engine import accelerator
evaluate.STEPS = 5
recipe, data, out = sys.argv[1:]
train(recipe, data, out)
(Path(out) / f"process-{accelerator().process_index}.json").write_text(json.dumps(accelerator().num_processes))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["diti", "simclr", "simsiam"])
def test_two_processes_learn_what_one_does(photos, tmp_path, few_steps, method):
    recipe = tiny_recipe(holdout=3) if method == "diti" else method_recipe(method, holdout=3)
    recipe = replace(recipe, section=replace(recipe.section, optimiser=replace(recipe.section.optimiser, images=24)))
    path = write_recipe(tmp_path, recipe)
    program = tmp_path / "program.py"
    program.write_text(PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, str(program), str(path), str(photos), str(tmp_path / "2")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in (tmp_path / "2").glob("process-*")) == ["process-0.json", "process-1.json"]
    assert {json.loads(path.read_text()) for path in (tmp_path / "2").glob("process-*")} == {2}

    train(path, photos, tmp_path / "1")
    one, two = (read_log(tmp_path / n / f"{recipe.method}-run")[-1] for n in "12")
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-3)
    a, b = (load_file(tmp_path / n / "model" / "model.safetensors") for n in "12")
    start = {f"encoder.{key}": value for key, value in random_encoder(recipe).state_dict().items()}
    learnt = torch.cat([(a[key] - start[key]).flatten() for key in start])
    difference = torch.cat([(a[key] - b[key]).flatten() for key in start])
    # Adam makes much of the least gradients' rounding; what a process learns from its half alone differs by half.
    assert learnt.norm() > 0 and difference.norm() < 0.05 * learnt.norm(), difference.norm() / learnt.norm()
