import numpy as np
import pytest
import torch

from ditifeat import InputError
from ditifeat.benchmark.classifier import AttributeClassifier, cached_classifier, classifier_logits, train_classifier
from ditifeat.benchmark.edits import evaluate_edits, leakage_at
from tests.conftest import method_recipe, random_model


def bright_and_dark(count, seed=0):
    """Noise at two levels of light, and which level; the second attribute says nothing."""
    rng = np.random.default_rng(seed)
    bright = rng.integers(0, 2, count)
    pictures = rng.integers(0, 120, (count, 32, 32, 3)) + 100 * bright[:, None, None, None]
    return pictures.astype(np.uint8), np.stack([bright, rng.integers(0, 2, count)], axis=1).astype(float)


def test_the_judge_learns_what_can_be_seen(tmp_path):
    array, targets = bright_and_dark(256)
    judge = cached_classifier(tmp_path / "judge.safetensors", array, targets)
    unseen, truth = bright_and_dark(64, seed=1)
    odds = classifier_logits(judge, unseen)
    assert ((odds[:, 0] > 0) == truth[:, 0]).mean() > 0.95
    assert np.abs(odds[:, 0]).mean() > 3 * np.abs(odds[:, 1]).mean()
    again = cached_classifier(tmp_path / "judge.safetensors", array[:1], targets[:1])  # not trained anew
    assert np.array_equal(classifier_logits(again, unseen), odds)


def test_the_judge_is_repeatable_and_seeds_nothing():
    array, targets = bright_and_dark(64)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (train_classifier(array, targets, seed=3, epochs=1) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert a.features(torch.zeros(2, 3, 32, 32)).shape == (2, 256) and isinstance(a, AttributeClassifier)


def test_leakage_where_the_target_has_changed_enough():
    path = [{"target": 0.1, "leakage": 0.02}, {"target": 0.3, "leakage": 0.1}, {"target": 0.2, "leakage": 0.5}]
    assert leakage_at(path, 0.05) == pytest.approx(0.01)  # from nothing at strength 0
    assert leakage_at(path, 0.2) == pytest.approx(0.06)
    assert leakage_at(path, 0.4) is None


def test_faithfulness_of_two_models(tiny_folder, tmp_path):
    from PIL import Image

    array, targets = bright_and_dark(48)
    data = tmp_path / "data"
    data.mkdir()
    for i, pixels in enumerate(array):
        Image.fromarray(pixels).save(data / f"{i:02d}.png")
    names = [f"{i:02d}.png" for i in range(48)]
    labels = tmp_path / "labels.csv"
    rows = [f"{name},{int(a)},{int(b)}" for name, (a, b) in zip(names, targets, strict=True)]
    labels.write_text("name,Bright,Coin\n" + "\n".join(rows) + "\n")
    random_model(method_recipe("pdae")).save(tmp_path / "pdae")
    runs = [tiny_folder, tmp_path / "pdae"]
    found = evaluate_edits(runs, data, labels, tmp_path / "out", 40, count=4, steps=2, attributes=["Bright"])
    systems = found["systems"]
    assert sum("time-steps" in name for name in systems) == 3  # PDAE has one range
    dense = next(system for name, system in systems.items() if name.startswith("pdae") and "dense" in name)
    assert [row["most_changed"] for row in dense["attributes"]["Bright"]] == [["Coin"]] * 5
    text = (tmp_path / "out" / "faithfulness.md").read_text()
    assert "4 held-out pictures, 2 + 2 evaluations" in text and "| Bright |" in text
    with pytest.raises(InputError, match="no attribute Nose"):
        evaluate_edits(runs, data, labels, tmp_path / "out", 40, attributes=["Nose"])
    with pytest.raises(InputError, match="must leave pictures"):
        evaluate_edits(runs, data, labels, tmp_path / "out", 47)
