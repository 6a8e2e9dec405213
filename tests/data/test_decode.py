"""Every trap of reading images, each with its clear error or the right result."""

import os
import struct
import tarfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ditifeat import ImageDecodeError, InputError
from ditifeat.data.batches import batches
from ditifeat.data.decode import MAX_PIXELS, array_to_image, decode, tensor_to_image, to_rgb
from ditifeat.data.drawing import grid, save_image
from ditifeat.data.preprocessing import Preprocessing
from ditifeat.data.sources import SourceReport, list_folder, sources
from tests.conftest import make_picture


def read(path):
    return np.asarray(decode(path, str(path)))


def test_sixteen_bit_grey_keeps_its_levels(tmp_path):
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for name in ("grey.png", "grey.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        pixels = read(tmp_path / name)
        assert pixels.shape == (64, 64, 3)
        assert np.abs(pixels[..., 0] - levels / 257).max() <= 0.5


def test_thirty_two_bit_pixels_are_refused(tmp_path):
    for mode in ("I", "F"):
        Image.new(mode, (16, 16)).save(tmp_path / "x.tif")
        with pytest.raises(ImageDecodeError, match="32-bit"):
            read(tmp_path / "x.tif")


def test_alpha_is_composited_on_white(tmp_path):
    Image.new("RGBA", (16, 16), (200, 0, 0, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (16, 16), (7, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (16, 16), 3)
    palette.putpalette([0, 0, 0] * 3 + [10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=3)
    Image.new("RGB", (16, 16), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    for name in ("rgba.png", "la.png", "p.png", "rgb.png"):
        assert (read(tmp_path / name) == 255).all(), name


def test_exif_orientation_is_applied(tmp_path):
    image = make_picture(width=30, height=20)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(read(tmp_path / "turned.png"), upright)
    with Image.open(tmp_path / "turned.png") as opened:
        assert np.array_equal(np.asarray(to_rgb(opened)), upright)


def test_other_colours(tmp_path):
    image = make_picture()
    image.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read(tmp_path / "cmyk.jpg").astype(int) - np.asarray(image)).mean() < 12
    image.convert("L").save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png")[..., 1], np.asarray(image.convert("L")))
    image.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read(tmp_path / "bits.png"))) <= {0, 255}


def test_of_an_animation_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (read(tmp_path / "moving.gif")[0, 0] == (255, 0, 0)).all()


@pytest.mark.parametrize(
    "name,content,words",
    [
        ("empty.jpg", b"", "not an image"),
        ("text.png", b"hello", "not an image"),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
    ],
)
def test_what_is_no_image(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageDecodeError, match=f"{name}.*{words}"):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif", "bmp"])
def test_truncated_files(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ImageDecodeError, match=f"cut.{suffix}"):
        read(path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_raise_our_error_or_none(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = tmp_path / f"x.{['png', 'jpg', 'webp', 'tif'][seed % 4]}"
    make_picture(seed).save(path)
    data = bytearray(path.read_bytes())
    for place in rng.integers(0, len(data), 20):
        data[place] = rng.integers(0, 256)
    path.write_bytes(data)
    try:
        read(path)
    except ImageDecodeError as error:
        assert path.name in str(error)


def test_two_hundred_megapixels_are_refused_before_decoding(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (10_000, 15_000):  # over our limit; over Pillow's own
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        path = tmp_path / f"bomb{side}.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        )
        assert side**2 > MAX_PIXELS
        with pytest.raises(ImageDecodeError, match=f"bomb{side}"):
            read(path)


def test_one_pixel_holds_nothing(tmp_path):
    make_picture(width=1, height=1).save(tmp_path / "dot.png")
    with pytest.raises(ImageDecodeError, match=r"dot\.png.*1 x 1"):
        list(batches(tmp_path / "dot.png", Preprocessing(32), 1))


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ImageDecodeError, match="no such file"):
        read(tmp_path / "none.png")
    with pytest.raises(ImageDecodeError, match="folder"):
        decode(tmp_path, "there")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_folder(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InputError, match="closed"):
        list_folder(tmp_path)


def test_an_unreadable_folder_is_reported_by_name(tmp_path, monkeypatch):
    def refuse(*_, onerror, **__):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "closed")))
        return iter(())

    monkeypatch.setattr(os, "walk", refuse)
    with pytest.raises(InputError, match=r"closed.*Permission denied"):
        list_folder(tmp_path)


@pytest.mark.parametrize(
    "array,words",
    [
        (np.zeros((3, 32, 32), np.uint8), "channels first"),
        (np.zeros((32, 32, 5), np.uint8), "is not"),
        (np.zeros((32, 32, 3), np.int64), "int64"),
        (np.full((32, 32, 3), np.nan), "NaN"),
        (np.full((32, 32, 3), 200.0), "divide by 255"),
        (np.full((32, 32, 3), -0.5), "outside"),
        (np.zeros((0, 32, 3), np.uint8), "is not"),
    ],
)
def test_arrays_that_would_be_misread(array, words):
    with pytest.raises(InputError, match=words):
        array_to_image(array)


@pytest.mark.parametrize(
    "tensor,words",
    [
        (torch.zeros(32, 32, 3), "channels last"),
        (torch.zeros(5, 32, 32), "is not"),
        (torch.zeros(3, 32, 32, dtype=torch.int64), "int64"),
        (torch.full((3, 32, 32), float("nan")), "NaN"),
        (torch.full((3, 32, 32), 100.0), "outside"),
    ],
)
@pytest.mark.filterwarnings("ignore:a float tensor")
def test_tensors_that_would_be_misread(tensor, words):
    with pytest.raises(InputError, match=words):
        tensor_to_image(tensor)


def test_a_tensor_without_dark_values_warns():
    with pytest.warns(UserWarning, match=r"2 \* x - 1"):
        tensor_to_image(torch.rand(3, 16, 16))


def test_every_kind_of_input_gives_the_same_pixels(tmp_path):
    image = make_picture()
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


def test_grey_and_rgba_arrays():
    grey = np.asarray(make_picture().convert("L"))
    assert np.array_equal(np.asarray(array_to_image(grey))[..., 0], grey)
    assert np.array_equal(array_to_image(grey[..., None]), array_to_image(grey))
    assert (np.asarray(array_to_image(np.zeros((16, 16, 4), np.uint8))) == 255).all()


@pytest.mark.parametrize("thing", [3, None, b"bytes", {"a": 1}])
def test_other_things_are_refused(thing):
    with pytest.raises(InputError, match="is not an image"):
        list(sources(thing))


def test_crop_is_that_of_the_paper_without_resampling():
    crop = (25 / 178, 57 / 218, 153 / 178, 185 / 218)
    preprocessing = Preprocessing(64, crop)
    assert preprocessing.box(178, 218) == (25, 57, 153, 185)
    assert preprocessing.box(89, 109) == (12, 28, 76, 92)
    image = make_picture(width=89, height=109)
    assert np.array_equal(preprocessing.apply(image), np.asarray(image)[28:92, 12:76])
    assert preprocessing.box(100, 60, "center") == (20, 0, 80, 60)
    assert not np.array_equal(preprocessing.apply(image), preprocessing.apply(image, "center"))


def test_nothing_is_stretched():
    assert Preprocessing(32).box(100, 60) == (20, 0, 80, 60)
    left, top, right, bottom = Preprocessing(32, (0.1, 0.2, 0.9, 0.8)).box(300, 100)
    assert right - left == bottom - top == 60 and left + right == 300


def test_shrinking_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = Preprocessing(32).apply(Image.fromarray(stripes))
    assert np.abs(shrunk.astype(int) - 127).max() < 10


@pytest.mark.parametrize(
    "arguments",
    [{"size": 4}, {"size": 10**6}, {"size": 64, "crop": (0.5, 0, 0.2, 1)}, {"size": 64, "resampling": "magic"}],
)
def test_impossible_preprocessing_is_refused(arguments):
    with pytest.raises(InputError, match="image:"):
        Preprocessing(**arguments)


def test_folder_order_and_names(photos):
    names = [name for name, _ in sources(photos)]
    assert names == sorted(names) and names[-1] == "more/09.png" and len(names) == 10
    (photos / ".hidden.png").write_bytes(b"")
    assert [name for name, _ in sources(photos)] == names


def test_tar(photos, tmp_path):
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(photos, "faces")
    names = [name for name, _ in sources(tmp_path / "photos.tar")]
    assert "faces/more/09.png" in names and not any(n.endswith(".txt") for n in names)
    (tmp_path / "broken.tar").write_bytes(b"no tar")
    with pytest.raises(InputError, match=r"broken\.tar"):
        list(sources(tmp_path / "broken.tar"))


def test_bad_images_can_be_skipped(tmp_path, caplog):
    for i in range(5):
        make_picture(i).save(tmp_path / f"{i}.png")
    (tmp_path / "2.png").write_bytes(b"broken")
    with pytest.raises(ImageDecodeError, match=r"2\.png"):
        list(batches(tmp_path, Preprocessing(32), 2))
    report = SourceReport()
    stream = batches(tmp_path, Preprocessing(32), 2, on_error="skip", report=report)
    found = [name for names, _ in stream for name in names]
    assert "skipped:" in caplog.text and "2.png" in caplog.text
    assert [name for name, _ in report.skipped] == ["2.png"] and "2.png" in str(report)
    assert found == ["0.png", "1.png", "3.png", "4.png"]


def test_bad_arrays_are_named_by_their_place():
    good, bad = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), np.nan)
    with pytest.raises(InputError, match=r"^1: .*NaN"):
        list(batches([good, bad], Preprocessing(32), 4))


def test_reading_runs_only_a_little_ahead():
    read = []

    def images():
        for i in range(1000):
            read.append(i)
            yield make_picture(i % 3)

    stream = batches(images(), Preprocessing(32), 4)
    next(stream)
    stream.close()
    assert len(read) < 20


def test_grid_and_saving(tmp_path):
    pixels = np.stack([np.full((8, 8, 3), i, np.uint8) for i in range(5)])
    page = np.asarray(grid(pixels, columns=3))
    assert page.shape == (16, 24, 3)
    assert page[8, 8, 0] == 4 and page[-1, -1, 0] == 255
    for name in ("x.png", "x.jpg", "x.tif"):
        save_image(Image.fromarray(page), tmp_path / name)
        assert read(tmp_path / name).shape == page.shape
    with pytest.raises(InputError, match=r"x\.txt"):
        save_image(Image.fromarray(page), tmp_path / "x.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.jpg", "x.png", "x.tif"]
