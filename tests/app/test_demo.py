"""What the page does, without a browser."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ditifeat
from ditifeat.app import demo as module
from ditifeat.app.demo import DEFAULT_ATTRIBUTES, DISPLAY_SIZE, Demo
from ditifeat.model.encoder_only import EncoderOnly
from ditifeat.model.encoders import build_encoder
from ditifeat.train.recipe import model_config
from tests.conftest import method_recipe


@pytest.fixture(scope="module")
def demo():
    return Demo(ditifeat.load_encoder())


@pytest.fixture(scope="module")
def chosen(demo):
    return demo.choose(demo.samples[0], "center")


def difference(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b)).mean()


def test_an_image_that_is_not_edited_is_reconstructed(demo, chosen):
    state, image, lost = chosen
    assert image.size == (DISPLAY_SIZE, DISPLAY_SIZE) and lost.width > 4 * 128
    kept, path = demo.edit(state, "", {}, (0, 1000), 1.0)
    assert difference(kept, image) < 3 and Image.open(path).size == (64, 64)


def test_scales_and_a_reference_change_it(demo, chosen, monkeypatch):
    monkeypatch.setattr(module, "STEPS", 5)
    state = chosen[0]
    kept, _ = demo.edit(state, "", {}, (0, 1000), 1.0)
    for kind in demo.reports:
        assert difference(demo.edit(state, kind, {"Smiling": 2.0, "Male": 0.0}, (0, 0), 0.0)[0], kept) > 0
    state, reference = demo.choose_reference(state, demo.samples[1], "center")
    assert reference.size == (DISPLAY_SIZE, DISPLAY_SIZE)
    whole, tenth = (difference(demo.edit(state, "", {}, (0, 300), share)[0], kept) for share in (1.0, 0.1))
    assert whole > tenth > 0
    assert demo.edit(state, "", {}, (300, 300), 1.0)[0].tobytes() == kept.tobytes()


def test_familiar_attributes_are_shown_first(demo):
    assert demo.default_attributes == list(DEFAULT_ATTRIBUTES) and len(demo.attributes) == 40


def test_old_results_are_removed(demo, chosen, monkeypatch):
    monkeypatch.setattr(module, "MAX_RESULTS", 2)
    monkeypatch.setattr(module, "STEPS", 1)
    paths = [Path(demo.edit(chosen[0], "", {}, (0, 0), 0.0)[1]) for _ in range(4)]
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_what_is_no_image_is_refused(demo, tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(ditifeat.ImageDecodeError):
        demo.choose(tmp_path / "x.png", "center")


def test_a_model_without_attributes_can_be_shown(tiny_encoder, photos):
    demo = Demo(tiny_encoder)
    assert demo.reports == {} and demo.default_attributes == []
    assert demo.choose(photos / "00.png", "model")[1].size == (DISPLAY_SIZE, DISPLAY_SIZE)


def test_a_model_without_a_frozen_dm_is_refused(tmp_path):
    config = model_config(method_recipe("simclr"), method="contrastive")
    EncoderOnly(config, build_encoder(config.encoder, 32, 32)).save(tmp_path)
    with pytest.raises(ditifeat.DitifeatError):
        Demo(ditifeat.load_encoder(tmp_path))
