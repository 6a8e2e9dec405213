"""Losses of the compared methods against loops written from their papers."""

import pytest
import torch

from ditifeat.train.losses import nt_xent, simsiam


def test_nt_xent_against_a_loop():
    torch.manual_seed(0)
    a, b, temperature = torch.randn(5, 7), torch.randn(5, 7), 0.3
    views = [*a, *b]

    def similarity(x, y):
        return (x @ y / (x.norm() * y.norm()) / temperature).exp()

    def one(i, j):
        others = sum(similarity(views[i], views[k]) for k in range(10) if k != i)
        return -(similarity(views[i], views[j]) / others).log()

    expected = torch.stack([(one(i, i + 5) + one(i + 5, i)) / 2 for i in range(5)])
    assert torch.allclose(nt_xent(a, b, temperature), expected, atol=1e-5)


def test_simsiam_against_a_loop():
    torch.manual_seed(0)
    pa, pb, a, b = (torch.randn(4, 6, requires_grad=True) for _ in range(4))
    loss = simsiam(pa, pb, a, b)
    for i in range(4):
        first = pa[i] @ b[i] / (pa[i].norm() * b[i].norm())
        second = pb[i] @ a[i] / (pb[i].norm() * a[i].norm())
        assert loss[i].item() == pytest.approx(-(first + second).item() / 2, abs=1e-6)
    loss.sum().backward()
    assert a.grad is None and b.grad is None and pa.grad.abs().sum() > 0
