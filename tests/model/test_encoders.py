import re

import pytest
import torch
from torch import nn

from ditifeat import InputError, ModelError
from ditifeat.data.batches import load_images
from ditifeat.model.encoders import (
    ENCODERS,
    TRUNKS,
    EncoderSpec,
    ResidualBlock,
    SelfAttention,
    build_encoder,
    flip_averaged,
    read_encoder,
    write_encoder,
)


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


def test_a_residual_trunk_is_a_unet_s_down_path():
    """The layers and maps of diffusers' own, which tests/train/test_initialise.py compares number by number."""
    spec = EncoderSpec((32, 64, 96), style="residual", layers=2, unshuffle=4)
    encoder = build_encoder(spec, 64, 16)
    assert [type(layer).__name__ for layer in encoder.trunk] == [
        "PixelUnshuffle", "Conv2d", "ResidualBlock", "ResidualBlock", "Conv2d", "ResidualBlock", "ResidualBlock",
        "Conv2d", "ResidualBlock", "ResidualBlock",
    ]  # fmt: skip
    images = torch.zeros(1, 3, 64, 64)
    assert encoder.trunk(images).shape == (1, 96, 4, 4) and encoder.head.out_features == 16
    assert encoder.inputs(images).shape == (1, 96 * 16) == (1, encoder.trunk.outputs)
    with pytest.raises(ModelError, match="halved 2 times"):
        build_encoder(spec, 60, 16)


def test_a_residual_block_is_diffusers_own_without_a_time_embedding():
    from diffusers.models.resnet import ResnetBlock2D

    torch.manual_seed(0)
    theirs = ResnetBlock2D(in_channels=32, out_channels=64, temb_channels=None, eps=1e-5)
    ours = ResidualBlock(32, 64)
    ours.load_state_dict({k.replace("conv_shortcut", "shortcut"): v for k, v in theirs.state_dict().items()})
    x = torch.randn(2, 32, 8, 8)
    assert torch.allclose(ours(x), theirs(x, None), atol=1e-6)


@torch.no_grad()
def test_flip_average():
    torch.manual_seed(0)
    plain = build_encoder(EncoderSpec((32, 32)), 32, 8).eval()
    averaged = flip_averaged(plain)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    expected = (plain(images) + plain(images.flip(-1))) / 2
    assert torch.allclose(averaged(images), expected, atol=1e-5)
    assert torch.equal(averaged(images.flip(-1)), averaged(images))
    inputs = (plain.inputs(images) + plain.inputs(images.flip(-1))) / 2  # the head is linear
    assert torch.allclose(averaged(images), plain.head(inputs), atol=1e-5)
    assert not torch.allclose(plain(images), expected, atol=1e-2)


@pytest.mark.parametrize("style,unshuffle", [("plain", 1), ("residual", 1), ("residual", 4)])
@pytest.mark.parametrize(
    "shape", [(1, 3, 16, 16), (1, 3, 64, 64), (1, 3, 32, 33), (1, 1, 32, 32), (3, 32, 32), (1, 32, 32, 3)]
)
def test_images_of_another_shape_are_refused(style, unshuffle, shape):
    encoder = build_encoder(EncoderSpec((32, 32), style=style, unshuffle=unshuffle), 32, 8)
    with pytest.raises(InputError, match=rf"images have shape {re.escape(str(shape))}, expected \(B, 3, 32, 32\)"):
        encoder(torch.zeros(shape))
    assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, 8)


def test_a_new_encoder_is_a_trunk_and_an_entry(monkeypatch, tmp_path):
    class Patches(nn.Sequential):
        outputs = 5

        def __init__(self, spec, image_size):
            super().__init__(nn.Conv2d(3, 5, image_size))

    monkeypatch.setitem(TRUNKS, "patches", Patches)
    spec = EncoderSpec((32,), style="patches")
    encoder = build_encoder(spec, 16, 4)
    write_encoder(tmp_path, encoder, torch.zeros(4), torch.ones(4), torch.float32)
    again, _, _ = read_encoder(tmp_path, spec, 16, 4)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(images), encoder(images)) and again(images).shape == (2, 4)


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
        ({"channels": (32, 32), "levels": 2}, "style residual"),
        ({"channels": (32, 32), "style": "residual", "levels": 3}, "levels there are"),
        ({"channels": (32,), "style": "os.system"}, "not one of plain, residual"),
        ({"channels": (32,), "style": "residual", "attention": (0,)}, "no attention"),
        ({"channels": (32,), "style": "residual", "layers": 0}, "layers"),
    ],
)
def test_impossible_networks_are_refused(arguments, words):
    with pytest.raises(ModelError, match=words):
        EncoderSpec(**arguments)


def test_images_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="halved"):
        build_encoder(EncoderSpec((32,) * 4), 40, 8)
    with pytest.raises(ModelError, match="weights"):
        build_encoder(EncoderSpec((2048,)), 1024, 65536)
