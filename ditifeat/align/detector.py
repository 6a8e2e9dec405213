"""Faces and their five points: the cascade of three small networks of MTCNN (Zhang et al., 2016, arXiv 1604.02878).

Code of our own; the weights are those of facenet-pytorch (MIT, `weights/LICENSE-mtcnn`), converted once to safetensors by
`examples/convert_face_detector.py`. P-Net proposes boxes over a pyramid of the image, R-Net and O-Net each classify and move
them, and O-Net gives the points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from ditifeat.align.geometry import Similarity, fit_similarity, warp
from ditifeat.files import load_strictly, read_tensors

MAX_SIDE = 1280  # longer images are searched at this size; the points are then read from the image itself

MIN_FACE = 20  # pixels per side of the smallest box, at the size that is searched

PYRAMID = math.sqrt(0.5)  # from one scale to the next

THRESHOLDS = (0.6, 0.7, 0.7)  # probabilities of a face, as published

FACE_CORNER, FACE_SIDE = 32 + 68j, 112  # the square of CelebA's aligned faces that the networks know best

# A margin over which an image need not be looked at turned; by so much a turned one must be better, as most photos are upright.
SURE = 3.5

BATCH = 256  # boxes that a network sees at once

WEIGHTS = "mtcnn.safetensors"


@dataclass(frozen=True)
class Face:
    """A face in an image, in its pixels: x to the right, y down.

    Attributes:
        box: (left, top, right, bottom).
        points: the eye on the left of the image, the one on the right, the nose, the left and the right corner of the mouth,
            float64 `(5, 2)`.
        score: probability that this is a face.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray
    score: float

    @property
    def size(self) -> float:
        """The longer side of the box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


def find_faces(image: Image.Image) -> list[Face]:
    """Find the faces of an RGB image, largest first.

    Faces are looked for from 20 pixels per side on, of images over 1,280 pixels from 1/64 of the longer side on; of an image
    without any that is upright (to about 40 degrees on either side), also turned by 90, 270 and 180 degrees.

    >>> from PIL import Image
    >>> from ditifeat.align import find_faces
    >>> photo = Image.open("me.png").resize((256, 256))
    >>> [len(find_faces(image)) for image in (photo, photo.rotate(90), photo.crop((0, 0, 60, 60)))]
    [1, 1, 0]
    """
    width, height = image.size
    best, faces = 0.0, []
    for turn, there in (
        (None, Similarity(1 + 0j, 0j)),
        (Image.Transpose.ROTATE_90, Similarity(-1j, 1j * width)),
        (Image.Transpose.ROTATE_270, Similarity(1j, complex(height))),
        (Image.Transpose.ROTATE_180, Similarity(-1 + 0j, complex(width, height))),
    ):
        with torch.no_grad():
            margin, found = _upright_faces(image if turn is None else image.transpose(turn))
        if margin > best + (0 if turn is None else SURE):
            best, faces = margin, [_turned(face, there.inverse) for face in found]
        if best > SURE:
            break
    return sorted(faces, key=lambda face: -face.size)


def _upright_faces(image: Image.Image) -> tuple[float, list[Face]]:
    """The faces that are upright rather than turned, and how sure that is of the one it is surest of."""
    ratio = max(1.0, max(image.size) / MAX_SIDE)
    small = image if ratio == 1 else image.resize([max(1, round(s / ratio)) for s in image.size], Image.Resampling.BOX)
    nets = _load_networks()
    candidates = [(_margin(nets, image, face.points), face) for face in _cascade(nets, small, image)]
    return max((margin for margin, _ in candidates), default=0.0), [face for margin, face in candidates if margin > 0]


def _turned(face: Face, back: Similarity) -> Face:
    corners = back(np.reshape(face.box, (2, 2)))
    return Face((*corners.min(0).tolist(), *corners.max(0).tolist()), back(face.points), face.score)


def _margin(nets: Networks, image: Image.Image, points: np.ndarray) -> float:
    """By how much a face is likelier upright than turned by 90, 180 or 270 degrees, in log-odds of R-Net and half O-Net's.

    The cascade finds faces that are upside down, too, but with the points of an upright one.
    """
    patch = warp(image, fit_similarity(points).then(48 / FACE_SIDE, -48 / FACE_SIDE * FACE_CORNER), 48, 48)
    turns = [patch, *(patch.rotate(angle) for angle in (90, 180, 270))]
    margin = 0.0
    for net, size, share in ((nets.rnet, 24, 1.0), (nets.onet, 48, 0.5)):
        scores = net(_to_tensor([turn.resize((size, size), Image.Resampling.BILINEAR) for turn in turns]))[0]
        scores = scores.astype(np.float64).clip(1e-7, 1 - 1e-7)
        odds = np.log(scores / (1 - scores))
        margin += share * float(odds[0] - odds[1:].max())
    return margin


def _cascade(nets: Networks, small: Image.Image, image: Image.Image) -> list[Face]:
    """Faces in an image, and in a smaller copy of it."""
    boxes = _square(_proposals(nets.pnet, small))
    scores, moves, _ = _classify(nets.rnet, small, boxes, 24)
    boxes, scores, moves = (x[scores > THRESHOLDS[1]] for x in (boxes, scores, moves))
    kept = _suppress(boxes, scores, 0.7)
    boxes = _square(_moved(boxes[kept], moves[kept]))
    boxes = boxes * np.tile(np.divide(image.size, small.size), 2)  # O-Net reads the image itself
    scores, moves, points = _classify(nets.onet, image, boxes, 48)
    sure = scores > THRESHOLDS[2]
    boxes, scores, moves, points = (x[sure] for x in (boxes, scores, moves, points))
    places = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
    boxes = _moved(boxes, moves)
    kept = _suppress(boxes, scores, 0.7, of_smaller=True)
    return [Face(tuple(boxes[i].tolist()), places[i], float(scores[i])) for i in kept]


def _proposals(pnet: PNet, image: Image.Image) -> np.ndarray:
    """Boxes `(n, 4)` of P-Net, moved as it says: windows of 12 pixels, 2 apart, at all scales of the pyramid."""
    found: list[list[np.ndarray]] = [[np.empty((0, 4))], [np.empty(0)], [np.empty((0, 4))]]
    scale = 12 / MIN_FACE
    while min(image.size) * scale >= 12:
        size = [max(12, round(side * scale)) for side in image.size]
        scores, moves = pnet(_to_tensor([image.resize(size, Image.Resampling.BILINEAR)]))
        rows, columns = np.nonzero(scores > THRESHOLDS[0])
        corners = np.stack([columns, rows], 1) * 2.0
        boxes = np.concatenate([corners, corners + 12], 1) * np.tile(np.divide(image.size, size), 2)
        likely = scores[rows, columns]
        kept = _suppress(boxes, likely, 0.5)
        for values, new in zip(found, (boxes, likely, moves[:, rows, columns].T), strict=True):
            values.append(new[kept])
        scale *= PYRAMID
    boxes, likely, moves = (np.concatenate(values) for values in found)
    kept = _suppress(boxes, likely, 0.7)
    return _moved(boxes[kept], moves[kept])


def _classify(net: RNet, image: Image.Image, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities `(n,)`, moves `(n, 4)` and points `(n, 5, 2)`, both in units of the box. Outside the image all is black."""
    border = math.ceil(max(0, -boxes.min(), (boxes[:, 2:] - image.size).max())) if len(boxes) else 0
    padded = ImageOps.expand(image, border) if border else image
    patches = [padded.resize((size, size), Image.Resampling.BILINEAR, box=tuple(box + border)) for box in boxes]
    outputs = [net(_to_tensor(patches[i : i + BATCH])) for i in range(0, len(patches), BATCH)]
    if not outputs:
        return np.empty(0), np.empty((0, 4)), np.empty((0, 5, 2))
    scores, moves, points = (np.concatenate(values) for values in zip(*outputs, strict=True))
    return scores, moves, points


