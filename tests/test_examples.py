"""The examples run, on pictures that nobody owns, and print what the README says they do."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from ditifeat.model.encoders import EncoderSpec
from tests.conftest import make_picture, tiny_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"
FACES = Path(__file__).parents[1] / "ditifeat" / "pretrained" / "weights" / "faces"


def run(name, *arguments, cwd):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def dataset(tmp_path):
    """Forty pictures in a folder with a file of attributes in CelebA's form."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for i in range(40):
        make_picture(i, 89, 109).save(folder / f"{i:06d}.png")
        rows.append(f"{i:06d}.png {1 if i % 2 else -1} {1 if i % 3 else -1}")
    (folder / "list_attr.txt").write_text("40\nOdd Third\n" + "\n".join(rows) + "\n")
    return folder


def test_readme_example(dataset, tmp_path):
    run("readme.py", dataset, dataset / "list_attr.txt", "Odd", cwd=tmp_path)
    for name in ("probe.png", "edited.png", "swap.png"):
        assert (tmp_path / name).stat().st_size > 500


def test_reconstruction(dataset, tmp_path):
    out = run("reconstruction.py", dataset, "--skip", 38, "--steps", 4, cwd=tmp_path)
    assert "inferred x_T: MSE" in out and "2 pictures" in out


def test_solvers(dataset, tiny_folder, tmp_path):
    out = run("solvers.py", dataset, "--skip", 38, "--model", tiny_folder, cwd=tmp_path)
    assert "| fixed-point | 20 + 20 |" in out and "2 pictures" in (tmp_path / "solvers.md").read_text()


def test_figures(tmp_path):
    out = run("figures.py", "--out", "figures", cwd=tmp_path)
    assert "edits.png" in out
    for name in ("lost", "edits", "swaps", "weights"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 10_000


def test_edit_seconds(tmp_path):
    assert "next edit" in run("edit_seconds.py", cwd=tmp_path)


def test_learning_curve(dataset, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    down_path = EncoderSpec((32, 32), style="residual", layers=1, unshuffle=2)
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(tiny_recipe(encoder=down_path))))))
    main = ["train", recipe, "--data", dataset, "--out", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "ditifeat", *map(str, main)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    options = ["--train-first", 30]
    for stage in ("diti-run", "dm-run"):
        options += ["--run", recipe, tmp_path / "run" / stage]
    out = run("learning_curve.py", dataset, dataset / "list_attr.txt", *options, cwd=tmp_path)
    assert "| tiny | 80 |" in out and "| tiny, DM's down path |" in out
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_dm_samples(dataset, tiny_folder, tmp_path):
    out = run("dm_samples.py", dataset, "--skip", 24, "--count", 8, "--steps", 3, "--model", tiny_folder, cwd=tmp_path)
    assert "held-out pictures" in out and "8 samples" in out
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_gallery(tmp_path):
    out = run("gallery.py", "--attributes", "Blond_Hair", "--steps", 2, cwd=tmp_path)
    assert "Blond_Hair" in out and (tmp_path / "gallery.png").stat().st_size > 5000


def test_half_precision(tiny_folder, tmp_path):
    assert "MB" in run("half_precision.py", tiny_folder, tmp_path / "half", cwd=tmp_path)
    sizes = [(folder / "estimator.safetensors").stat().st_size for folder in (tiny_folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_make_faces(tiny_folder, tmp_path):
    run("make_faces.py", "faces", "--model", tiny_folder, "--seeds", 3, 5, "--steps", 2, cwd=tmp_path)
    assert [p.name for p in sorted((tmp_path / "faces").iterdir())] == ["face003.png", "face005.png"]


def test_every_example_is_run_here():
    text = Path(__file__).read_text()
    assert all(f'"{path.name}"' in text for path in EXAMPLES.glob("*.py"))
