import numpy as np
import pytest
import torch

from ditifeat.benchmark.cache import Cache, content_hash
from ditifeat.benchmark.classifier import ClassifierSpec


@pytest.mark.parametrize(
    "one,other",
    [
        (("ab", "c"), ("a", "bc")),
        ((np.zeros(4),), (np.zeros((2, 2)),)),
        ((np.zeros(4, np.float32),), (np.zeros(4, np.int32),)),
        ((np.zeros(4),), (-np.zeros(4),)),
        ((torch.zeros(2),), (torch.ones(2),)),
        (({"a": torch.zeros(2)},), ({"b": torch.zeros(2)},)),
        (({"a": torch.zeros(2), "b": torch.ones(2)},), ({"a": torch.ones(2), "b": torch.zeros(2)},)),
        ((ClassifierSpec(),), (ClassifierSpec(epochs=3),)),
        ((["a", 1],), (["a", 1.5],)),
    ],
)
def test_another_content_has_another_hash(one, other):
    assert content_hash(*one) != content_hash(*other)


def test_equal_content_has_one_hash():
    array = np.arange(24).reshape(4, 6)
    assert content_hash(array[:, ::2]) == content_hash(array[:, ::2].copy())
    assert content_hash(torch.ones(3, dtype=torch.bfloat16)) == content_hash(torch.ones(3, dtype=torch.bfloat16))
    assert content_hash(("a", "b")) == content_hash(["a", "b"])


class Counted:
    def __init__(self, result):
        self.result, self.calls = result, 0

    def __call__(self):
        self.calls += 1
        return self.result


def test_results_are_kept_until_they_are_worked_out_in_another_way(tmp_path, monkeypatch):
    make, cache = Counted([{"ap": 0.5, "none": float("nan")}]), Cache(tmp_path / "new")
    for _ in range(2):
        (row,) = cache.json("method", "a run", make=make)
        assert row["ap"] == 0.5 and np.isnan(row["none"])
    assert make.calls == 1
    cache.json("method", "another run", make=make)
    cache.json("baselines", "a run", make=make)
    assert make.calls == 3
    monkeypatch.setattr("ditifeat.benchmark.cache.VERSION", 0)
    cache.json("method", "a run", make=make)
    assert make.calls == 4


def test_tensors_are_kept(tmp_path):
    make = Counted({"weight": torch.arange(3.0)})
    for _ in range(2):
        assert torch.equal(Cache(tmp_path).tensors("classifier", 1, make=make)["weight"], torch.arange(3.0))
    assert make.calls == 1


def test_a_damaged_file_is_made_again(tmp_path, caplog):
    rows, tensors, cache = Counted([1]), Counted({"weight": torch.arange(3.0)}), Cache(tmp_path)
    for _ in range(2):
        cache.json("method", 1, make=rows)
        cache.tensors("classifier", 1, make=tensors)
        for path in tmp_path.iterdir():
            path.write_bytes(path.read_bytes()[:-4])
    assert rows.calls == tensors.calls == 2 and caplog.text.count("it is worked out again") == 2


def test_nothing_is_kept_of_what_failed(tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cache(tmp_path).json("method", 1, make=fail)
    assert list(tmp_path.iterdir()) == []
