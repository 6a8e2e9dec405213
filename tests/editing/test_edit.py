import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import ditifeat
from ditifeat import ImageDecodeError, InputError
from ditifeat.analysis.report import AttributeProbe
from ditifeat.data.drawing import to_pixels
from ditifeat.editing.edit import attribute_edit, subset_edit
from ditifeat.model.partition import TimeStepPartition
from tests.conftest import make_image


def direction(encoder, seed=0):
    weights = np.random.default_rng(seed).normal(size=encoder.partition.d).astype(np.float32)
    ones = np.ones_like(weights)
    return AttributeProbe("any", "binary", weights, 0.0, 0 * ones, ones, {"ap": 1.0})


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b)).mean()


def test_attribute_edit_against_its_formula():
    z, w, std = torch.randn(3, 16), torch.randn(16), torch.rand(16)
    norm = math.sqrt(sum(float(v) ** 2 for v in w))
    expected = [[z[i, j] + 0.3 * 4 * std[j] * w[j] / norm for j in range(16)] for i in range(3)]
    assert torch.allclose(attribute_edit(z, w, std, 0.3), torch.tensor(expected), atol=1e-6)


def test_subset_edit_changes_its_subsets_alone():
    z, other = torch.zeros(2, 16), torch.ones(1, 16)
    mixed = subset_edit(TimeStepPartition(8, 16), z, other, range(2, 4), 0.5)
    assert mixed[0].tolist() == [0] * 4 + [0.5] * 4 + [0] * 8


def test_strength_zero_is_the_reconstruction(tiny_encoder):
    image = make_image(width=32, height=32)
    same = ditifeat.edit(tiny_encoder, image, direction(tiny_encoder), scale=0.0, steps=10)
    by_reference = ditifeat.edit(tiny_encoder, image, reference=make_image(1), scale=0.0, steps=10)
    model = tiny_encoder.model
    x_0 = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    z = tiny_encoder(x_0)
    x_T = model.invert(x_0, z, 10, "fixed_point")
    again = to_pixels(model.sample(x_T, z, 10, solver="fixed_point"))[0]
    assert difference(same, again) < 0.1 and difference(by_reference, again) < 0.1


def test_strength_changes_the_image_more_and_more(tiny_encoder):
    image = make_image()
    edited = [ditifeat.edit(tiny_encoder, image, direction(tiny_encoder), scale=s, steps=10) for s in (0.0, 0.5, 2.0)]
    assert 0 < difference(edited[0], edited[1]) < difference(edited[0], edited[2])


def test_a_path_of_strengths_shares_one_inversion(tiny_encoder, monkeypatch):
    images, attribute = [make_image(0), make_image(1)], direction(tiny_encoder)
    alone = [ditifeat.edit(tiny_encoder, image, attribute, scale=2.0, steps=5) for image in images]
    calls = []
    invert = type(tiny_encoder.model).invert
    monkeypatch.setattr(type(tiny_encoder.model), "invert", lambda *a, **k: calls.append(1) or invert(*a, **k))
    paths = ditifeat.edit(tiny_encoder, images, attribute, scale=[-1.0, 0.0, 2.0], steps=5)
    assert len(calls) == 1 and [len(path) for path in paths] == [3, 3]
    assert all(difference(path[2], one) < 0.1 for path, one in zip(paths, alone, strict=True))
    one = ditifeat.edit(tiny_encoder, images[0], reference=images[1], scale=[0.0, 1.0], steps=5)
    assert len(one) == 2 and isinstance(one[0], Image.Image) and difference(*one) > 0


def test_the_published_solver(tiny_encoder):
    image, model = make_image(width=32, height=32), tiny_encoder.model
    x_0 = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    z = tiny_encoder(x_0)
    expected = to_pixels(model.sample(model.invert(x_0, z, 10), z, 10))[0]
    edited = ditifeat.edit(tiny_encoder, image, direction(tiny_encoder), scale=0.0, steps=10, solver="ddim")
    assert difference(edited, expected) < 0.1
    with pytest.raises(InputError, match="ddim, fixed_point"):
        ditifeat.edit(tiny_encoder, image, direction(tiny_encoder), solver="euler")


