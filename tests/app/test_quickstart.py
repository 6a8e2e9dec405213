import numpy as np
import pytest
from PIL import Image

import ditifeat
from ditifeat import InputError
from ditifeat.app import quickstart as module
from ditifeat.app.quickstart import quickstart


def test_it_says_what_the_features_are_and_draws_edits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(module, "FACES", 2)
    quickstart(tmp_path / "q.png")
    printed = capsys.readouterr().out
    assert "features of 8 faces: (8, 512), float32" in printed
    rows = [line for line in printed.splitlines() if line.startswith("  time-steps")]
    assert sum(int(line.split()[-2]) for line in rows) == 512 and all(line.endswith(" dimensions") for line in rows)
    assert np.asarray(Image.open(tmp_path / "q.png")).std() > 10


@pytest.mark.parametrize("name,error", [("q.doc", InputError), ("file/q.png", OSError)])
def test_an_image_that_cannot_be_written_is_refused_before_the_work(name, error, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(ditifeat, "load_encoder", lambda: pytest.fail("work began"))
    with pytest.raises(error):
        quickstart(tmp_path / name)
