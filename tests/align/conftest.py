"""Photos with faces that the bundled model generated, and the places where their eyes are."""

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditifeat.align.geometry import POSITIONS, Similarity
from tests.conftest import make_image

FACES = sorted(Path(str(resources.files("ditifeat.pretrained") / "weights" / "faces")).glob("*.png"))


def bundled_face(index=0, side=128):
    """A generated face at CelebA's scale: 128 pixels are the crop from (25, 57) of 178 x 218."""
    return Image.open(FACES[index]).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def make_photo(index=0, side=220, angle=0.0, place=(300, 200), size=(640, 480)):
    """A photo with a face on a smooth ground, and the similarity from CelebA's aligned positions to the photo's.

    Args:
        index: of the bundled faces.
        side: of the face's crop in the photo, in pixels.
        angle: degrees, clockwise.
        place: the crop's middle.
        size: of the photo.
    """
    photo = make_image(5, *size).point(lambda value: 96 + value // 4)
    face = bundled_face(index, side)
    turned = face.convert("RGBA").rotate(-angle, Image.Resampling.BICUBIC, expand=True)
    photo.paste(turned, (place[0] - turned.width // 2, place[1] - turned.height // 2), turned)
    factor = side / 128 * np.exp(1j * np.radians(angle))
    return photo, Similarity(complex(factor), complex(*place) - factor * (25 + 64 + 1j * (57 + 64)))


def eyes_in(similarity):
    """Where CelebA's eyes and corners of the mouth come to lie, `(4, 2)`."""
    return similarity(POSITIONS)


@pytest.fixture
def photo():
    return make_photo()[0]