def test_one_image_or_a_batch(tiny_encoder, photos):
    one = ditifeat.edit(tiny_encoder, photos / "00.png", direction(tiny_encoder), steps=5)
    assert isinstance(one, Image.Image) and one.size == (32, 32)
    many = ditifeat.edit(tiny_encoder, photos, direction(tiny_encoder), steps=5, batch_size=4)
    assert len(many) == 10 and difference(many[0], one) < 0.1
    assert ditifeat.edit(tiny_encoder, [], direction(tiny_encoder)) == []


def test_a_reference_gives_its_subsets(tiny_encoder):
    a, b = make_image(0, 32, 32), make_image(1, 32, 32)
    kept = ditifeat.edit(tiny_encoder, a, reference=a, steps=10)
    assert difference(kept, ditifeat.edit(tiny_encoder, a, reference=b, scale=0.0, steps=10)) < 0.1
    some = ditifeat.edit(tiny_encoder, a, reference=b, subsets=range(2, 4), steps=10)
    every = ditifeat.edit(tiny_encoder, a, reference=b, steps=10)
    assert difference(some, kept) > 0 and difference(every, kept) > 0 and difference(every, some) > 0
    whole = ditifeat.edit(tiny_encoder, a, reference=b, x_T="swap", steps=10)
    of_b = ditifeat.edit(tiny_encoder, b, reference=b, steps=10)
    assert difference(whole, of_b) < 0.1
    half = ditifeat.edit(tiny_encoder, a, reference=b, scale=0.5, x_T="slerp", steps=10)
    assert difference(half, kept) > 0 and difference(half, of_b) > 0


def test_plain_weights_are_a_direction(tiny_encoder):
    weights = direction(tiny_encoder).weights
    a = ditifeat.edit(tiny_encoder, make_image(), weights, steps=5)  # the tiny model's std is 1
    assert difference(a, ditifeat.edit(tiny_encoder, make_image(), direction(tiny_encoder), steps=5)) == 0


@pytest.mark.parametrize(
    "scale",
    [
        (-1.0, 0, 2),
        range(-1, 2),
        np.linspace(-1, 1, 3),
        np.array([-1, 0, 1]),
        torch.linspace(-1, 1, 3),
        torch.linspace(-1, 1, 3, dtype=torch.bfloat16, requires_grad=True),
        [np.float32(-1), torch.tensor(0.0), 1],
    ],
)
def test_several_scales_in_every_kind_of_sequence(tiny_encoder, scale):
    image, attribute = make_image(), direction(tiny_encoder)
    path = ditifeat.edit(tiny_encoder, image, attribute, scale=scale, steps=2)
    assert len(path) == 3 and all(isinstance(edited, Image.Image) for edited in path)
    expected = ditifeat.edit(tiny_encoder, image, attribute, scale=-1.0, steps=2)
    assert difference(path[0], expected) < 0.1 < difference(path[0], path[2])


@pytest.mark.parametrize(
    "scale", [0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.nn.Parameter(torch.tensor(0.5))]
)
def test_one_scale_in_every_kind_of_number(tiny_encoder, scale):
    edited = ditifeat.edit(tiny_encoder, make_image(), direction(tiny_encoder), scale=scale, steps=2)
    assert isinstance(edited, Image.Image)
    assert (
        difference(edited, ditifeat.edit(tiny_encoder, make_image(), direction(tiny_encoder), scale=0.5, steps=2)) == 0
    )


@pytest.mark.parametrize(
    "scale", ["0.5", True, None, [], [[0.5]], float("nan"), [1, float("inf")], "ab", {}, 1j, object()]
)
def test_scales_that_are_no_numbers(tiny_encoder, scale):
    if scale is None:
        scale = [None]
    with pytest.raises(InputError, match="scale"):
        ditifeat.edit(tiny_encoder, make_image(), direction(tiny_encoder), scale=scale)


