"""Probes with few dimensions find those that matter."""

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat.analysis.sparse import _onto_budget, lasso_dimensions


def data(n=1500, d=60, attributes=3, matter=4, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    true = [np.sort(rng.permutation(d)[:matter]) for _ in range(attributes)]
    labels = {f"a{i}": (x[:, dims].sum(1) + 0.3 * rng.normal(size=n) > 0).astype(int) for i, dims in enumerate(true)}
    return x, labels, true


@pytest.mark.parametrize("protocol", ["sklearn", pytest.param("paper", marks=pytest.mark.slow)])
def test_the_dimensions_that_matter_are_found(protocol):
    x, labels, true = data()
    report = ditifeat.probe(x, labels, dims=4, protocol=protocol)
    for name, dims in zip(labels, true, strict=True):
        assert np.flatnonzero(report[name].weights).tolist() == dims.tolist()
        assert report[name].scores["ap"] > 0.97
    assert report.about["dims"] == 4


def test_lasso_dimensions_are_the_strongest():
    x, _, true = data(attributes=1)
    y = x[:, true[0]] @ np.array([5.0, 4, 3, 0.5])
    assert lasso_dimensions(x, y, 3).tolist() == sorted(true[0][:3].tolist())
    real = ditifeat.probe(x, {"y": y}, dims=3)
    assert (real["y"].weights != 0).sum() == 3 and real["y"].scores["r"] > 0.98


def test_projection_is_the_nearest_point_of_the_budget():
    share = torch.tensor([[0.9, 0.8, 0.1, -0.2], [0.1, 0.2, 0.0, 0.0], [1.7, 0.4, 0.3, 0.2]])
    projected = _onto_budget(share, 1.0)
    assert projected.min() >= 0 and projected.max() <= 1
    assert torch.allclose(projected.sum(1), torch.tensor([1.0, 0.3, 1.0]), atol=1e-5)
    assert torch.allclose(projected[0], torch.tensor([0.55, 0.45, 0, 0]), atol=1e-5)
    others = torch.distributions.Dirichlet(torch.ones(4)).sample((500,)).clamp(0, 1)
    nearest = (projected[2] - share[2]).norm()
    assert ((others - share[2]).norm(dim=1) >= nearest - 1e-5).all()


def test_what_does_not_fit_is_refused():
    x, labels, _ = data(n=40)
    with pytest.raises(ditifeat.InputError, match=r"1\.\.60"):
        ditifeat.probe(x, labels, dims=61)
    with pytest.raises(ditifeat.InputError, match="two values"):
        ditifeat.probe(x, {"y": x[:, 0]}, dims=4, protocol="paper")
