"""Configurations and recipes are read strictly, and every message says the place."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml

from ditifeat import InputError, ModelError
from ditifeat.schema import boolean, from_dict, integer


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float = 0.5

    def __post_init__(self):
        if self.size < 0:
            raise InputError(f"size = {self.size} must be at least 0")


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    either: str | Inner = "small"
    number_or_word: int | str = 0
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    box: tuple[float, float] = (0.0, 1.0)
    flag: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


def test_everything_that_json_can_say():
    data = {
        "name": "x", "inner": {"size": 3}, "maybe": {"rate": 1}, "either": {"size": 2}, "number_or_word": "seven",
        "kind": "b", "sizes": [1, 2], "box": [0, 0.5], "flag": True, "facts": {"any": [1, None]},
    }  # fmt: skip
    made = from_dict(Outer, json.loads(json.dumps(data)))
    assert made == Outer(
        "x", Inner(3), Inner(rate=1.0), Inner(2), "seven", "b", (1, 2), (0.0, 0.5), True, {"any": [1, None]}
    )
    assert type(made.maybe.rate) is float and type(made.box[0]) is float
    assert from_dict(Outer, {"name": "x", "maybe": None}).maybe is None


@pytest.mark.parametrize(
    "text,value",
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("1.e-4", 1e-4), ("1e3", 1000.0), ("-2e-1", -0.2), ("3", 3.0), (".5", 0.5)],
)
def test_floats_of_yaml(text, value):
    made = from_dict(Inner, yaml.safe_load(f"rate: {text}"))
    assert made.rate == value and type(made.rate) is float


@pytest.mark.parametrize(
    "text,value", [("1e6", 10**6), ("1.5e6", 1_500_000), ("1.0e+6", 10**6), ("64", 64), ("1_000", 1000)]
)
def test_integers_of_yaml(text, value):
    made = from_dict(Inner, yaml.safe_load(f"size: {text}"))
    assert made.size == value and type(made.size) is int


@pytest.mark.parametrize(
    "update,words",
    [
        ({"extra": 1}, "unknown key extra; known are name"),
        ({1: 2}, "unknown key 1"),
        ({"inner": {"module": "os"}}, r"unknown key inner\.module"),
        ({"maybe": {"module": "os"}}, r"unknown key maybe\.module"),
        ({"inner": {"size": -1}}, r"inner: size = -1 must be at least 0"),
        ({"inner": []}, "inner must be a mapping, not list"),
        ({"inner": None}, "inner must be a mapping, not NoneType"),
        ({"either": {"size": "q"}}, r"either\.size = 'q' must be of type int"),
        ({"either": 3}, "either = 3 must be of type str"),
        ({"number_or_word": 2.5}, r"number_or_word = 2\.5"),
        ({"kind": "c"}, "kind = 'c' is not one of a, b"),
        ({"kind": True}, "kind = True"),
        ({"kind": ["a"]}, r"kind = \['a'\]"),
        ({"sizes": 3}, "sizes = 3 must be a list"),
        ({"sizes": "12"}, "sizes = '12' must be a list"),
        ({"sizes": [1, True]}, r"sizes\[1\] = True must be of type int"),
        ({"sizes": [1, "x"]}, r"sizes\[1\] = 'x' must be of type int"),
        ({"box": [0, 1, 2]}, "box must have 2 entries, not 3"),
        ({"box": [0, float("nan")]}, r"box\[1\] = nan must be finite"),
        ({"box": [0, "1e999"]}, r"box\[1\] = '1e999' must be finite"),
        ({"box": [0, 10**400]}, r"box\[1\] = .* must be finite"),
        ({"inner": {"rate": float("inf")}}, r"inner\.rate = inf must be finite"),
        ({"inner": {"rate": "fast"}}, r"inner\.rate = 'fast' must be of type float"),
        ({"inner": {"rate": "nan"}}, r"inner\.rate = 'nan' must be of type float"),
        ({"inner": {"rate": True}}, r"inner\.rate = True must be of type float"),
        ({"inner": {"size": "32"}}, r"inner\.size = '32' must be of type int"),
        ({"inner": {"size": "1e-2"}}, r"inner\.size = '1e-2' must be of type int"),
        ({"inner": {"size": 2.5}}, r"inner\.size = 2\.5 must be of type int"),
        ({"inner": {"size": None}}, r"inner\.size = None must be of type int"),
        ({"flag": 1}, "flag = 1 must be of type bool"),
        ({"flag": "on"}, "flag = 'on' must be of type bool"),
        ({"facts": [1]}, r"facts = \[1\] must be of type dict"),
        ({"name": None}, "name = None must be of type str"),
    ],
)
def test_what_is_refused_with_its_place(update, words):
    with pytest.raises(ModelError, match=words) as error:
        from_dict(Outer, {"name": "x", **update})
    assert isinstance(error.value, ValueError)


def test_missing_keys():
    with pytest.raises(ModelError, match="missing key name"):
        from_dict(Outer, {})
    with pytest.raises(ModelError, match="the configuration must be a mapping, not str"):
        from_dict(Outer, "text")


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_integers(value):
    assert integer("n", value, 1, 3) == 3 and type(integer("n", value)) is int


@pytest.mark.parametrize(
    "value,low,high,words",
    [
        (2.5, 1, None, r"n = 2\.5 must be an integer"),
        ("3", 1, None, "n = '3' must be an integer"),
        (True, 1, None, "n = True must be an integer"),
        (None, 1, None, "n = None must be an integer"),
        (float("nan"), 1, None, "n = nan must be an integer"),
        (0, 1, None, "n = 0 must be at least 1"),
        (np.int8(-1), 0, None, "n = -1 must be at least 0"),
        (9, 1, 8, r"n = 9 must be within 1\.\.8"),
        (9, None, 8, "n = 9 must be at most 8"),
    ],
)
def test_what_is_no_integer(value, low, high, words):
    with pytest.raises(InputError, match=words):
        integer("n", value, low, high)


@pytest.mark.parametrize("value", [True, np.True_, np.array([True])[0]])
def test_booleans(value):
    assert boolean("flip_average", value) is True and boolean("flip_average", not value) is False


@pytest.mark.parametrize("value", [1, 0, "True", "no", None, [], np.array([True]), torch.tensor(True)])
def test_what_is_no_boolean(value):
    with pytest.raises(InputError, match=r"flip_average = .* must be True or False"):
        boolean("flip_average", value)
