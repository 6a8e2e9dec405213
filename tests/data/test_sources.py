"""Whatever users pass as images: names, order, and rows that later changes of their objects do not reach."""

import io
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image, ImageSequence

from ditifeat import InputError
from ditifeat.data.batches import batches
from ditifeat.data.folders import list_folder
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.sources import is_single, sources
from tests.conftest import make_image


def test_every_kind_of_input_gives_the_same_pixels(tmp_path):
    image = make_image()
    image.save(tmp_path / "x.png")
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    kinds = [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        image,
        pixels,
        pixels[None],
        pixels / 255,
        (pixels / 255).astype(np.float32),
        tensor,
        tensor[None],
        tensor / 127.5 - 1,
        [image],
        iter([pixels]),
        (p for p in [tmp_path / "x.png"]),
        tmp_path,
    ]
    expected = Preprocessing(32).apply(image)
    for kind in kinds:
        rows = [row for _, batch in batches(kind, Preprocessing(32), 4) for row in batch]
        assert len(rows) == 1 and np.array_equal(rows[0], expected), kind


@pytest.mark.parametrize("thing", [3, None, {"a": 1}, {"x.png"}, [3], [None], 3.5])
def test_other_things_are_refused(thing):
    with pytest.raises(InputError, match="is not an image"):
        list(sources(thing))


def test_folder_order_and_names(photos, tmp_path):
    photos = Path(shutil.copytree(photos, tmp_path / "photos"))
    names = [name for name, _ in sources(photos)]
    assert names == sorted(names) and names[-1] == "more/09.png" and len(names) == 10
    (photos / ".hidden.png").write_bytes(b"")
    assert [name for name, _ in sources(photos)] == names


PREPROCESSING = Preprocessing(16)


def rows_of(images, **options):
    return [row for _, batch in batches(images, PREPROCESSING, 4, **options) for row in batch]


def expected(images):
    return [PREPROCESSING.apply(image) for image in images]


PICTURES = [make_image(i) for i in range(6)]


# ---- objects are read when they are pulled, in the caller's thread


def moving_gif(path):
    PICTURES[0].save(path, save_all=True, append_images=PICTURES[1:])
    return path


def test_frames_of_an_animation(tmp_path):
    path = moving_gif(tmp_path / "moving.gif")
    with Image.open(path) as gif:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(gif)]
    with Image.open(path) as gif:
        rows = rows_of(ImageSequence.Iterator(gif))
    assert len(rows) == 6 and np.array_equal(rows, expected(frames))


def test_one_open_image_many_times(tmp_path):
    PICTURES[0].save(tmp_path / "x.jpg")
    rows = rows_of([Image.open(tmp_path / "x.jpg")] * 24)
    assert len(rows) == 24 and all(np.array_equal(row, rows[0]) for row in rows)


@pytest.mark.parametrize("kind", ["array", "float array", "tensor", "grey", "image", "bytes", "file"])
def test_a_buffer_that_is_used_again(kind):
    def pulled():
        shape = np.asarray(PICTURES[0]).shape
        array, image, file = np.empty(shape, np.uint8), PICTURES[0].copy(), io.BytesIO()
        floats, grey, data = np.empty(shape, np.float32), np.empty(shape[:2], np.uint8), bytearray(10**5)
        tensor = torch.empty(3, *shape[:2], dtype=torch.uint8)
        for picture in PICTURES:
            array[:] = np.asarray(picture)
            floats[:] = array / np.float32(255)
            grey[:] = array[..., 0]
            tensor[:] = torch.from_numpy(array).permute(2, 0, 1)
            image.paste(picture)
            file.seek(0)
            picture.save(file, "PNG")
            data[: file.tell()] = file.getvalue()[: file.tell()]
            file.seek(0)
            things = {"array": array, "float array": floats, "tensor": tensor, "grey": grey, "image": image}
            yield things.get(kind, data if kind == "bytes" else file)
        for thing in (array, floats, grey, tensor):
            thing[:] = 0

    pictures = [picture.split()[0].convert("RGB") for picture in PICTURES] if kind == "grey" else PICTURES
    assert np.array_equal(rows_of(pulled()), expected(pictures))


def test_images_that_are_closed_after_they_were_pulled(tmp_path):
    def pulled():
        for i, picture in enumerate(PICTURES):
            picture.save(tmp_path / f"{i}.png")
            with Image.open(tmp_path / f"{i}.png") as image:
                yield image

    assert np.array_equal(rows_of(pulled()), expected(PICTURES))


def test_a_batch_of_arrays_that_changes_while_it_is_read():
    stack = np.stack([np.asarray(picture) for picture in PICTURES])
    stream = batches((row for row in stack), PREPROCESSING, 1)
    first = next(stream)[1][0]
    assert np.array_equal(first, expected(PICTURES[:1])[0])


# ---- what people pass


class Array:
    """As jax's and tensorflow's arrays are."""

    def __init__(self, array):
        self.array, self.ndim, self.shape, self.dtype = array, array.ndim, array.shape, array.dtype

    def __array__(self, dtype=None, copy=None):
        return self.array

    def __iter__(self):
        raise TypeError("not row by row")


