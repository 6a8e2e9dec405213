"""The benchmark of speed runs as a whole, and its parts measure what they say."""

import time

import pytest
import torch

from ditifeat.benchmark.performance import machine, main, make_folder, probing, resnet18, searching, seconds


def test_seconds_are_those_of_each_function():
    found = seconds({"short": int, "long": lambda: time.sleep(0.05)}, rounds=2)
    assert len(found["long"]) == 2 and min(found["long"]) >= 0.05 > max(found["short"])


def test_resnet18_has_its_parameters():
    """11,689,512 with a classifier of 1,000 classes, as published implementations have."""
    network = resnet18()
    assert sum(p.numel() for p in network.parameters()) == 11_689_512 - 513_000
    assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 512)


def test_the_folder_holds_jpegs(tmp_path):
    paths = make_folder(tmp_path / "x", 3, (178, 218))
    assert [path.name for path in paths] == ["000000.jpg", "000001.jpg", "000002.jpg"]
    assert all(path.read_bytes()[:2] == b"\xff\xd8" for path in paths) and "cores" in machine()


def test_probing_agrees_with_the_loop():
    lines = {line["what"]: line for line in probing(400, 4, 2, rounds=1)}
    assert (
        len(lines) == 4 and float(lines["- largest difference of an attribute's AP from that loop"]["measured"]) < 0.01
    )


def test_searching_finds_what_is_near(tmp_path):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'ditifeat[index]'")
    (line,) = searching(tmp_path, 600, 3, (None,))
    assert "recall 1.000" in line["measured"] and line["goal"] == "50 ms at .95"


@pytest.mark.slow
def test_the_whole_table(tmp_path, capsys):
    for library in ("faiss", "pyarrow", "tabulate"):
        pytest.importorskip(library)
    main(["--quick", "--out", str(tmp_path / "table.md")])
    table = (tmp_path / "table.md").read_text("utf-8")
    assert capsys.readouterr().out == table and table.count("\n| ") > 14
