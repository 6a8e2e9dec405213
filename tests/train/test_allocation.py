from itertools import pairwise

import pytest
import torch

from ditifeat.train.allocation import allocate_by_first_loss, without_noise_floor


def rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))[0]


def explained_by(axes, values):
    return axes @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ axes.T


@pytest.mark.parametrize("dims", [(2, 2, 2), (3, 2, 1)])
def test_each_direction_goes_where_it_is_first_lost(dims):
    axes = rotation(8)
    # Directions 0..5 are lost from range 0, 0, 1, 1, 2, 2 on, or (3, 2, 1); 6 and 7 never. What is lost stays lost.
    first = [0] * dims[0] + [1] * dims[1] + [2] * dims[2]
    ranges = [explained_by(axes, [1.0 if r >= start else 0.0 for start in first] + [0.0, 0.0]) for r in range(3)]
    found = allocate_by_first_loss(ranges, dims)
    assert torch.allclose(found.T @ found, torch.eye(6, dtype=torch.float64), atol=1e-9)
    starts = [0, dims[0], dims[0] + dims[1], 6]
    for lo, hi in pairwise(starts):
        ours, theirs = found[:, lo:hi], axes[:, lo:hi]
        assert torch.allclose(ours @ ours.T, theirs @ theirs.T, atol=1e-6)  # the same space


def test_larger_ratios_come_first_within_a_range():
    axes = rotation(5, seed=1)
    early = explained_by(axes, [4.0, 3.0, 0.5, 0.2, 0.1])
    late = explained_by(axes, [4.0, 3.0, 2.0, 2.0, 2.0])
    found = allocate_by_first_loss([early, late], (2, 3))
    order = (axes.T @ found[:, 2:]).abs().argmax(0).tolist()
    assert order == [4, 3, 2]


def test_nothing_explained_still_gives_an_orthonormal_basis():
    zero = torch.zeros(6, 6, dtype=torch.float64)
    found = allocate_by_first_loss([zero, zero, zero], (1, 1, 2))
    assert torch.allclose(found.T @ found, torch.eye(4, dtype=torch.float64), atol=1e-9)


def test_the_noise_floor_is_taken_away():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 6, generator=generator) * torch.tensor([2.0, 1, 1, 1, 1, 0.5])
    e = torch.randn(400, 200, generator=generator)
    e[:, 0] += x[:, 0]
    energy = float(e.square().sum(1).mean())
    raw = (x.T @ e / 400) @ (x.T @ e / 400).T
    clean = without_noise_floor(x.T @ e / 400, x, energy)
    assert raw.diagonal()[1:].min() > 0.1  # noise alone seems to explain
    assert clean.diagonal()[1:].abs().max() < 0.15
    assert clean[0, 0] == pytest.approx(16, rel=0.3)  # cov(x_0, e_0) = 4
