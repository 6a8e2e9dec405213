import pytest
import torch

from ditifeat import ModelError
from ditifeat.model.codec import CodecSpec, PixelCodec, UnshuffleCodec, VAECodec, load_codec


@pytest.mark.parametrize("codec", [PixelCodec(), UnshuffleCodec(2), UnshuffleCodec(4)])
def test_lossless_codecs_give_the_picture_back(codec):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    code = codec.encode(x)
    assert tuple(code.shape[1:]) == codec.shape(16)
    assert torch.equal(codec.decode(code), x)
    assert code.square().sum() == pytest.approx(float(x.square().sum()))  # the same numbers, elsewhere


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_vae_folder(kind, tmp_path):
    import diffusers

    torch.manual_seed(0)
    arguments = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (32, 32),
        "latent_channels": 4,
    }
    vae = getattr(diffusers, kind)(**arguments)
    vae.save_pretrained(tmp_path / "vae")
    codec = load_codec(CodecSpec("vae"), tmp_path)
    assert isinstance(codec, VAECodec) and not codec.bounded
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    code = codec.encode(x)
    assert tuple(code.shape[1:]) == codec.shape(16) == (4, 8, 8)
    assert torch.equal(code, codec.encode(x))  # the mode, not a draw
    assert codec.decode(code).shape == x.shape
    assert not any(p.requires_grad for p in codec.parameters())


def test_vae_of_another_class_is_refused(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "os.system"}')
    with pytest.raises(ModelError, match=r"os.system.*not one of AutoencoderKL"):
        load_codec(CodecSpec("vae"), tmp_path)


def test_factors_out_of_range_are_refused():
    for spec in ({"kind": "unshuffle", "factor": 0}, {"kind": "unshuffle", "factor": 10**6}, {"factor": 2}):
        with pytest.raises(ModelError, match="factor"):
            CodecSpec(**spec)
