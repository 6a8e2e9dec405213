"""Images of 32 px drawn from known factors of different size in pixels, to check features against the truth.

On a background of one hue, whose lightness rises or falls from top to bottom, lies a shape with a faint texture; a faint frame
runs round the image, and a small mark stands in one of its corners. Every factor is drawn independently of the others.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ditifeat.errors import InputError, WriteError
from ditifeat.files import atomic_write, check_writable, write_text
from ditifeat.schema import integer

SIZE = 32  # pixels per side

BLOCK = 512  # images drawn at once; larger ones leave the processor's cache

MOST_WRITTEN = 10_000_000  # images

Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Factor:
    """One factor of variation.

    Attributes:
        name: of the factor.
        kind: "categorical" (an index of `categories`), "continuous" (within `low..high`), or "circular" (the same, and `high`
            is `low` again).
        low, high: the bounds of what is not categorical.
        categories: names of the values of what is.

    >>> from ditifeat.data.factors import FACTORS
    >>> FACTORS["shape"].categories
    ('ellipse', 'rectangle', 'rhombus', 'hourglass')
    """

    name: str
    kind: Literal["categorical", "continuous", "circular"]
    low: float = 0.0
    high: float = 1.0
    categories: tuple[str, ...] = ()

    def sample(self, uniform: np.ndarray) -> np.ndarray:
        """Map numbers uniform in [0, 1) to values."""
        if self.kind == "categorical":
            return (uniform * len(self.categories)).astype(np.int64)
        return self.low + (self.high - self.low) * uniform

    def targets(self, values: np.ndarray) -> Values:
        """Return what a probe can learn of `values` `(n,)`, per name: itself, sine and cosine, or an indicator per category.

        >>> from ditifeat.data.factors import FACTORS
        >>> {name: value.round(3).tolist() for name, value in FACTORS["rotation"].targets(np.array([45.0])).items()}
        {'rotation.sin': [1.0], 'rotation.cos': [0.0]}
        """
        if self.kind == "categorical":
            return {f"{self.name}.{c}": (values == i).astype(np.float64) for i, c in enumerate(self.categories)}
        if self.kind == "continuous":
            return {self.name: values.astype(np.float64)}
        angle = 2 * np.pi * (values - self.low) / (self.high - self.low)
        return {f"{self.name}.sin": np.sin(angle), f"{self.name}.cos": np.cos(angle)}

    def check(self, values: np.ndarray) -> None:
        """Refuse values that the factor does not have.

        Raises:
            InputError: with the bounds.
        """
        if self.kind == "categorical":
            if values.dtype.kind not in "iu" or ((values < 0) | (values >= len(self.categories))).any():
                raise InputError(f"{self.name}: must be integers, indices of {', '.join(self.categories)}")
        elif values.dtype.kind not in "iuf" or not ((values >= self.low) & (values <= self.high)).all():
            raise InputError(f"{self.name}: must be numbers within {self.low:g}..{self.high:g}")


# Every shape looks the same after half a turn, so that rotation means the same for all: a circle of 180 degrees.
FACTORS: dict[str, Factor] = {
    factor.name: factor
    for factor in (
        Factor("shape", "categorical", categories=("ellipse", "rectangle", "rhombus", "hourglass")),
        Factor("scale", "continuous", 6, 10),  # half of the longer axis, in pixels
        Factor("x", "continuous", -6, 6),  # of the shape's centre from the image's, in pixels
        Factor("y", "continuous", -6, 6),
        Factor("rotation", "circular", 0, 180),  # degrees
        Factor("hue", "circular", 0, 360),  # degrees, of the shape
        Factor("brightness", "continuous", 0.3, 1),  # multiplies the whole image
        Factor("background_hue", "circular", 0, 360),
        Factor("gradient", "continuous", -1, 1),  # of the background's lightness, from top to bottom
        Factor("texture", "categorical", categories=("horizontal", "vertical", "checks")),  # on the shape, 2 px wide
        Factor("frame", "continuous", -1, 1),  # lightness of the outermost pixel
        Factor("mark", "categorical", categories=("top_left", "top_right", "bottom_left", "bottom_right")),
    )
}

ASPECT = 0.5  # of a shape: its shorter axis over its longer one

SHAPE_COLOUR, BACKGROUND_COLOUR = (0.35, 0.95), (0.7, 0.6)  # saturation and value

# Amplitudes of what is faint, on the scale 0..1: chosen so that factors are lost at time-steps far apart.
GRADIENT, TEXTURE, FRAME, MARK = 0.09, 0.025, 0.06, 0.4

MARK_PLACE, MARK_RADIUS = 3.5, 0.8  # pixels from the edges


def targets(values: Mapping[str, np.ndarray]) -> Values:
    """Return what a probe can learn of every factor in `values`, `(n,)` per name, as `Factor.targets`; `probe` takes it.

    >>> from ditifeat.data.factors import sample_values, targets
    >>> list(targets(sample_values(3, seed=0)))[:6]
    ['shape.ellipse', 'shape.rectangle', 'shape.rhombus', 'shape.hourglass', 'scale', 'x']
    """
    found: Values = {}
    for name, column in values.items():
        found |= FACTORS[name].targets(np.asarray(column))
    return found


def sample_values(n: int, seed: int = 0) -> Values:
    """Draw `n` values of each factor, uniform and independent; those of fewer are the first of more.

    Raises:
        InputError: unless `n` is a positive integer, and `seed` one from 0 on.

    >>> from ditifeat.data.factors import sample_values
    >>> bool((sample_values(5, seed=1)["x"] == sample_values(9, seed=1)["x"][:5]).all())
    True
    """
    n, seed = integer("n", n, 1), integer("seed", seed, 0)
    return {
        name: factor.sample(np.random.default_rng((seed, i)).random(n))
        for i, (name, factor) in enumerate(FACTORS.items())
    }


def sample(n: int, seed: int = 0) -> tuple[np.ndarray, Values]:
    """Draw images of random factors: uint8 `(n, 32, 32, 3)`, and their values, `(n,)` per factor.

    Raises:
        InputError: as `sample_values`.

    >>> from ditifeat.data.factors import sample
    >>> images, values = sample(4, seed=0)
    >>> images.shape, len(values)
    ((4, 32, 32, 3), 12)
    """
    values = sample_values(n, seed)
    return draw(values), values


def draw(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Draw the images of given factors, anti-aliased.

    Args:
        values: `(n,)` per factor of `FACTORS`, all of them.

    Returns:
        uint8 `(n, 32, 32, 3)`.

    Raises:
        InputError: for a factor that is missing or unknown, lengths that differ, or values out of bounds.

    >>> from ditifeat.data.factors import draw, sample_values
    >>> values = sample_values(2, seed=0)
    >>> draw(values | {"hue": np.array([0.0, 360.0])}).dtype
    dtype('uint8')
    """
    columns = _checked(values)
    n = len(columns["x"])
    blocks = [slice(start, start + BLOCK) for start in range(0, n, BLOCK)]
    return np.concatenate([_draw_block({name: c[block] for name, c in columns.items()}) for block in blocks])


