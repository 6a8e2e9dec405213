"""Networks of diffusers' folders (`config.json`, safetensors): built without weights, every key and bound checked first."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ditifeat.errors import MissingFileError, ModelError
from ditifeat.files import load_strictly, read_json, read_tensors, write_tensors, write_text

WEIGHTS = "diffusion_pytorch_model.safetensors"

# Names that diffusers gave attention's layers before 0.15; google/ddpm-* and CompVis/ldm-* still have them.
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

NOT_SAFETENSORS = (
    "weights other than safetensors (.bin, .ckpt, .msgpack) are never read; diffusers' from_pretrained reads them once, and "
    "save_pretrained writes safetensors"
)

# Why networks that people may take for an unconditional DM are none.
REFUSED = {
    "UNet2DConditionModel": "it is conditional, on text as a rule",
    "UNet1DModel": "it makes signals, not images",
    "Transformer2DModel": "it is a transformer, on classes or text",
    "DiTTransformer2DModel": "it is a transformer, on classes",
    "FlaxUNet2DConditionModel": "it is conditional, and Flax's",
}

LIMITS = {
    "in_channels": (1, 4096),
    "out_channels": (1, 4096),
    "latent_channels": (1, 4096),
    "layers_per_block": (1, 32),
    "time_embedding_dim": (1, 65536),
    "norm_num_groups": (1, 8192),
    "attn_norm_num_groups": (1, 8192),
    "attention_head_dim": (1, 8192),
    "downsample_padding": (0, 1),
    "freq_shift": (0, 1),
    "num_vq_embeddings": (1, 2**20),
    "vq_embed_dim": (1, 4096),
}


def build_from_config(folder: Path, classes: Mapping[str, type], defaults: Mapping[str, Any] | None = None) -> Any:
    """Return the network that a folder's `config.json` describes, on the meta device.

    Args:
        folder: a diffusers folder.
        classes: those that may be built, by `_class_name`; the first one where the file names none.
        defaults: values in place of diffusers' own, for keys that the file does not say.

    Raises:
        ModelError: for another class, an unknown key, a number out of bounds, or what diffusers cannot build.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise ModelError(f"{path}: is not the configuration of a network")
    name = config.get("_class_name", next(iter(classes)))
    if not isinstance(name, str) or name not in classes:
        reason = f" ({REFUSED[name]})" if isinstance(name, str) and name in REFUSED else ""
        raise ModelError(f"{path}: {name!r} is not one of {', '.join(classes)}{reason}")
    values = {**(defaults or {}), **{key: value for key, value in config.items() if not key.startswith("_")}}
    unknown = sorted(set(values) - set(inspect.signature(classes[name].__init__).parameters))  # type: ignore[misc]
    if unknown:
        raise ModelError(f"{path}: unknown key {', '.join(unknown)}; diffusers' {name} has none such")
    return build_network(classes[name], values, str(path))


def build_network(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """Return a diffusers network on the meta device.

    Args:
        kind: its class.
        values: the arguments of its constructor.
        where: what they come from, for messages.

    Raises:
        ModelError: for a number out of bounds, or what diffusers cannot build.
    """
    _check_bounds(kind, values, where)
    try:
        with torch.device("meta"):
            return kind(**values)
    except Exception as error:  # whatever a wrong value leads to inside diffusers
        raise ModelError(f"{where}: diffusers cannot build it ({error})") from error


def read_weights(network: nn.Module, folder: Path) -> None:
    """Give a network, built on the meta device, the weights of its folder.

    Raises:
        ModelError: if they are missing, or do not fit.
    """
    path = folder / WEIGHTS
    if not path.exists():
        raise MissingFileError(f"{path}: there is no such file; {NOT_SAFETENSORS}")
    tensors, _ = read_tensors(path)
    for old, new in OLD_ATTENTION.items():
        tensors = {key.replace(old, new) if "attentions" in key else key: value for key, value in tensors.items()}
    load_strictly(network, tensors, str(path))


def write_network(network: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Write a folder that `from_pretrained` of the network's class reads, too."""
    tensors: dict[str, Tensor] = {key: value.to(dtype) for key, value in network.state_dict().items()}
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    write_network_config(network, folder)


def write_network_config(network: Any, folder: Path) -> None:
    """Write the `config.json` of a diffusers network."""
    kept = {key: value for key, value in network.config.items() if not key.startswith("_")}
    write_text(folder / "config.json", json.dumps({"_class_name": type(network).__name__, **kept}, indent=2) + "\n")


def _check_bounds(kind: type, config: Mapping[str, Any], where: str) -> None:
    """Numbers that a network could have, before anything is built from them."""
    channels = config.get("block_out_channels", ())
    if not isinstance(channels, list | tuple) or len(channels) > 10:
        raise ModelError(f"{where}: block_out_channels must list at most 10 levels")
    numbers = {f"block_out_channels[{i}]": (c, (1, 8192)) for i, c in enumerate(channels)}
    numbers |= {key: (config[key], limits) for key, limits in LIMITS.items() if config.get(key) is not None}
    for key, (value, (low, high)) in numbers.items():
        if not _is_number(value, int) or not low <= value <= high:
            raise ModelError(f"{where}: {key} = {value!r} is not within {low}..{high}")
    for key in ("scaling_factor", "norm_eps", "mid_block_scale_factor"):
        if not _is_number(config.get(key, 1.0), float) or config.get(key, 1.0) <= 0:
            raise ModelError(f"{where}: {key} = {config[key]!r} must be a number above 0")
    for key, parameter in inspect.signature(kind.__init__).parameters.items():  # type: ignore[misc]
        expected = type(parameter.default)
        value = config.get(key)
        if value is None or expected not in (bool, int, float, str):
            continue
        if not (_is_number(value, float) if expected in (int, float) else isinstance(value, expected)):
            raise ModelError(f"{where}: {key} = {value!r} must be of type {expected.__name__}")
    offset = config.get("shift_factor")
    if offset is not None and not _is_number(offset, float):
        raise ModelError(f"{where}: shift_factor = {offset!r} must be a number")


def _is_number(value: Any, kind: type[int] | type[float]) -> bool:
    """Whether it is a finite number of that type; True is none, and 1 is a float too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if kind is int else math.isfinite(value)
