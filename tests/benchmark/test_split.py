import numpy as np
import pytest

from ditifeat import InputError
from ditifeat.benchmark.split import in_batches, read_split
from ditifeat.data.preprocessing import Preprocessing
from tests.benchmark.conftest import make_split


def test_the_first_images_train_and_the_others_test(dataset):
    folder, labels = dataset
    split = read_split(folder, labels, Preprocessing(32), 40)
    assert split.images.shape == (48, 32, 32, 3) and split.images.dtype == np.uint8
    assert split.names[0] == "00.png" and split.attributes == ("Bright", "Coin")
    assert split.train.tolist() == [True] * 40 + [False] * 8 and (split.test == ~split.train).all()
    bright = split.images.mean((1, 2, 3)) > 100
    assert (split.targets[:, 0] == bright).all()


def test_several_sources_are_one_split_in_their_order(dataset):
    folder, labels = dataset
    paths = sorted(folder.iterdir())
    split = read_split([*paths[40:], *paths[:40]], labels, Preprocessing(32), 20)
    assert split.targets.shape == (48, 2) and str(split.names[0]).endswith("40.png")


def test_images_that_are_cropped_already(dataset):
    preprocessing = Preprocessing(32, crop=(0.25, 0.25, 0.75, 0.75))
    whole, cropped = (read_split(*dataset, preprocessing, 40, crop) for crop in ("center", "model"))
    assert np.array_equal(whole.images, read_split(*dataset, Preprocessing(32), 40).images)
    assert not np.array_equal(whole.images, cropped.images)


@pytest.mark.parametrize("train_size", [-1, 0, 15, 45, 48, 100])
def test_rows_must_train_and_rows_must_test(dataset, train_size):
    with pytest.raises(InputError, match=f"train_size = {train_size} of 48 images"):
        read_split(*dataset, Preprocessing(32), train_size)


@pytest.mark.parametrize(
    "values,expected",
    [
        ([0, 1, 0, 1], [0, 1, 0, 1]),
        ([-1, 1, -1, 1], [0, 1, 0, 1]),
        ([1, 2, 1, 2], [0, 1, 0, 1]),
        ([0, 0, 0, 0], [0, 0, 0, 0]),
        ([-1, -1, -1, -1], [0, 0, 0, 0]),
        ([1, 1, 1, 1], [1, 1, 1, 1]),
        ([True, False, True, False], [1, 0, 1, 0]),
    ],
)
def test_labels_become_zeros_and_ones(dataset, values, expected):
    split = read_split(dataset[0], {"a": np.tile(values, 12)}, Preprocessing(32), 20)
    assert split.targets[:4, 0].tolist() == expected


def test_labels_of_three_values_are_refused(dataset):
    for age in (np.arange(48) % 3, np.linspace(20, 50, 48)):
        with pytest.raises(InputError, match="attribute age: "):
            read_split(dataset[0], {"age": age}, Preprocessing(32), 20)


@pytest.mark.parametrize("changes", [{"names": ("a",)}, {"train": np.ones(3, bool)}, {"attributes": ("one",)}])
def test_parts_of_other_lengths_are_refused(changes):
    with pytest.raises(InputError, match="do not belong together"):
        make_split(**changes)


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


@pytest.mark.parametrize("part", ["images", "targets", "train", "attributes"])
def test_the_key_follows_what_decides_scores(split, part):
    other = {
        "images": changed(split.images, (0, 0, 0, 0), 255 - split.images[0, 0, 0, 0]),
        "targets": changed(split.targets, (0, 0), 1 - split.targets[0, 0]),
        "train": changed(split.train, 40, True),
        "attributes": ("Bright", "Penny"),
    }
    assert make_split(**{part: other[part]}).key != split.key


def test_the_key_does_not_follow_names(split):
    assert make_split(names=tuple(map(str, range(48)))).key == split.key == make_split().key


def test_in_batches_gives_what_one_batch_gives(split):
    def mean(images):
        return images.mean((2, 3))

    assert np.allclose(in_batches(mean, split.images, batch=7), in_batches(mean, split.images))