def _to_tensor(images: list[Image.Image]) -> Tensor:
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    return (pixels.permute(0, 3, 1, 2).float() - 127.5) / 128


def _moved(boxes: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Boxes whose sides are moved by shares of their width and height."""
    return boxes + moves * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _square(boxes: np.ndarray) -> np.ndarray:
    """Boxes made square about their middle, of the longer side."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1, initial=0)[:, None] / 2
    keep = half[:, 0] > 0.5
    return np.concatenate([middle - half, middle + half], 1)[keep]


def _suppress(boxes: np.ndarray, scores: np.ndarray, most: float, *, of_smaller: bool = False) -> np.ndarray:
    """Indices of boxes, the best first, without those that share more than `most` of the union (or smaller) with a better one."""
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = sides.clip(0).prod(1)
        whole = np.minimum(areas[best], areas[rest]) if of_smaller else areas[best] + areas[rest] - shared
        order = rest[shared <= most * whole]
    return np.array(kept, dtype=np.int64)


class PNet(nn.Module):
    """Scores `(h, w)` and moves `(4, h, w)` of windows of 12 pixels, of one image `(1, 3, H, W)`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.score, self.box = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        x = nn.functional.max_pool2d(self.prelu1(self.conv1(x)), 2, 2, ceil_mode=True)
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        return self.score(x)[0, 0].sigmoid().numpy(), self.box(x)[0].numpy()


class RNet(nn.Module):
    """Scores `(n,)`, moves `(n, 4)` and points `(n, 5, 2)`, which are 0, of patches `(n, 3, 24, 24)`."""

    pools: tuple[int, ...] = (3, 3)

    def __init__(self, channels: tuple[int, ...] = (28, 48, 64), sides: int = 3, width: int = 128):
        super().__init__()
        last = 3
        for i, new in enumerate(channels, 1):
            self.add_module(f"conv{i}", nn.Conv2d(last, new, 2 if i == len(channels) else 3))
            self.add_module(f"prelu{i}", nn.PReLU(new))
            last = new
        self.dense, self.prelu_dense = nn.Linear(last * sides * sides, width), nn.PReLU(width)
        self.score, self.box = nn.Linear(width, 1), nn.Linear(width, 4)

    def features(self, x: Tensor) -> Tensor:
        """What the dense layer makes of the convolutions' last map."""
        for i in range(1, len(self.pools) + 2):
            x = self.get_submodule(f"prelu{i}")(self.get_submodule(f"conv{i}")(x))
            if i <= len(self.pools):
                x = nn.functional.max_pool2d(x, self.pools[i - 1], 2, ceil_mode=True)
        return self.prelu_dense(self.dense(x.flatten(1)))

    def forward(self, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = self.features(x)
        return self.score(x)[:, 0].sigmoid().numpy(), self.box(x).numpy(), np.zeros((len(x), 5, 2))


class ONet(RNet):
    """As R-Net, of patches `(n, 3, 48, 48)`, and with points."""

    pools = (3, 3, 2)

    def __init__(self) -> None:
        super().__init__((32, 64, 64, 128), 3, 256)
        self.points = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        x = self.features(x)
        points = self.points(x).unflatten(1, (2, 5)).transpose(1, 2)  # all x come first
        return self.score(x)[:, 0].sigmoid().numpy(), self.box(x).numpy(), points.numpy()


class Networks(nn.Module):
    """The three networks of the cascade."""

    def __init__(self) -> None:
        super().__init__()
        self.pnet, self.rnet, self.onet = PNet(), RNet(), ONet()


_LOCK = Lock()  # cache alone lets two threads read the same weights


def _load_networks() -> Networks:
    with _LOCK:
        return _networks()


@cache
def _networks() -> Networks:
    path = Path(str(resources.files("ditifeat.align"))) / "weights" / WEIGHTS
    nets = Networks()
    load_strictly(nets, read_tensors(path)[0], str(path))
    return nets.requires_grad_(False).eval()
