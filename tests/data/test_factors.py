"""Images of known factors: each changes what it should, at the size that it should, and nothing is drawn by accident."""

import time

import numpy as np
import pytest

import ditifeat
from ditifeat import InputError
from ditifeat.data.factors import FACTORS, draw, sample, sample_values, targets, write
from ditifeat.data.labels import read_labels
from ditifeat.errors import WriteError


def one(**changes):
    """Values of one image whose shape stands upright in the middle, but for changes."""
    values = {
        name: np.array([0]) if factor.kind == "categorical" else np.array([(factor.low + factor.high) / 2])
        for name, factor in FACTORS.items()
    }
    return values | {"brightness": np.array([1.0])} | {name: np.asarray(v) for name, v in changes.items()}


def repeated(values, n, **changes):
    return {name: np.repeat(column, n) for name, column in values.items()} | changes


def test_deterministic_and_the_first_of_more():
    few, many = sample(5, seed=3), sample(600, seed=3)
    assert np.array_equal(few[0], many[0][:5])
    assert all(np.array_equal(few[1][name], many[1][name][:5]) for name in FACTORS)
    assert not np.array_equal(few[0], sample(5, seed=4)[0])


def test_thousands_per_second():
    sample(64)
    started = time.process_time()
    sample(1024)
    assert 1024 / (time.process_time() - started) > 500  # thousands where nothing else runs


def test_factors_are_uniform_and_independent():
    values = sample_values(4000, seed=1)
    columns = np.stack([column.astype(float) for column in values.values()])
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlations).max() < 0.08
    for name, factor in FACTORS.items():
        if factor.kind == "categorical":
            assert np.bincount(values[name]).min() > 0.9 * 4000 / len(factor.categories)
        else:
            assert values[name].mean() == pytest.approx(
                (factor.low + factor.high) / 2, abs=0.05 * (factor.high - factor.low)
            )


@pytest.mark.parametrize("name", FACTORS)
def test_each_factor_changes_the_image_and_circles_close(name):
    factor = FACTORS[name]
    base = one()
    if factor.kind == "categorical":
        images = draw(repeated(base, len(factor.categories), **{name: np.arange(len(factor.categories))}))
        assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)
        return
    span = factor.high - factor.low
    images = draw(repeated(base, 4, **{name: factor.low + span * np.array([0.1, 0.2, 0.6, 1.0])})).astype(int)
    near, far = (np.abs(images[0] - images[i]).sum() for i in (1, 2))
    assert 0 < near < far
    ends = draw(repeated(base, 2, **{name: np.array([factor.low, factor.high])})).astype(int)
    assert (np.abs(ends[0] - ends[1]).max() <= 1) == (factor.kind == "circular")


def shape_mask(values):
    """Pixels that differ between two hues of the shape."""
    images = draw(repeated(values, 2, hue=np.array([0.0, 180.0]))).astype(int)
    return np.abs(images[0] - images[1]).max(-1)


@pytest.mark.parametrize(("x", "y"), [(-6.0, 0.0), (3.0, -5.5), (0.0, 6.0)])
@pytest.mark.parametrize("shape", range(4))
def test_the_shape_stands_where_it_should(shape, x, y):
    weight = shape_mask(one(shape=[shape], x=[x], y=[y], scale=[6.0])).astype(float)
    rows, columns = np.indices(weight.shape)
    assert (columns * weight).sum() / weight.sum() - 15.5 == pytest.approx(x, abs=0.15)
    assert (rows * weight).sum() / weight.sum() - 15.5 == pytest.approx(y, abs=0.15)


def test_areas_are_those_of_the_shapes():
    scale = 10.0
    areas = [
        shape_mask(one(shape=[i], scale=[scale])).sum() / shape_mask(one(shape=[1], scale=[scale])).max()
        for i in range(4)
    ]
    box = 2 * scale * scale  # of the rectangle: 20 x 10
    assert areas == pytest.approx([np.pi / 4 * box, box, box / 2, 0.6 * box], rel=0.05)


def test_rotation_turns_the_longer_axis():
    flat, upright = (shape_mask(one(shape=[1], rotation=[angle])) > 0 for angle in (0.0, 90.0))
    assert np.array_equal(flat.T, upright)
    assert flat.any(0).sum() > flat.any(1).sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": [1.0]}, "colour is unknown; they are shape"),
        ({"x": [7.0]}, "x: must be numbers within -6..6"),
        ({"x": [np.nan]}, "x: must be numbers"),
        ({"x": ["1"]}, "x: must be numbers"),
        ({"shape": [4]}, "shape: must be integers, indices of ellipse"),
        ({"shape": [0.0]}, "shape: must be integers"),
        ({"shape": [-1]}, "shape: must be integers"),
        ({"x": [0.0, 1.0]}, "all must be"),
        ({"x": 0.0}, "all must be"),
        ({"x": [[0.0]]}, "all must be"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        draw(one(**change))


def test_missing_factors_and_wrong_counts_are_refused():
    values = one()
    del values["mark"]
    with pytest.raises(InputError, match="mark is missing"):
        draw(values)
    for arguments in ({"n": 0}, {"n": 2.5}, {"n": 3, "seed": -1}):
        with pytest.raises(InputError):
            sample_values(**arguments)


def test_targets_are_what_a_probe_can_learn():
    values = one(rotation=[45.0], hue=[90.0], mark=[2])
    found = {name: float(column[0]) for name, column in targets(values).items()}
    assert found["rotation.sin"] == pytest.approx(1) and found["rotation.cos"] == pytest.approx(0)
    assert found["hue.sin"] == pytest.approx(1) and found["x"] == 0
    assert [found[f"mark.{c}"] for c in FACTORS["mark"].categories] == [0, 0, 1, 0]


@pytest.mark.parametrize("name", ["drawn.tar", "drawn"])
def test_written_images_and_labels_are_what_encode_and_probe_take(name, tmp_path, tiny_encoder):
    labels = write(tmp_path / name, 12, seed=5)
    assert labels == tmp_path / "drawn.csv"
    features = ditifeat.encode(tiny_encoder, tmp_path / name)
    assert np.allclose(features, ditifeat.encode(tiny_encoder, sample(12, seed=5)[0]), atol=1e-5)
    read = read_labels(labels, features.names)
    for target, column in targets(sample(12, seed=5)[1]).items():
        assert np.allclose(read[target], column, rtol=1e-5, atol=1e-6), target
    assert len(ditifeat.probe(features, labels)) == len(read)


def test_nothing_is_overwritten_by_accident(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "me.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="is not empty"):
        write(tmp_path / "old", 3)
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        write(tmp_path / "file", 3)
    assert list((tmp_path / "old").iterdir()) == [tmp_path / "old" / "me.png"]


@pytest.mark.parametrize("name", ["drawn.tar.gz", "drawn.csv", "drawn.TAR", "drawn.zip"])
def test_what_is_neither_folder_nor_tar_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r"a folder, whose name has no suffix, or one \.tar"):
        write(tmp_path / name, 3)
    with pytest.raises(InputError, match="count"):
        write(tmp_path / "drawn.tar", 10**12)
    assert not list(tmp_path.iterdir())
