"""Where each block of guided-diffusion's U-Net lies in diffusers' `UNet2DModel`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ditifeat.errors import ModelError
from ditifeat.model.estimator import CodeResnetBlock, GradientEstimator

RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


class Layout:
    """Where each block of guided-diffusion's U-Net lies in diffusers' `UNet2DModel`.

    Args:
        spec: the section `denoise_fn_config` of the DM's configuration.
        image_size: pixels per side.

    Raises:
        ModelError: for a U-Net that diffusers' cannot be.
    """

    def __init__(self, spec: dict[str, Any], image_size: int):
        multipliers = [float(m) for m in spec["channel_multiplier"]]
        if not multipliers or multipliers[0] != 1:
            raise ModelError(f"denoise_fn_config: channel_multiplier {multipliers} cannot be held; the first must be 1")
        self.channels = tuple(int(int(spec["base_channel"]) * m) for m in multipliers)
        self.layers = int(spec["num_residual_blocks_of_a_block"])
        resolutions = {int(r) for r in spec.get("attention_resolutions") or ()}
        self.attention = [2**level in resolutions for level in range(len(multipliers))]
        self.head_channels = int(spec.get("head_channel", -1))
        self.num_heads = int(spec.get("num_heads", 1))
        if self.num_heads < 1 or (self.head_channels != -1 and self.head_channels < 1):
            raise ModelError("denoise_fn_config: num_heads must be at least 1, and head_channel too, or -1")
        self.new_order = bool(spec.get("use_new_attention_order", False))
        input_channels = int(spec.get("input_channel", 3))
        levels = range(len(multipliers))
        self.unet_config: dict[str, Any] = {
            "sample_size": image_size,
            "in_channels": input_channels,
            "out_channels": input_channels,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "down_block_types": tuple(
                "AttnDownBlock2D" if self.attention[i] else "ResnetDownsampleBlock2D" for i in levels
            ),
            "up_block_types": tuple(
                "AttnUpBlock2D" if self.attention[i] else "ResnetUpsampleBlock2D" for i in reversed(levels)
            ),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": self._head_dim(),
            "attn_norm_num_groups": 32,
            "dropout": float(spec.get("dropout", 0.0)),
        }

    def _attended(self) -> set[int]:
        return {self.channels[-1], *(c for c, attends in zip(self.channels, self.attention, strict=True) if attends)}

    def heads_for(self, channels: int) -> int:
        """Return how many heads attention over so many channels has."""
        return self.num_heads if self.head_channels == -1 else channels // self.head_channels

    def _head_dim(self) -> int:
        return self.head_channels if self.head_channels != -1 else math.gcd(*self._attended()) // self.num_heads

    @property
    def heads_override(self) -> int | None:
        """One number of heads over several widths is what `attention_head_dim` cannot say."""
        return self.num_heads if self.head_channels == -1 and len(self._attended()) > 1 else None

    def _blocks(self) -> Iterator[tuple[str, str]]:
        """(their block, our block) of the down path."""
        n = 1
        for level in range(len(self.channels)):
            for j in range(self.layers):
                yield f"input_blocks.{n}.0", f"down_blocks.{level}.resnets.{j}"
                if self.attention[level]:
                    yield f"input_blocks.{n}.1", f"down_blocks.{level}.attentions.{j}"
                n += 1
            if level < len(self.channels) - 1:
                yield f"input_blocks.{n}.0", f"down_blocks.{level}.downsamplers.0"
                n += 1

    def _half_blocks(self, prefix: str) -> Iterator[tuple[str, str]]:
        """(their block, our block) of the middle and the up path, of the DM or (prefix "shift_") of the estimator."""
        for theirs, ours in (("0", "resnets.0"), ("1", "attentions.0"), ("2", "resnets.1")):
            yield f"{prefix}middle_block.{theirs}", f"mid_block.{ours}"
        n = 0
        for up, level in enumerate(reversed(range(len(self.channels)))):
            for j in range(self.layers + 1):
                block = f"{prefix}output_blocks.{n}"
                yield f"{block}.0", f"up_blocks.{up}.resnets.{j}"
                if self.attention[level]:
                    yield f"{block}.1", f"up_blocks.{up}.attentions.{j}"
                if j == self.layers and level > 0:
                    yield f"{block}.{2 if self.attention[level] else 1}", f"up_blocks.{up}.upsamplers.0"
                n += 1

    def unet_tensors(self, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the DM's tensors under diffusers' names."""
        names = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
        names |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
        return self._rename(theirs, {**names, **dict(self._blocks()), **dict(self._half_blocks(""))})

    def estimator_tensors(self, theirs: dict[str, Tensor], estimator: GradientEstimator) -> dict[str, Tensor]:
        """Return the estimator's tensors under our names; the decoder's other tensors are the frozen DM's."""
        names = {"label_emb": "code_embedding", "shift_out.0": "conv_norm_out", "shift_out.2": "conv_out"}
        names |= dict(self._half_blocks("shift_"))
        ours = {key: value for key, value in theirs.items() if key.startswith(("shift_", "label_emb."))}
        wrapped = {name for name, module in estimator.named_modules() if isinstance(module, CodeResnetBlock)}
        return self._rename(ours, names, wrapped)

    def _rename(
        self, theirs: dict[str, Tensor], names: dict[str, str], wrapped: set[str] | None = None
    ) -> dict[str, Tensor]:
        renamed: dict[str, Tensor] = {}
        for key, value in theirs.items():
            block = next((k for k in _prefixes(key) if k in names), None)
            if block is None:
                raise ModelError(
                    f"the checkpoint's tensor {key} has no place in the network that its configuration describes"
                )
            try:
                renamed |= self._renamed(names[block], key.removeprefix(f"{block}."), value, wrapped or set())
            except (RuntimeError, IndexError) as error:  # of tensors that no such layer has
                raise ModelError(f"the checkpoint's tensor {key} has shape {tuple(value.shape)} ({error})") from error
        return renamed

    def _renamed(self, ours: str, rest: str, value: Tensor, wrapped: set[str]) -> dict[str, Tensor]:
        """A tensor of a block, by what follows the block's name."""
        inner, kind = rest.rpartition(".")[::2]
        if inner == "qkv":
            projections = zip(("to_q", "to_k", "to_v"), self._split(value), strict=True)
            return {f"{ours}.{projection}.{kind}": part for projection, part in projections}
        if inner == "proj_out":
            return {f"{ours}.to_out.0.{kind}": value.squeeze(-1) if value.ndim == 3 else value}
        if inner in RESIDUAL:
            return {f"{ours}{'.block' if ours in wrapped else ''}.{RESIDUAL[inner]}.{kind}": value}
        named = {"norm": f"group_norm.{kind}", "emb_z_layers.1": f"code_proj.{kind}"}
        return {f"{ours}.{named.get(inner, rest)}": value}

    def _split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """Rows of `qkv` to q, k, v: head by head in the old order, all heads of each in the new one."""
        qkv = qkv.squeeze(-1) if qkv.ndim == 3 else qkv
        if self.new_order:
            return qkv.chunk(3)
        heads = self.heads_for(qkv.shape[0] // 3)
        parts = qkv.unflatten(0, (heads, 3, -1)).transpose(0, 1)
        return tuple(part.flatten(0, 1) for part in parts)


def _prefixes(key: str) -> Iterator[str]:
    """The key's dotted beginnings, longest first."""
    parts = key.split(".")
    return (".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1))
