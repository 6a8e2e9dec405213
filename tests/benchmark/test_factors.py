"""The check of codes against known factors, on codes whose answer is known, and whole on tiny models."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from ditifeat import InputError, ModelError, TimeStepPartition
from ditifeat.app.cli import main
from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.factors import evaluate_factors, range_dims
from ditifeat.benchmark.factors_regressor import RegressorSpec, accuracy, load_regressor, predict
from ditifeat.benchmark.factors_scores import centres, disentanglement, factor_score, order, reading
from ditifeat.benchmark.factors_swaps import sample_with_swapped, selectivity, transfer
from ditifeat.benchmark.factors_theory import errors, lost_at, pair_distances
from ditifeat.data.batches import load_images
from ditifeat.data.factors import FACTORS, sample, sample_values, targets
from ditifeat.model.codec import PixelCodec, UnshuffleCodec
from ditifeat.model.schedule import NoiseSchedule
from ditifeat.train.recipe import load_recipe, recipe_to_dict
from tests.conftest import random_model, tiny_recipe

NAMES = list(FACTORS)
RANGES = [(100 * i, 100 * (i + 1)) for i in range(10)]


@pytest.fixture(scope="module")
def schedule():
    return NoiseSchedule(torch.linspace(1e-4, 0.02, 1000))


def test_the_error_is_the_rate_at_which_the_nearer_image_is_the_wrong_one(schedule):
    """Two points at a distance, noise added, the nearer of the scaled points guessed: by drawing, and by the formula."""
    t, distance = 400, 2.0
    x_0 = torch.tensor([0.0, distance])
    generator = torch.Generator().manual_seed(0)
    x_t = schedule.sigma[t] * torch.randn(200_000, generator=generator)  # of the first
    guessed = ((x_t - schedule.signal[t] * x_0[1]).abs() < x_t.abs()).float().mean()
    assert errors({"x": np.array([distance])}, schedule)["x"][t] == pytest.approx(float(guessed), abs=0.004)


def test_lost_later_the_farther_apart(schedule):
    error = errors({"near": np.array([1.0]), "far": np.array([10.0])}, schedule)
    assert error["near"][0] < 1e-6 and error["far"][-1] == pytest.approx(0.5, abs=0.05)
    assert (np.diff(error["near"]) >= 0).all()
    assert lost_at(error["near"]) == 205 and lost_at(error["far"]) == 629


def test_distances_do_not_depend_on_the_unshuffling_and_order_the_factors():
    pixels, unshuffled = (pair_distances(codec, 64) for codec in (PixelCodec(), UnshuffleCodec(4)))
    for name in NAMES:
        assert pixels[name] == pytest.approx(unshuffled[name], rel=1e-5)
        assert (pixels[name] > 0).mean() > 0.9
    means = {name: distance.mean() for name, distance in pixels.items()}
    assert means["texture"] < means["mark"] < means["gradient"] < means["x"] < means["background_hue"]


def ideal(values, noise=0.01, seed=0):
    """A code of 10 ranges with two dimensions each: the factors lie in the ranges 1, 1, 2, 3, ... in the order of `FACTORS`."""
    columns, sets = [], [[] for _ in RANGES]
    for i, (name, factor) in enumerate(FACTORS.items()):
        for column in factor.targets(values[name]).values():
            sets[max(i - 2, 0)].append(len(columns))
            columns.append(column / column.std())
    codes = np.stack(columns, axis=1)
    return codes + noise * np.random.default_rng(seed).normal(size=codes.shape), [np.array(s) for s in sets]


def test_reading_finds_each_factor_in_its_range_and_nowhere_else():
    values = sample_values(900)
    codes, dims = ideal(values)
    scores = reading(codes, values, np.arange(900) < 600, dims)
    for i in range(len(NAMES)):
        own = max(i - 2, 0)
        assert scores[i, own] > 0.95, NAMES[i]
        assert np.delete(scores[i], own).max() < 0.15, NAMES[i]
    places = np.array([max(i - 2, 0) for i in range(len(NAMES))])
    assert order(places, centres(scores, RANGES)) > 0.95
    assert order(-places, centres(scores, RANGES)) < -0.95


def test_reading_sees_squares_and_products():
    rng = np.random.default_rng(0)
    values, codes = sample_values(900), rng.normal(size=(900, 2))
    product = codes[:, 0] * codes[:, 1]
    values["x"] = 6 * np.tanh(product / 3)
    assert reading(codes, values, np.arange(900) < 600, [np.arange(2)])[NAMES.index("x"), 0] > 0.8


@pytest.mark.parametrize("name", NAMES)
def test_factor_score_is_1_for_the_truth_and_0_for_a_constant(name):
    truth = sample_values(500)[name]
    found = FACTORS[name].targets(truth)
    assert factor_score(name, truth, found) == 1
    constant = {target: np.full(500, column.mean()) for target, column in found.items()}
    if FACTORS[name].kind == "categorical":  # the most frequent one
        constant[max(constant, key=lambda target: constant[target][0])] += 1
    assert factor_score(name, truth, constant) == pytest.approx(0)


def test_disentanglement_of_ideal_and_of_mixed_codes():
    values = sample_values(1500)
    codes, dims = ideal(values)
    train = np.arange(1500) < 1000
    mixed = codes @ np.linalg.qr(np.random.default_rng(0).normal(size=(codes.shape[1],) * 2))[0]
    clean, worse = (disentanglement(x, values, reading(x, values, train, dims)) for x in (codes, mixed))
    assert clean["disentanglement_dims"] > 0.95 and clean["captured"] == 15
    for key in ("disentanglement_dims", "disentanglement_ranges", "completeness_ranges", "tad"):
        assert clean[key] > worse[key] + 0.1, key


def test_order_is_nan_where_it_cannot_be_said():
    assert np.isnan(order([1, 2, 3], np.array([1.0, np.nan, 2.0])))
    assert np.isnan(order([1, 2, 3], np.ones(3)))


def test_transfer_of_nothing_of_all_and_of_half():
    values = sample_values(200)
    own = targets(values)
    half = {name: column + 0.5 * (np.roll(column, 1) - column) for name, column in own.items()}
    assert transfer(own, own, values) == pytest.approx(0)
    assert transfer(own, half, values) == pytest.approx(0.5)
    unrelated = {name: np.roll(column, 77) for name, column in own.items()}
    assert (
        np.abs(transfer(own, unrelated, values) - 0.5).max() < 0.25
    )  # towards any other's, half of the way to the mean
    assert selectivity(np.eye(12)[:, :10], RANGES, [100 * min(i, 9) + 1 for i in range(12)])["own"] == pytest.approx(
        10 / 12
    )


def test_swapping_changes_the_code_of_these_dimensions_alone(tiny_model):
    images = load_images(sample(3, seed=1)[0])
    none, late, everything = sample_with_swapped(tiny_model, images, [np.arange(20, 32), np.arange(32)], steps=4)
    z = tiny_model.encoder(images)
    x_T = torch.randn((3, *tiny_model.noise_shape), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(none, tiny_model.sample(x_T, z, 4), atol=1e-5)
    assert torch.allclose(everything, tiny_model.sample(x_T, z.roll(1, 0), 4), atol=1e-5)
    assert not torch.equal(late, none) and not torch.equal(late, everything)


def test_range_dims_cover_the_code_in_order():
    dims = range_dims(TimeStepPartition(64, 128))
    assert np.array_equal(np.concatenate(dims), np.arange(128)) and {len(d) for d in dims} == {12, 14}


def test_regressor_learns_and_is_kept(tmp_path):
    spec = RegressorSpec(images=2048, channels=(32, 32))
    regressor = load_regressor(Cache(tmp_path), spec)
    images, values = sample(500, seed=9)
    read = accuracy(regressor, load_images(images), values)
    assert read["brightness"] > 0.5
    again = load_regressor(Cache(tmp_path), spec)
    shown = load_images(images[:4])
    assert all(np.array_equal(a, predict(again, shown)[name]) for name, a in predict(regressor, shown).items())


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """DiTi of ten subsets, and PDAE, with random weights."""
    folder = tmp_path_factory.mktemp("factors")
    for name, k in (("diti", 10), ("pdae", 1)):
        random_model(tiny_recipe(name=name, partition=TimeStepPartition(k, 40))).save(folder / name)
    return [folder / "diti", folder / "pdae"]


@pytest.mark.slow
def test_whole_evaluation_of_random_models(two_models, tmp_path, monkeypatch):
    monkeypatch.setattr("ditifeat.benchmark.factors.DEALS", 2)
    arguments = {"count": 1000, "swapped": 4, "steps": 2, "regressor_images": 1024}
    result = evaluate_factors(two_models, tmp_path / "table", **arguments)
    assert result["factors"]["texture"]["lost_at"] < 250 < 600 < result["factors"]["background_hue"]["lost_at"]
    for found in result["methods"].values():
        assert np.shape(found["mean"]["reading"]) == np.shape(found["mean"]["transfer"]) == (12, 10)
    assert json.loads((tmp_path / "table" / "factors.json").read_text())["about"]["images"] == 1000
    written = (tmp_path / "table" / "factors.md").read_text()
    assert "| texture |" in written and "## pdae: transfer by range" in written
    assert all((tmp_path / "table" / name).stat().st_size > 5000 for name in ("factors.png", "factors-theory.png"))
    again = evaluate_factors(two_models, tmp_path / "table", **arguments)
    assert json.dumps(again) == json.dumps(result)


def test_what_does_not_fit_is_refused(two_models, tiny_folder, tmp_path):
    with pytest.raises(ModelError, match="8 subsets are fewer than the 10 ranges"):
        evaluate_factors([tiny_folder], tmp_path)
    with pytest.raises(ModelError, match="not a DiTi or PDAE model of 32 px"):
        evaluate_factors(["celeba64-mini"], tmp_path)
    with pytest.raises(InputError, match="count"):
        evaluate_factors(two_models, tmp_path, count=10)
    with pytest.raises(InputError, match="no run"):
        evaluate_factors([], tmp_path)


@pytest.mark.slow
def test_a_run_from_drawing_to_the_check(tmp_path, monkeypatch, capsys):
    """The recipe, with few images: what a user types. Its DM has learnt little, and its codes hold what is coarse."""
    monkeypatch.setattr("ditifeat.train.evaluate.STEPS", 4)
    monkeypatch.setattr("ditifeat.train.loop.Trainer._preview", lambda trainer: None)
    recipe = load_recipe("factors32")
    dm = replace(recipe.dm, optimiser=replace(recipe.dm.optimiser, images=1280))
    small = replace(recipe, dm=dm, holdout=16)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(recipe_to_dict(small)))
    images, run, table = (str(tmp_path / name) for name in ("images.tar", "run", "table"))
    assert main(["factors", "--count", "528", "--out", images]) == 0
    assert main(["train", str(tmp_path / "small.yaml"), "--data", images, "--out", run, "--images", "128"]) == 0
    few = ["--count", "1500", "--swapped", "4", "--steps", "4", "--regressor-images", "2048"]
    assert main(["evaluate-factors", run, "--out", table, *few]) == 0
    assert "order of reading" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "table" / "factors.json").read_text())["methods"].values()
    best = dict(zip(FACTORS, np.max(found["mean"]["reading"], axis=1), strict=True))
    assert best["brightness"] > 0.7 and best["background_hue"] > 0.7
