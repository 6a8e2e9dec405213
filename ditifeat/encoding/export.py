"""The encoder as one ONNX file, which runs without torch and without this package, and says how its images are made."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ditifeat.data.preprocessing import Crop
from ditifeat.encoding.encoder import Encoder, check_encoder
from ditifeat.errors import InputError, require
from ditifeat.files import atomic_write, check_writable
from ditifeat.model.encoders import flip_averaged
from ditifeat.schema import boolean

SUFFIX = ".onnx"

NORMALIZATION = "pixels / 127.5 - 1, inside the graph"


class _PixelEncoder(nn.Module):
    """Uint8 pixels `(B, S, S, 3)` to codes `(B, d)`."""

    def __init__(self, network: nn.Module, flip_average: bool):
        super().__init__()
        self.network, self.flip_average = network, flip_average

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        codes: Tensor = (flip_averaged(self.network) if self.flip_average else self.network)(images)
        return codes


def export_onnx(encoder: Encoder, path: str | Path, *, crop: Crop = "model", flip_average: bool = False) -> None:
    """Write the encoder as ONNX: `pixels`, uint8 `(batch, S, S, 3)`, to `features`, float32 `(batch, d)`, of any batch size.

    The file's metadata hold what `encode` does before: `size`, `crop` (left, top, right, bottom as fractions of width and
    height; of a box that is no square its central square), `resampling` (Pillow's filter, antialiased), `normalization` and
    `alignment`; and the `model`'s name, its `weights` (sha256), `preprocessing` (hash), `flip_average` and `partition`.
    `examples/encode_onnx.py` encodes a folder with them.

    Args:
        encoder: from `load_encoder`; float32 is written, whatever its weights are in.
        path: the `.onnx` to write.
        crop: as `encode` takes it.
        flip_average: as `encode` takes it; inside the graph.

    Raises:
        InputError: for another suffix or argument.
        MissingDependencyError: without onnx and onnxscript.
        WriteError: if it cannot be written.

    Example:
        export_onnx(ditifeat.load_encoder(), "encoder.onnx")
    """
    check_encoder(encoder)
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: the encoder is exported as {SUFFIX}")
    if crop not in ("model", "center"):
        raise InputError(f"crop = {crop!r} must be model or center")
    flip_average = boolean("flip_average", flip_average)
    check_writable(path)
    for library in ("onnx", "onnxscript"):
        require(library, "onnx")
    network = copy.deepcopy(encoder.network).float().cpu()
    size = encoder.config.image.size
    program = torch.onnx.export(
        _PixelEncoder(network, flip_average).eval(),
        (torch.zeros(2, size, size, 3, dtype=torch.uint8),),
        dynamo=True,
        input_names=["pixels"],
        output_names=["features"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch", min=1)}},
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    program.model.metadata_props.update(_metadata(encoder, crop, flip_average))
    atomic_write(path, lambda partial: program.save(partial, external_data=False))


def _metadata(encoder: Encoder, crop: Crop, flip_average: bool) -> dict[str, str]:
    image = encoder.config.image
    about = {
        "size": image.size,
        "crop": image.crop if crop == "model" else (0.0, 0.0, 1.0, 1.0),
        "resampling": image.resampling,
        "normalization": NORMALIZATION,
        "alignment": image.alignment,
        "model": encoder.config.name,
        "weights": encoder.weights,
        "preprocessing": image.fingerprint(crop),
        "flip_average": flip_average,
        "partition": asdict(encoder.partition),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
