"""Metrics on inputs whose answer is known."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from ditifeat import InputError
from ditifeat.analysis.metrics import dci, effective_rank, kernel_distance, mse, ranking_scores, ssim, tad


def test_mse_is_on_the_scale_of_papers():
    a, b = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    b[1] = 0.5
    assert torch.allclose(mse(a, b), torch.tensor([0.25, 0.0625]))
    assert mse(a, 3 * b).max() == 0.25  # clamped, as a saved image is


def test_ssim_of_known_pairs():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 24, 24, generator=generator) * 2 - 1
    assert torch.allclose(ssim(x, x), torch.ones(2, dtype=torch.float64))
    flat_a, flat_b = torch.full((1, 1, 16, 16), -0.2), torch.full((1, 1, 16, 16), 0.6)
    expected = (2 * 0.4 * 0.8 + 1e-4) / (0.4**2 + 0.8**2 + 1e-4)  # constant images: the luminance term alone
    assert ssim(flat_a, flat_b).item() == pytest.approx(expected, rel=1e-6)
    noise = torch.randn(x.shape, generator=generator)
    assert ssim(x, -x).max() < 0.1 and (ssim(x, x + 0.1 * noise) > ssim(x, x + 0.3 * noise)).all()


def test_ssim_against_a_loop():
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(1, 1, 13, 12, generator=generator, dtype=torch.float64) for _ in range(2))
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for i in range(3):
        for j in range(2):
            p, q = (x[0, 0, i : i + 11, j : j + 11].numpy() for x in (a, b))
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq, c = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2, (window * p * q).sum() - mp * mq
            top = (2 * mp * mq + 1e-4) * (2 * c + 9e-4)
            values.append(top / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    assert ssim(a * 2 - 1, b * 2 - 1).item() == pytest.approx(np.mean(values), rel=1e-9)


def test_ssim_is_scikit_image_s():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = torch.rand(2, 1, 3, 24, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, image = metrics.structural_similarity(
        *((x[0].double().numpy() + 1) / 2 for x in (a, b)), channel_axis=0, full=True, **options
    )
    assert ssim(a, b).item() == pytest.approx(image[:, 5:-5, 5:-5].mean(), rel=1e-6)


@pytest.mark.parametrize(
    "shapes", [((1, 3, 16, 16), (1, 3, 16, 17)), ((2, 3, 16, 16), (1, 3, 16, 16)), ((3, 16, 16),) * 2]
)
def test_images_of_other_shapes_are_refused(shapes):
    for metric in (mse, ssim):
        with pytest.raises(InputError, match="must agree"):
            metric(*map(torch.zeros, shapes))
    with pytest.raises(InputError, match="11 pixels"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_kernel_distance():
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(400, 5)), rng.normal(size=(300, 5)), rng.normal(1.0, 1, size=(300, 5))
    assert abs(kernel_distance(a, b)) < 0.02 < 1 < kernel_distance(a, c)
    pairs = [[(x @ y / 5 + 1) ** 3 for y in b[:6]] for x in a[:6]]
    within = [
        [(x @ y / 5 + 1) ** 3 for i, x in enumerate(s[:6]) for j, y in enumerate(s[:6]) if i != j] for s in (a, b)
    ]
    expected = np.mean(within[0]) + np.mean(within[1]) - 2 * np.mean(pairs)
    assert kernel_distance(a[:6], b[:6]) == pytest.approx(expected)
    with pytest.raises(InputError):
        kernel_distance(a, b[:, :2])


def test_tad_of_codes_that_are_the_attributes():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (2000, 4))
    noise = rng.normal(size=(2000, 3))
    found = tad(np.hstack([labels, noise]), labels)
    assert found.captured == 4 and found.tad == pytest.approx(4 * 0.5, abs=0.1)  # best 1, second best chance
    twice = tad(np.hstack([labels, labels, noise]), labels)
    assert twice.captured == 4 and twice.tad == pytest.approx(0)
    assert tad(noise, labels) == (0.0, 0)


def test_tad_leaves_out_attributes_that_others_tell():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (2000, 2))
    labels = np.hstack([labels, labels[:, :1]])
    assert tad(np.hstack([labels, rng.normal(size=(2000, 1))]), labels).captured == 1


def test_tad_s_auroc_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 500)
    codes = np.stack([label + rng.normal(size=500), np.round(label + rng.normal(size=500))], axis=1)  # with ties
    aurocs = sorted(roc_auc_score(label, column) for column in codes.T)
    assert tad(codes, label[:, None], threshold=0.5).tad == pytest.approx(aurocs[1] - aurocs[0])


@pytest.mark.parametrize(
    "importance,disentanglement,completeness",
    [
        (np.eye(5), 1, 1),
        (np.ones((5, 3)), 0, 0),
        (np.zeros((4, 4)), 0, 0),
        (np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]), 1, 0.5),  # two dimensions a factor
        (np.array([[1.0, 1, 0, 0], [0, 0, 1, 1]]), 0.5, 1),  # two factors a dimension
    ],
)
def test_dci_of_known_matrices(importance, disentanglement, completeness):
    assert dci(importance) == pytest.approx((disentanglement, completeness), abs=1e-9)


def test_impossible_inputs_are_refused():
    with pytest.raises(InputError, match="not negative"):
        dci(-np.eye(3))
    with pytest.raises(InputError, match="labels of shape"):
        tad(np.zeros((4, 2)), np.zeros((3, 2)))
    for codes, labels in (
        (np.zeros((4, 2)), [["a"]] * 4),
        (np.full((4, 2), np.nan), [[1]] * 4),
        (np.zeros((4, 2)), [[2]] * 4),
    ):
        with pytest.raises(InputError, match="finite"):
            tad(codes, labels)


def test_effective_rank_by_hand():
    codes = np.zeros((6, 5))
    codes[:2, 0], codes[2:4, 1], codes[4:, 2] = (2, -2), (1, -1), (1, -1)  # variances 4 : 1 : 1
    rank = np.exp(-(4 / 6 * np.log(4 / 6) + 2 / 6 * np.log(1 / 6)))
    turned = codes @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    assert effective_rank(codes) == pytest.approx(rank) and effective_rank(turned + 7) == pytest.approx(rank)
    assert effective_rank((1e-4 * codes).astype(np.float32)) == pytest.approx(rank, rel=1e-4)
    assert effective_rank(np.ones((4, 3))) == 0


def test_effective_rank_of_alike_directions_is_their_number():
    codes = np.random.default_rng(0).normal(size=(20000, 8))
    assert effective_rank(codes) == pytest.approx(8, abs=0.02)


@pytest.mark.parametrize("levels", [3, 20, 10**6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranking_scores_are_scikit_learn_s(levels, dtype):
    """With many ties, some, and none."""
    rng = np.random.default_rng(levels)
    for prevalence in (0.02, 0.5, 0.97):
        truth = (rng.random(500) < prevalence).astype(float)
        predicted = np.round((rng.normal(size=500) + truth) * levels).astype(dtype)
        ap, auroc = ranking_scores(predicted, truth)
        assert ap == pytest.approx(average_precision_score(truth, predicted), abs=1e-12)
        assert auroc == pytest.approx(roc_auc_score(truth, predicted), abs=1e-12)


@pytest.mark.parametrize("truth", [[], [0, 0, 0], [1, 1]])
def test_one_value_has_no_ranking_scores(truth):
    assert np.isnan(ranking_scores(np.arange(len(truth), dtype=float), np.array(truth))).all()