def test_outputs(tiny_encoder):
    images, attribute = [make_image(0), make_image(1)], direction(tiny_encoder)

    def edited(images, scale, output):
        return ditifeat.edit(tiny_encoder, images, attribute, scale=scale, steps=2, output=output)

    pil = edited(images, [0.0, 1.0], "pil")
    pixels, tensor = edited(images, [0.0, 1.0], "numpy"), edited(images, [0.0, 1.0], "torch")
    assert pixels.shape == (2, 2, 32, 32, 3) and pixels.dtype == np.uint8
    assert tensor.shape == (2, 2, 3, 32, 32) and tensor.dtype == torch.float32 and tensor.abs().max() <= 1
    assert all(np.array_equal(pixels[i, s], pil[i][s]) for i in range(2) for s in range(2))
    assert np.array_equal(to_pixels(tensor[1]), pixels[1])
    for scale, many, shape in (
        (1.0, images, (2,)),
        ([1.0], images, (2, 1)),
        (1.0, images[0], ()),
        ([1.0], images[0], (1,)),
    ):
        assert edited(many, scale, "numpy").shape == (*shape, 32, 32, 3)
        assert edited(many, scale, "torch").shape == (*shape, 3, 32, 32)
    assert edited([], 1.0, "numpy").shape == (0, 32, 32, 3) and edited([], [1.0, 2], "torch").shape == (0, 2, 3, 32, 32)
    # What comes out can go in again.
    assert ditifeat.encode(tiny_encoder, tensor[0]).shape == (2, 32)


def test_a_bar_for_several_batches_when_asked(tiny_encoder, photos, capsys):
    ditifeat.edit(tiny_encoder, photos, direction(tiny_encoder), steps=1)
    ditifeat.edit(tiny_encoder, photos, direction(tiny_encoder), steps=1, progress=True)
    assert capsys.readouterr().err == ""
    ditifeat.edit(tiny_encoder, photos, direction(tiny_encoder), steps=1, batch_size=4, progress=True)
    assert "10/10" in capsys.readouterr().err


@pytest.mark.parametrize(
    "kind",
    [
        torch.from_numpy,
        lambda weights: torch.nn.Parameter(torch.from_numpy(weights)),
        lambda weights: torch.from_numpy(weights).double().as_subclass(type("Mine", (torch.Tensor,), {})),
        lambda weights: weights.tolist(),
        lambda weights: weights.astype(np.float64),
    ],
)
def test_directions_in_every_kind_of_array(tiny_encoder, kind):
    weights = direction(tiny_encoder).weights
    expected = ditifeat.edit(tiny_encoder, make_image(), weights, steps=2)
    assert difference(ditifeat.edit(tiny_encoder, make_image(), kind(weights), steps=2), expected) == 0


def test_a_direction_of_other_weights_is_refused(tiny_encoder, photos):
    features = ditifeat.encode(tiny_encoder, photos)
    labels = {"odd": np.arange(10) % 2}
    ours = ditifeat.probe(features, labels)["odd"]
    assert ours.encoder_weights == tiny_encoder.weights
    ditifeat.edit(tiny_encoder, photos / "00.png", ours, steps=1)
    other = ditifeat.probe(replace(features, weights="f" * 64), labels)["odd"]
    with pytest.raises(InputError, match="odd was learned from features of other weights"):
        ditifeat.edit(tiny_encoder, photos / "00.png", other)


def test_a_direction_of_averaged_features_edits(tiny_encoder, photos, caplog):
    labels = {"odd": np.arange(10) % 2}
    averaged = ditifeat.probe(ditifeat.encode(tiny_encoder, photos, flip_average=True), labels)["odd"]
    plain = ditifeat.edit(tiny_encoder, photos / "00.png", averaged, scale=0.0, steps=2)
    edited = ditifeat.edit(tiny_encoder, photos / "00.png", averaged, scale=1.0, steps=2)
    assert difference(plain, edited) > 0 and not caplog.records
    reference = ditifeat.edit(tiny_encoder, photos / "00.png", direction(tiny_encoder), scale=0.0, steps=2)
    assert difference(plain, reference) == 0  # its own code is plain


def test_a_scale_beyond_float32_is_refused(tiny_encoder):
    with pytest.raises(InputError, match=r"scale = 1e\+38 leads"):
        ditifeat.edit(tiny_encoder, make_image(), direction(tiny_encoder), scale=1e38, steps=1)


def test_what_is_no_encoder_is_refused():
    for encoder in (None, "celeba64-mini", torch.nn.Identity()):
        with pytest.raises(InputError, match="load_encoder"):
            ditifeat.edit(encoder, make_image(), np.ones(32))


