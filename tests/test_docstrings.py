"""The examples in docstrings are run, and every public name has one.

An example may use `ditifeat`, `np`, `torch`, the bundled `encoder`, `features` of the eight bundled faces, and, in its
working folder, `photos/` (those faces), `me.png`, `you.png` and `labels.csv`.
"""

import doctest
import importlib
import pkgutil
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import ditifeat

MODULES = [m.name for m in pkgutil.walk_packages(ditifeat.__path__, "ditifeat.") if "__main__" not in m.name]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def namespace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    faces = sorted(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))
    for i, face in enumerate(faces):
        shutil.copy(face, folder / "photos" / f"{i}.png")
    shutil.copy(faces[0], folder / "me.png")
    shutil.copy(faces[1], folder / "you.png")
    rows = [f"{i}.png,{i % 2},{i / 8}" for i in range(len(faces))]
    (folder / "labels.csv").write_text("name,Smiling,age\n" + "\n".join(rows) + "\n")
    encoder = ditifeat.load_encoder()
    features = ditifeat.encode(encoder, folder / "photos", crop="center")
    return folder, {"ditifeat": ditifeat, "np": np, "torch": torch, "encoder": encoder, "features": features}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, namespace, monkeypatch):
    folder, names = namespace
    monkeypatch.chdir(folder)
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in found:
        test.globs.update(names)
        report = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)


@pytest.mark.parametrize("name", ditifeat.__all__)
def test_every_public_name_has_an_example(name):
    item = getattr(ditifeat, name)
    if isinstance(item, type) and issubclass(item, Exception):
        pytest.skip("an exception is raised, not called")
    assert ">>>" in (item.__doc__ or ""), f"ditifeat.{name} has no example"
