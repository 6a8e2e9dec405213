"""Learning rates, groups of parameters, AdamW and the average."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers.optimization import get_cosine_schedule_with_warmup
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ditifeat import RecipeError
from ditifeat.train.loop import Trainer
from ditifeat.train.optimise import Average, Group, adamw, decayed, match_layout, set_rates
from ditifeat.train.sections import Optimiser
from tests.train.conftest import OPTIMISER, make_run, make_task


def rates(optimiser, group=None):
    group = group or Group([])
    return [group.rate(optimiser, step) for step in range(optimiser.steps)]


def test_cosine_and_warm_up_are_diffusers_s():
    found = rates(OPTIMISER)
    assert found[:4] == pytest.approx((0, 1e-3 / 3, 2e-3 / 3, 1e-3))
    assert all(a > b for a, b in pairwise(found[3:])) and 0 < found[-1] < 1e-4
    other = torch.optim.SGD([torch.zeros(1)], lr=1e-3)
    theirs = get_cosine_schedule_with_warmup(other, 3, 20).lr_lambdas[0]
    assert found == pytest.approx([1e-3 * theirs(step) for step in range(20)])
    assert rates(OPTIMISER, Group([], factor=0.5)) == pytest.approx([0.5 * rate for rate in found])
    assert set(rates(replace(OPTIMISER, decay="none", warmup=0))) == {1e-3}


def test_cooldown():
    optimiser = Optimiser(100, batch=1, lr=1e-3, decay="cooldown", warmup=10)
    shares = [decayed(optimiser, step) for step in range(100)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(10)])
    assert set(shares[10:76]) == {1.0} and shares[80] == pytest.approx(0.8) and shares[-1] == pytest.approx(0.04)
    assert decayed(replace(optimiser, cooldown=1.0), 50) == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [{"cooldown": 0.0}, {"cooldown": 1.5}, {"decay": "cosine", "cooldown": 0.5}])
def test_wrong_cooldowns(wrong):
    with pytest.raises(RecipeError, match="cooldown = "):
        Optimiser(100, batch=1, **{"decay": "cooldown", **wrong})


def test_a_group_that_begins_later():
    optimiser = Optimiser(1000, batch=1, lr=1e-3)
    found = rates(optimiser, Group([], factor=2, begin=0.5))
    assert set(found[:501]) == {0.0} and found[510] == pytest.approx(1e-3) and set(found[520:]) == {2e-3}
    assert all(a <= b for a, b in pairwise(found))
    for wrong in ({"begin": 1.1}, {"begin": -0.1}, {"factor": -1.0}):
        with pytest.raises(RecipeError, match=r"factor = .*begin = "):
            Group([], **wrong)


def test_until_it_begins_a_group_does_not_move(tmp_path, monkeypatch, no_previews):
    task = make_task("diti")
    encoder, estimator = (list(network.parameters()) for network in task.trained.values())
    monkeypatch.setattr(task, "parameter_groups", lambda: [Group(estimator), Group(encoder, begin=0.25)])
    before = [p.clone() for p in encoder]
    trainer = Trainer(task, make_run(tmp_path), replace(OPTIMISER, warmup=0), "s")
    trainer.train(until=6)  # of 20 steps; the first with a rate is the sixth, 5
    assert all(torch.equal(a, b) for a, b in zip(encoder, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(trainer.average.networks["encoder"].parameters(), before, strict=True))
    trainer.train(until=8)
    assert not torch.equal(encoder[0], before[0])


def test_every_parameter_has_a_group():
    networks = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    groups = [Group(list(networks["a"].parameters()))]
    with pytest.raises(ValueError, match=r"b\.weight, b\.bias"):
        adamw(groups, networks, OPTIMISER)
    networks["b"].requires_grad_(False)
    groups = [Group(list(networks["b"].parameters()), factor=3), *groups]  # has nothing to learn
    adam = adamw(groups, networks, OPTIMISER)
    set_rates(adam, groups, OPTIMISER, 3)
    assert [member["lr"] for member in adam.param_groups] == [1e-3]


def test_the_average_is_torch_s():
    networks = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))})
    ours, theirs = Average(networks, 0.9), AveragedModel(networks, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.n_averaged.fill_(1)
    for _ in range(3):
        networks["a"](torch.randn(8, 4))
        for parameter in networks.parameters():
            parameter.data += torch.randn_like(parameter)
        ours.update(), theirs.update_parameters(networks)
    assert not ours.networks["a"].training and ours.networks["a"][1].running_mean.abs().sum() > 0
    for key, value in theirs.module.state_dict().items():
        assert torch.equal(value, ours.networks.state_dict()[key]), key


def test_state_from_a_file_gets_the_parameters_layout():
    layer = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    networks = nn.ModuleDict({"a": layer})
    adam = adamw([Group(list(layer.parameters()))], networks, OPTIMISER)

    def step():
        layer(torch.ones(2, 4, 5, 5)).square().sum().backward()
        adam.step()

    step()
    state = adam.state_dict()["state"]
    read = {i: {k: v.clone(memory_format=torch.contiguous_format) for k, v in s.items()} for i, s in state.items()}
    adam.load_state_dict({"state": read, "param_groups": adam.state_dict()["param_groups"]})
    match_layout(adam)
    loaded = adam.state[layer.weight]["exp_avg"]
    assert loaded.stride() == layer.weight.stride() and torch.equal(loaded, read[0]["exp_avg"])
    step()
