"""The examples in docstrings are run, and every public name has one, methods too.

An example may use `ditifeat`, `np`, `torch`, the bundled `encoder`, `features` of the eight bundled faces, and, in its
working folder, `photos/` (those faces), `me.png`, `you.png` and `labels.csv`.
"""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

import ditifeat
from ditifeat.model import DiTi

MODULES = [m.name for m in pkgutil.walk_packages(ditifeat.__path__, "ditifeat.") if "__main__" not in m.name]
PUBLIC = [*(getattr(ditifeat, name) for name in ditifeat.__all__), DiTi]
CLASSES = [item for item in PUBLIC if isinstance(item, type) and not issubclass(item, Exception)]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Modules with an example that is shown and not run (`doctest: +SKIP`), and why.
NOT_RUN = {
    "ditifeat.app.page": "serves until it is interrupted",
    "ditifeat.app.quickstart": "samples for seconds: tests/app/test_quickstart.py",
    "ditifeat.benchmark.baselines": "takes a data set: tests/benchmark/test_baselines.py",
    "ditifeat.benchmark.benchmark": "takes trained runs: tests/benchmark/test_benchmark.py",
    "ditifeat.benchmark.classifier": "trains for minutes: tests/benchmark/test_classifier.py",
    "ditifeat.benchmark.edits": "takes a trained run: tests/benchmark/test_edits.py",
    "ditifeat.benchmark.efficientnet": "takes the extra [benchmark]: tests/benchmark/test_efficientnet.py",
    "ditifeat.benchmark.evaluate_dm": "takes trained DMs: tests/benchmark/test_evaluate_dm.py",
    "ditifeat.benchmark.factors": "takes trained runs: tests/benchmark/test_factors.py",
    "ditifeat.benchmark.scores": "takes a data set: tests/benchmark/test_scores.py",
    "ditifeat.benchmark.specialisation": "takes a trained model: tests/benchmark/test_specialisation.py",
    "ditifeat.train": "trains for an hour: tests/train/test_pipeline.py",
}

# Methods and properties without an example: those that every array has, and what only our own code calls.
NO_EXAMPLE = {
    ("Features", "ndim"),
    ("Features", "origin"),
    ("Features", "header"),
    ("DiTi", "assemble"),
    ("DiTi", "train"),
}


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


def docstrings(source):
    """The docstrings of a module, and of its classes and functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return filter(None, (ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)))


@pytest.mark.parametrize("name", MODULES)
def test_no_example_is_overlooked(name):
    """doctest finds no docstring of what is decorated without `functools.wraps`, say."""
    module = importlib.import_module(name)
    parser = doctest.DocTestParser()
    written = [e for text in docstrings(Path(module.__file__).read_text("utf-8")) for e in parser.get_examples(text)]
    found = [e for test in doctest.DocTestFinder().find(module) for e in test.examples]
    assert len(found) == len(written)
    skipped = any(e.options.get(doctest.SKIP) for e in found)
    assert skipped == (name in NOT_RUN), "say in NOT_RUN why an example is not run"
    assert not any(">>>" in e.want for e in found)


@pytest.mark.parametrize("item", CLASSES, ids=lambda item: item.__name__)
def test_every_public_method_has_an_example(item):
    """Its own, or in the example of its class."""
    kinds = (staticmethod, classmethod, property)
    names = [k for k, v in vars(item).items() if k[0] != "_" and (inspect.isfunction(v) or isinstance(v, kinds))]
    for name in names:
        text = f"{item.__doc__}\n{inspect.getdoc(getattr(item, name))}"
        lines = [line for line in text.splitlines() if line.strip().startswith((">>>", "..."))]
        shown = re.search(rf"\b{name}\b", "\n".join(lines))
        assert shown or (item.__name__, name) in NO_EXAMPLE, f"{item.__name__}.{name} has no example"
