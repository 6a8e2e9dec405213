"""Grids and saved images."""

import numpy as np
import pytest
from PIL import Image

from ditifeat import InputError
from ditifeat.data.drawing import grid, save_image


def test_grid_and_saving(tmp_path):
    pixels = np.stack([np.full((8, 8, 3), i, np.uint8) for i in range(5)])
    page = np.asarray(grid(pixels, columns=3))
    assert page.shape == (16, 24, 3)
    assert page[8, 8, 0] == 4 and page[-1, -1, 0] == 255
    for name in ("x.png", "x.jpg", "x.tif"):
        save_image(Image.fromarray(page), tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.size == (24, 16)
    with pytest.raises(InputError, match=r"x\.txt"):
        save_image(Image.fromarray(page), tmp_path / "x.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.jpg", "x.png", "x.tif"]