def _checked(values: Mapping[str, np.ndarray]) -> Values:
    wrong = [f"{name} is missing" for name in FACTORS if name not in values]
    wrong += [f"{name} is unknown" for name in values if name not in FACTORS]
    if wrong:
        raise InputError(f"factors: {', '.join(wrong)}; they are {', '.join(FACTORS)}")
    columns = {name: np.asarray(values[name]) for name in FACTORS}
    shapes = {column.shape for column in columns.values()}
    if len(shapes) > 1 or any(len(shape) != 1 or shape[0] == 0 for shape in shapes):
        raise InputError(
            f"factors of shapes {', '.join(map(str, sorted(shapes)))}: all must be (n,), of one n from 1 on"
        )
    for name, column in columns.items():
        FACTORS[name].check(column)
    return columns


# Pixel centres, from the image's centre.
_AXIS = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
_X, _Y = _AXIS[None, None, :], _AXIS[None, :, None]
_FRAME = np.maximum(np.abs(_X), np.abs(_Y)) > SIZE / 2 - 1
_ROWS, _COLUMNS = (np.arange(SIZE) // 2 % 2 * 2 - 1 for _ in "xy")
_TEXTURES = np.stack(np.broadcast_arrays(_ROWS[:, None], _COLUMNS[None, :], _ROWS[:, None] * _COLUMNS)).astype(
    np.float32
)


def _draw_block(values: Values) -> np.ndarray:
    v = {name: column.astype(np.float32)[:, None, None] for name, column in values.items()}
    background = _colour(values["background_hue"], *BACKGROUND_COLOUR)[:, None, None, :]
    lightness = GRADIENT * v["gradient"] * _Y / (SIZE / 2)
    shape = _colour(values["hue"], *SHAPE_COLOUR)[:, None, None, :]
    texture = TEXTURE * _TEXTURES[values["texture"]]
    inside = _coverage(values["shape"], v)[..., None]
    image = (background + lightness[..., None]) * (1 - inside) + (shape + texture[..., None]) * inside
    image += (FRAME * v["frame"] * _FRAME)[..., None]
    image += MARK * _mark(values["mark"])[..., None]
    image *= v["brightness"][..., None]
    return (image * 255).round().clip(0, 255).astype(np.uint8)


def _coverage(shapes: np.ndarray, v: Values) -> np.ndarray:
    """How much of each pixel the shape covers, `(n, 32, 32)`: 1/2 on its edge, and linear over one pixel across it."""
    angle = np.deg2rad(v["rotation"])
    x, y = _X - v["x"], _Y - v["y"]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    long = v["scale"]
    distance = np.empty(along.shape, np.float32)
    for i, signed_distance in enumerate((_ellipse, _rectangle, _rhombus, _hourglass)):
        rows = shapes == i
        distance[rows] = signed_distance(np.abs(along[rows]), np.abs(across[rows]), long[rows], ASPECT * long[rows])
    return (0.5 - distance).clip(0, 1)


# Distances in pixels from the edge, negative inside, of a point in the first quadrant; half-axes a > b.


def _ellipse(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """To first order: what an implicit function is away from its edge, over the norm of its gradient."""
    radius = np.sqrt((u / a) ** 2 + (v / b) ** 2)
    slope = np.sqrt((u / a**2) ** 2 + (v / b**2) ** 2)
    return radius * (radius - 1) / np.maximum(slope, 1e-3)


def _rectangle(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(u - a, v - b)


def _rhombus(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (u / a + v / b - 1) * a * b / np.sqrt(a**2 + b**2)


def _hourglass(u: np.ndarray, v: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two triangles that meet in a waist of a fifth of the height."""
    side = (v - b * (0.2 + 0.8 * u / a)) * a / np.sqrt(a**2 + (0.8 * b) ** 2)
    return np.maximum(u - a, side)


def _mark(corners: np.ndarray) -> np.ndarray:
    right, low = (corners % 2 * 2 - 1)[:, None, None], (corners // 2 * 2 - 1)[:, None, None]
    place = SIZE / 2 - MARK_PLACE
    distance = np.hypot(_X - right * place, _Y - low * place) - MARK_RADIUS
    return (0.5 - distance).clip(0, 1).astype(np.float32)


def _colour(hue: np.ndarray, saturation: float, value: float) -> np.ndarray:
    """RGB `(n, 3)` in 0..1 of hues in degrees (HSV)."""
    sector = (np.array([5, 3, 1]) + hue[:, None] / 60) % 6
    return (value * (1 - saturation * np.minimum(sector, 4 - sector).clip(0, 1))).astype(np.float32)


def write(out: str | Path, count: int, seed: int = 0, *, progress: bool = False) -> Path:
    """Write images as PNGs into a folder or one tar, and beside it a CSV of what `probe` learns of their factors.

    Args:
        out: a folder to make, or a `.tar`.
        count: how many images.
        seed: of the factors.
        progress: show a progress bar.

    Returns:
        The CSV: `out` with the suffix `.csv`.

    Raises:
        InputError: as `sample_values`; for another suffix, or a folder that holds something already.
        WriteError: if it cannot be written.

    >>> from ditifeat.data.factors import write
    >>> write("drawn.tar", count=3)
    PosixPath('drawn.csv')
    """
    out = Path(out)
    if out.suffix not in ("", ".tar"):
        raise InputError(f"{out}: images are written into a folder, whose name has no suffix, or one .tar")
    labels = out.with_name(f"{out.name.removesuffix('.tar')}.csv")
    values = sample_values(integer("count", count, 1, MOST_WRITTEN), seed)
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out}: is not empty; give a new folder, or a .tar")
    check_writable(labels)
    names = [f"{i:0{len(str(count - 1))}d}.png" for i in range(count)]
    if out.suffix == ".tar":
        check_writable(out)
        atomic_write(out, lambda path: _write_tar(path, names, values, progress))
    else:
        _write_folder(out, names, values, progress)
    write_text(labels, _csv(names, targets(values)))
    return labels


def _write_folder(out: Path, names: list[str], values: Values, progress: bool) -> None:
    """Plainly: to sync each of many small files takes longer than to draw it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, png in _pngs(names, values, progress):
            (out / name).write_bytes(png)
    except OSError as error:
        raise WriteError(f"{out}: cannot be written ({error.strerror or error}); use another folder") from error


def _write_tar(path: Path, names: list[str], values: Values, progress: bool) -> None:
    with tarfile.open(path, "w") as tar:
        for name, png in _pngs(names, values, progress):
            member = tarfile.TarInfo(name)
            member.size = len(png)
            tar.addfile(member, BytesIO(png))


def _pngs(names: list[str], values: Values, progress: bool) -> Iterator[tuple[str, bytes]]:
    from tqdm.auto import tqdm

    with tqdm(total=len(names), unit="image", disable=not progress) as bar:
        for start in range(0, len(names), BLOCK):
            block = slice(start, start + BLOCK)
            images = draw({name: column[block] for name, column in values.items()})
            for name, image in zip(names[block], images, strict=True):
                buffer = BytesIO()
                Image.fromarray(image).save(buffer, "PNG")
                yield name, buffer.getvalue()
            bar.update(len(images))


def _csv(names: list[str], columns: Values) -> str:
    rows = zip(names, *([f"{value:.6g}" for value in column] for column in columns.values()), strict=True)
    return "\n".join(",".join(row) for row in (("name", *columns), *rows)) + "\n"