def test_kinds_of_arrays():
    stack = np.stack([np.asarray(picture) for picture in PICTURES])
    tensor = torch.from_numpy(stack).permute(0, 3, 1, 2)
    kinds = [
        Array(stack),
        stack.view(np.recarray),
        torch.nn.Parameter(tensor / 127.5 - 1),
        tensor.as_subclass(type("Frames", (torch.Tensor,), {})),
        [stack[0], stack[1] / 255, tensor[2], (tensor[3] / 127.5 - 1).double(), PICTURES[4], Array(stack[5])],
        np.array([*stack, None], dtype=object)[:-1],
    ]
    for kind in kinds:
        assert np.array_equal(rows_of(kind), expected(PICTURES)), type(kind)


def test_columns_of_tables(photos):
    paths = [str(path) for path in list_folder(photos)]
    names = [name for name, _ in sources(paths)]
    assert names == paths
    frame = pandas.DataFrame({"path": paths}, index=range(10, 20))
    column = np.array(paths, dtype=object)
    kinds = [
        frame,
        frame["path"],
        frame[["path"]].to_numpy(),
        column,
        column[:, None],
        np.array(paths),
        np.array([paths]).T,
    ]
    for kind in [*kinds, frame["path"].astype("string"), frame["path"].astype("category"), pandas.Index(paths)]:
        assert [name for name, _ in sources(kind)] == names, type(kind)
        assert not is_single(kind)
    for kind in (frame.assign(y=1), pandas.DataFrame({"x": [1, 2]}), frame.assign(y="a").to_numpy()):
        assert not is_single(kind)
        with pytest.raises(InputError, match="column"):
            list(sources(kind))


def test_bytes_and_open_files(tmp_path):
    PICTURES[0].save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    kinds = [data, bytearray(data), memoryview(data), io.BytesIO(data), open(tmp_path / "x.png", "rb")]  # noqa: SIM115
    for kind in kinds:
        assert is_single(kind)
        assert np.array_equal(rows_of(kind), expected(PICTURES[:1])), type(kind)
    with open(tmp_path / "x.png", "rb") as file:
        assert [name for name, _ in sources([data, file])] == ["0", str(tmp_path / "x.png")]
    with pytest.raises(InputError, match=r"x\.png: cannot be read \(read of closed file\)"):
        list(sources([file]))
    with open(tmp_path / "x.png", encoding="latin-1") as file, pytest.raises(InputError, match="mode 'rb'"):
        list(sources(file))
    with pytest.raises(ValueError, match=r"^1: the image: is not an image of a known kind"):
        rows_of([data, b"text"])


@pytest.mark.parametrize(
    "url", ["https://host/1.jpg", "s3://bucket/1.jpg", "data:image/png;base64,AAAA", "file:///1.jpg"]
)
def test_urls_are_refused(url):
    with pytest.raises(InputError, match="download it"):
        list(sources([url]))
    with pytest.raises(InputError):
        list(sources(url))


@pytest.mark.parametrize(
    "row", [{"image": PICTURES[0], "label": 1}, {"1.png": PICTURES[0]}, {"a.png", "b.png"}, [1.5, 2.5]]
)
def test_what_has_no_order_or_no_pixels_is_refused(row):
    with pytest.raises(InputError, match="is not an image"):
        list(sources([row]))


# ---- names


def test_equal_names_are_kept_apart(tmp_path):
    path = moving_gif(tmp_path / "moving.gif")
    with Image.open(path) as gif:
        names = [name for name, _ in sources(ImageSequence.Iterator(gif))]
    assert names == [str(path), *(f"{path}#{i}" for i in range(2, 7))]
    (tmp_path / "1").write_bytes(path.read_bytes())
    names = [name for name, _ in sources([tmp_path / "1", np.zeros((8, 8), np.uint8)])]
    assert names == [str(tmp_path / "1"), "1"]
    assert [name for name, _ in sources(["x.png", "x.png", "x.png#2", "x.png"])] == [
        "x.png",
        "x.png#2",
        "x.png#2#2",
        "x.png#3",
    ]


def test_many_equal_names_are_kept_apart_quickly():
    assert len({name for name, _ in sources(["x.png"] * 20_000)}) == 20_000


def test_a_missing_path_given_by_itself_is_never_skipped(tmp_path):
    for images in (tmp_path / "none.png", str(tmp_path / "photoz/")):
        with pytest.raises(FileNotFoundError, match="no such file or folder"):
            list(batches(images, PREPROCESSING, 4, on_error="skip"))


@pytest.mark.parametrize(
    "images,single", [("x.png", True), ("x.tar", False), ("x.TGZ", False), ([], False), (iter([]), False)]
)
def test_is_single(images, single):
    assert is_single(images) == single


def test_is_single_of_arrays():
    assert is_single(np.zeros((8, 8, 3))) and is_single(torch.zeros(3, 8, 8)) and is_single(Array(np.zeros((8, 8))))
    assert not is_single(np.zeros((1, 8, 8, 3))) and not is_single(torch.zeros(1, 3, 8, 8))
