import numpy as np
import pytest
import torch

from ditifeat.benchmark import classifier as module
from ditifeat.benchmark.cache import Cache
from ditifeat.benchmark.classifier import (
    AttributeClassifier,
    ClassifierSpec,
    classifier_features,
    load_classifier,
    logits,
    train_classifier,
)
from ditifeat.model.encoders import EncoderSpec
from tests.benchmark.conftest import bright_and_dark, make_split

SMALL = ClassifierSpec(EncoderSpec((32, 32)), epochs=1)


def test_it_learns_what_can_be_seen(tmp_path):
    classifier = load_classifier(make_split(260, 256), Cache(tmp_path))
    images, truth = bright_and_dark(64, seed=1)
    found = logits(classifier, images)
    assert ((found[:, 0] > 0) == truth[:, 0]).mean() > 0.95
    assert np.abs(found[:, 0]).mean() > 3 * np.abs(found[:, 1]).mean()
    assert classifier_features(classifier, images).shape == (64, 256)


def test_it_is_repeatable_and_seeds_nothing(split):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (train_classifier(split, spec=SMALL) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(torch.get_rng_state(), state) and isinstance(a, AttributeClassifier)


@pytest.fixture
def trained(monkeypatch):
    """The splits that a classifier was trained on."""
    found = []
    train = module.train_classifier
    monkeypatch.setattr(module, "train_classifier", lambda split, *rest: found.append(split) or train(split, *rest))
    return found


def shuffled(split):
    return np.random.default_rng(0).permutation(split.targets)


OTHERS = {
    "another split": lambda s: make_split(train_size=24),
    "other rows, as many": lambda s: make_split(train=np.roll(s.train, 3)),
    "other labels": lambda s: make_split(targets=shuffled(s)),
    "other images": lambda s: make_split(images=255 - s.images),
    "other attributes": lambda s: make_split(attributes=("Coin", "Bright")),
}


@pytest.mark.parametrize("other", OTHERS)
def test_it_is_trained_anew_for_what_is_not_the_same(split, other, trained, tmp_path):
    """The classifier of one folder once scored its own training images as held out."""
    cache = Cache(tmp_path)
    first = load_classifier(split, cache, spec=SMALL)
    again = load_classifier(make_split(names=tuple(map(str, range(48)))), cache, spec=SMALL)
    assert trained == [split] and np.array_equal(logits(first, split.images), logits(again, split.images))
    load_classifier(OTHERS[other](split), cache, spec=SMALL)
    assert len(trained) == 2


def test_it_is_trained_anew_for_another_specification(split, trained, tmp_path):
    for spec in (
        SMALL,
        ClassifierSpec(EncoderSpec((32, 32)), epochs=2),
        ClassifierSpec(EncoderSpec((32, 32)), 1, seed=1),
    ):
        load_classifier(split, Cache(tmp_path), spec=spec)
    assert len(trained) == 3


def test_an_unknown_label_teaches_nothing(split):
    targets = split.targets.copy()
    targets[:, 1] = np.nan
    targets[0, 0] = np.nan
    weight = train_classifier(make_split(targets=targets), spec=SMALL).network.head.weight
    assert torch.isfinite(weight).all()
    untaught = ClassifierSpec(SMALL.encoder, epochs=1, weight_decay=0.0)
    before = AttributeClassifier(32, 2, untaught)
    after = train_classifier(make_split(targets=targets), spec=untaught)
    torch.manual_seed(0)
    before = AttributeClassifier(32, 2, untaught)
    assert torch.equal(before.network.head.weight[1], after.network.head.weight[1])
    assert not torch.equal(before.network.head.weight[0], after.network.head.weight[0])
