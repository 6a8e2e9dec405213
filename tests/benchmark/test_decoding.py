"""The measurement of decoding beside Pillow alone."""

import sys

import numpy as np

from ditifeat.benchmark import decoding
from ditifeat.data.preprocessing import Preprocessing


def test_both_ways_give_the_same_pixels():
    data, preprocessing = decoding.jpeg(178, 218), Preprocessing(64, decoding.CELEBA)
    assert np.array_equal(decoding.by_pillow(data, preprocessing), decoding.by_us(data, preprocessing))


def test_the_command_prints_times_and_differences(monkeypatch, capsys):
    monkeypatch.setattr(decoding, "LARGE", (1200, 900))
    monkeypatch.setattr(sys, "argv", ["decoding", "--rounds", "1", "--small", "2", "--large", "2"])
    decoding.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines if line[0] != " "] == ["178 x 218", "1200 x 900"]
    assert sum("images/s" in line for line in lines) == 6 and sum("a draft differs by" in line for line in lines) == 2
