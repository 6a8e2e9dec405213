"""Make `ditifeat/align/weights/mtcnn.safetensors` of the raw weights in the wheel of facenet-pytorch 2.6.0 (MIT).

    pip download --no-deps facenet-pytorch==2.6.0
    python examples/convert_face_detector.py facenet_pytorch-2.6.0-py3-none-any.whl mtcnn.safetensors

Pickles are read with `weights_only=True`, here and never again. Two things change on the way: the dense layers after a
convolution read maps as (column, row, channel) there, and as (channel, row, column) here; of the two outputs of each softmax
the difference is kept, whose sigmoid is the probability of a face.
"""

import argparse
import io
import zipfile
from pathlib import Path

import torch

from ditifeat.files import sha256, write_tensors

DENSE = {"rnet.dense4": (64, 3, 3), "onet.dense5": (128, 3, 3)}  # channels, rows, columns of the map that each reads

SCORES = {"pnet.conv4_1": "pnet.score", "rnet.dense5_1": "rnet.score", "onet.dense6_1": "onet.score"}

NAMES = {
    **{
        "pnet.conv4_2": "pnet.box",
        "rnet.dense5_2": "rnet.box",
        "onet.dense6_2": "onet.box",
        "onet.dense6_3": "onet.points",
    },
    **{"rnet.dense4": "rnet.dense", "rnet.prelu4": "rnet.prelu_dense"},
    **{"onet.dense5": "onet.dense", "onet.prelu5": "onet.prelu_dense"},
}


def convert(wheel, out):
    tensors = {}
    with zipfile.ZipFile(wheel) as archive:
        for net in ("pnet", "rnet", "onet"):
            data = io.BytesIO(archive.read(f"facenet_pytorch/data/{net}.pt"))
            for key, tensor in torch.load(data, weights_only=True).items():
                name, kind = f"{net}.{key}".rsplit(".", 1)
                if name in DENSE and kind == "weight":
                    channels, rows, columns = DENSE[name]
                    tensor = tensor.reshape(-1, columns, rows, channels).permute(0, 3, 2, 1).flatten(1)
                if name in SCORES:
                    tensor = tensor[1:] - tensor[:1]
                tensors[f"{SCORES.get(name) or NAMES.get(name, name)}.{kind}"] = tensor.contiguous()
    write_tensors(out, tensors, {"license": "MIT, see LICENSE-mtcnn"})
    print(f"{out}: {len(tensors)} tensors, sha256 {sha256(out)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    convert(arguments.wheel, arguments.out)
