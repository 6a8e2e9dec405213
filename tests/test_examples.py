"""Every example is run, with inputs that are made here, and prints and writes what it says."""

import runpy
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from ditifeat.app.cli import main
from ditifeat.model.encoders import EncoderSpec
from ditifeat.train.recipe import recipe_to_dict
from tests.conftest import make_image, tiny_recipe

EXAMPLES = Path(__file__).parents[1] / "examples"
slow = pytest.mark.slow

# Name, arguments, what it prints, what it writes. {data}: a folder of images; {tiny}: a model folder.
CASES = [
    pytest.param("edit_seconds.py", "", "next edit: ", [], marks=slow),
    ("gallery.py", "--attributes Blond_Hair --faces 1 --steps 2", "gallery.png: Blond_Hair", ["gallery.png"]),
    pytest.param(
        "paper_figures.py",
        "--faces 2 --steps 2",
        "figures: edits.png",
        ["figures/edits.png", "figures/swaps.png", "figures/weights.png"],
        marks=slow,
    ),
    pytest.param("solvers.py", "{data} --skip 39 --model {tiny}", "| fixed-point | 20 + 20 |", [], marks=slow),
    (
        "make_faces.py",
        "faces --model {tiny} --seeds 3 5 --steps 2",
        "faces: 2 images",
        ["faces/face003.png", "faces/face005.png"],
    ),
    (
        "range_swaps.py",
        "--model {tiny} --seeds 3 5 7 9 --steps 2 --dm-steps 2",
        "range_swaps.png: 2 pairs of faces",
        ["range_swaps.png"],
    ),
    pytest.param(
        "first_model.py",
        "first --recipe {recipe} --count 40 --steps 2",
        "first.png: look at it",
        ["first/first.png", "first/run/model/model.safetensors"],
        marks=slow,
    ),
    ("specialisation.py", "{data} --model {tiny} --count 4", "error left of 4 images; columns: ", []),
    ("half_precision.py", "{tiny} half", "half: ", ["half/model.safetensors", "half/estimator.safetensors"]),
    (
        "classify_folders.py",
        "{classes} --model {tiny} --time-steps 0 500 --folds 2",
        "12 images, 2 classes: accuracy ",
        [],
    ),
    ("retrieval.py", "{classes} --model {tiny} --count 3", "  all: 1.000, at random: 0.455", []),
    (
        "clustering.py",
        "{classes} --model {tiny} --clusters 2 --time-steps 0 500 --shown 3",
        "clusters.png: 12 images in 2 clusters\nadjusted Rand index with the folders: 1.000",
        ["clusters.png"],
    ),
    ("fine_tune.py", "{classes} --model {tiny} --epochs 30", "  head fine-tuned too: 1.000", ["head.safetensors"]),
    (
        "pipeline.py",
        "{table} --target kind --image file --model {tiny} --folds 2",
        "12 rows, images and number; best: {'classifier__C': ",
        [],
    ),
]


