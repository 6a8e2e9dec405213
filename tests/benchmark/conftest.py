"""A split of images that nobody owns: half are bright, half dark, and a coin says nothing."""

import numpy as np
import pytest

from ditifeat.benchmark.split import Split
from ditifeat.model.encoders import EncoderSpec
from ditifeat.train.sections import DMRecipe, Optimiser, UNetSpec
from tests.conftest import tiny_recipe


def bright_and_dark(count, seed=0):
    """Noise at two levels of light, and which level; the second attribute says nothing."""
    rng = np.random.default_rng(seed)
    bright = np.arange(count) % 2
    images = rng.integers(0, 120, (count, 32, 32, 3)) + 100 * bright[:, None, None, None]
    return images.astype(np.uint8), np.stack([bright, rng.integers(0, 2, count)], axis=1).astype(float)


def make_split(count=48, train_size=32, **changes):
    images, targets = bright_and_dark(count)
    values = {
        "images": images,
        "names": tuple(f"{i:02d}.png" for i in range(count)),
        "attributes": ("Bright", "Coin"),
        "targets": targets,
        "train": np.arange(count) < train_size,
    }
    return Split(**{**values, **changes})


def residual_recipe(**changes):
    """A tiny recipe whose encoder has the layers of the DM's down path."""
    spec = EncoderSpec((32, 32, 32), style="residual", layers=1, unshuffle=2)
    dm = DMRecipe(UNetSpec((32, 32, 32), layers=1, head_dim=16), Optimiser(80, batch=4))
    return tiny_recipe(encoder=spec, dm=dm, **changes)


@pytest.fixture
def split():
    return make_split()


@pytest.fixture
def dataset(tmp_path):
    """The images as a folder of files, and their labels as a CSV."""
    from PIL import Image

    images, targets = bright_and_dark(48)
    folder = tmp_path / "data"
    folder.mkdir()
    for i, pixels in enumerate(images):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    rows = [f"{i:02d}.png,{int(a)},{int(b)}" for i, (a, b) in enumerate(targets)]
    (tmp_path / "labels.csv").write_text("name,Bright,Coin\n" + "\n".join(rows) + "\n")
    return folder, tmp_path / "labels.csv"
