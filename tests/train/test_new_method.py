"""A new method, whole: an autoencoder with a linear decoder, whose encoder is kept.

A method touches two places: its task file (the first part below; it would be `ditifeat/train/tasks/autoencoder.py`) and one
line in the table `TASKS` of `ditifeat/train/tasks/__init__.py`. A recipe with the section `autoencoder` then trains it.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import ditifeat
from ditifeat.errors import RecipeError
from ditifeat.model.encoder_only import EncoderOnly
from ditifeat.model.encoders import build_encoder
from ditifeat.train import train
from ditifeat.train.loop import Task
from ditifeat.train.recipe import MethodRecipe, load_recipe, model_config
from ditifeat.train.tasks import TASKS

# --- ditifeat/train/tasks/autoencoder.py ---


@dataclass(frozen=True)
class AutoencoderRecipe(MethodRecipe):
    """The section `autoencoder` of a recipe: `optimiser`, and the method's own settings."""

    sparsity: float = 0.0

    def __post_init__(self):
        if self.sparsity < 0:
            raise RecipeError(f"autoencoder: sparsity = {self.sparsity} must be at least 0")


class AutoencoderTask(Task):
    """Mean squared error of the image that a linear decoder makes of the code, plus the codes' L1 norm."""

    section = AutoencoderRecipe

    def __init__(self, config, encoder, decoder, sparsity):
        super().__init__()
        self.config, self.sparsity = config, sparsity
        self.trained = nn.ModuleDict({"encoder": encoder, "decoder": decoder})  # what learns and is averaged

    @classmethod
    def build(cls, run, section):
        config = model_config(run.recipe, method="contrastive")  # a model folder that holds an encoder alone
        side, d = run.recipe.image.size, run.recipe.partition.d
        with torch.random.fork_rng(devices=[]):  # nobody else's random numbers change
            torch.manual_seed(run.recipe.seed)
            encoder = build_encoder(run.recipe.encoder_spec, side, d)
            decoder = nn.Sequential(nn.Linear(d, 3 * side * side), nn.Unflatten(1, (3, side, side)))
        return cls(config, encoder, decoder, section.sparsity)

    def forward(self, images: Tensor, t: Tensor, noise: Tensor) -> dict[str, Tensor]:
        z = self.trained["encoder"](images)
        error = (self.trained["decoder"](z) - images).square().mean((1, 2, 3))
        return {"loss": error + self.sparsity * z.abs().mean(1), "error": error}  # "loss" is minimised, both are logged

    def preview(self, averaged: nn.ModuleDict, images: Tensor) -> Tensor:
        return torch.cat([images, averaged["decoder"](averaged["encoder"](images))])  # two rows of a PNG

    def finished(self, averaged: nn.ModuleDict) -> EncoderOnly:
        return EncoderOnly(self.config, averaged["encoder"]).to(next(averaged.parameters()).device)


# --- the line in ditifeat/train/tasks/__init__.py: "autoencoder": "ditifeat.train.tasks.autoencoder.AutoencoderTask" ---


@pytest.fixture(autouse=True)
def line_in_the_table(monkeypatch):
    monkeypatch.setitem(TASKS, "autoencoder", f"{__name__}.AutoencoderTask")


# --- the recipe, autoencoder32.yaml ---

RECIPE = """
name: autoencoder32
image: {size: 32}
encoder: {channels: [32, 32, 32]}
partition: {k: 1, d: 16}
autoencoder:
  optimiser: {images: 800, batch: 8, lr: 1e-2, ema: 0.9}
  sparsity: 1e-3
"""


def test_a_new_method_is_a_task_file_and_a_line(photos, tmp_path):
    path = tmp_path / "autoencoder32.yaml"
    path.write_text(RECIPE)

    folder = train(path, photos, tmp_path / "run")

    encoder = ditifeat.load_encoder(folder)
    assert ditifeat.encode(encoder, photos).shape == (10, 16)
    facts = encoder.config.training
    assert facts["autoencoder_images"] == 800 and facts["autoencoder_networks"] == "encoder, decoder"
    assert "| autoencoder: encoder, decoder | 800 |" in (folder / "README.md").read_text()
    assert list((tmp_path / "run" / "autoencoder-run").glob("preview-*.png"))
    lines = (tmp_path / "run" / "autoencoder-run" / "log.jsonl").read_text().splitlines()
    first, last = (float(line.split('"error": ')[1].split(",")[0]) for line in (lines[0], lines[-1]))
    assert last < first


def test_its_settings_are_checked_like_any(tmp_path):
    path = tmp_path / "autoencoder32.yaml"
    for wrong, words in (("sparsity: -1", "at least 0"), ("sparsity: much", "float"), ("density: 1", "unknown key")):
        path.write_text(RECIPE.replace("sparsity: 1e-3", wrong))
        with pytest.raises(RecipeError, match=words):
            load_recipe(path)
