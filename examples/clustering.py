"""Cluster a folder of images, by all of the code or by a range of time-steps: python examples/clustering.py photos/ --clusters 4

Writes a page with the images nearest to each centre. Where the images lie in several folders, it prints how well clusters and
folders agree (adjusted Rand index: 0 at random, 1 where they are the same).
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import ditifeat
from ditifeat.data.batches import batches
from ditifeat.data.drawing import save_image, sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--time-steps", nargs=2, type=int, metavar=("LO", "HI"), help="all by default")
    parser.add_argument("--shown", type=int, default=8, help="images per cluster")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--out", type=Path, default=Path("clusters.png"))
    arguments = parser.parse_args()
    encoder = ditifeat.load_encoder(arguments.model)
    features = ditifeat.encode(encoder, arguments.folder, crop="center", on_error="skip")
    # Columns are not standardised: dimensions of low variance would weigh as much as the others.
    codes = features.time_steps(*arguments.time_steps) if arguments.time_steps else features.array
    means = KMeans(arguments.clusters, n_init=10, random_state=0).fit(codes)
    distances = means.transform(codes)

    rows = {}
    for cluster in range(arguments.clusters):
        members = np.flatnonzero(means.labels_ == cluster)
        nearest = members[np.argsort(distances[members, cluster])][: arguments.shown]
        paths = [arguments.folder / features.names[i] for i in nearest]
        pixels = np.concatenate([images for _, images in batches(paths, encoder.config.image, 64, "center")])
        rows[f"cluster {cluster + 1}: {len(members)} images"] = pixels
    save_image(sheet(rows), arguments.out)
    print(f"{arguments.out}: {len(codes)} images in {arguments.clusters} clusters")
    folders = [str(Path(name).parent) for name in features.names]
    if len(set(folders)) > 1:
        print(f"adjusted Rand index with the folders: {adjusted_rand_score(folders, means.labels_):.3f}")


if __name__ == "__main__":
    main()
