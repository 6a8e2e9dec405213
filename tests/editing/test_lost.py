import numpy as np
import pytest
import torch

import ditifeat
from ditifeat.data.batches import batches, load_images
from ditifeat.editing.lost import lost
from tests.conftest import method_recipe


def test_rows_are_what_their_titles_say(tiny_encoder, photos):
    rows = lost(tiny_encoder, photos / "00.png", (0, 400, 999))
    assert [row.shape for row in rows.values()] == [(3, 32, 32, 3)] * 3
    image = next(batches(photos / "00.png", tiny_encoder.config.image, 1))[1][0].astype(int)
    assert np.abs(rows["with noise"][0] - image).mean() < 3  # nearly no noise yet
    assert np.abs(rows["with noise"][2] - image).mean() > 30
    model = tiny_encoder.model
    x_0 = load_images(image[None].astype(np.uint8))
    noise = torch.randn(model.noise_shape, generator=torch.Generator().manual_seed(0))[None]
    t = torch.tensor([400])
    alpha_bar = model.dm.schedule.alpha_bar[400]
    x_t = alpha_bar.sqrt() * model.dm.codec.encode(x_0) + (1 - alpha_bar).sqrt() * noise
    for title, z in (("the frozen DM", None), ("with the code", tiny_encoder(x_0))):
        expected = (x_t - (1 - alpha_bar).sqrt() * model.noise(x_t, t, z)) / alpha_bar.sqrt()
        expected = (model.dm.codec.decode(expected).clamp(-1, 1) + 1) * 127.5
        assert np.abs(rows[title][1] - expected[0].permute(1, 2, 0).numpy()).max() < 1
    again = lost(tiny_encoder, photos / "00.png", (400,))
    assert np.abs(again["the frozen DM"][0].astype(int) - rows["the frozen DM"][1]).max() <= 1


@pytest.mark.parametrize("time_steps", [(), [1.5], ["9"], [-1], [1000], 400, None, "400"])
def test_time_steps_that_do_not_fit(tiny_encoder, photos, time_steps):
    with pytest.raises(ditifeat.InputError, match="time_steps"):
        lost(tiny_encoder, photos / "00.png", time_steps)


def test_time_steps_in_every_kind_of_sequence(tiny_encoder, photos):
    expected = lost(tiny_encoder, photos / "00.png", (100, 500))
    for time_steps in ([100, 500], np.array([100, 500]), torch.tensor([100, 500]), range(100, 501, 400)):
        rows = lost(tiny_encoder, photos / "00.png", time_steps)
        assert all(np.array_equal(rows[title], expected[title]) for title in expected)


def test_what_does_not_fit_is_refused(tiny_encoder, photos, tmp_path):
    for arguments in ({"seed": -1}, {"seed": 0.5}, {"crop": "left"}):
        with pytest.raises(ditifeat.InputError, match=next(iter(arguments))):
            lost(tiny_encoder, photos / "00.png", **arguments)
    with pytest.raises(ditifeat.InputError, match="one image"):
        lost(tiny_encoder, photos)
    from ditifeat.train.tasks.diffae import build_diffae

    recipe = method_recipe("diffae")
    build_diffae(recipe).save(tmp_path)
    with pytest.raises(ditifeat.InputError, match="no frozen DM"):
        lost(ditifeat.load_encoder(tmp_path), photos / "00.png")