def test_eight_threads_edit_as_one(tiny_encoder, photos):
    paths, attribute = sorted(photos.glob("[0-9]*.png")), direction(tiny_encoder)
    expected = ditifeat.edit(tiny_encoder, paths, attribute, steps=2, batch_size=1, output="numpy")
    with ThreadPoolExecutor(8) as pool:
        edited = list(pool.map(lambda p: ditifeat.edit(tiny_encoder, p, attribute, steps=2, output="numpy"), paths))
    assert np.array_equal(edited, expected)


def test_a_direction_of_another_crop_is_noted(tiny_encoder, caplog):
    attribute = replace(direction(tiny_encoder), preprocessing="0" * 12)
    with caplog.at_level("INFO", "ditifeat"):
        ditifeat.edit(tiny_encoder, make_image(), attribute, steps=1)
    assert "another way" in caplog.text


@pytest.fixture
def unread(tiny_encoder, monkeypatch):
    """An encoder whose model must not be read."""

    def fail(self):
        raise AssertionError("the model was read")

    monkeypatch.setattr(type(tiny_encoder), "model", property(fail))
    return tiny_encoder


def test_images_are_checked_before_the_model_is_read(unread, photos, tmp_path):
    attribute = direction(unread)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no images"):
        ditifeat.edit(unread, tmp_path / "empty", attribute)
    for i in range(3):
        make_image(i).save(tmp_path / f"{i}.png")
    (tmp_path / "9.png").write_bytes(b"x")
    with pytest.raises(ImageDecodeError, match=r"9\.png"):
        ditifeat.edit(unread, tmp_path, attribute, batch_size=1)
    for missing in ({"reference": tmp_path / "no.png"}, {"direction": attribute, "images": tmp_path / "no.png"}):
        with pytest.raises(FileNotFoundError, match=r"no\.png"):
            ditifeat.edit(unread, **{"images": photos, **missing})


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({}, "either a direction"),
        ({"direction": np.ones(32), "reference": "x"}, "either a direction"),
        ({"direction": np.ones(7)}, "shape"),
        ({"direction": np.zeros(32)}, "zero"),
        ({"direction": np.ones(32), "subsets": range(2)}, "belong to a reference"),
        ({"direction": np.ones(32), "scale": float("nan")}, "finite"),
        ({"direction": np.ones(32), "scale": []}, "finite"),
        ({"direction": np.ones(32), "steps": 0}, "steps = 0"),
        ({"reference": make_image(), "subsets": range(0, 99)}, "not within"),
        ({"reference": make_image(), "subsets": range(3, 3)}, "hold nothing"),
        ({"reference": make_image(), "subsets": [1, 2]}, "range"),
        ({"reference": [make_image()] * 2}, "one image"),
        ({"reference": make_image(), "x_T": "mix"}, "keep, slerp, swap"),
        ({"reference": []}, "one image, not none"),
        ({"direction": np.ones(32), "steps": 2.5}, "steps = 2.5"),
        ({"direction": np.ones(32), "steps": "9"}, "steps = '9'"),
        ({"direction": np.ones(32), "steps": 10**6}, "steps = 1000000"),
        ({"direction": np.ones(32), "batch_size": -1}, "batch_size = -1"),
        ({"direction": np.ones(32), "batch_size": 1.5}, "batch_size = 1.5"),
        ({"direction": np.ones(32), "solver": "euler"}, "ddim, fixed_point"),
        ({"direction": np.ones(32), "crop": "left"}, "model, center"),
        ({"direction": np.ones(32), "output": "jax"}, "pil, numpy, torch"),
        ({"direction": "Smiling"}, r"report\['Smiling'\]"),
        ({"direction": {"Smiling": np.ones(32)}}, r"report\['Smiling'\]"),
        ({"direction": [None] * 32}, "not finite"),
        ({"direction": np.full(32, np.nan)}, "not finite"),
    ],
)
def test_wrong_arguments_are_refused_before_the_model_is_read(unread, arguments, words):
    with pytest.raises(InputError, match=words):
        ditifeat.edit(unread, make_image(), **arguments)
