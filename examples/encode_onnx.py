"""Encode a folder of images by an exported encoder, with onnxruntime, Pillow and numpy alone.

ditifeat export --out encoder.onnx
python examples/encode_onnx.py encoder.onnx photos/ features.npz
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}


def load(path, about):
    """Read one image as the encoder wants it: upright, RGB, cropped, resized; uint8 `(S, S, 3)`."""
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    left, top, right, bottom = (
        math.ceil(fraction * side - 0.5 - 1e-6)
        for fraction, side in zip(json.loads(about["crop"]), image.size * 2, strict=True)
    )
    side = min(right - left, bottom - top)
    left, top = left + (right - left - side) // 2, top + (bottom - top - side) // 2
    size = int(about["size"])
    filter = Image.Resampling[about["resampling"].upper()]
    return np.asarray(image.resize((size, size), filter, box=(left, top, left + side, top + side)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", help="what `ditifeat export` wrote")
    parser.add_argument("folder", type=Path, help="of images")
    parser.add_argument("out", type=Path, help=".npz to write: names, features")
    parser.add_argument("--batch-size", type=int, default=64)
    arguments = parser.parse_args()
    session = onnxruntime.InferenceSession(arguments.encoder, providers=onnxruntime.get_available_providers())
    about = session.get_modelmeta().custom_metadata_map
    paths = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        parser.error(f"{arguments.folder} holds no images")
    features = []
    for start in range(0, len(paths), arguments.batch_size):
        pixels = np.stack([load(path, about) for path in paths[start : start + arguments.batch_size]])
        features.append(session.run(["features"], {"pixels": pixels})[0])
    names = [path.relative_to(arguments.folder).as_posix() for path in paths]
    np.savez(arguments.out, names=names, features=np.concatenate(features), weights=about["weights"])
    print(f"{arguments.out}: {len(paths)} images of {about['size']} px by {about['model']}")


if __name__ == "__main__":
    main()
