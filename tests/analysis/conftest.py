"""Features with known attributes, which analysis tests probe."""

import numpy as np
import pytest

import ditifeat
from ditifeat import Features, TimeStepPartition

PARTITION = TimeStepPartition(10, 40)


def made_up(rows=600, seed=0):
    """Features whose dimension 10 (time-steps 200-300) holds "coarse", and dimensions 0 and 39 together "age"."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(rows, 40)).astype(np.float32) * 3 + 1
    labels = {
        "coarse": (codes[:, 10] + 0.1 * rng.normal(size=rows) > 2).astype(int),
        "noise": rng.integers(0, 2, rows) * 2 - 1,
        "age": codes[:, 0] + codes[:, 39],
    }
    return Features(codes, tuple(map(str, range(rows))), PARTITION, "made up"), labels


@pytest.fixture(scope="module")
def report():
    return ditifeat.probe(*made_up())
