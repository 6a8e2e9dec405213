"""Measure retrieval per range of time-steps: python examples/retrieval.py photos/ --count 5

`photos/cats/*.jpg` and `photos/dogs/*.jpg` are two classes. Each image queries all others; precision is the share of the nearest ones
that are of its class. Ranges that hold what the classes differ in find them best.
"""

import argparse
from pathlib import Path

import ditifeat


def precision(features: ditifeat.Features, time_steps: tuple[int, int] | None, count: int) -> float:
    """Mean share of an image's `count` nearest others that lie in the same folder."""
    found = features.nearest(features, time_steps=time_steps, count=count + 1)
    shares = []
    for name, neighbours in zip(features.names, found, strict=True):
        others = [Path(other).parent.name for other, distance in neighbours if other != name][:count]
        shares.append(others.count(Path(name).parent.name) / count)
    return sum(shares) / len(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds one folder of images per class")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--count", type=int, default=5, help="neighbours per image")
    arguments = parser.parse_args()
    encoder = ditifeat.load_encoder(arguments.model)
    features = ditifeat.encode(encoder, arguments.folder, crop="center", on_error="skip", flip_average=True)
    classes = [Path(name).parent.name for name in features.names]
    chance = sum(classes.count(name) - 1 for name in classes) / len(classes) / (len(classes) - 1)
    print(f"{len(classes)} images, {len(set(classes))} classes; precision of the {arguments.count} nearest")
    for lo, hi in features.partition.ranges:
        print(f"  time-steps {lo}-{hi}: {precision(features, (lo, hi), arguments.count):.3f}")
    print(f"  all: {precision(features, None, arguments.count):.3f}, at random: {chance:.3f}")


if __name__ == "__main__":
    main()
