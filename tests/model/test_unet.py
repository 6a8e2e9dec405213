import pytest
import torch
from diffusers import UNet2DModel

from ditifeat import ModelError
from ditifeat.model.diffusion import DiffusionModel
from ditifeat.model.estimator import CodeResnetBlock, GradientEstimator
from ditifeat.model.unet import attention_layers, down_path

SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
GOOGLE = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "downsample_padding": 0,
    "norm_eps": 1e-6,
}
GUIDED = {
    "sample_size": 16,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 32,
    "attention_head_dim": 16,
}


@pytest.fixture(params=[GOOGLE, GUIDED], ids=["google", "guided"])
def unet(request):
    torch.manual_seed(0)
    return UNet2DModel(**request.param).eval()


def inputs(channels=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, channels, 16, 16, generator=generator), torch.tensor([0, 400, 999])


def test_our_path_is_diffusers_forward(unet):
    x_t, t = inputs()
    with torch.no_grad():
        assert torch.equal(DiffusionModel(unet, SCHEDULER).noise(x_t, t), unet(x_t, t).sample)


def test_estimator_starts_warm_and_gives_zero(unet):
    x_t, t = inputs()
    estimator = GradientEstimator(unet, 8, warm_start=True)
    assert estimator(down_path(unet, x_t, t), torch.randn(3, 8)).abs().max() == 0
    blocks = [m for m in estimator.modules() if isinstance(m, CodeResnetBlock)]
    theirs = unet.mid_block.resnets[0]
    assert len(blocks) == 2 + sum(len(b.resnets) for b in unet.up_blocks) + (unet.config.upsample_type == "resnet")
    assert torch.equal(estimator.mid_block.resnets[0].block.conv1.weight, theirs.conv1.weight)


def test_estimator_with_a_neutral_code_is_the_unet_itself(unet):
    """With zero (scale, shift) the copied half computes what the DM's own half does."""
    x_t, t = inputs()
    estimator = GradientEstimator(unet, 8, warm_start=True).eval()
    estimator.conv_out.load_state_dict(unet.conv_out.state_dict())
    for module in estimator.modules():
        if isinstance(module, CodeResnetBlock):
            torch.nn.init.zeros_(module.code_proj.weight)
    with torch.no_grad():
        ours = estimator(down_path(unet, x_t, t), torch.randn(3, 8))
        assert torch.allclose(ours, unet(x_t, t).sample, atol=1e-5)


def test_code_scales_and_shifts_the_second_normalisation(unet):
    """`h = (1 + s_z) norm(h, t) + b_z`, written out for one block."""
    block = unet.mid_block.resnets[0]
    torch.manual_seed(1)
    ours = CodeResnetBlock(block, 128, 128)
    x, time, code = torch.randn(2, 64, 8, 8), torch.randn(2, 128), torch.randn(2, 128)
    silu = torch.nn.functional.silu
    hidden = block.conv1(silu(block.norm1(x)))
    projected = block.time_emb_proj(silu(time))[:, :, None, None]
    if block.time_embedding_norm == "scale_shift":
        scale, shift = projected.chunk(2, dim=1)
        hidden = block.norm2(hidden) * (1 + scale) + shift
    else:
        hidden = block.norm2(hidden + projected)
    s_z, b_z = ours.code_proj(silu(code))[:, :, None, None].chunk(2, dim=1)
    expected = x + block.conv2(silu((1 + s_z) * hidden + b_z))
    assert torch.allclose(ours(x, torch.cat([time, code], dim=1)), expected, atol=1e-6)


def test_cold_estimator_is_random_and_keeps_the_heads(unet):
    for layer in attention_layers(unet):
        layer.heads = 2
    estimator = GradientEstimator(unet, 8)
    assert {layer.heads for layer in attention_layers(estimator)} == {2}
    assert not torch.equal(estimator.mid_block.resnets[0].block.conv1.weight, unet.mid_block.resnets[0].conv1.weight)


def test_training_works_from_channels_last_features(unet):
    """torch 2.13 on the CPU crashes in GroupNorm's backward when a frozen, channels-last input meets trained weights."""
    x_t, t = inputs()
    unet = unet.to(memory_format=torch.channels_last).requires_grad_(False)
    estimator = GradientEstimator(unet, 8, warm_start=True)
    estimator(down_path(unet, x_t.contiguous(memory_format=torch.channels_last), t), torch.randn(3, 8)).sum().backward()
    assert estimator.conv_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "change,words",
    [
        ({"down_block_types": ("SkipDownBlock2D",) * 2, "up_block_types": ("SkipUpBlock2D",) * 2}, "SkipDownBlock2D"),
        ({"num_class_embeds": 10}, "unconditional"),
        ({"time_embedding_type": "fourier"}, "random Fourier features"),
        ({"out_channels": 6}, "maps 3 to 6 channels"),
    ],
)
def test_other_networks_are_refused(change, words):
    unet = UNet2DModel(**{**GOOGLE, **change})
    with pytest.raises(ModelError, match=words):
        DiffusionModel(unet, SCHEDULER)
