"""Mean AP of a model beside its floors, on one split: python examples/mean_ap.py PICTURES LABELS --train-first 8000

Prints, for the model's features, PCA of 32 x 32 pixels, and the model's encoder network with random weights: mean AP over
the binary attributes with the logistic probe and with a ridge probe, and AUROC with the former.
"""

import argparse

import numpy as np
import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score

import ditifeat
from ditifeat.encoders import build_encoder, to_images
from ditifeat.images import batches
from ditifeat.labels import read_labels


def ridge_mean_ap(x, targets, first):
    """Mean AP over the columns of `targets`, of one ridge regression on standardised codes."""
    standard = (x - x[:first].mean(0)) / np.maximum(x[:first].std(0), 1e-8)
    predicted = Ridge(2 * x.shape[1]).fit(standard[:first], targets[:first]).predict(standard[first:])
    truth = targets[first:] > 0
    varied = [i for i in range(targets.shape[1]) if 0 < truth[:, i].mean() < 1]
    return np.mean([average_precision_score(truth[:, i], predicted[:, i]) for i in varied])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", help="a folder or tar of pictures")
    parser.add_argument("labels", help="CelebA's list_attr_celeba.txt, or a CSV")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument(
        "--train-first", type=int, default=8000, help="rows that train the probes; the others test them"
    )
    parser.add_argument("--components", type=int, default=512, help="of the PCA")
    arguments = parser.parse_args()

    encoder = ditifeat.load_encoder(arguments.model)
    image = encoder.config.image
    names, rows = [], []
    for batch_names, batch in batches(arguments.pictures, image, 256):
        names += batch_names
        rows.append(batch)
    pixels = np.concatenate(rows)
    torch.manual_seed(0)
    untrained = build_encoder(encoder.config.encoder, image.size, encoder.partition.d).eval()

    def codes(network):
        with torch.no_grad():
            parts = [network(to_images(torch.from_numpy(pixels[i : i + 256]))) for i in range(0, len(pixels), 256)]
        return torch.cat(parts).numpy()

    small = np.stack([np.asarray(Image.fromarray(p).resize((32, 32), Image.Resampling.BOX)) for p in pixels])
    small = small.reshape(len(small), -1).astype(np.float32) / 255
    first = arguments.train_first
    pca = PCA(arguments.components, random_state=0).fit(small[:first])
    systems = {
        encoder.config.name: codes(encoder),
        f"PCA({arguments.components}) of 32 x 32 pixels": pca.transform(small),
        "random encoder": codes(untrained),
    }
    labels = read_labels(arguments.labels, names)
    targets = np.stack([(y == y.max()).astype(float) for y in labels.values()], axis=1)
    print(
        f"{first} rows to train, {len(names) - first} to test, {len(labels)} attributes, prevalence {targets.mean():.3f}"
    )
    print(f"{'system':32} logistic AP  AUROC  ridge AP")
    for system, x in systems.items():
        report = ditifeat.probe(x, labels, train=range(first))
        auroc = np.nanmean([report[name].scores["auroc"] for name in report])
        print(f"{system:32} {report.mean_ap:11.4f}  {auroc:.3f}  {ridge_mean_ap(x, targets, first):8.4f}")


if __name__ == "__main__":
    main()