@pytest.fixture
def data(tmp_path):
    """Forty images in a folder, and a file of attributes in CelebA's form."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for i in range(40):
        make_image(i, 89, 109).save(folder / f"{i:06d}.png")
        rows.append(f"{i:06d}.png {1 if i % 2 else -1} {1 if i % 3 else -1}")
    (folder / "list_attr.txt").write_text("40\nOdd Third\n" + "\n".join(rows) + "\n")
    return folder


@pytest.fixture
def classes(tmp_path):
    """Dark and bright images, in one folder each."""
    for name, level in (("dark", 40), ("bright", 200)):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (40, 40), (level + i,) * 3).save(tmp_path / "classes" / name / f"{i}.png")
    return tmp_path / "classes"


@pytest.fixture
def table(classes):
    """A CSV of these images, with a number that says nothing."""
    rows = [
        f"classes/{path.parent.name}/{path.name},{i % 3},{path.parent.name}"
        for i, path in enumerate(sorted(classes.glob("*/*")))
    ]
    (classes.parent / "table.csv").write_text("\n".join(["file,number,kind", *rows]) + "\n")
    return classes.parent / "table.csv"


def run(monkeypatch, capsys, folder, name, *arguments):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize(("name", "arguments", "printed", "written"), CASES)
def test_example(
    name, arguments, printed, written, data, classes, table, recipe, tiny_folder, tmp_path, monkeypatch, capsys
):
    words = arguments.format(data=data, classes=classes, table=table, tiny=tiny_folder, recipe=recipe).split()
    assert printed in run(monkeypatch, capsys, tmp_path, name, *words)
    for file in written:
        assert (tmp_path / file).stat().st_size > 500


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe_to_dict(tiny_recipe())))
    return path


def test_half_precision_halves(tiny_folder, tmp_path, monkeypatch, capsys):
    run(monkeypatch, capsys, tmp_path, "half_precision.py", tiny_folder, "half")
    sizes = [(folder / "estimator.safetensors").stat().st_size for folder in (tiny_folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_range_swaps_turn_one_code_into_another_from_its_end(tiny_encoder):
    turned, model = runpy.run_path(str(EXAMPLES / "range_swaps.py"))["turned"], tiny_encoder.model
    a, b = (torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1 for seed in range(2))
    images, titles = turned(model, a, b, 4)
    back, _ = turned(model, b, a, 4)
    assert titles == ["A", "code of A", "500-1000 of B", "+ 300-500 of B", "+ 100-300 of B", "+ 0-100 of B", "B"]
    assert torch.equal(images[:1], a) and torch.equal(images[-1:], b)
    assert torch.allclose(images[-2], back[1], atol=2e-3) and torch.allclose(images[1], back[-2], atol=2e-3)
    mixed = torch.cat([model.encoder(a)[:, :16], model.encoder(b)[:, 16:]], dim=1)  # subsets 4 to 7 of 4 dimensions
    x_T = torch.randn(1, *model.noise_shape, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(images[2:3], model.sample(x_T, mixed, 4), atol=2e-3)
    assert min(float((x - y).abs().max()) for x, y in pairwise(images[1:-1])) > 0.02


@slow
def test_learning_curve(data, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "tiny.yaml"
    down_path = EncoderSpec((32, 32), style="residual", layers=1, unshuffle=2)
    recipe.write_text(yaml.safe_dump(recipe_to_dict(tiny_recipe(encoder=down_path))))
    assert main(["train", str(recipe), "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    runs = [word for stage in ("diti-run", "dm-run") for word in ("--run", recipe, tmp_path / "run" / stage)]
    options = [data, data / "list_attr.txt", "--train-size", 30, "--flip-average", *runs]
    out = run(monkeypatch, capsys, tmp_path, "learning_curve.py", *options)
    assert "| tiny | 80 |" in out and "| tiny, DM's down path |" in out
    assert (tmp_path / "curve.png").stat().st_size > 5000


@slow
def test_retraining(data, tiny_folder, tmp_path, monkeypatch, capsys):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(recipe_to_dict(tiny_recipe())))
    words = [data, "--out", tmp_path / "run", "--images", 400, "--model", tiny_folder, "--recipe", recipe]
    out = run(monkeypatch, capsys, tmp_path, "retrain.py", *words)
    assert "learnt from 36 images; error left of 4 others, before and after" in out
    errors = [[float(word) for word in line.split()[2:]] for line in out.splitlines() if line.startswith("  t ")]
    assert len(errors) == 5 and sum(after for _, after in errors) < sum(before for before, _ in errors)


def test_every_example_has_a_case():
    cases = {getattr(case, "values", case)[0] for case in CASES} | {
        "learning_curve.py",
        "retrain.py",
        "convert_face_detector.py",
        "encode_onnx.py",
        "spark_features.py",
    }
    assert cases == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short(path):
    assert len(path.read_text("utf-8").splitlines()) <= 80


def test_the_function_of_spark_takes_series_of_pandas(tiny_encoder, photos):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed; it comes with the extra benchmark")
    encode_series = runpy.run_path(str(EXAMPLES / "spark_features.py"))["encode_series"]
    paths = [photos / f"{i:02d}.png" for i in range(3)]
    images = pandas.Series([paths[0].read_bytes(), b"no image", paths[2].read_bytes()], index=[7, 8, 9])
    found = encode_series(images, str(tiny_encoder.folder))
    assert list(found.index) == [7, 8, 9] and list(found.columns) == ["features", "error"]
    assert (
        found["features"][8] is None and "is not an image" in found["error"][8] and found["error"][[7, 9]].isna().all()
    )
    expected = tiny_encoder.encode([paths[0], paths[2]]).array
    for row, code in zip(found["features"][[7, 9]], expected, strict=True):
        assert row.dtype == "float32" and abs(row - code).max() < 1e-5
    assert encode_series(pandas.Series([str(path) for path in paths]), str(tiny_encoder.folder))["error"].isna().all()
