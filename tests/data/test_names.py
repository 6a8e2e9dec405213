import pytest

from ditifeat import InputError
from ditifeat.data.names import is_row_number, match_names, normalise


@pytest.mark.parametrize(
    "name,expected",
    [
        ("./cats/0.png", "cats/0.png"),
        ("cats\\0.png", "cats/0.png"),
        ("C:\\data\\cats\\0.png", "C:/data/cats/0.png"),
        ("../../cats//0.png", "cats/0.png"),
        ("/data/x/../cats/0.png", "data/cats/0.png"),
        (" 0.png ", "0.png"),
        ("e\u0301.png", "\u00e9.png"),
        ("", ""),
    ],
)
def test_paths_are_written_in_one_way(name, expected):
    assert normalise(name) == expected


@pytest.mark.parametrize(
    "names,keys,expected",
    [
        # exactly
        (["b.png", "a.png"], ["a.png", "b.png"], [1, 0]),
        (["./cats/0.png"], ["dogs/0.png", "cats/0.png"], [1]),
        (["cats\\0.png"], ["cats/0.png"], [0]),
        (["\u00e9.png"], ["e\u0301.png"], [0]),
        # by the longest path
        (["/d/cats/1.png", "/d/dogs/1.png"], ["cats/1.png", "dogs/1.png"], [0, 1]),
        (["cats/1.png", "dogs/1.png"], ["/d/dogs/1.png", "/d/cats/1.png"], [1, 0]),
        (["/d/b/1.png"], ["1.png", "b/1.png"], [1]),
        (["b/1.png"], ["/x/b/1.png", "1.png"], [0]),
        (["b/1.png"], ["/x/b/1.png", "b/1.png"], [1]),
        # without the suffix
        (["1.png", "2.png"], ["2.jpg", "1.jpg"], [1, 0]),
        (["/d/cats/1.png", "/d/dogs/1.png"], ["cats/1.jpg", "dogs/1.jpg"], [0, 1]),
        (["000001.jpg"], ["000001"], [0]),
        (["A.JPG"], ["A.jpg"], [0]),
        (["v1.2.png"], ["v1.2"], [0]),
        (["1.png"], ["1.jpg", "1.png"], [1]),
    ],
)
def test_names_find_their_keys(names, keys, expected):
    assert match_names(names, keys) == expected


@pytest.mark.parametrize(
    "names,keys,words",
    [
        (["1.png"], ["1.png", "1.png"], r"two labels.*rows 0 and 1"),
        (["1.png"], ["1.png", "./1.png"], r"'1\.png' and '\./1\.png'"),
        (["1.png"], ["cats/1.png", "dogs/1.png"], r"'cats/1\.png' and 'dogs/1\.png'"),
        (["1.png"], ["1.jpg", "1.gif"], r"'1\.jpg' and '1\.gif'"),
        (["a/1.png", "b/1.png"], ["1.png"], r"'a/1\.png' and 'b/1\.png' both match"),
        (["1.png", "1.png"], ["1.png"], r"both match the one label"),
        (["1.png", "1.jpg"], ["1"], r"'1\.png' and '1\.jpg' both match"),
        (["1.png", "1.jpg"], ["1.png"], r"both match"),
        (["dogs/1.png"], ["cats/1.png"], r"no labels for 1 of 1.*'dogs/1\.png'.*have 'cats/1\.png'"),
        (
            ["/d/dogs/1.png"],
            ["2.png", "/d/cats/1.png"],
            r"have '/d/cats/1\.png', in another folder; write both relative",
        ),
        (["train/cats/1.png"], ["test/cats/1.png"], "no labels"),
        (["11.png"], ["1.png"], "no labels"),
        (["xcats/1.png"], ["cats/1.png"], "no labels"),
        (["v2.png"], ["v2.csv"], "no labels"),
        (["1"], ["1.png"], "no labels"),
        (["1.png", "2.png"], [], "no labels for 2 of 2"),
    ],
)
def test_what_is_ambiguous_or_missing_is_refused(names, keys, words):
    with pytest.raises(InputError, match=words):
        match_names(names, keys)


def test_many_equal_file_names_are_matched_quickly():
    keys = [f"{i}/image.png" for i in range(20_000)]
    names = [f"/data/{key}" for key in reversed(keys)]
    assert match_names(names, keys) == list(range(19_999, -1, -1))


@pytest.mark.parametrize("name", ["", "01", "-1", "1.0", "\u00b2", "\u0663", "1.png", " 1"])
def test_what_is_no_row_number(name):
    assert not is_row_number(name)
