"""The trainer on pictures that nobody owns: exact resume, atomic checkpoints, a whole run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import ditifeat
from ditifeat import RecipeError
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.model.diti import DiTi
from ditifeat.model.encoders import build_encoder
from ditifeat.train import train
from ditifeat.train.data import Pictures, prepare
from ditifeat.train.loop import Trainer, learning_rate, list_checkpoints
from ditifeat.train.recipe import DiTiRecipe, Optimiser, UNetSpec, load_recipe, model_config, recipe_names
from ditifeat.train.run import set_code_statistics
from ditifeat.train.tasks.contrastive import ContrastiveTask
from ditifeat.train.tasks.diffae import DiffAETask, build_diffae
from ditifeat.train.tasks.diti import DiTiTask
from ditifeat.train.tasks.dm import DMTask, build_dm
from tests.conftest import make_picture, method_recipe, random_model, tiny_recipe


def pictures(count=12, flip=True):
    rows = np.stack([np.asarray(make_picture(i, 32, 32)) for i in range(count)])
    return Pictures(rows, [f"{i}.png" for i in range(count)], flip, seed=0)


def task(kind, dropout=0.0):
    recipe = tiny_recipe()
    if kind == "dm":
        unet = replace(recipe.dm.unet, dropout=dropout)
        dm = replace(recipe.dm, unet=unet, prediction="sample", loss="min_snr")
        return DMTask(build_dm(replace(recipe, dm=dm)), dm, 32)
    if kind == "diffae":
        recipe = method_recipe("diffae")
        return DiffAETask(build_diffae(recipe, model_config(recipe)))
    if kind in ("simclr", "simsiam"):
        recipe = method_recipe(kind)
        torch.manual_seed(0)
        return ContrastiveTask(build_encoder(recipe.encoder, 32, 32), recipe)
    model = random_model(recipe)
    model.encoder.requires_grad_(True), model.estimator.requires_grad_(True)
    section = DiTiRecipe(Optimiser(32, 32), "on")
    return DiTiTask(model, replace(section, weighting="relative", encoder_lr=0.5) if kind == "switches" else section)


OPTIMISER = Optimiser(20 * 4, batch=4, lr=1e-3, decay="cosine", warmup=3, weight_decay=0.01, ema=0.9)


@pytest.mark.parametrize(
    "kind,dropout",
    [("dm", 0.0), ("dm", 0.5), ("diti", 0.0), ("switches", 0.0), ("diffae", 0.0), ("simclr", 0.0), ("simsiam", 0.0)],
)
def test_ten_and_ten_steps_are_twenty(tmp_path, kind, dropout):
    whole = task(kind, dropout).train()
    averaged = Trainer(whole, pictures(), OPTIMISER, tmp_path / "whole").run()
    Trainer(task(kind, dropout).train(), pictures(), OPTIMISER, tmp_path / "parts").run(until=10)
    resumed = task(kind, dropout).train()
    torch.rand(7)  # what happened to the global generator in between does not matter
    again = Trainer(resumed, pictures(), OPTIMISER, tmp_path / "parts").run(resume=True)
    for a, b in ((whole.trained, resumed.trained), (averaged, again)):
        for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(x, y), name


def test_the_average_follows_the_published_update(tmp_path):
    """`average = d average + (1 - d) weights` from the first step on, without a warm-up."""
    one = task("diti")
    start = {k: v.clone() for k, v in one.trained.state_dict().items()}
    trainer = Trainer(one, pictures(), OPTIMISER, tmp_path)
    averaged = trainer.run(until=1)
    for key, value in averaged.state_dict().items():
        assert torch.allclose(value, 0.9 * start[key] + 0.1 * one.trained.state_dict()[key], atol=1e-6)


def test_training_lowers_the_loss(tmp_path):
    optimiser = Optimiser(150 * 8, batch=8, lr=2e-3, ema=0.9)
    Trainer(task("dm"), pictures(), optimiser, tmp_path).run()
    records = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [50, 100, 150]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert len(records[0]["loss_by_range"]) == 5 and records[-1]["images"] == 1200


def test_checkpoints_are_atomic_and_two_are_kept(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(DiTiTask, "preview", lambda self, averaged, images, path: shown.append(path.name))
    trainer = Trainer(task("diti"), pictures(), OPTIMISER, tmp_path, checkpoint_minutes=0)
    trainer.run()
    assert [p.name for p in list_checkpoints(tmp_path)] == [
        "checkpoint-000000019.safetensors",
        "checkpoint-000000020.safetensors",
    ]
    assert not list(tmp_path.glob(".*")) and shown[-1] == "preview-0000020.png"


def test_old_checkpoints_are_not_overwritten_unasked(tmp_path):
    Trainer(task("diti"), pictures(), OPTIMISER, tmp_path).run(until=2)
    with pytest.raises(RecipeError, match="--resume"):
        Trainer(task("diti"), pictures(), OPTIMISER, tmp_path).run()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    broken = task("diti")
    with torch.no_grad():
        broken.model.encoder.head.weight.fill_(float("inf"))
    with pytest.raises(RecipeError, match="not finite at step 0"):
        Trainer(broken, pictures(), OPTIMISER, tmp_path).run()
    assert list_checkpoints(tmp_path) == []


def test_learning_rate():
    rates = [learning_rate(OPTIMISER, step) for step in range(20)]
    assert rates[0] == pytest.approx(1e-3 / 3) and rates[3] == pytest.approx(1e-3)
    assert all(a > b for a, b in pairwise(rates[3:])) and 0 < rates[-1] < 1e-4
    assert {learning_rate(replace(OPTIMISER, decay="none", warmup=0), step) for step in (0, 19)} == {1e-3}


def test_epochs_see_each_picture_once():
    data = pictures(10)
    first = np.concatenate([data.indices(step, 4) for step in range(5)])
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10)) and list(first[:10]) != list(first[10:])
    assert np.array_equal(data.indices(2, 4), first[8:12])  # whatever was asked for before


def test_flips_are_flips():
    data = pictures(8)
    generator = torch.Generator().manual_seed(0)
    images, plain = data.batch(0, 8, generator), pictures(8, flip=False).batch(0, 8, generator)
    kinds = [torch.equal(a, b) + 2 * torch.equal(a, b.flip(-1)) for a, b in zip(images, plain, strict=True)]
    assert set(kinds) == {1, 2}


def test_pictures_are_decoded_once(photos, tmp_path):
    array, names = prepare(photos, Preprocessing(32), tmp_path)
    assert array.shape == (10, 32, 32, 3) and names[-1] == "more/09.png"
    before = (tmp_path / "pictures.npy").stat().st_mtime_ns
    again, _ = prepare(photos, Preprocessing(32), tmp_path)
    assert np.array_equal(array, again) and (tmp_path / "pictures.npy").stat().st_mtime_ns == before
    with pytest.raises(RecipeError, match="another output folder"):
        prepare(photos, Preprocessing(16), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="no pictures"):
        prepare(tmp_path / "empty", Preprocessing(32), tmp_path / "cache")


def test_code_statistics():
    model, data = random_model(tiny_recipe()), pictures()
    set_code_statistics(model, data, batch=5)
    codes = model.encoder(data.first(12))
    assert torch.allclose(model.mean, codes.mean(0), atol=1e-4)
    assert torch.allclose(model.std, codes.std(0, unbiased=False), rtol=1e-3)


@pytest.mark.parametrize("loss,prediction", [("epsilon", "sample"), ("min_snr", "sample"), ("min_snr", "epsilon")])
def test_dm_losses_against_a_loop(loss, prediction):
    recipe = tiny_recipe()
    dm_recipe = replace(recipe.dm, loss=loss, prediction=prediction, snr_cap=6.0)
    dm = build_dm(replace(recipe, dm=dm_recipe))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1
    t, noise = torch.tensor([5, 400, 950]), torch.randn(3, 12, 16, 16, generator=generator)
    losses = DMTask(dm, dm_recipe, 32)(images, t, noise)["loss"]
    for i in range(3):
        a = dm.schedule.alpha_bar[t[i]]
        x_0 = dm.codec.encode(images[i : i + 1])
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise[i]
        output = dm.unet(x_t, t[i : i + 1]).sample
        if prediction == "sample":
            estimate, eps = output, (x_t - a.sqrt() * output) / (1 - a).sqrt()
        else:
            estimate, eps = (x_t - (1 - a).sqrt() * output) / a.sqrt(), output
        expected = (
            (eps - noise[i]).square().mean()
            if loss == "epsilon"
            else min(1 / (1 - a), 6.0) * (estimate - x_0).square().mean()
        )
        assert float(losses[i].detach()) == pytest.approx(float(expected.detach()), rel=1e-3)


def test_guided_style():
    unet = build_dm(
        tiny_recipe(dm=replace(tiny_recipe().dm, unet=UNetSpec((32, 64), 1, (1,), 16, style="guided")))
    ).unet
    assert unet.config.resnet_time_scale_shift == "scale_shift" and unet.config.down_block_types[1] == "AttnDownBlock2D"
    assert unet.mid_block.attentions[0].group_norm is not None


def test_recipes_of_the_package():
    mini = [f"celeba64-mini{system}" for system in ("", "-diffae", "-pdae", "-simclr")]
    assert recipe_names() == ["bedroom128", "celeba64", *mini, "ffhq128", "images64"]
    assert [load_recipe(name).method for name in mini] == ["diti", "diffae", "diti", "contrastive"]
    paper = load_recipe("celeba64")
    assert (paper.diti.optimiser.batch, paper.diti.optimiser.lr, paper.diti.optimiser.ema) == (128, 1e-4, 0.9999)
    images = {name: load_recipe(name).diti.optimiser.images for name in ("celeba64", "ffhq128", "bedroom128")}
    assert images == {"celeba64": 38_000_000, "ffhq128": 64_000_000, "bedroom128": 70_000_000}
    for name in ("celeba64", "ffhq128", "bedroom128"):
        recipe = load_recipe(name)
        assert recipe.partition.k == 64 and recipe.partition.dims_per_stage == (10, 25, 327, 100, 50)
        assert not recipe.diti.warm_start  # what the paper does not do is off


def test_the_recipe_for_anybody_s_images_cuts_no_face():
    recipe = load_recipe("images64")
    assert recipe.image.box(400, 300) == (50, 0, 350, 300) and recipe.image.resampling == "lanczos"
    assert not recipe.encoder_spec.flip_average and recipe.method == "diti" and recipe.holdout == 0


@pytest.mark.parametrize(
    "update,words",
    [
        (lambda r: r.update(trick=True), "unknown key trick"),
        (lambda r: r["diti"].update(detach="maybe"), "off, on, both"),
        (lambda r: r.update(encoder="resnet9000"), "resnet9000"),
        (lambda r: r["dm"].pop("unet"), "either `pretrained`"),
        (lambda r: r["diti"]["optimiser"].update(lr=-1.0), "lr"),
        (lambda r: r["diti"]["optimiser"].update(images=3), "at least one batch"),
        (lambda r: r["partition"].update(k="many"), "type int"),
        (lambda r: r["dm"]["unet"].update(channels=[7]), "multiples of 32"),
    ],
)
def test_recipes_that_are_refused(tmp_path, update, words):
    data = yaml.safe_load((Path(ditifeat.__file__).parent / "train" / "recipes" / "celeba64-mini.yaml").read_text())
    update(data)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(RecipeError, match=words) as error:
        load_recipe(path)
    assert "mine.yaml" in str(error.value)


def test_recipe_files_that_are_none(tmp_path):
    with pytest.raises(RecipeError, match=r"neither a recipe file nor one of bedroom128"):
        load_recipe("nothing")
    (tmp_path / "x.yaml").write_text(f'!!python/object/apply:os.mkdir ["{tmp_path}/ran"]')
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "x.yaml")
    assert not (tmp_path / "ran").exists()


def write_recipe(folder, recipe=None, **changes):
    from dataclasses import asdict

    path = folder / "tiny.yaml"
    recipe = recipe or tiny_recipe(holdout=3, **changes)
    path.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(recipe)))))
    return path


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr("ditifeat.train.evaluate.STEPS", 5)


def test_a_whole_run(photos, tmp_path, few_steps):
    recipe = write_recipe(tmp_path)
    labels = {"bright": np.arange(10) % 2, "number": np.arange(10.0)}
    folder = train(recipe, photos, tmp_path / "run", labels=labels)
    encoder = ditifeat.load_encoder(folder)
    assert list(encoder.attributes()) == ["bright", "number"]
    assert (
        max((attribute.weights != 0).sum() for attribute in map(encoder.attributes(sparse=True).__getitem__, labels))
        <= 16
    )
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "attributes-sparse.safetensors", "attributes.safetensors", "config.json", "dm",
        "estimator.safetensors", "evaluation.json", "model.safetensors",
    ]  # fmt: skip
    encoder = ditifeat.load_encoder(folder)
    assert ditifeat.encode(encoder, photos).shape == (10, 32)
    assert encoder.config.training["diti_images"] == 80 and encoder.config.training["pictures"] == 7
    assert encoder.config.training["dm_precision"] == "float32"
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["reconstruction"]["held_out"] and evaluation["probe"]["test rows"] == 3
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: ditifeat\nlicense: other\n")
    assert f"{evaluation['reconstruction']['mse']['inferred_x_T']:.3g}" in card and "| bright |" in card
    assert "| encoder and estimator | 80 | " in card and " | float32 | " in card
    assert (encoder.mean != 0).any() and (encoder.std > 0).all()

    with pytest.raises(RecipeError, match="--resume"):
        train(recipe, photos, tmp_path / "run")
    other = write_recipe(tmp_path, seed=1)
    with pytest.raises(RecipeError, match="another recipe"):
        train(other, photos, tmp_path / "run", resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    with pytest.raises(RecipeError, match="not empty"):
        train(recipe, photos, tmp_path / "full")


def test_a_pretrained_dm_is_frozen_and_copied(photos, tiny_folder, tmp_path, few_steps):
    recipe = write_recipe(tmp_path)
    folder = train(recipe, photos, tmp_path / "run", dm=str(tiny_folder / "dm"))
    ours, theirs = DiTi.load(folder).dm.unet.state_dict(), DiTi.load(tiny_folder).dm.unet.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not (tmp_path / "run" / "dm-run").exists()
    pixels = write_recipe(tmp_path, codec=tiny_recipe().codec.__class__())
    with pytest.raises(ditifeat.ModelError, match="12 channels"):
        train(pixels, photos, tmp_path / "other", dm=str(tiny_folder / "dm"))


def test_a_killed_run_goes_on(photos, tmp_path):
    """SIGKILL in the middle of training, then resume: the end is bitwise that of a run that was left alone."""
    slow = Optimiser(60 * 4, batch=4, lr=1e-3, ema=0.5)
    recipe = write_recipe(tmp_path, diti=replace(tiny_recipe().diti, optimiser=slow))
    program = (
        "import sys; import ditifeat.train.evaluate as evaluate; evaluate.STEPS = 5\n"
        "import ditifeat.train.loop as loop; loop.Trainer.__init__.__defaults__ = (0, 0.01)\n"
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
    a, b = (DiTi.load(tmp_path / name / "model").state_dict() for name in ("killed", "whole"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.skipif(shutil.which("accelerate") is None, reason="accelerate's launcher is not on the path")
def test_two_processes_learn_what_one_does(photos, tmp_path, few_steps):
    recipe = write_recipe(tmp_path)
    launch = [
        "accelerate",
        "launch",
        "--cpu",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [*launch, "--num_processes", "2", "-m", "ditifeat.train", str(recipe)]
    command += ["--data", str(photos), "--out", str(tmp_path / "2")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    train(recipe, photos, tmp_path / "1")
    a, b = (DiTi.load(tmp_path / count / "model").state_dict() for count in ("1", "2"))
    for key in a:
        assert torch.allclose(a[key], b[key], rtol=0.05, atol=1e-3), key


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
        picture = photos / "00.png"
        edited = ditifeat.edit(encoder, picture, reference=photos / "01.png", steps=5)
        assert edited.size == (32, 32)
    else:
        with pytest.raises(ditifeat.ModelError, match="encoder alone"):
            ditifeat.edit(encoder, photos / "00.png", reference=photos / "01.png", steps=5)


def test_one_method_a_recipe():
    with pytest.raises(RecipeError, match="one of the sections"):
        tiny_recipe(diti=None)
    with pytest.raises(RecipeError, match="missing key dm"):
        tiny_recipe(dm=None)
    with pytest.raises(RecipeError, match="no frozen DM"):
        train(method_recipe("simclr"), "nowhere", "nowhere", dm="somewhere")
