"""Write a model folder in half precision, its card and attributes too: python examples/half_precision.py RUN/model OUT"""

import argparse
import shutil
from pathlib import Path

import torch

from ditifeat.encoding.loaded import ATTRIBUTES, SPARSE_ATTRIBUTES
from ditifeat.model.diti import DiTi


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the folder of a model")
    parser.add_argument("out", type=Path, help="the folder to write")
    arguments = parser.parse_args()
    DiTi.load(arguments.model).save(arguments.out, torch.float16)
    for name in ("README.md", "evaluation.json", ATTRIBUTES, SPARSE_ATTRIBUTES):
        if (arguments.model / name).exists():
            shutil.copyfile(arguments.model / name, arguments.out / name)
    size = sum(path.stat().st_size for path in arguments.out.rglob("*") if path.is_file())
    print(f"{arguments.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
