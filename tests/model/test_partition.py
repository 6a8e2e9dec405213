from itertools import pairwise

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


@pytest.mark.parametrize("select", [PAPER.dims_of_subsets, PAPER.dims_of_time_steps, PAPER.subsets_of_time_steps])
@pytest.mark.parametrize(
    "bad,words",
    [
        ((-1, 3), "not within"),
        ((5, 3), "do not rise"),
        ((0, 1001), "not within"),
        ((3, 3), "hold nothing"),
        ((0.5, 3), "must be an integer"),
        ((0, True), "must be an integer"),
        (("0", 3), "must be an integer"),
    ],
)
def test_selections_that_are_refused(select, bad, words):
    with pytest.raises(InputError, match=words):
        select(*bad)


def test_selections_without_dimensions_are_refused():
    for select in (PAPER.subsets_of_time_steps, PAPER.dims_of_time_steps):
        with pytest.raises(InputError, match="no subset begins there; the nearest begin at 0 and 16"):
            select(1, 2)
        with pytest.raises(InputError, match=r"the nearest begin at 985$"):
            select(990, 1000)
    sparse = TimeStepPartition(10, 3)
    assert sparse.subsets_of_time_steps(0, 100) == range(1)
    for select, bad in ((sparse.dims_of_subsets, (0, 1)), (sparse.dims_of_time_steps, (0, 100))):
        with pytest.raises(InputError, match="hold no dimension, as 10 subsets share 3"):
            select(*bad)
    for bad in (-1, 64, 0.5):
        with pytest.raises(InputError, match="subset"):
            PAPER.time_steps_of_subset(bad)
    assert PAPER.dims_of_time_steps(np.int64(300), torch.tensor(500)) == slice(362, 462)


@pytest.mark.parametrize(
    "p,ranges",
    [
        (TimeStepPartition(1, 512), ((0, 1000),)),
        (TimeStepPartition(2, 512), ((0, 500), (500, 1000))),
        (TimeStepPartition(3, 512), ((0, 334), (334, 667), (667, 1000))),
        (TimeStepPartition(4, 512), ((0, 250), (250, 500), (500, 750), (750, 1000))),
        (PAPER, ((0, 50), (50, 100), (100, 300), (300, 500), (500, 1000))),
        (TimeStepPartition(64, 512), tuple((i, i + 100) for i in range(0, 1000, 100))),
        (TimeStepPartition(10, 3), ((0, 400), (400, 700), (700, 1000))),
        (TimeStepPartition(64, 1), ((0, 1000),)),
        (TimeStepPartition(1, 4, stages=(1000,), dims_per_stage=(4,)), ((0, 1000),)),
        (TimeStepPartition(4, 8, stages=(250, 500, 1000), dims_per_stage=(0, 8, 0)), ((0, 1000),)),
        (TimeStepPartition(3, 8, num_time_steps=7), ((0, 3), (3, 5), (5, 7))),
    ],
)
def test_ranges_cover_all_time_steps_and_dimensions(p, ranges):
    assert p.ranges == ranges
    dims = [p.dims_of_time_steps(lo, hi) for lo, hi in p.ranges]
    assert [d.stop for d in dims[:-1]] == [d.start for d in dims[1:]] and (dims[0].start, dims[-1].stop) == (0, p.d)


@pytest.mark.parametrize("k", [1, 2, 7, 10, 11, 12, 13, 64, 99, 100])
@pytest.mark.parametrize("d", [1, 5, 64, 512])
def test_ranges_have_no_gaps(k, d):
    for total in (100, 997, 1000):
        p = TimeStepPartition(k, d, total)
        assert p.ranges[0][0] == 0 and p.ranges[-1][1] == total
        assert all(a[1] == b[0] for a, b in pairwise(p.ranges))
        assert sum(len(range(d)[p.dims_of_time_steps(*r)]) for r in p.ranges) == d


def test_equal_partitions_are_equal_and_hash_alike():
    again = TimeStepPartition(64, 512, stages=(50, 100, 300, 500, 1000), dims_per_stage=(10, 25, 327, 100, 50))
    assert again.ranges and again == PAPER and hash(again) == hash(PAPER) and again != TimeStepPartition(64, 512)
