import pytest
import torch

from ditifeat import ModelError
from ditifeat.data.batches import load_images
from ditifeat.model.encoders import ENCODERS, EncoderSpec, SelfAttention, build_encoder


@pytest.mark.parametrize("name,size", [("diti64", 64), ("diti128", 128)])
def test_published_encoders(name, size):
    encoder = build_encoder(ENCODERS[name], size, 512)
    assert encoder(torch.zeros(2, 3, size, size)).shape == (2, 512)


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_against_a_loop(heads):
    torch.manual_seed(0)
    layer, x = SelfAttention(32, heads), torch.randn(1, 32, 3, 3)
    qkv = layer.qkv(layer.norm(x).flatten(2))[0]
    parts, width = [], 32 // heads
    for head in range(heads):
        q, k, v = qkv[3 * width * head : 3 * width * (head + 1)].split(width)
        parts.append(v @ torch.softmax(q.T @ k / width**0.5, dim=1).T)
    expected = x + layer.proj_out(torch.cat(parts)[None]).view(1, 32, 3, 3)
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_a_residual_encoder_is_a_unet_s_down_path():
    """The layers and maps of diffusers' own, which tests/test_train.py compares number by number."""
    spec = EncoderSpec((32, 64, 96), style="residual", layers=2, unshuffle=4)
    encoder = build_encoder(spec, 64, 16)
    assert [type(layer).__name__ for layer in encoder] == [
        "PixelUnshuffle", "Conv2d", "ResidualBlock", "ResidualBlock", "Conv2d", "ResidualBlock", "ResidualBlock",
        "Conv2d", "ResidualBlock", "ResidualBlock", "Flatten", "Linear",
    ]  # fmt: skip
    assert encoder[:-2](torch.zeros(1, 3, 64, 64)).shape == (1, 96, 4, 4) and encoder[-1].out_features == 16
    with pytest.raises(ModelError, match="halved 2 times"):
        build_encoder(spec, 60, 16)


def test_a_mirrored_encoder_is_the_mean_of_both_sides():
    torch.manual_seed(0)
    plain, mirrored = (build_encoder(EncoderSpec((32, 32), mirrored=m), 32, 8).eval() for m in (False, True))
    mirrored.load_state_dict(plain.state_dict())
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        expected = (plain(images) + plain(images.flip(-1))) / 2
        assert torch.allclose(mirrored(images), expected, atol=1e-5)
        assert torch.allclose(mirrored(images.flip(-1)), expected, atol=1e-5)
        assert torch.allclose(mirrored[-1](mirrored[:-1](images)), expected, atol=1e-5)
        assert not torch.allclose(plain(images), expected, atol=1e-2)


def test_images_are_scaled():
    rows = torch.tensor([[[[0, 255, 127]]]], dtype=torch.uint8)
    assert torch.allclose(load_images(rows).flatten(), torch.tensor([-1.0, 1.0, -0.00392]), atol=1e-4)


@pytest.mark.parametrize(
    "arguments,words",
    [
        ({"channels": ()}, "1 to 10"),
        ({"channels": (33,)}, "multiples of 32"),
        ({"channels": (10**9,)}, "multiples of 32"),
        ({"channels": (32,), "attention": (1,)}, "attention"),
        ({"channels": (32,), "attention": (0,), "heads": 5}, "heads"),
        ({"channels": (32,), "unshuffle": 4}, "style residual"),
        ({"channels": (32,), "style": "residual", "attention": (0,)}, "no attention"),
        ({"channels": (32,), "style": "residual", "layers": 0}, "layers"),
    ],
)
def test_impossible_networks_are_refused(arguments, words):
    with pytest.raises(ModelError, match=words):
        EncoderSpec(**arguments)


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="halved"):
        build_encoder(EncoderSpec((32,) * 4), 40, 8)
    with pytest.raises(ModelError, match="weights"):
        build_encoder(EncoderSpec((2048,)), 1024, 65536)
