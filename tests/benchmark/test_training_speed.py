"""The speed of training, plain and as it is trained, in one run."""

import pytest

from ditifeat.benchmark.training_speed import main, speed_table, training_speed
from tests.conftest import method_recipe, tiny_recipe
from tests.train.conftest import write_recipe


@pytest.mark.parametrize("recipe,stages", [(tiny_recipe(), ["dm", "diti"]), (method_recipe("simclr"), ["contrastive"])])
def test_speed_of_each_stage(recipe, stages, monkeypatch):
    monkeypatch.setattr("ditifeat.train.loop.choose_precision", lambda *a: "bf16")
    rows = training_speed(recipe, steps=2)
    assert [row["stage"] for row in rows] == stages
    for row in rows:
        assert row["plain"] > 0 and row["ratio"] == row["chosen"] / row["plain"]
        assert (row["precision"], row["compiled"], row["device"]) == ("bf16", False, "cpu")
    assert "times as fast" in speed_table(rows)


def test_command(tmp_path, capsys):
    main([str(write_recipe(tmp_path, method_recipe("simsiam"))), "--steps", "1"])
    assert "float32, cpu" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["nowhere"])
    assert "nowhere" in capsys.readouterr().err
