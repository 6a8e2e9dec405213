"""An exported encoder gives the features that `encode` gives, without torch."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import ditifeat
from ditifeat import InputError
from ditifeat.app.cli import main
from ditifeat.encoding.export import export_onnx
from ditifeat.schema import from_dict
from tests.conftest import without_package

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'ditifeat[onnx]'")
EXAMPLE = Path(__file__).parents[2] / "examples" / "encode_onnx.py"
slow = pytest.mark.slow


@pytest.fixture(scope="module", params=[pytest.param(False, marks=slow), pytest.param(True, marks=slow)])
def exported(request, tiny_folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "encoder.onnx"
    averaged = ["--flip-average"] if request.param else []
    assert main(["export", "--out", str(path), "--model", str(tiny_folder), "--device", "cpu", *averaged]) == 0
    return path, request.param


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_features_agree_at_any_batch_size(exported, tiny_encoder):
    path, flip_average = exported
    for batch in (1, 7, 64):
        pixels = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)
        (found,) = session(path).run(None, {"pixels": pixels})
        expected = ditifeat.encode(tiny_encoder, pixels, crop="center", flip_average=flip_average)
        assert found.shape == (batch, 32) and np.abs(found - np.atleast_2d(expected)).max() < 1e-4


def test_the_file_says_how_images_are_made(exported, tiny_encoder):
    path, flip_average = exported
    about = session(path).get_modelmeta().custom_metadata_map
    assert about["weights"] == tiny_encoder.weights and about["model"] == "tiny"
    assert about["preprocessing"] == tiny_encoder.config.image.fingerprint() and about["resampling"] == "lanczos"
    assert json.loads(about["size"]) == 32 and json.loads(about["crop"]) == [0, 0, 1, 1]
    assert json.loads(about["flip_average"]) is flip_average
    assert from_dict(ditifeat.TimeStepPartition, json.loads(about["partition"])) == tiny_encoder.partition
    assert set(json.loads(about["partition"])) == set(asdict(tiny_encoder.partition))


def test_the_example_encodes_a_folder_without_torch(exported, tiny_encoder, photos, tmp_path):
    path, flip_average = exported
    program = f"""
import runpy, sys
sys.modules["torch"] = sys.modules["ditifeat"] = None  # importing them fails
sys.argv = ["encode_onnx.py", {str(path)!r}, {str(photos)!r}, {str(tmp_path / "x.npz")!r}, "--batch-size", "4"]
runpy.run_path({str(EXAMPLE)!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "10 images of 32 px by tiny" in done.stdout
    expected = ditifeat.encode(tiny_encoder, photos, flip_average=flip_average)
    with np.load(tmp_path / "x.npz") as found:
        assert found["names"].tolist() == list(expected.names)
        assert np.abs(found["features"] - expected.array).max() < 1e-4
        assert str(found["weights"]) == tiny_encoder.weights


@pytest.mark.parametrize(
    "name,options,words",
    [
        ("x.pt", {}, "exported as .onnx"),
        ("x.onnx", {"crop": "left"}, "crop = 'left'"),
        ("x.onnx", {"flip_average": 2}, "flip_average"),
    ],
)
def test_what_cannot_be_exported(tiny_encoder, tmp_path, name, options, words):
    with pytest.raises(InputError, match=words):
        export_onnx(tiny_encoder, tmp_path / name, **options)


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_without_the_libraries(tiny_encoder, tmp_path, monkeypatch, library):
    without_package(monkeypatch, library)
    with pytest.raises(ImportError, match=r"ditifeat\[onnx\]"):
        export_onnx(tiny_encoder, tmp_path / "x.onnx")
