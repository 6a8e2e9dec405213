import json

import numpy as np
import pytest

import ditifeat
from ditifeat import InputError
from ditifeat.analysis.probe import probe
from ditifeat.benchmark import edits as module
from ditifeat.benchmark.classifier import ClassifierSpec, train_classifier
from ditifeat.benchmark.edits import STRENGTHS, ChangeScorer, evaluate_edits, off_target_at
from ditifeat.benchmark.split import in_batches, read_split
from ditifeat.model.encoders import EncoderSpec
from tests.conftest import method_recipe, random_model, tiny_recipe


def test_off_target_change_where_the_target_has_changed_enough():
    path = [
        {"target": 0.1, "off_target": 0.02},
        {"target": 0.3, "off_target": 0.1},
        {"target": 0.2, "off_target": 0.5},
    ]
    assert off_target_at(path, 0.05) == pytest.approx(0.01)  # from nothing at strength 0
    assert off_target_at(path, 0.2) == pytest.approx(0.06)
    assert off_target_at(path, 0.4) is None


def test_an_image_that_is_not_changed_has_not_changed(split):
    classifier = train_classifier(split, spec=ClassifierSpec(EncoderSpec((32, 32)), epochs=1))
    scorer = ChangeScorer(classifier, np.ones(2), np.random.default_rng(0).normal(size=(8, 32)))
    same = scorer.identity(split.images, split.images)
    assert not scorer.changes(split.images, split.images).any()
    assert same["still"] == 0 and same["cosine"] == pytest.approx(1)
    changed = scorer.identity(split.images, 255 - split.images)
    assert changed["still"] > 0 and changed["cosine"] < 1


@pytest.fixture
def runs(tiny_folder, tmp_path):
    random_model(method_recipe("pdae")).save(tmp_path / "pdae")
    return [tiny_folder, tmp_path / "pdae"]


def test_edits_of_two_models(runs, dataset, tmp_path):
    out = tmp_path / "out"
    found = evaluate_edits(runs, *dataset, out, train_size=40, count=4, steps=2, attributes=["Bright"])
    edits = found["edits"]
    assert sum("time-steps" in name for name in edits) == 3  # PDAE has one range
    dense = edits["pdae: dense"]
    assert [row["most_changed"] for row in dense["attributes"]["Bright"]] == [["Coin"]] * len(STRENGTHS)
    assert all(np.isfinite(edits[name]["mean"]["kernel"]) for name in edits)
    text = (out / "edits.md").read_text()
    assert "4 held-out images, 2 + 2 evaluations" in text and "| Bright " in text
    assert json.loads((out / "edits.json").read_text())["about"] == found["about"]
    assert [path.name.split("-")[0] for path in (out / "cache").iterdir()] == ["classifier"]


def test_directions_may_be_of_averaged_codes(tiny_folder, dataset, tmp_path, monkeypatch):
    probed = []
    monkeypatch.setattr(module, "probe", lambda codes, *a, **k: probed.append(codes) or probe(codes, *a, **k))
    options = {"train_size": 40, "count": 4, "steps": 1, "attributes": ["Bright"]}
    for average in (False, True):
        found = evaluate_edits(tiny_folder, *dataset, tmp_path / "out", **options, flip_average=average)
        assert found["about"]["flip_average"] == average
    plain, _, averaged, _ = probed  # dense and sparse
    images = read_split(*dataset, tiny_recipe().image, 40).images[:40]
    flipped = in_batches(ditifeat.load_encoder(tiny_folder), images[:, :, ::-1].copy())
    assert np.allclose(averaged, (plain + flipped) / 2, atol=1e-5) and not np.allclose(averaged, plain, atol=1e-3)


def test_two_runs_of_one_name_are_both_there(tiny_folder, dataset, tmp_path):
    other = tmp_path / "other"
    random_model(method_recipe("pdae", seed=1)).save(other)
    random_model(method_recipe("pdae")).save(tmp_path / "pdae")
    options = {"train_size": 40, "count": 4, "steps": 1, "attributes": ["Bright"]}
    edits = evaluate_edits([tmp_path / "pdae", other], *dataset, tmp_path / "out", **options)["edits"]
    assert f"pdae, {tmp_path / 'pdae'}: dense" in edits and f"pdae, {other}: dense" in edits


@pytest.mark.parametrize(
    "options,message",
    [
        ({"attributes": ["Nose"]}, "no attribute Nose; they have Bright, Coin"),
        ({"attributes": "Nose"}, "no attribute Nose; they have Bright, Coin"),
        ({"attributes": []}, "no attribute to edit"),
        ({"train_size": 47}, "train_size = 47"),
        ({"count": 7}, r"count = 7 is not within 2\.\.6"),
        ({"count": 1}, "count = 1"),
        ({"count": 2.5}, "count = 2.5"),
        ({"flip_average": "no"}, "flip_average = 'no'"),
        ({"steps": 0}, "steps = 0"),
        ({"steps": 500}, "steps = 500"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_work(
    options, message, tiny_folder, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "load_classifier", lambda *_: pytest.fail("training began"))
    with pytest.raises(InputError, match=message):
        evaluate_edits([tiny_folder], *dataset, tmp_path / "out", **{"train_size": 40, "count": 4, **options})


def test_an_attribute_that_cannot_be_probed(tiny_folder, dataset, tmp_path, caplog):
    folder, _ = dataset
    late = {"Bright": np.arange(48) % 2, "Late": np.arange(48) >= 40}  # nobody's among those that train
    options = {"train_size": 40, "count": 2, "steps": 1}
    with pytest.raises(InputError, match="attribute Late: has one value alone"):
        evaluate_edits(tiny_folder, folder, late, tmp_path, **options, attributes=["Bright", "Late"])
    found = evaluate_edits(tiny_folder, folder, late, tmp_path, **options)
    assert list(found["edits"]["tiny: dense"]["attributes"]) == ["Bright"] and "not edited: Late" in caplog.text


def test_methods_without_a_frozen_dm_are_refused(dataset, tmp_path):
    from ditifeat.model.encoder_only import EncoderOnly
    from ditifeat.model.encoders import build_encoder
    from ditifeat.train.recipe import model_config

    config = model_config(method_recipe("simclr"), method="contrastive")
    EncoderOnly(config, build_encoder(config.encoder, 32, 32)).save(tmp_path / "simclr")
    with pytest.raises(InputError, match="DiTi and PDAE"):
        evaluate_edits([tmp_path / "simclr"], *dataset, tmp_path / "out", train_size=40)
