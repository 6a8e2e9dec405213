"""The commands, as a user types them."""

import subprocess
import sys
import time

import pytest
from PIL import Image

from ditifeat.app.cli import main
from tests.conftest import make_picture


def run(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture
def labels(photos, tmp_path):
    names = [f"{i:02d}.png" for i in range(10)]
    rows = "\n".join(f"{name} {1 if i % 2 else -1} {1 if i < 5 else -1}" for i, name in enumerate(names))
    path = tmp_path / "list_attr.txt"
    path.write_text(f"10\nOdd Early\n{rows}\n")
    return path


def test_encode_probe_edit(tiny_folder, photos, labels, tmp_path, capsys):
    features, report = tmp_path / "x.npz", tmp_path / "report.safetensors"
    assert run("encode", photos, "--out", features, "--model", tiny_folder) == 0
    assert "features (10, 32) by tiny, from 32 px" in capsys.readouterr().out
    plot = tmp_path / "p.png"
    assert run("probe", features, labels, "--train-first", 7, "--out", report, "--plot", plot) == 0
    out = capsys.readouterr().out
    assert "Odd" in out and "train rows: 7, test rows: 3" in out and plot.exists()
    edited = tmp_path / "e.png"
    picture = photos / "00.png"
    common = ("--model", tiny_folder, "--steps", 5, "--out", edited)
    assert run("edit", picture, "--attribute", "Odd", "--report", report, *common) == 0
    assert Image.open(edited).size == (32, 32)
    path = ("--attribute", "Odd", "--report", report, "--scale", -1, 0, 1)
    assert run("edit", picture, *path, *common) == 0
    assert Image.open(edited).size == (96, 32)
    assert run("edit", picture, *path, *common, "--out", tmp_path / "e.gif") == 0
    assert Image.open(tmp_path / "e.gif").n_frames == 4  # there and back
    assert run("edit", picture, "--reference", photos / "01.png", "--subsets", 2, 4, "--noise", "slerp", *common) == 0
    assert run("probe", features, labels, "--protocol", "paper", "--random-state", 1) == 0


@pytest.mark.parametrize(
    "arguments,words",
    [
        (("encode", "{tmp}/none.png", "--out", "{tmp}/x.npz", "--model", "{model}"), "none.png: there is no such file"),
        (("encode", "{photos}", "--out", "{tmp}/x.csv"), "npz or .safetensors"),
        (("encode", "{photos}", "--out", "{tmp}/x.npz", "--model", "nonsense"), "neither a folder"),
        (("probe", "{tmp}/x.npz", "{tmp}/labels.txt"), "x.npz: there is no such file"),
        (("edit", "{photos}/00.png", "--out", "{tmp}/x.txt", "--reference", "y"), "images are saved as"),
        (("edit", "{photos}/00.png", "--out", "{tmp}/x.png", "--attribute", "Odd"), "Odd"),
        (
            ("edit", "{photos}/00.png", "--out", "{tmp}/x.png", "--attribute", "Odd", "--model", "{model}"),
            "knows no attributes; give --report",
        ),
        (("edit", "{photos}/00.png", "--out", "{tmp}/x.png", "--model", "{model}"), "either a direction"),
        (("train", "nothing", "--data", "{photos}", "--out", "{tmp}/run"), "neither a recipe file"),
        (("convert", "--checkpoint", "{tmp}", "--dm", "{tmp}", "--out", "{tmp}/new"), "config.yml"),
        (("convert", "--checkpoint", "{tmp}", "--dm", "{tmp}", "--out", "{tmp}"), "exists already"),
        (("info", "{tmp}"), "no config.json"),
        (("quickstart", "--out", "{tmp}/x.doc"), "images are saved as"),
    ],
)
def test_mistakes_get_one_line_and_code_2(arguments, words, tiny_folder, photos, tmp_path, capsys):
    places = {"tmp": tmp_path, "photos": photos, "model": tiny_folder}
    assert run(*(a.format(**places) for a in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("ditifeat: ") and words in error and "Traceback" not in error


def test_broken_images_can_be_skipped(tiny_folder, tmp_path, capsys, caplog):
    make_picture().save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"x")
    command = ("encode", tmp_path, "--out", tmp_path / "x.npz", "--model", tiny_folder)
    assert run(*command) == 2 and not (tmp_path / "x.npz").exists()
    assert run(*command, "--skip-broken") == 0
    assert "features (1, 32)" in capsys.readouterr().out and "bad.png" in caplog.text


def test_info(tiny_folder, capsys):
    assert run("info", tiny_folder) == 0
    out = capsys.readouterr().out
    assert "32 px -> 32 numbers in 8 subsets" in out and "codec unshuffle" in out


def test_help_is_fast_and_imports_no_torch():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "ditifeat", "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert "quickstart" in done.stdout
    assert min(seconds) < 1  # 0.1 s on an idle machine; a torch import alone takes longer than this
    program = "import sys; from ditifeat.app.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
