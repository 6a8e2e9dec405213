"""Arrays and tensors: the right pixels, or a refusal that says what to do."""

import numpy as np
import pytest
import torch

from ditifeat import InputError
from ditifeat.data.arrays import array_to_image, tensor_to_image
from tests.conftest import make_image


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


def test_grey_and_rgba_arrays():
    grey = np.asarray(make_image().convert("L"))
    assert np.array_equal(np.asarray(array_to_image(grey))[..., 0], grey)
    assert np.array_equal(array_to_image(grey[..., None]), array_to_image(grey))
    assert (np.asarray(array_to_image(np.zeros((16, 16, 4), np.uint8))) == 255).all()


PIXELS = np.asarray(make_image(width=16, height=12))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_floats_of_every_width(dtype):
    assert np.array_equal(np.asarray(array_to_image((PIXELS / 255).astype(dtype))), PIXELS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_tensors_of_every_width(dtype):
    tensor = (torch.from_numpy(PIXELS.copy()).permute(2, 0, 1) / 127.5 - 1).to(dtype)
    assert np.abs(np.asarray(tensor_to_image(tensor)).astype(int) - PIXELS).max() <= (dtype == torch.float16)


@pytest.mark.parametrize(
    "dtype,words",
    [
        (bool, r"bool is neither.*astype\(np\.uint8\), multiply it by 255"),
        (np.int32, r"int32 is neither.*astype\(np\.uint8\)"),
        (np.int8, "int8"),
        (np.uint16, "uint16.*scale others first"),
        (np.complex64, "complex64"),
        ("datetime64[s]", "datetime64"),
        ("S3", "S3"),
    ],
)
def test_array_types_that_are_refused(dtype, words):
    with pytest.raises(InputError, match=words):
        array_to_image(np.zeros((16, 16, 3), dtype))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int8, torch.complex64])
def test_tensor_types_that_are_refused(dtype):
    with pytest.raises(InputError, match=str(dtype)):
        tensor_to_image(torch.zeros(3, 16, 16, dtype=dtype))


def test_views_of_arrays():
    big = np.zeros((24, 32, 3), np.uint8)
    big[::2, ::2] = PIXELS
    for view in (big[::2, ::2], np.asfortranarray(PIXELS), PIXELS.astype(">f4") / 255):
        assert np.array_equal(np.asarray(array_to_image(view)), PIXELS)
    assert np.array_equal(np.asarray(array_to_image(PIXELS[::-1])), PIXELS[::-1])
    read_only = PIXELS.copy()
    read_only.flags.writeable = False
    assert np.array_equal(np.asarray(array_to_image(read_only)), PIXELS)


class Picture(np.ndarray):
    pass


class Frame(torch.Tensor):
    pass


def test_subclasses():
    assert np.array_equal(np.asarray(array_to_image(PIXELS.view(Picture))), PIXELS)
    assert np.array_equal(np.asarray(array_to_image(np.ma.masked_array(PIXELS))), PIXELS)
    with pytest.raises(InputError, match="masked"):
        array_to_image(np.ma.masked_array(PIXELS, PIXELS > 100))
    tensor = torch.from_numpy(PIXELS.copy()).permute(2, 0, 1)
    for kind in (tensor.as_subclass(Frame), torch.nn.Parameter(tensor / 127.5 - 1)):
        assert np.array_equal(np.asarray(tensor_to_image(kind)), PIXELS)


@pytest.mark.parametrize("tensor", [torch.zeros(3, 8, 8).to_sparse(), torch.zeros(3, 8, 8, device="meta")])
def test_tensors_without_pixels_are_refused(tensor):
    with pytest.raises(InputError, match="cannot be read as an image"):
        tensor_to_image(tensor)


def test_grey_stack_gets_the_fix():
    with pytest.raises(InputError, match=r"array\[\.\.\., None\]"):
        array_to_image(np.zeros((60, 28, 28), np.uint8))


def test_images_share_no_memory_with_their_array():
    for array in (PIXELS.copy(), PIXELS[..., 0].copy(), PIXELS / 255):
        image = array_to_image(array)
        before = np.asarray(image).copy()
        array[:] = 0
        assert np.array_equal(np.asarray(image), before)
