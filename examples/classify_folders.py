"""Cross-validate a classifier of images that lie in one folder per class: python examples/classify_folders.py photos/

`photos/cats/*.jpg` and `photos/dogs/*.jpg` are two classes. The features are a step of a scikit-learn pipeline, so every tool of
scikit-learn works on images.
"""

import argparse
from pathlib import Path

from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

import ditifeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds one folder of images per class")
    parser.add_argument("--model", help="as ditifeat.load_encoder takes it; the bundled model by default")
    parser.add_argument("--time-steps", nargs=2, type=int, metavar=("LO", "HI"), help="use the subsets of this range")
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()
    paths = sorted(path for path in arguments.folder.glob("*/*") if path.is_file())
    classes = [path.parent.name for path in paths]
    time_steps = tuple(arguments.time_steps) if arguments.time_steps else None
    featurizer = ditifeat.DiTiFeaturizer(arguments.model, crop="center", time_steps=time_steps)
    # No StandardScaler: it would scale dimensions of low variance, mostly noise, up to the others.
    classifier = make_pipeline(featurizer, LogisticRegression(max_iter=1000))
    scores = cross_val_score(classifier, paths, classes, cv=arguments.folds)
    print(f"{len(paths)} images, {len(set(classes))} classes: accuracy {scores.mean():.3f} ± {scores.std():.3f}")


if __name__ == "__main__":
    main()
