"""The DM's U-Net, and where a DM comes from."""

from dataclasses import replace

from ditifeat.train.sections import UNetSpec
from ditifeat.train.tasks.dm import build_dm
from tests.conftest import tiny_recipe


def test_guided_style():
    unet = build_dm(
        tiny_recipe(dm=replace(tiny_recipe().dm, unet=UNetSpec((32, 64), 1, (1,), 16, style="guided")))
    ).unet
    assert unet.config.resnet_time_scale_shift == "scale_shift" and unet.config.down_block_types[1] == "AttnDownBlock2D"
    assert unet.mid_block.attentions[0].group_norm is not None
