"""The bundled model: real weights that hold what they should, and the quickstart that shows them."""

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ditifeat
from ditifeat.app.cli import main
from ditifeat.data.batches import load_images
from ditifeat.data.decode import decode
from ditifeat.data.drawing import to_pixels
from ditifeat.data.folders import list_folder

WEIGHTS = Path(ditifeat.__file__).parent / "pretrained" / "weights"
FACES = WEIGHTS / "faces"


@pytest.fixture(scope="module")
def encoder():
    return ditifeat.load_encoder()


@pytest.fixture(scope="module")
def faces():
    rows = np.stack([np.asarray(decode(path, path.name)) for path in list_folder(FACES)])
    return load_images(rows)


def test_it_is_small_enough_for_a_wheel():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 90e6


def test_what_it_is(encoder):
    assert encoder.config.name == "celeba64-mini" and encoder.config.image.size == 64
    assert encoder.partition.k == 64 and encoder.partition.d == 512
    assert encoder.config.image.box(178, 218) == (25, 57, 153, 185)
    assert encoder.config.training["training_images"] == 44495


def test_codes_of_its_own_faces_look_like_the_training_codes(encoder, faces):
    standard = (encoder(faces) - encoder.mean) / encoder.std
    assert standard.abs().mean() < 1.5


def test_its_codes_stay_what_they_are(encoder, faces):
    """Written down when the weights were made: another layout of the file, or of the network, must give the same."""
    first = [
        [-1.3191, -0.2574, -0.4698, -2.222],
        [-1.5707, 0.2434, -0.2738, -1.0036],
        [-1.3762, -0.5718, -0.0235, -0.5628],
    ]
    assert torch.allclose(encoder(faces[:3])[:, ::128], torch.tensor(first), atol=2e-4)


def test_it_reconstructs(encoder, faces):
    model = encoder.model
    z = encoder(faces[:2])
    published = model.sample(model.invert(faces[:2], z, 20), z, 20)
    again = model.sample(model.invert(faces[:2], z, 20, "fixed_point"), z, 20, solver="fixed_point")
    errors = [float(((x - faces[:2]) / 2).square().mean()) for x in (published, again)]
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 10
    x_T = model.invert(faces[:2], z, 20, "fixed_point")
    assert x_T.std() < 1.5  # what the published inversion's is several times of, on real faces


def test_its_faces_are_what_its_dm_makes_of_their_seeds(encoder):
    """None is a picture of a data set: each is what the frozen DM makes of the seed in its name."""
    paths = list_folder(FACES)
    seeds = [int(path.stem.removeprefix("face")) for path in paths]
    noises = [torch.randn(encoder.model.noise_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    made = to_pixels(encoder.model.sample(torch.stack(noises), None, 100))
    shipped = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    assert len(paths) == 8 and np.abs(made.astype(int) - shipped).mean((1, 2, 3)).max() < 2


def test_its_attributes_steer_the_image(encoder):
    """More blond hair is a lighter image, more black hair a darker one, and the sparse directions are sparse."""
    attributes = encoder.attributes(sparse=True)
    assert len(encoder.attributes()) == 40 and all((attributes[name].weights != 0).sum() <= 16 for name in attributes)
    faces = list_folder(FACES)[:2]
    for name, way, least in (("Blond_Hair", 1, 15), ("Black_Hair", -1, 5)):
        less, more = (
            np.stack(ditifeat.edit(encoder, faces, attributes[name], scale=scale, crop="center", steps=10))
            for scale in (-2.0, 2.0)
        )
        lighter = (more.astype(float) - less).mean((1, 2, 3))
        assert (way * lighter > least).all()


def test_an_image_s_own_code_beats_another_s(encoder, faces):
    """At time-steps where images differ, G of the image's own code lowers the error that G of another's leaves."""
    model = encoder.model
    generator = torch.Generator().manual_seed(0)
    count = 64
    x_0 = faces[torch.arange(count) % len(faces)]
    t = torch.randint(300, 1000, (count,), generator=generator)
    noise = torch.randn(count, *model.noise_shape, generator=generator)
    with torch.no_grad():
        ours = model.losses(x_0, t, noise).loss
        x_t = model.dm.schedule.add_noise(model.dm.codec.encode(x_0), noise, t)
        error = noise - model.frozen_noise(x_t, t)
        shift = model.dm.schedule.at("shift_coefficient", t) * model.shift(x_t, t, encoder(x_0).roll(1, 0))
        swapped = model.dm.schedule.loss_weight[t] * (error - shift).square().mean((1, 2, 3))
    assert ours.mean() < 0.995 * swapped.mean()


def test_z_is_not_ignored(encoder, faces):
    """Swapping codes changes the image; an edit of strength 0 does not."""
    image, other = (Image.open(path).convert("RGB") for path in list_folder(FACES)[:2])
    arguments = {"crop": "center"}
    kept = np.asarray(ditifeat.edit(encoder, image, reference=other, scale=0.0, **arguments)).astype(int)
    swapped = np.asarray(ditifeat.edit(encoder, image, reference=other, **arguments)).astype(int)
    assert np.abs(kept - np.asarray(image)).mean() < 8
    assert np.abs(swapped - kept).mean() > 2


def test_quickstart_offline(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("ditifeat.app.quickstart.STEPS", 15)  # the README's command takes all of them
    assert main(["quickstart", "--out", str(tmp_path / "q.png")]) == 0
    out = capsys.readouterr().out
    assert "(8, 512)" in out and "time-steps  100-300" in out and str(tmp_path / "q.png") in out
    page = Image.open(tmp_path / "q.png")
    assert page.width > 400 and page.height > 700


def test_the_card_is_that_of_the_weights():
    card = Path(__file__).parents[2] / "weights_card" / "celeba64-mini" / "README.md"
    assert card.read_text("utf-8") == (WEIGHTS / "celeba64-mini" / "README.md").read_text("utf-8")
