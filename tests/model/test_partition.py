import numpy as np
import pytest
import torch

from ditifeat import InputError, TimeStepPartition

PAPER = TimeStepPartition(64, 512, stages=(50, 100, 300, 500, 1000), dims_per_stage=(10, 25, 327, 100, 50))


def naive_sizes(p):
    """Dimensions of each subset, one time-step at a time, from DESIGN's sentences."""
    first = {}
    for t in range(p.num_time_steps):
        first.setdefault(t * p.k // p.num_time_steps, t)
    sizes = []
    for stage, upper in enumerate(p.stages):
        lower = p.stages[stage - 1] if stage else 0
        members = [i for i in range(p.k) if lower <= first[i] < upper]
        share = p.dims_per_stage[stage] // len(members)
        sizes += [share] * (len(members) - 1) + [p.dims_per_stage[stage] - share * (len(members) - 1)]
    return sizes


def test_paper_partition():
    assert list(np.diff(PAPER.boundaries)) == naive_sizes(PAPER)
    assert PAPER.boundaries[-1] == 512
    assert [
        PAPER.dims_of_time_steps(lo, hi).stop - PAPER.dims_of_time_steps(lo, hi).start for lo, hi in PAPER.ranges
    ] == [
        10,
        25,
        327,
        100,
        50,
    ]


@pytest.mark.parametrize("k,d", [(1, 7), (8, 32), (64, 512), (10, 3), (1000, 1000)])
def test_balanced_partition(k, d):
    p = TimeStepPartition(k, d)
    assert p.boundaries == tuple(d * i // k for i in range(k + 1))


@pytest.mark.parametrize("p", [PAPER, TimeStepPartition(7, 32), TimeStepPartition(16, 9)])
def test_subsets_and_time_steps_agree(p):
    for i in range(p.k):
        assert {p.subset(t) for t in p.time_steps_of_subset(i)} == {i}
    assert sum(len(p.time_steps_of_subset(i)) for i in range(p.k)) == p.num_time_steps
    t = torch.arange(p.num_time_steps)
    assert p.subset(t).tolist() == [p.subset(int(s)) for s in t]


def test_masks():
    own, cumulative = PAPER.subset_masks(), PAPER.cumulative_masks()
    assert own.sum(0).tolist() == [1] * 512  # every dimension has one subset
    assert np.array_equal(cumulative, np.cumsum(own, axis=0) > 0)
    assert cumulative[-1].all()
    for i in range(PAPER.k):
        assert np.array_equal(np.flatnonzero(own[i]), np.arange(512)[PAPER.dims_of_subsets(i)])


def test_time_steps_slice():
    assert PAPER.dims_of_time_steps(0, 1000) == slice(0, 512)
    assert PAPER.dims_of_time_steps(300, 500) == slice(362, 462)
    assert PAPER.dims_of_time_steps(1, 2) == slice(0, 0)  # no subset begins there


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"k": 0, "d": 8}, "k = 0"),
        ({"k": 2000, "d": 8}, "k = 2000"),
        ({"k": 4, "d": 0}, "d = 0"),
        ({"k": 4, "d": 10**9}, "d = 1000000000"),
        ({"k": 4, "d": 8, "stages": (500, 900), "dims_per_stage": (4, 4)}, "end at 1000"),
        ({"k": 4, "d": 8, "stages": (900, 500, 1000), "dims_per_stage": (4, 4, 0)}, "must rise"),
        ({"k": 4, "d": 8, "stages": (500, 1000), "dims_per_stage": (4, 5)}, "sum to d"),
        ({"k": 4, "d": 8, "stages": (500, 1000), "dims_per_stage": (4,)}, "2 stages but 1"),
        ({"k": 2, "d": 8, "stages": (10, 20, 1000), "dims_per_stage": (3, 3, 2)}, "no first time-step"),
    ],
)
def test_nonsense_is_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        TimeStepPartition(**arguments)


def test_ranges_outside_are_refused():
    for bad in ((-1, 3), (5, 3), (0, 65)):
        with pytest.raises(InputError, match="not within"):
            PAPER.dims_of_subsets(*bad)
    with pytest.raises(InputError, match="not within"):
        PAPER.dims_of_time_steps(0, 1001)
