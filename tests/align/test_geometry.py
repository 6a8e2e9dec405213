import numpy as np
import pytest
import torch
from PIL import Image

from ditifeat.align.geometry import POSITIONS, Similarity, add_patch, fit_similarity, warp
from tests.conftest import make_image

NOSE = [[88.7, 135.7]]


def points_of(similarity):
    return similarity(np.concatenate([POSITIONS[:2], NOSE, POSITIONS[2:]]))


def test_a_similarity_is_found_again():
    true = Similarity(complex(1.7 * np.exp(0.4j)), 40 - 9j)
    found = fit_similarity(points_of(true))
    assert found.factor == pytest.approx(true.inverse.factor)
    assert found.shift == pytest.approx(true.inverse.shift)


def test_the_nose_does_not_count():
    points = points_of(Similarity(1 + 0j, 0j))
    points[2] += 30
    assert fit_similarity(points).factor == pytest.approx(1)


def test_the_fit_is_the_weighted_least_squares():
    points = points_of(Similarity(2 + 0j, 5j)) + np.random.default_rng(0).normal(0, 2, (5, 2))
    rows, values = [], []
    for (x, y), (u, v), share in zip(points[[0, 1, 3, 4]], POSITIONS, (2, 2, 1, 1), strict=True):
        rows += [np.sqrt(share) * np.array([x, -y, 1, 0]), np.sqrt(share) * np.array([y, x, 0, 1])]
        values += [np.sqrt(share) * u, np.sqrt(share) * v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    found = fit_similarity(points)
    assert found.factor == pytest.approx(complex(a, b)) and found.shift == pytest.approx(complex(c, d))


def test_the_identity_changes_little():
    image = make_image(0, 178, 218)
    same = np.asarray(warp(image, Similarity(1 + 0j, 0j), 178, 218), int)
    assert np.abs(same - np.asarray(image)).max() <= 4


@pytest.mark.parametrize("shrink", [2.2, 3, 7.3, 20])
def test_nothing_aliases(shrink):
    """One-pixel stripes become grey, whatever the factor; taking every n-th pixel would give stripes."""
    stripes = np.zeros((2000, 2000, 3), np.uint8)
    stripes[:, ::2] = 255
    factor = complex(np.exp(0.3j) / shrink)
    similarity = Similarity(factor, 30 + 30j - factor * (1000 + 1000j))
    small = np.asarray(warp(Image.fromarray(stripes), similarity, 60, 60), int)
    assert np.abs(small - 127).max() < 32


def test_turned_by_a_right_angle():
    image = make_image(4, 100, 80)
    turned = warp(image, Similarity(1j, 80 + 0j), 80, 100)  # (x, y) -> (80 - y, x)
    expected = image.transpose(Image.Transpose.ROTATE_270)
    assert np.abs(np.asarray(turned, int) - np.asarray(expected, int)).max() <= 4


def test_beyond_the_edge_it_is_continued():
    image = Image.new("RGB", (50, 50), (10, 200, 30))
    assert np.unique(
        np.asarray(warp(image, Similarity(1 + 0j, 60 + 60j), 178, 218)).reshape(-1, 3), axis=0
    ).tolist() == [[10, 200, 30]]


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_a_patch_changes_its_place_alone(factor):
    photo = make_image(1, 200, 160).point(lambda value: value // 2)
    to_patch = Similarity(complex(factor * np.exp(0.2j)), 32 + 32j - complex(factor * np.exp(0.2j)) * (100 + 80j))
    after = add_patch(photo, torch.full((3, 64, 64), 40.0), to_patch)
    change = np.asarray(after, int) - np.asarray(photo)
    assert np.abs(change[80, 100] - 40).max() <= 2
    ys, xs = np.mgrid[:160, :200] + 0.5
    inside = to_patch(np.stack([xs, ys], -1))
    outside = (inside.min(-1) < -2 - factor) | (inside.max(-1) > 66 + factor)
    assert (change[outside] == 0).all()
    assert photo.size == after.size


def test_a_patch_beyond_the_photo():
    photo = make_image(1)
    assert add_patch(photo, torch.ones(3, 8, 8), Similarity(1 + 0j, 500 + 0j)) == photo
