"""The benchmark: runs beside baselines on one split, and scores that are cached."""

from dataclasses import replace

import numpy as np
import pytest

import ditifeat
from ditifeat.benchmark.benchmark import benchmark
from ditifeat.benchmark.cache import cached
from ditifeat.benchmark.tables import table
from tests.conftest import method_recipe, random_model, tiny_recipe


def test_benchmark(photos, tmp_path):
    mirrored = {"encoder": replace(tiny_recipe().encoder_spec, flip_average=True)}
    random_model(tiny_recipe(**mirrored)).save(tmp_path / "a" / "model")
    random_model(tiny_recipe(seed=1, **mirrored)).save(tmp_path / "b" / "model")
    random_model(method_recipe("pdae")).save(tmp_path / "c" / "model")
    folder = tmp_path / "data"
    folder.mkdir()
    from tests.conftest import make_picture

    for i in range(40):
        make_picture(i).save(folder / f"{i:02d}.png")
    labels = {"odd": np.arange(40) % 2, "third": (np.arange(40) % 3 == 0).astype(int)}
    runs = [tmp_path / name for name in "abc"]
    result = benchmark(runs, folder, labels, tmp_path / "out", first=24, steps=3)
    systems = result["systems"]
    assert systems["tiny"]["runs"] == 2 and systems["pdae"]["runs"] == 1
    assert set(systems["tiny"]["std"]) >= {"ap", "mse"} and not systems["pdae"]["std"]
    assert sum(name.startswith("floor") for name in systems) == 5
    pixels, both = (systems[f"floor: PCA of 32 x 32 pixels{kind}"]["mean"]["ap"] for kind in ("", ", mirrored"))
    assert pixels != both
    each = [values["ap"] for values in systems["tiny"]["each"]]
    assert systems["tiny"]["mean"]["ap"] == pytest.approx(np.mean(each)) and each[0] != each[1]
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert table(result) in text and f"| odd | {(np.arange(24, 40) % 2).mean():.3f} |" in text
    assert (tmp_path / "out" / "benchmark.png").stat().st_size > 5000
    with pytest.raises(ditifeat.InputError, match="train and to test"):
        benchmark(runs, folder, labels, tmp_path / "out", first=40)


def test_scores_are_remembered_until_they_are_worked_out_in_another_way(tmp_path, monkeypatch):
    worked_out = []

    def score():
        worked_out.append(0.5)
        return [{"values": {"ap": 0.5}}]

    for _ in range(2):
        assert cached(tmp_path, "a run", score) == [{"values": {"ap": 0.5}}]
    assert len(worked_out) == 1
    cached(tmp_path, "another run", score)
    monkeypatch.setattr("ditifeat.benchmark.cache.SCORING", 0)
    cached(tmp_path, "a run", score)
    assert len(worked_out) == 3
