"""A small model with random weights, whole and saved; and images that nobody owns."""

import os
import sys

# Networks this small are slower on several threads, and programs that the tests start would contend for the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from PIL import Image

from ditifeat.data.preprocessing import Preprocessing
from ditifeat.model.config import DMReference
from ditifeat.model.encoders import EncoderSpec
from ditifeat.model.partition import TimeStepPartition
from ditifeat.train.recipe import Recipe
from ditifeat.train.sections import CodecRecipe, DMRecipe, Optimiser, UNetSpec
from ditifeat.train.tasks.contrastive import ContrastiveRecipe
from ditifeat.train.tasks.diffae import DiffAERecipe
from ditifeat.train.tasks.diti import DiTiRecipe
from tests.fake_hub import hub, offline  # noqa: F401


def tiny_recipe(**changes):
    """A recipe that trains in seconds: 32 px, 2 x 2 unshuffled, 8 subsets of 32 dimensions."""
    values = {
        "name": "tiny",
        "image": Preprocessing(32),
        "codec": CodecRecipe("unshuffle", 2),
        "partition": TimeStepPartition(8, 32),
        "encoder": EncoderSpec((32, 32), attention=(1,), heads=2),
        "dm": DMRecipe(UNetSpec((32, 32), layers=1, head_dim=16), Optimiser(80, batch=4, lr=1e-3, ema=0.5)),
        "method": "diti",
        "section": DiTiRecipe(Optimiser(80, batch=4, lr=1e-3, ema=0.5), warm_start=True),
    }
    return Recipe(**{**values, **changes})


def method_recipe(method, **changes):
    """`tiny_recipe` for another method: "pdae", "diffae", "simclr" or "simsiam"."""
    optimiser, one = Optimiser(80, batch=4, lr=1e-3, ema=0.5), TimeStepPartition(1, 32)
    if method == "pdae":
        return tiny_recipe(name="pdae", partition=one, **changes)
    if method == "diffae":
        dm = DMRecipe(UNetSpec((32, 32), layers=1, head_dim=16), prediction="sample")
        section = DiffAERecipe(optimiser)
        return tiny_recipe(name="diffae", partition=one, dm=dm, method="diffae", section=section, **changes)
    loss = "nt_xent" if method == "simclr" else "simsiam"
    section = ContrastiveRecipe(optimiser, loss, projection=8)
    return tiny_recipe(name=method, partition=one, dm=None, method="contrastive", section=section, **changes)


def random_model(recipe):
    """A model whose estimator's output layer is not zero, so that its code matters."""
    from ditifeat.train.tasks.diti import build_diti
    from ditifeat.train.tasks.dm import build_dm

    model = build_diti(recipe, build_dm(recipe), DMReference())
    generator = torch.Generator().manual_seed(1)
    for parameter in (*model.estimator.conv_out.parameters(), *model.encoder.head.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return model.requires_grad_(False).eval()


@pytest.fixture
def tiny_model():
    return random_model(tiny_recipe())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    random_model(tiny_recipe()).save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tiny_folder):
    import ditifeat

    return ditifeat.load_encoder(tiny_folder)


def make_image(seed=0, width=48, height=40):
    """A smooth random image."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of ten images, some in a folder below."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for i in range(10):
        make_image(i).save(folder / ("more" if i >= 7 else "") / f"{i:02d}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def without_package(monkeypatch, name):
    """Has `import name` fail, as where it is not installed."""
    monkeypatch.setitem(sys.modules, name, None)
