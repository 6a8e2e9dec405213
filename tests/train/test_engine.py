"""Processes: one alone gathers nothing, and what the launcher asks for may not be there."""

import pytest
import torch

from ditifeat import RecipeError
from ditifeat.train.engine import accelerator, gather, own_share


def test_one_process_gathers_and_shares_nothing():
    x = torch.randn(4, 2, requires_grad=True)
    assert gather(x) is x and own_share(x) is x
    assert accelerator().num_processes == 1


def test_what_the_launcher_asks_for_in_vain(monkeypatch):
    def refuse(**options):
        raise ValueError("fp16 mixed precision requires a GPU")

    monkeypatch.setattr("ditifeat.train.engine.Accelerator", refuse)
    with pytest.raises(RecipeError, match="requires a GPU"):
        accelerator()
